"""What a node's kernel said since it booted, and whether the node answers at all: one round trip."""

from __future__ import annotations

import json
import shlex
from datetime import UTC, datetime

from runbooks.engine.model import Signal
from runbooks.engine.policy import Policy

# Messages kept of one boot: a GPU that dies may say so a thousand times.
KEPT = 100


def command(policy: Policy) -> str:
    """Prints the boot id, then this boot's matching messages as JSON lines; journalctl exits with 1 for none."""
    return (
        "cat /proc/sys/kernel/random/boot_id && { timeout 4 journalctl --dmesg --boot --output=json --no-pager "
        f"--output-fields=MESSAGE --lines={KEPT} --grep={shlex.quote(policy.kernel_pattern)} || [ $? -eq 1 ]; }}"
    )


def parse_kernel_log(text: str, node: str, policy: Policy) -> tuple[str, tuple[Signal, ...]]:
    """Boot id and the signals in what `command` printed, each name and device once, as it was first said.

    Raises:
        ValueError: there is no boot id, or a line that is no journal entry.
    """
    boot_id, _, rest = text.partition("\n")
    if len(boot_id.strip()) != 36:
        raise ValueError(f"{node}: no boot id in the answer")
    found: dict[tuple[str, str], Signal] = {}
    for line in rest.splitlines():
        # journalctl's own word for an empty answer.
        if not line.strip() or line.startswith("-- "):
            continue
        entry = json.loads(line)
        message = entry["MESSAGE"] if isinstance(entry, dict) and "MESSAGE" in entry else None
        if not isinstance(message, str):
            # journald gives a message that is no text as a list of bytes; ours are text.
            continue
        time = datetime.fromtimestamp(int(entry["__REALTIME_TIMESTAMP"]) / 1e6, UTC)
        signal = policy.signal_of(message, node, time)
        if signal is not None:
            found.setdefault((signal.name, signal.device), signal)
    return boot_id.strip(), tuple(found.values())

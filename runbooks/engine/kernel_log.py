"""What a node's kernel said since it booted, and whether the node answers at all: one round trip."""

from __future__ import annotations

import json
import shlex
from datetime import UTC, datetime, timedelta

from runbooks.engine.model import Signal
from runbooks.engine.policy import Policy

# Messages kept of one boot: a GPU that dies may say so a thousand times.
KEPT = 400
# A node's clock that is wrong by more than this is corrected for; less is the time that the answer took.
SKEW = timedelta(seconds=10)


def command(policy: Policy) -> str:
    """Prints the boot id, the clock, then this boot's matching messages as JSON lines.

    journalctl exits with 1 both when nothing matches and when there is no journal of this boot; only the latter is told
    on stderr, so that comes in between the lines, where it is no record.
    """
    return (
        "cat /proc/sys/kernel/random/boot_id && date +@%s.%N && { timeout 4 journalctl --dmesg --boot --output=json "
        f"--no-pager --output-fields=MESSAGE --lines={KEPT} --grep={shlex.quote(policy.kernel_pattern)} 2>&1 "
        "|| [ $? -eq 1 ]; }"
    )


def parse_kernel_log(
    text: str, node: str, policy: Policy, now: datetime | None = None
) -> tuple[str, tuple[Signal, ...]]:
    """Boot id and the signals in what `command` printed, each name and device once, as it was last said: what was
    mended and comes again within the same boot is news.

    A recovery action that XID 154 takes back ("… to 0x0 (None)") voids the one before. With `now`, the time of a node
    whose clock is wrong is corrected.

    Raises:
        ValueError: there is no boot id, or a line that is no journal entry.
    """
    boot_id, _, rest = text.partition("\n")
    if len(boot_id.strip()) != 36:
        raise ValueError(f"{node}: no boot id in the answer")
    found: dict[tuple[str, str], Signal] = {}
    shift = timedelta(0)
    for line in rest.splitlines():
        if line.startswith("@") and now is not None:
            skew = now - datetime.fromtimestamp(float(line[1:]), UTC)
            shift = skew if abs(skew) > SKEW else shift
        # journalctl's own word for an empty answer.
        if not line.strip() or line.startswith(("-- ", "@")):
            continue
        try:
            entry = json.loads(line)
        except ValueError:
            raise ValueError(f"{node}: no record of its journal: {line[:100]!r}") from None
        message = entry["MESSAGE"] if isinstance(entry, dict) and "MESSAGE" in entry else None
        if not isinstance(message, str):
            # journald gives a message that is no text as a list of bytes; ours are text.
            continue
        time = datetime.fromtimestamp(int(entry["__REALTIME_TIMESTAMP"]) / 1e6, UTC)
        signal = policy.signal_of(message, node, time + shift)
        if signal is None:
            continue
        if signal.name.startswith("xid-154"):
            for key in [key for key in found if key[0].startswith("xid-154") and key[1] == signal.device]:
                del found[key]
        found[signal.name, signal.device] = signal
    return boot_id.strip(), tuple(found.values())

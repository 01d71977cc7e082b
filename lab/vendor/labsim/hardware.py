"""The node's simulated silicon: one JSON file that simulators print and faults edit."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from pathlib import Path

# The same file as on the host: the package of this library brings it to the node.
from lab import hardware as silicon
from lab.hardware import Json


def rooted(path: str) -> Path:
    """`path` of the node, below LABSIM_ROOT when a test sets it."""
    return Path(os.environ.get("LABSIM_ROOT", "/")) / path.lstrip("/")


def hardware_file() -> Path:
    return rooted("/run/lab/hw/hardware.json")


def state_file(name: str) -> Path:
    """Run-time state of a driver or daemon; on /run, so a reboot loses it as it loses the real one."""
    return rooted("/run/lab/state") / name


def read() -> Json:
    """The hardware as it is now."""
    return silicon.read(hardware_file())


def edit() -> contextlib.AbstractContextManager[Json]:
    """Change the hardware (power limit, reset): one writer at a time, readers see the old file or the new one."""
    return silicon.edit(hardware_file())


def write_json(path: Path, value: object) -> None:
    """Replace `path` in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w") as stream:
        json.dump(value, stream, indent=1)
    Path(temporary).chmod(0o644)
    Path(temporary).replace(path)


def read_state(name: str) -> Json:
    """A daemon's or driver's state; empty when it never ran since the boot."""
    try:
        state: Json = json.loads(state_file(name).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return state


def package_version(package: str) -> str:
    """Upstream version of an installed vendor package (its build writes the file); empty when not installed."""
    try:
        return rooted(f"/usr/lib/lab/versions/{package}").read_text().strip()
    except FileNotFoundError:
        return ""


def alive(pid: int) -> bool:
    """Whether process `pid` runs (a signal of another user's process counts as running)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def clear_by_reset(hardware: Json, target: str) -> None:
    """Take out the faults of `target` (gpu3) that a reset of the device clears."""
    silicon.clear_faults(hardware, lambda fault: fault["clears_on"] == "reset" and fault["target"] == target)


def clear_by_power_limit(hardware: Json, target: str) -> None:
    """Take out the faults of `target` (gpu3) that less power ends."""
    silicon.clear_faults(hardware, lambda fault: fault["clears_on"] == "power_limit" and fault["target"] == target)


def clear_by_remount() -> None:
    """Take out what a new mount ends: the servers see a client that they have not evicted."""
    with edit() as hardware:
        silicon.clear_faults(hardware, lambda fault: fault["clears_on"] == "remount")


def kernel_log(*messages: str, level: int = 3) -> None:
    """Lines of the kernel's log. A node's /dev/kmsg is a FIFO that journald reads, so records are written, not text.

    journald drops a record whose number it has seen and complains of gaps; the number that it expects next is in its
    own file (systemd, src/journal/journald-kmsg.c, kernel_seqnum).
    """
    try:
        expected = int.from_bytes(rooted("/run/systemd/journal/kernel-seqnum").read_bytes()[:8], "little")
        handle = os.open(rooted("/dev/kmsg"), os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return  # nobody reads it: not booted by systemd, or a test's tree
    try:
        for number, message in enumerate(messages, start=expected):
            os.write(handle, f"{level},{number},{time.monotonic_ns() // 1000},-;{message}\n".encode())
    finally:
        os.close(handle)

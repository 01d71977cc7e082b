"""The node's simulated silicon: one JSON file that simulators print and faults edit."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Json = dict[str, Any]


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
    with hardware_file().open() as stream:
        hardware: Json = json.load(stream)
    return hardware


@contextlib.contextmanager
def edit() -> Iterator[Json]:
    """Change the hardware (power limit, reset): one writer at a time, readers see the old file or the new one."""
    path = hardware_file()
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        hardware = read()
        yield hardware
        write_json(path, hardware)


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


def clear_faults(hardware: Json, event: str, target: str) -> None:
    """Drop the faults of `target` that `event` (reset, …) clears; what they changed is put right with them."""
    kept = []
    for fault in hardware.get("faults", []):
        if fault.get("clears_on") == event and fault.get("target") == target:
            _undo(hardware, fault)
        else:
            kept.append(fault)
    hardware["faults"] = kept


def _undo(hardware: Json, fault: Json) -> None:
    """Put back the values that the fault replaced, where it recorded them ({"gpus.3.present": true, …})."""
    for path, value in fault.get("before", {}).items():
        node: Any = hardware
        *parents, leaf = path.split(".")
        for part in parents:
            node = node[int(part)] if isinstance(node, list) else node[part]
        node[leaf] = value

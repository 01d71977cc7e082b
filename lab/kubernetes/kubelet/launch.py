"""What the kubelet hands to the process that starts a container, and what that leaves behind; on disk as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# Files of one attempt at a container.
LAUNCH = "launch.json"  # what is to run, by the kubelet
LOCK = "lock"  # held by the shim for as long as the container lives
STARTED = "started.json"  # by the shim: the container's process, once it is made
RUNNING = "running.json"  # by the shim: the command runs
EXIT = "exit.json"  # by the shim: how it ended; by the kubelet, where the shim could not
ROOT = "root"  # where the shim builds the container's root, in its own mount namespace
TERMINATION = "termination"  # the container's own last words
# What a runtime reports for a command that can't be started, and for a container that died with its node.
START_ERROR_CODE = 128
LOST_CODE = 255


@dataclass(frozen=True, slots=True)
class Mount:
    """`source` of the node at `target` of the container."""

    source: str
    target: str
    read_only: bool


@dataclass(frozen=True, slots=True)
class Launch:
    """A container's process. `dropped` are capability numbers; `devices` are paths below /dev."""

    argv: list[str]
    environment: dict[str, str]
    directory: str
    hostname: str
    log: str
    mounts: list[Mount]
    devices: list[str]
    uid: int
    gid: int
    groups: list[int]
    dropped: list[int]
    no_new_privileges: bool
    read_only_root: bool

    @staticmethod
    def load(path: Path) -> Launch:
        """Read what `save` wrote. Raises: OSError, ValueError, TypeError."""
        data = json.loads(path.read_text())
        return Launch(**{**data, "mounts": [Mount(**each) for each in data["mounts"]]})

    def save(self, path: Path) -> None:
        save(path, asdict(self))


@dataclass(frozen=True, slots=True)
class Ended:
    """How a container ended. Times are seconds since the epoch; `reason` is a kubelet's word."""

    exit_code: int
    reason: str
    finished_at: float
    message: str = field(default="")


def save(path: Path, data: dict[str, Any]) -> None:
    """Write JSON that is whole or not there; readable by root only, for it holds environments."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.touch(mode=0o600)
    temporary.write_text(json.dumps(data))
    temporary.replace(path)


def read(path: Path) -> dict[str, Any] | None:
    """JSON of a file, or None where it is not there."""
    try:
        data: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return data


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot: tells it from a later one with its number."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # Field 22 of proc(5); the name in parentheses may hold spaces.
    return int(text.rpartition(")")[2].split()[19])

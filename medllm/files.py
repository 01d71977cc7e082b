"""Files that are whole or not there: write beside the target, fsync, rename."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_atomic(path: Path, data: bytes | str, *, mode: int = 0o644) -> None:
    """Replace `path` by `data` in one step; a crash leaves the old file or the new one, never a part."""
    payload = data.encode() if isinstance(data, str) else data
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(payload)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def state_dir() -> Path:
    """Where this machine keeps what the toolkit made (`$XDG_STATE_HOME/medllm-cluster`)."""
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "medllm-cluster"


def cache_dir() -> Path:
    """Where this machine keeps what can be fetched or built again (`$XDG_CACHE_HOME/medllm-cluster`)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "medllm-cluster"

"""Files that are whole or not there: write beside the target, fsync, rename."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomic(path: Path, data: bytes | str, *, mode: int = 0o644, work: Path | None = None) -> None:
    """Replace `path` by `data` in one step; a crash leaves the old file or the new one, never a part.

    Args:
        work: the directory of the temporary file, on the same file system; by default that of `path`

    Raises:
        OSError: with `path` as its file.
    """
    payload = data.encode() if isinstance(data, str) else data
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=work or path.parent, prefix=f".{path.name}.")
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
    except OSError as error:
        # The system names the temporary file, or none when the disk is full.
        raise OSError(error.errno, error.strerror, str(path)) from error
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextmanager
def staged_directory(target: Path) -> Iterator[Path]:
    """An empty directory beside `target` that takes its place when the block ends well, and goes when it does not.

    Its name is new each time: a fixed one (`target.tmp`) may be somebody's, even the source of what is made here.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    made, old = work / "new", work / "old"
    try:
        made.mkdir(mode=0o755)
        yield made
        if target.exists():
            target.rename(old)
        made.rename(target)
    except BaseException:
        if old.exists():
            old.rename(target)
        raise
    finally:
        # What could not be put back stays.
        if not old.exists() or target.exists():
            shutil.rmtree(work, ignore_errors=True)


def state_dir() -> Path:
    """Where this machine keeps what the toolkit made (`$XDG_STATE_HOME/medllm-cluster`)."""
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "medllm-cluster"


def cache_dir() -> Path:
    """Where this machine keeps what can be fetched or built again (`$XDG_CACHE_HOME/medllm-cluster`)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "medllm-cluster"

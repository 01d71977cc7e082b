"""A full disk, told as something that the user can mend."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medllm.errors import user_error

# No room, no quota, or a limit on the size of one file (`ulimit -f`, or of the file system).
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def room_at(destination: Path) -> Iterator[None]:
    """Turn the system's refusal to write any more into a `UserError` that names `destination` and nothing below it."""
    try:
        yield
    except OSError as error:
        # What lies elsewhere, such as the re-identification table, tells for itself where there is no room.
        elsewhere = error.filename and not _is_at(Path(str(error.filename)), destination)
        if error.errno not in _FULL or elsewhere:
            raise
        rule = f"there is no room to write it ({error.strerror})"
        raise user_error(rule, "make room there or name a place on another disk", file=destination) from None


def _is_at(path: Path, destination: Path) -> bool:
    """Below the destination, or below what stands in for it beside it until it is complete."""
    return destination.absolute().parent in path.absolute().parents and any(
        part.lstrip(".").startswith(destination.name) for part in path.absolute().parts
    )

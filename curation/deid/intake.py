"""Reading a tree that nobody vouches for: plain files of a bounded size, each reached by its one name.

A link may lead out of the tree, a pipe never ends, a device may be anything. A file with a second hard link can be
another patient's, or change through a name that nobody here sees.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from curation.deid.unsafe import UnsafeError

# Hospital exports nest study, series and instance; a mount of a folder inside itself nests without end.
MAX_DEPTH = 16
MEGABYTE = 1 << 20
# Bytes of a file that is read whole. The largest of a kind seen in practice, with room: a day of 12 leads at 1 kHz is
# 2 GB in 16 bit, a CT with 1000 frames 0.5 GB, a note of a whole stay below 10 MB.
MAX_BYTES = {
    ".txt": 256 * MEGABYTE,
    ".dcm": 2048 * MEGABYTE,
    ".csv": 1024 * MEGABYTE,
    ".edf": 2048 * MEGABYTE,
    ".hea": MEGABYTE,
    ".dat": 2048 * MEGABYTE,
    ".json": MEGABYTE,
}


def files_below(folder: Path) -> list[Path]:
    """Everything below that is no directory, links to directories, and directories that lie too deep, sorted.

    Raises:
        OSError: a directory can't be read.
    """

    def refuse(error: OSError) -> None:
        raise error

    found: list[Path] = []
    for root, folders, names in os.walk(folder, onerror=refuse):
        place = Path(root)
        kept = [name for name in folders if not (place / name).is_symlink()]
        found += [place / name for name in (*names, *(name for name in folders if name not in kept))]
        if len(place.relative_to(folder).parts) >= MAX_DEPTH:
            found += [place / name for name in kept]
            kept = []
        folders[:] = kept
    return sorted(found)


def check_plain(path: Path) -> os.stat_result:
    """What the system says of a plain file with one name.

    Raises:
        UnsafeError: `symbolic_link`, `folder_too_deep`, `special_file` or `hard_link`.
        OSError: it is gone or may not be seen.
    """
    return _checked(path.lstat())


def _checked(status: os.stat_result) -> os.stat_result:
    if stat.S_ISLNK(status.st_mode):
        raise UnsafeError("symbolic_link")
    if stat.S_ISDIR(status.st_mode):
        raise UnsafeError("folder_too_deep")
    if not stat.S_ISREG(status.st_mode):
        raise UnsafeError("special_file")
    if status.st_nlink > 1:
        raise UnsafeError("hard_link")
    return status


def read_plain(path: Path) -> bytes:
    """The content of a plain file, at most `MAX_BYTES` of its kind.

    The checks are made again on what was opened: between a look and the opening a file can become a link.

    Raises:
        UnsafeError: as `check_plain`, or `too_large`, or `changed_while_read`.
        OSError: it can't be read.
    """
    check_plain(path)
    limit = MAX_BYTES.get(path.suffix.lower(), MEGABYTE)
    # Without O_NONBLOCK the opening of a pipe would wait for a writer.
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as stream:
        size = _checked(os.fstat(handle)).st_size
        if size > limit:
            raise UnsafeError("too_large")
        data = stream.read(size + 1)
    if len(data) != size:
        raise UnsafeError("changed_while_read")
    return data

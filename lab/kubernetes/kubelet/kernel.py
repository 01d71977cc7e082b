"""System calls that Python 3.11 has no function for: namespaces and mounts."""

from __future__ import annotations

import ctypes
import os

# <linux/sched.h>
CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
# <linux/mount.h>
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 1, 2, 4, 8, 32, 4096
MS_REC, MS_PRIVATE = 16384, 1 << 18
MNT_DETACH = 2
# <linux/prctl.h>
PR_SET_PDEATHSIG = 1
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def unshare(flags: int) -> None:
    """Give this process new namespaces; a new PID namespace is for its next child. Raises: OSError."""
    _checked(_libc.unshare(flags), "unshare")


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """mount(2). Raises: OSError naming the target."""
    words = [text.encode() if text else None for text in (source, target, kind)]
    _checked(_libc.mount(*words, ctypes.c_ulong(flags), options.encode() if options else None), target)


def unmount(target: str, flags: int = 0) -> None:
    """umount2(2). Raises: OSError naming the target."""
    _checked(_libc.umount2(target.encode(), flags), target)


def pivot_root(new: str, old: str) -> None:
    """Make `new` the root of this mount namespace. Raises: OSError."""
    _checked(_libc.pivot_root(new.encode(), old.encode()), new)


def prctl(option: int, value: int) -> None:
    """prctl(2) with one argument. Raises: OSError."""
    _checked(_libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0), f"prctl {option}")


def bind(source: str, target: str, *, read_only: bool) -> None:
    """Show a file or directory, with what is mounted below it, at another place. Raises: OSError."""
    mount(source, target, flags=MS_BIND | MS_REC)
    if read_only:
        # A remount sets all flags anew: those of the file system stay.
        flags = os.statvfs(target).f_flag & (MS_NOSUID | MS_NODEV | MS_NOEXEC)
        mount("", target, flags=MS_BIND | MS_REMOUNT | MS_RDONLY | flags)

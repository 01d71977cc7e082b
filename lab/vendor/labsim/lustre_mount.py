"""`mount.lustre DEVICE DIR [-v] [-f] [-n] [-o OPTIONS]`, the helper that mount(8) calls for type lustre.

Option rules: lustre-release 2.15, lustre/llite/llite_lib.c ll_options() ("Unknown option '%s', won't mount.",
-EINVAL) and lustre/utils/mount_lustre.c (messages by errno, exit status = errno).
"""

from __future__ import annotations

import argparse
import errno
import os
import re
import subprocess
import sys

from . import hardware, kmod, lustre
from .hardware import rooted

# mount(8) handles these itself or hands them to the kernel as flags.
GENERIC = {
    *("rw", "ro", "suid", "nosuid", "dev", "nodev", "exec", "noexec", "atime", "noatime", "diratime", "nodiratime"),
    *("relatime", "norelatime", "strictatime", "sync", "async", "remount", "defaults", "auto", "noauto", "user"),
    *("nouser", "users", "owner", "group", "_netdev", "nofail", "mand", "nomand", "dirsync", "lazytime"),
}
GENERIC_PREFIX = ("x-", "X-", "comment=")
# Of the client, ll_sbi_flags_name; what follows LL_SBI_NUM_MOUNT_OPT there can't be given as an option.
LUSTRE = {
    *("nolock", "checksum", "nochecksum", "localflock", "flock", "noflock", "user_xattr", "nouser_xattr"),
    *("lruresize", "nolruresize", "lazystatfs", "nolazystatfs", "32bitapi", "user_fid2path", "nouser_fid2path"),
    *("verbose", "noverbose", "always_ping", "test_dummy_encryption", "encrypt", "noencrypt"),
}
# Of lmd_parse() in obd_mount.c, those that a client has a use for; and SELinux's contexts, which pass.
LUSTRE_VALUED = {
    *("foreign_symlink", "test_dummy_encryption", "network", "exclude", "retry", "mgssec", "skpath", "param", "device"),
    *("context", "fscontext", "defcontext", "rootcontext"),
}
DEVICE = re.compile(
    r"^(?P<nids>[^/\s]+@(?:tcp|o2ib)\d*(?:[:,][^/\s]+@(?:tcp|o2ib)\d*)*):/(?P<fsname>[A-Za-z0-9_-]{1,8})(?:/.*)?$"
)

HINTS = {
    errno.EINVAL: "This may have multiple causes.\nIs '{fsname}' the correct filesystem name?\n"
    "Are the mount options correct?\nCheck the syslog for more info.\n",
    errno.ENODEV: "Are the lustre modules loaded?\nCheck /etc/modprobe.conf and /proc/filesystems\n",
    errno.EIO: "Is the MGS running?\n",
    errno.ENOENT: "Is the MGS specification correct?\nIs the filesystem name correct?\n"
    "If upgrading, is the copied client log valid? (see upgrade docs)\n",
}


def main(arguments: list[str]) -> int:
    """Mount; the exit status is the errno of the failure, as the real helper's."""
    parser = argparse.ArgumentParser(prog="mount.lustre", allow_abbrev=False)
    parser.add_argument("device")
    parser.add_argument("directory")
    for flag in ("-v", "-f", "-n", "-s"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("-o", action="append", default=[])
    options = parser.parse_args(arguments)
    words = [word for group in options.o for word in group.split(",") if word]
    device, directory = options.device, os.path.realpath(options.directory)
    match = DEVICE.match(device)
    if match is None:
        print(
            f"mount.lustre: {device} has not been formatted with mkfs.lustre or the backend filesystem type is not "
            "supported by this tool",
            file=sys.stderr,
        )
        return errno.ENODEV
    if not rooted(directory).is_dir():
        print(f"mount.lustre: {directory} inaccessible: No such file or directory", file=sys.stderr)
        return errno.ENOENT
    if "remount" in words:
        return _remount(device, directory, words)
    if any(client.mount_point == directory for client in lustre.clients()):
        print(f"mount.lustre: according to /etc/mtab {device} is already mounted on {directory}", file=sys.stderr)
        return errno.EEXIST
    failure = check(words)
    if failure == 0:
        failure = 0 if lustre.lustre()["reachable"] else errno.EIO
    if failure == 0 and not options.f:
        # A new mount is a new client to the servers, which have not evicted it.
        hardware.clear_by_remount()
        failure = _bind(directory, words)
    if failure:
        return _fail(failure, device, directory, match["fsname"])
    if not options.f:
        lustre.remember_mount(device, directory, ",".join(words))
    return 0


def check(words: list[str]) -> int:
    """0 when a client would take these options, else the errno; the kernel's line goes to its log."""
    # mount(2) of an unknown type asks for the module "fs-lustre", an alias of lustre.
    if not kmod.request("lustre"):
        return errno.ENODEV
    for word in words:
        name, _, value = word.partition("=")
        if word in GENERIC or word in LUSTRE or word.startswith(GENERIC_PREFIX) or (value and name in LUSTRE_VALUED):
            continue
        hardware.kernel_log(
            f"LustreError: 152-6: Unknown option '{word}', won't mount.",
            f"LustreError: {os.getpid()}:0:(super25.c:188:lustre_fill_super()) llite: Unable to mount: rc = -22",
        )
        return errno.EINVAL
    return 0


def _bind(directory: str, words: list[str]) -> int:
    flags = [word for word in words if word in ("ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime", "relatime")]
    bind = ["/bin/mount", "--bind", "-o", ",".join(flags) or "rw", lustre.BACKING, directory]
    return errno.EIO if subprocess.run(bind, check=False).returncode else 0


def _remount(device: str, directory: str, words: list[str]) -> int:
    flags = ",".join(
        ["remount", "bind", *(word for word in words if word in ("ro", "rw", "nosuid", "nodev", "noatime"))]
    )
    status = subprocess.run(["/bin/mount", "-o", flags, directory], check=False).returncode
    return _fail(errno.EINVAL, device, directory, "") if status else 0


def _fail(number: int, device: str, directory: str, fsname: str) -> int:
    print(f"mount.lustre: mount {device} at {directory} failed: {os.strerror(number)}", file=sys.stderr)
    hint = HINTS.get(number)
    if hint:
        print(hint.format(fsname=fsname, device=device), end="", file=sys.stderr)
    return number

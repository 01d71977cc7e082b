"""Which Lustre setting goes where: a mount option, an `lctl set_param`, or an `lfs setstripe`.

A client refuses a mount with an option that it does not know ("Unknown option '%s', won't mount", -EINVAL), so a
wrong one takes a node's storage away. Source: lustre-release, `lustre/obdclass/obd_mount.c` (`lmd_parse`) and
mount.lustre(8).
"""

from __future__ import annotations

from typing import Literal

Place = Literal["mount", "set_param", "setstripe", "invalid"]

# mount.lustre(8), client options.
_CLIENT = {
    "flock", "localflock", "noflock", "lazystatfs", "nolazystatfs", "user_xattr", "nouser_xattr", "checksum",
    "nochecksum", "lruresize", "nolruresize", "always_ping", "32bitapi", "verbose", "noverbose",
    "user_fid2path", "nouser_fid2path", "encrypt", "noencrypt",
}  # fmt: skip
_CLIENT_WITH_VALUE = {"network", "exclude", "retry", "skpath", "mgssec"}
# mount(8), options of any file system.
_GENERIC = {
    "_netdev", "auto", "noauto", "atime", "noatime", "diratime", "nodiratime", "relatime", "norelatime", "strictatime",
    "lazytime", "defaults", "dev", "nodev", "exec", "noexec", "suid", "nosuid", "ro", "rw", "sync", "async", "nofail",
    "user", "nouser",
}  # fmt: skip
_GENERIC_PREFIXES = ("x-systemd.",)
# Options that the documents and many guides give as mount options, and what does the job.
_PARAMETERS = {
    "max_read_ahead_mb": "llite.*.max_read_ahead_mb",
    "max_read_ahead_per_file_mb": "llite.*.max_read_ahead_per_file_mb",
    "max_rpcs_in_flight": "osc.*.max_rpcs_in_flight",
    "max_pages_per_rpc": "osc.*.max_pages_per_rpc",
    "max_dirty_mb": "osc.*.max_dirty_mb",
}
_LAYOUT = {"stripe_count": "-c", "stripe_size": "-S"}
_FOREIGN = {
    "rsize": "an NFS option; Lustre sizes its RPCs by osc.*.max_pages_per_rpc under site_lustre.params",
    "wsize": "an NFS option; Lustre sizes its RPCs by osc.*.max_pages_per_rpc under site_lustre.params",
    "noauto_da_alloc": "an ext4 option; Lustre has nothing like it",
}


def place_of(option: str) -> Place:
    """Where a setting belongs, by its name (a value behind `=` is ignored)."""
    name = option.partition("=")[0]
    if option in _CLIENT | _GENERIC or name.startswith(_GENERIC_PREFIXES):
        return "mount"
    if name in _CLIENT_WITH_VALUE and "=" in option and option.partition("=")[2]:
        return "mount"
    if name in _PARAMETERS:
        return "set_param"
    return "setstripe" if name in _LAYOUT else "invalid"


def mount_option_problem(option: str) -> tuple[str, str] | None:
    """`(rule, fix)` when a Lustre client would refuse to mount with this option, else None."""
    name = option.partition("=")[0]
    match place_of(option):
        case "mount":
            return None
        case "set_param":
            return (
                f"{name!r} is not a Lustre mount option: the mount fails with 'Unknown option'",
                f"move it to site_lustre.params as `{_PARAMETERS[name]}: VALUE`",
            )
        case "setstripe":
            return (
                f"{name!r} is a file layout, not a Lustre mount option: the mount fails with 'Unknown option'",
                f"move it to site_lustre.layouts (lfs setstripe {_LAYOUT[name]})",
            )
        case _:
            return (
                f"{option!r} is not a mount option that a Lustre client knows: the mount fails",
                f"remove it ({_FOREIGN[name]})" if name in _FOREIGN else "remove it, or see mount.lustre(8)",
            )

"""Who a container's process is and what it may do: user, groups, capabilities."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .client import Json
from .environment import CreateError

# <linux/capability.h>; the first 41 are in each kernel since 5.9.
CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
)  # fmt: skip
# What containerd leaves a container that asks for nothing (oci/spec.go, defaultUnixCaps).
DEFAULT = frozenset({
    "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP",
    "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Identity:
    """Numbers for the process; `dropped` are capabilities that it can't get back by any means."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str
    dropped: tuple[int, ...]
    no_new_privileges: bool
    read_only_root: bool


def identity(
    pod: Json, container: Json, passwd: Path = Path("/etc/passwd"), group: Path = Path("/etc/group")
) -> Identity:
    """The process of `container`; what its own security context does not say, the pod's does.

    Raises:
        CreateError: it must not be root and would be.
    """
    shared = pod["spec"].get("securityContext") or {}
    own = container.get("securityContext") or {}
    merged = {**shared, **own}
    uid = int(merged.get("runAsUser", 0))
    if merged.get("runAsNonRoot") and uid == 0:
        place = f"{pod['metadata']['name']}_{pod['metadata']['namespace']}({pod['metadata']['uid']})"
        cause = "runAsUser breaks non-root policy" if "runAsUser" in merged else "image will run as root"
        raise CreateError(f'container has runAsNonRoot and {cause} (pod: "{place}", container: {container["name"]})')
    account = next((row for row in _rows(passwd) if len(row) > 5 and row[2] == str(uid)), None)
    gid = int(merged["runAsGroup"]) if "runAsGroup" in merged else int(account[3]) if account else 0
    groups = {gid, *(int(each) for each in shared.get("supplementalGroups") or [])}
    if "fsGroup" in shared:
        groups.add(int(shared["fsGroup"]))
    if account and shared.get("supplementalGroupsPolicy", "Merge") == "Merge":
        groups |= {int(row[2]) for row in _rows(group) if len(row) > 3 and account[0] in row[3].split(",")}
    return Identity(
        uid=uid,
        gid=gid,
        groups=tuple(sorted(groups)),
        home=account[5] if account else "/",
        dropped=_dropped(own),
        no_new_privileges=own.get("allowPrivilegeEscalation") is False,
        read_only_root=bool(own.get("readOnlyRootFilesystem")),
    )


def _dropped(context: Json) -> tuple[int, ...]:
    if context.get("privileged"):
        return ()
    asked = context.get("capabilities") or {}
    added = {str(name).removeprefix("CAP_") for name in asked.get("add") or []}
    removed = {str(name).removeprefix("CAP_") for name in asked.get("drop") or []}
    kept = set() if "ALL" in removed else set(DEFAULT)
    kept |= set(CAPABILITIES) if "ALL" in added else added
    kept -= removed
    return tuple(number for number, name in enumerate(CAPABILITIES) if name not in kept)


def _rows(path: Path) -> list[list[str]]:
    try:
        return [line.split(":") for line in path.read_text(errors="replace").splitlines()]
    except FileNotFoundError:
        return []

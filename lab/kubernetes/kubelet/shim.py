"""Starts one container and waits for its end: `python3 -m …shim DIRECTORY LOCK READY`.

It outlives the kubelet. The container is PID 1 of a PID namespace of its own and dies with the shim. Its root is the
node's root file system below a layer of memory, so that it writes nothing into the node's; other mounts of the node are
not there. LOCK is a locked file that the shim inherits: whoever finds it free knows that the shim is gone. READY is a
pipe that it closes when the command runs or can't.
"""

from __future__ import annotations

import os
import signal
import socket
import stat
import sys
import time
from pathlib import Path
from typing import NoReturn

from . import kernel
from .launch import EXIT, LAUNCH, ROOT, RUNNING, START_ERROR_CODE, STARTED, Launch, save, start_ticks

_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2", "ptmx": "pts/ptmx"}
# As runc: what reaches the kernel that all containers share.
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_SHM_OPTIONS = "mode=1777,size=65536k"


def main() -> None:
    directory, lock, ready = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    os.set_inheritable(lock, False)
    os.set_inheritable(ready, False)
    launch = Launch.load(directory / LAUNCH)
    log = os.open(launch.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    go_read, go_write = os.pipe()
    fail_read, fail_write = os.pipe()
    kernel.unshare(kernel.CLONE_NEWPID)
    child = os.fork()
    if child == 0:
        os.close(go_write)
        os.close(fail_read)
        _child(launch, directory / ROOT, log, go_read, fail_write)
    os.close(fail_write)
    os.close(log)
    me = os.getpid()
    save(
        directory / STARTED,
        {"pid": child, "ticks": start_ticks(child), "shim_pid": me, "shim_ticks": start_ticks(me)},
    )
    os.write(go_write, b"g")
    with os.fdopen(fail_read, "rb") as stream:
        problem = stream.read().decode(errors="replace")
    if not problem:
        save(directory / RUNNING, {"at": time.time()})
        os.close(ready)
    _, status = os.waitpid(child, 0)
    if problem:
        ended = {"exit_code": START_ERROR_CODE, "reason": "StartError", "message": problem}
    else:
        code = os.waitstatus_to_exitcode(status)
        # A runtime reports a signal as 128 and its number.
        code = 128 - code if code < 0 else code
        ended = {"exit_code": code, "reason": "Error" if code else "Completed", "message": ""}
    save(directory / EXIT, {**ended, "finished_at": time.time()})


def _child(launch: Launch, root: Path, log: int, go: int, fail: int) -> NoReturn:
    """Become the container; what prevents it is written to `fail`, which its command does not inherit."""
    try:
        os.setsid()
        os.umask(0o022)
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        # The shim may have died before the line above: then nobody says go.
        if os.read(go, 1) != b"g":
            os._exit(1)
        _enter(launch, root)
        _become(launch)
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        _execute(launch)
    except BaseException as error:
        os.write(fail, (str(error) or type(error).__name__).encode())
    os._exit(START_ERROR_CODE)


def _execute(launch: Launch) -> NoReturn:
    """Raises: OSError with the message of a runtime."""
    name = launch.argv[0]
    try:
        os.execvpe(name, launch.argv, launch.environment)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError) and "/" not in name
        cause = "executable file not found in $PATH" if missing else str(error.strerror).lower()
        raise OSError(f'exec: "{name}": {cause}') from error


def _enter(launch: Launch, root: Path) -> None:
    """Namespaces, and a root with the container's mounts."""
    kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWUTS | kernel.CLONE_NEWIPC)
    socket.sethostname(launch.hostname)
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    devices = {name: Path("/dev", name).stat() for name in (*_DEVICES, *launch.devices)}
    kernel.mount("tmpfs", str(root), "tmpfs", options="mode=0755")
    os.chdir(root)
    for name in ("upper", "work", "merged"):
        Path(name).mkdir()
    kernel.mount("overlay", "merged", "overlay", options="lowerdir=/,upperdir=upper,workdir=work")
    # Sources are opened while their paths mean the node's files, targets are made while paths mean the container's: a
    # symbolic link on either side leads where it should (/var/run).
    sources = [os.open(mount.source, os.O_PATH) for mount in launch.mounts]
    system = os.open("/sys", os.O_PATH)
    old = os.open("/", os.O_PATH | os.O_DIRECTORY)
    os.chdir("merged")
    kernel.pivot_root(".", ".")
    os.chdir("/")
    kernel.mount("proc", "/proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
    kernel.bind(f"/proc/self/fd/{system}", "/sys", read_only=True)
    _make_devices(devices)
    for source, mount in sorted(zip(sources, launch.mounts, strict=True), key=lambda each: each[1].target.count("/")):
        _make_target(mount.target, directory=stat.S_ISDIR(os.fstat(source).st_mode))
        kernel.bind(f"/proc/self/fd/{source}", mount.target, read_only=mount.read_only)
    for handle in (*sources, system):
        os.close(handle)
    for path in _READ_ONLY:
        if Path(path).exists():
            kernel.bind(path, path, read_only=True)
    os.fchdir(old)
    kernel.unmount(".", kernel.MNT_DETACH)
    os.close(old)
    os.chdir("/")


def _make_devices(devices: dict[str, os.stat_result]) -> None:
    kernel.mount("tmpfs", "/dev", "tmpfs", kernel.MS_NOSUID, "mode=0755,size=64k")
    for name, like in devices.items():
        target = Path("/dev") / name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.mknod(target, stat.S_IFMT(like.st_mode) | 0o666, like.st_rdev)
        target.chmod(0o666)
    for name, to in _LINKS.items():
        (Path("/dev") / name).symlink_to(to)
    for name in ("pts", "shm", "mqueue"):
        (Path("/dev") / name).mkdir()
    quiet = kernel.MS_NOSUID | kernel.MS_NOEXEC
    kernel.mount("devpts", "/dev/pts", "devpts", quiet, "newinstance,ptmxmode=0666,mode=0620")
    kernel.mount("shm", "/dev/shm", "tmpfs", quiet | kernel.MS_NODEV, _SHM_OPTIONS)
    kernel.mount("mqueue", "/dev/mqueue", "mqueue", quiet | kernel.MS_NODEV)


def _make_target(target: str, *, directory: bool) -> None:
    path = Path(target)
    if directory:
        path.mkdir(parents=True, exist_ok=True)
    elif not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def _become(launch: Launch) -> None:
    """The container's user and rights, and a process as fresh as one that no Python started."""
    Path(launch.directory).mkdir(parents=True, exist_ok=True)
    if launch.read_only_root:
        kernel.mount("", "/", flags=kernel.MS_BIND | kernel.MS_REMOUNT | kernel.MS_RDONLY)
    for number in launch.dropped:
        kernel.prctl(kernel.PR_CAPBSET_DROP, number)
    os.setgroups(launch.groups)
    os.setresgid(launch.gid, launch.gid, launch.gid)
    os.setresuid(launch.uid, launch.uid, launch.uid)
    if launch.no_new_privileges:
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    # setresuid clears it.
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    os.chdir(launch.directory)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)


if __name__ == "__main__":
    main()

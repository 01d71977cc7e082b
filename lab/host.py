"""What the lab does to this machine: packages, one lock, commands with a time limit, podman with its own storage."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from lab.host_packages import missing
from lab.layout import lab_dir
from medllm.errors import user_error
from medllm.files import cache_dir, write_atomic

# Container sockets have paths of at most 108 bytes, so run-time files cannot lie below a long home directory.
RUN = Path("/run/medllm-lab")

_CONTAINERS_CONF = """\
[containers]
# This machine's own hard limits: asking for more makes the runtime refuse to start.
default_ulimits = ["nofile=1024:{nofile}", "nproc={nproc}:{nproc}"]
log_driver = "k8s-file"

[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
tmp_dir = "{run}/tmp"
volume_path = "{storage}/volumes"

[network]
network_backend = "netavark"
network_config_dir = "{storage}/networks"
"""
_STORAGE_CONF = """\
[storage]
driver = "overlay"
graphroot = "{storage}/storage"
runroot = "{run}/containers"
"""


class LabError(RuntimeError):
    """The lab itself failed (not the user's input): a command's own message is in it."""


def check_host() -> None:
    """Refuse to start on a machine that lacks what the lab needs.

    Raises:
        UserError: not root, or packages are missing (the fix is the line to run).
    """
    if os.geteuid() != 0:
        raise user_error("the lab makes containers with their own network, as root", "run it as root (sudo -E)")
    if not shutil.which("dpkg-query"):
        raise user_error("the lab needs a Debian 12 machine (no dpkg here)", "use a Debian 12 machine")
    if names := missing():
        raise user_error(
            f"this machine lacks packages that the lab needs: {', '.join(names)}",
            f"`make system`, or apt-get install --yes --no-install-recommends {' '.join(names)}",
        )


@contextmanager
def lab_lock() -> Iterator[None]:
    """Only one command changes the lab at a time.

    Raises:
        UserError: another one is at it.
    """
    lab_dir().mkdir(parents=True, exist_ok=True)
    with (lab_dir() / "lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise user_error("another `medllm lab` command is changing the lab", "wait until it has ended") from None
        yield


def run(
    command: Sequence[str | Path],
    *,
    timeout: float,
    env: Mapping[str, str] | None = None,
    check: bool = True,
    input_text: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `command` for at most `timeout` seconds, its output captured.

    Raises:
        LabError: it failed (with `check`) or did not end in time; carries the end of its output.
    """
    words = [str(word) for word in command]
    shown = " ".join(words)[:200]
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=timeout, check=False, input=input_text,
            stdin=subprocess.DEVNULL if input_text is None else None, env={**os.environ, **(env or {})},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise LabError(f"`{shown}` did not end within {timeout:.0f} s") from None
    if check and done.returncode:
        raise LabError(f"`{shown}` failed ({done.returncode}): {(done.stderr or done.stdout).strip()[-2000:]}")
    return done


def tied_to_us(*command: str) -> list[str]:
    """The command, so that the kernel kills what it starts when the thread that starts it is gone.

    A process that ends before its child has asked for that would leave the child: the child looks after it has asked.
    """
    look = '[ "$PPID" = "$0" ] && exec "$@"'
    return ["setpriv", "--pdeathsig", "KILL", "/bin/sh", "-c", look, str(os.getpid()), *command]


def podman(*arguments: str | Path, timeout: float = 60, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run podman on the lab's own storage and configuration; nothing else of this machine sees its containers."""
    return run(["podman", *arguments], timeout=timeout, check=check, env=podman_environment())


def storage_dir() -> Path:
    return cache_dir() / "images" / "podman"


def podman_environment() -> dict[str, str]:
    """Environment that makes podman use the lab's own configuration files."""
    return {
        "CONTAINERS_CONF": str(lab_dir() / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(lab_dir() / "storage.conf"),
    }


def write_podman_configuration() -> None:
    """Write podman's two configuration files, with limits that this machine can give."""
    hard_files = _hard_limit("Max open files", 20000)
    hard_processes = _hard_limit("Max processes", 1000)
    values = {"run": RUN, "storage": storage_dir(), "nofile": hard_files, "nproc": hard_processes}
    write_atomic(lab_dir() / "containers.conf", _CONTAINERS_CONF.format(**values))
    write_atomic(lab_dir() / "storage.conf", _STORAGE_CONF.format(**values))


def _hard_limit(name: str, at_most: int) -> int:
    """This process's hard limit, or `at_most` when that is lower or the limit is infinite."""
    for line in Path("/proc/self/limits").read_text().splitlines():
        if line.startswith(name):
            hard = line[len(name) :].split()[1]
            return at_most if hard == "unlimited" else min(int(hard), at_most)
    return at_most


def this_boot() -> str:
    """Identifies the running boot of this machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def boot_time() -> int:
    """When this machine's running boot began, in seconds since the epoch (btime of proc(5))."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("btime "):
            return int(line.split()[1])
    raise LabError("/proc/stat has no btime")

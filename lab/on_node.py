"""What a fault does inside a node; sent to the node's Python over standard input, so it needs nothing there.

`on_node.py log LINE...` writes kernel log lines; `on_node.py kill-gpu INDEX` kills what holds that GPU;
`on_node.py kill-unit UNIT` kills a service's main process; `on_node.py lustre ro|rw` says whether the Lustre mounts
take writes. Prints one line a killed process: pid and name.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

# The number that journald expects of the next kernel record: it drops those that it has seen (systemd,
# src/journal/journald-kmsg.c).
KERNEL_SEQNUM = Path("/run/systemd/journal/kernel-seqnum")
KERNEL_ERROR = 3  # priority "err", facility "kern"
READ_SECONDS = 2.0


def log(lines: list[str]) -> None:
    """Lines of the kernel's log, as records that journald reads from /dev/kmsg.

    The kernel gives a reader one record at a time; a FIFO gives all that is there, so each waits for the one before.
    """
    handle = os.open("/dev/kmsg", os.O_WRONLY | os.O_NONBLOCK)
    for line in lines:
        number = _expected()
        os.write(handle, f"{KERNEL_ERROR},{number},{time.monotonic_ns() // 1000},-;{line}\n".encode())
        deadline = time.monotonic() + READ_SECONDS
        while _expected() == number and time.monotonic() < deadline:
            time.sleep(0.005)
    os.close(handle)


def _expected() -> int:
    return int.from_bytes(KERNEL_SEQNUM.read_bytes()[:8], "little")


def holders(gpu: int) -> list[int]:
    """Processes that have the GPU's device open, and those of a Slurm step or a pod that was given the GPU."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) not in (1, os.getpid()):
            try:
                if _has_open(process, f"/dev/nvidia{gpu}") or _was_given(process, gpu):
                    found.append(int(process.name))
            except OSError:
                continue  # it ended meanwhile
    return found


def _has_open(process: Path, device: str) -> bool:
    return any(os.path.realpath(handle) == device for handle in (process / "fd").iterdir())


def _was_given(process: Path, gpu: int) -> bool:
    words = (process / "environ").read_bytes().split(b"\0")
    environment = dict(word.decode(errors="replace").partition("=")[::2] for word in words if word)
    if str(gpu) in environment.get("NVIDIA_VISIBLE_DEVICES", "").split(","):
        return True
    if "SLURM_PROCID" not in environment or (process / "comm").read_text().startswith("slurmstepd"):
        return False
    given = environment.get("SLURM_STEP_GPUS") or environment.get("SLURM_JOB_GPUS")
    return given is None or str(gpu) in given.split(",")


def kill(pids: list[int]) -> None:
    """End the processes as the kernel does, without a chance to clean up."""
    for pid in pids:
        try:
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            os.kill(pid, signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError):
            continue
        print(pid, name)


def unit_processes(unit: str) -> list[int]:
    """The main process of a service; none when it does not run."""
    answer = subprocess.run(
        ["systemctl", "show", "--property=MainPID", "--value", unit], capture_output=True, text=True, check=True
    )
    return [pid for pid in [int(answer.stdout or 0)] if pid]


LUSTRE_SERVER = "/run/lab/lustre-backing"


def lustre(mode: str) -> None:
    """Remount what the Lustre client mounted: an evicted client's writes fail until it is connected again."""
    rows = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    # Fields 4 and 5 of proc(5): the root of the mount in its file system, the mount point.
    server = next(row[3] for row in rows if row[4] == LUSTRE_SERVER)
    for row in rows:
        if row[3].startswith(server) and row[4] != LUSTRE_SERVER:
            remount = ["mount", "-o", f"remount,bind,{mode}", row[4]]
            if subprocess.run(remount, stderr=subprocess.DEVNULL, check=False).returncode:
                _replace(row[4], mode)


def _replace(mount_point: str, mode: str) -> None:
    """A mount with files open for writing refuses to become read-only: detach it, and put another one in its place."""
    subprocess.run(["umount", "--lazy", mount_point], check=True)
    deadline = time.monotonic() + READ_SECONDS
    while True:
        bind = ["mount", "--bind", "-o", mode, LUSTRE_SERVER, mount_point]
        if not subprocess.run(bind, check=False).returncode:
            return
        # A file was opened for writing between the two system calls of a read-only bind mount.
        subprocess.run(["umount", "--lazy", mount_point], check=False)
        if time.monotonic() > deadline:
            sys.exit(f"{mount_point} can't be mounted {mode}")


def main() -> None:
    action, *arguments = sys.argv[1:]
    if action == "log":
        log(arguments)
    elif action == "kill-gpu":
        kill(holders(int(arguments[0])))
    elif action == "kill-unit":
        kill(unit_processes(arguments[0]))
    elif action == "lustre":
        lustre(arguments[0])
    else:
        sys.exit(f"no action {action}")


if __name__ == "__main__":
    main()

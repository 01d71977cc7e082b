"""Containers of this node, by what they leave on disk: start, look, signal, enter.

A container may be started several times (attempts 0, 1, …); each has a directory that is never used again, so that a
kubelet that starts anew finds what its predecessor started and starts nothing twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from .launch import (
    EXIT,
    LAUNCH,
    LOCK,
    LOST_CODE,
    ROOT,
    RUNNING,
    STARTED,
    TERMINATION,
    Ended,
    Launch,
    read,
    save,
    start_ticks,
)

START_S = 60.0
KILL_S = 10.0
_ERRORS = "shim.err"
_PACKAGE_ROOT = Path(__file__).resolve().parents[len((__package__ or "").split("."))]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One start of a container, as its directory tells. `started_at` is None for one whose command never ran."""

    number: int
    directory: Path
    started_at: float | None
    ended: Ended | None

    @property
    def identifier(self) -> str:
        """The container's ID; a digest of its place."""
        return "lab://" + hashlib.sha256(str(self.directory).encode()).hexdigest()


class Runtime:
    """The containers below `directory` (`UID/containers/NAME/ATTEMPT`)."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def pod_directory(self, uid: str) -> Path:
        return self.directory / uid

    def attempts(self, uid: str, name: str) -> list[Attempt]:
        """All attempts at a container, oldest first."""
        place = self.directory / uid / "containers" / name
        numbers = sorted(int(each.name) for each in place.iterdir()) if place.is_dir() else []
        return [self._look(number, place / str(number)) for number in numbers]

    def last(self, uid: str, name: str) -> Attempt | None:
        attempts = self.attempts(uid, name)
        return attempts[-1] if attempts else None

    def start(self, uid: str, name: str, build: Callable[[int, Path], Launch]) -> Attempt:
        """Start a container, and return when its command runs or can't. `build` gets the attempt's number and the
        directory that it will have; what it raises leaves no attempt behind.

        Raises:
            OSError: not even a process could be made.
        """
        previous = self.last(uid, name)
        number = previous.number + 1 if previous else 0
        directory = self.directory / uid / "containers" / name / str(number)
        launch = build(number, directory)
        (directory / ROOT).mkdir(parents=True)
        (directory / TERMINATION).touch()
        (directory / TERMINATION).chmod(0o666)
        launch.save(directory / LAUNCH)
        Path(launch.log).parent.mkdir(parents=True, exist_ok=True)
        ready, announce = os.pipe()
        lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._spawn(directory, lock, announce)
        finally:
            os.close(lock)
            os.close(announce)
        with os.fdopen(ready, "rb") as stream:
            # End of file: the shim closed its end.
            select.select([stream], [], [], START_S)
        return self._look(number, directory)

    def _spawn(self, directory: Path, lock: int, announce: int) -> None:
        command = [sys.executable, "-S", "-P", "-m", f"{__package__}.shim", str(directory), str(lock), str(announce)]
        environment = {"PYTHONPATH": str(_PACKAGE_ROOT), "PYTHONUTF8": "1", "PATH": os.environ.get("PATH", "")}
        with (directory / _ERRORS).open("wb") as errors:
            shim = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, cwd="/", env=environment,
                pass_fds=(lock, announce), start_new_session=True,
            )  # fmt: skip
        # Collects the process when it ends.
        threading.Thread(target=shim.wait, daemon=True, name=f"shim {shim.pid}").start()

    def record(self, uid: str, name: str, number: int, ended: Ended) -> None:
        """An attempt that this runtime never saw, so that nobody starts the container for the first time."""
        directory = self.directory / uid / "containers" / name / str(number)
        directory.mkdir(parents=True)
        save(directory / EXIT, asdict(ended))

    def _look(self, number: int, directory: Path) -> Attempt:
        alive = _locked(directory / LOCK)
        ended = read(directory / EXIT)
        running = read(directory / RUNNING)
        if ended is None and not alive:
            ended = self._lost(directory)
        return Attempt(number, directory, running["at"] if running else None, Ended(**ended) if ended else None)

    def _lost(self, directory: Path) -> dict[str, object]:
        """The shim is gone and said nothing: it was killed, or the machine went down."""
        with contextlib.suppress(OSError):
            self.signal(directory, signal.SIGKILL)
        errors = directory / _ERRORS
        said = errors.read_text(errors="replace").strip().splitlines() if errors.exists() else []
        message = said[-1] if said else "the container's process was lost"
        ended = asdict(Ended(LOST_CODE, "Unknown", time.time(), message))
        save(directory / EXIT, ended)
        return ended

    def signal(self, directory: Path, number: int) -> bool:
        """Send the container's process a signal. Returns whether there was one."""
        started = read(directory / STARTED)
        if started is None or start_ticks(started["pid"]) != started["ticks"]:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(started["pid"], number)
        return True

    def kill(self, directory: Path) -> None:
        """End a container and wait until nothing of it writes any more.

        Raises:
            TimeoutError: it can't be killed.
        """
        deadline = time.monotonic() + KILL_S
        while _locked(directory / LOCK):
            self.signal(directory, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise TimeoutError(f"{directory}: the container can't be killed")
            time.sleep(0.02)

    def process(self, directory: Path) -> int | None:
        """A handle that becomes readable when the shim ends, or None where it has."""
        started = read(directory / STARTED)
        if started is None or start_ticks(started["shim_pid"]) != started["shim_ticks"]:
            return None
        try:
            return os.pidfd_open(started["shim_pid"])
        except ProcessLookupError:
            return None

    def execute(self, directory: Path, argv: Sequence[str], seconds: float) -> tuple[int, str]:
        """Run a command inside the container, as its user. Returns the exit code and what it printed.

        Raises:
            TimeoutError: it took longer and was killed.
            OSError: the container is gone.
        """
        started, launch = read(directory / STARTED), Launch.load(directory / LAUNCH)
        if started is None:
            raise ProcessLookupError("the container has not started")
        enter = [
            "nsenter", "--target", str(started["pid"]), "--mount", "--uts", "--ipc", "--pid", "--wd",
            "--setgid", str(launch.gid), "--setuid", str(launch.uid), "--", *argv,
        ]  # fmt: skip
        with subprocess.Popen(
            enter, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=launch.environment, start_new_session=True,
        ) as process:  # fmt: skip
            try:
                output, _ = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                raise TimeoutError(f"command timed out after {seconds:g}s") from None
        return process.returncode, output[:10240].decode(errors="replace")

    def pods(self) -> Iterator[str]:
        """UIDs of the pods that have left something here."""
        if self.directory.is_dir():
            yield from sorted(each.name for each in self.directory.iterdir() if (each / "pod.json").exists())

    def prune(self, uid: str, name: str) -> None:
        """Forget all but the last two attempts, which the pod's status shows, with their logs."""
        for attempt in self.attempts(uid, name)[:-2]:
            launch = read(attempt.directory / LAUNCH)
            if launch is not None:
                Path(launch["log"]).unlink(missing_ok=True)
            shutil.rmtree(attempt.directory, ignore_errors=True)


def _locked(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(handle)

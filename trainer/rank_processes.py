"""The ranks of one machine, a process each."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_POLL_S = 0.05


class RankProcesses:
    """Started at once; whoever makes it ends it. `common` is their environment but for each one's own number."""

    def __init__(
        self,
        request: Path,
        common: Mapping[str, str],
        *,
        first: int,
        count: int,
        options: Sequence[str] = (),
        logs: Sequence[Path] = (),
    ) -> None:
        """Ranks `first` … `first + count - 1`; each prints into its file of `logs`, or with none to where we print."""
        command = [sys.executable, "-m", "trainer.worker", "--request", str(request), *options]
        self._processes: list[subprocess.Popen[bytes]] = []
        for local in range(count):
            own = {"RANK": str(first + local), "LOCAL_RANK": str(local), "LOCAL_WORLD_SIZE": str(count)}
            stream = logs[local].open("wb") if logs else None
            try:
                self._processes.append(
                    subprocess.Popen(
                        command,
                        env={**common, **own},
                        stdin=subprocess.DEVNULL,
                        stdout=stream,
                        stderr=subprocess.STDOUT if stream else None,
                        start_new_session=True,
                    )
                )
            finally:
                if stream:
                    stream.close()

    @property
    def running(self) -> bool:
        """Whether any still runs."""
        return any(process.poll() is None for process in self._processes)

    @property
    def bad(self) -> int:
        """The first bad exit status (a killed rank's is negative), or 0."""
        return next((process.returncode for process in self._processes if process.poll()), 0)

    def terminate(self) -> None:
        """SIGTERM to those that run: they write a checkpoint and end."""
        for process in self._processes:
            if process.poll() is None:
                process.terminate()

    def wait(self, seconds: float) -> None:
        """Until all have ended, at most so long."""
        end = time.monotonic() + seconds
        while self.running and time.monotonic() < end:
            time.sleep(_POLL_S)

    def end(self) -> None:
        """Kill what still runs: after a rank's death the others only wait in a collective."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()

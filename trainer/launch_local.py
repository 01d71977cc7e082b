"""Ranks on this machine: for trying things out without a cluster."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path
from types import FrameType

from medllm.errors import Problem, user_error
from medllm.files import write_atomic
from trainer.checkpoint.store import published
from trainer.launch import Ended, Plan, ProgressLine, interface_environment, rank_environment, refused_problems
from trainer.rank_processes import RankProcesses
from trainer.run_files import EVALUATIONS, EVENTS, METRICS, read_lines
from trainer.verify_data import verify

_POLL_S = 0.5


class LocalLauncher:
    """Starts the ranks as processes; when one dies it ends the others and starts all again."""

    def launch(self, plan: Plan, progress: ProgressLine) -> Ended:
        """See `Launcher`. SIGINT and SIGTERM are passed on: the ranks write a checkpoint and end."""
        request = plan.request
        run = request.run_directory
        if plan.fresh and run.exists():
            run.rename(run.with_name(f"{run.name}.old-{time.strftime('%Y%m%dT%H%M%S')}"))
        if plan.must_resume and not published(run):
            raise user_error(f"run {request.run!r} has no checkpoint", "leave --resume out", file=run, key="--resume")
        progress.show("verifying the data set")
        verify(request)
        logs = run / "logs"
        file = logs / f"request-{time.strftime('%Y%m%dT%H%M%S')}.json"
        write_atomic(file, request.model_dump_json(indent=1))
        status = 1
        for attempt in range(request.config.launch.max_restarts + 1):
            ranks = _Ranks(plan, file, logs, attempt)
            status = ranks.wait(run, progress)
            if status in {0, 2} or ranks.stopped:
                break
            print(f"attempt {attempt} ended with status {status}; see {logs}", file=sys.stderr)
        progress.close()
        return Ended(
            status,
            ranks.refused() if status == 2 else [],
            list(read_lines(run / METRICS)),
            list(read_lines(run / EVALUATIONS)),
            list(read_lines(run / EVENTS)),
        )


class _Ranks:
    """One attempt."""

    def __init__(self, plan: Plan, request: Path, logs: Path, attempt: int) -> None:
        self.stopped = False
        size = plan.request.world_size
        self.logs = [logs / f"rank{rank}-attempt{attempt}.log" for rank in range(size)]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        common = {
            **os.environ,
            **rank_environment(plan.request.config.engine.threads_per_rank, plan.request.accelerator),
            **interface_environment("lo"),
            "WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        self._ranks = RankProcesses(request, common, first=0, count=size, logs=self.logs)

    def wait(self, run: Path, progress: ProgressLine) -> int:
        """The first bad exit status (a killed rank's is negative), or 0."""
        previous = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            while self._ranks.running and not self._ranks.bad:
                progress.show("training", read_lines(run / METRICS))
                time.sleep(_POLL_S)
            return self._ranks.bad
        finally:
            self._ranks.end()
            for number, handler in previous.items():
                signal.signal(number, handler)

    def refused(self) -> list[Problem]:
        """What the ranks refused."""
        return refused_problems("\n".join(log.read_text(errors="replace") for log in self.logs))

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self.stopped = True
        self._ranks.terminate()

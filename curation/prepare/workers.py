"""Tasks run by processes of this machine: one at a time each, so that a process that dies takes one task with it.

Another executor (`ray_cluster`) is any function with the same signature as `Executor`.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Literal

_PR_SET_PDEATHSIG = 1
# A process that dies this often before it is ready will never be.
_STARTS = 3


@dataclass(frozen=True, slots=True)
class Task:
    """One sample to prepare: its pseudonymous id and the files that it is made of."""

    id: str
    inputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a task. `rejected`: (file of the sample, reason) for parts that were left out.

    `stat`: size and time of each input when it was read. Nothing here is text of a patient.
    """

    id: str
    status: Literal["done", "quarantined"]
    reason: str = ""
    sha256: str = ""
    size: int = 0
    inputs_sha256: str = ""
    stat: tuple[tuple[int, int], ...] = ()
    rejected: tuple[tuple[str, str], ...] = ()


Work = Callable[[Task], Outcome]
Executor = Callable[[Work, Iterable[Task]], Iterator[Outcome]]


class WorkersError(RuntimeError):
    """The worker processes do not start."""


class _Worker:
    """A process with its end of a pipe, and the task that it has."""

    def __init__(self, context: SpawnContext, work: Work) -> None:
        self.connection, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(target=_serve, args=(theirs, work, os.getpid()), daemon=True)
        self.process.start()
        # Ours must be the only end, or the death of the process closes nothing.
        theirs.close()
        self.task: Task | None = None
        self.ready = False
        self.until = 0.0

    def give(self, task: Task, timeout_s: float) -> None:
        self.task, self.until = task, time.monotonic() + timeout_s
        self.connection.send(task)

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def _serve(connection: Connection, work: Work, parent: int) -> None:
    """The life of a worker: it ends with its parent, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if os.getppid() != parent:
        return
    connection.send(None)
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        try:
            result: Outcome | OSError = work(task)
        except OSError as error:
            # Nothing can be written: not the sample's fault, and the next one would fail too.
            result = OSError(error.errno, error.strerror, error.filename)
        connection.send(result)


def local_processes(processes: int, timeout_s: float = 600.0, attempts: int = 2) -> Executor:
    """An executor over `processes` new processes (spawned: no thread or lock is inherited).

    A task whose process dies (the kernel kills what takes too much memory) is tried again alone, when nothing else
    runs, and after `attempts` in all it is quarantined as `worker_killed`; one that takes longer than `timeout_s` is
    quarantined as `timeout`. The executor raises OSError when results cannot be written, `WorkersError` when no
    process starts.
    """

    def execute(work: Work, tasks: Iterable[Task]) -> Iterator[Outcome]:
        context = multiprocessing.get_context("spawn")
        pool = _Pool(context, work, processes, timeout_s, attempts)
        try:
            yield from pool.run(iter(tasks))
        finally:
            pool.end()

    return execute


class _Pool:
    def __init__(self, context: SpawnContext, work: Work, size: int, timeout_s: float, attempts: int) -> None:
        self._context, self._work, self._size = context, work, size
        self._timeout_s, self._attempts = timeout_s, attempts
        self._workers: list[_Worker] = []
        self._again: deque[Task] = deque()
        self._deaths: dict[str, int] = {}
        self._failed_starts = 0

    def end(self) -> None:
        for worker in self._workers:
            worker.end()
        self._workers = []

    def run(self, tasks: Iterator[Task]) -> Iterator[Outcome]:
        following = next(tasks, None)
        while True:
            while len(self._workers) < self._size:
                self._workers.append(_Worker(self._context, self._work))
            for worker in list(self._workers):
                if not worker.ready or worker.task is not None:
                    continue
                if following is not None:
                    if self._give(worker, following):
                        following = next(tasks, None)
                # One only: the others then see a busy worker.
                elif self._again and not self._busy() and self._give(worker, self._again[0]):
                    self._again.popleft()
            if following is None and not self._again and not self._busy():
                return
            yield from self._collect()

    def _busy(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.task is not None]

    def _give(self, worker: _Worker, task: Task) -> bool:
        try:
            worker.give(task, self._timeout_s)
        except OSError:  # it died while it had nothing to do
            self._drop(worker)
            return False
        return True

    def _drop(self, worker: _Worker) -> None:
        worker.end()
        self._workers.remove(worker)

    def _collect(self) -> Iterator[Outcome]:
        """What has happened since: results, deaths, times that are up."""
        left = [worker.until - time.monotonic() for worker in self._busy()]
        wait([worker.connection for worker in self._workers], timeout=max(0.0, min(left)) if left else 1.0)
        for worker in list(self._workers):
            task = worker.task
            if worker.connection.poll():
                try:
                    result = worker.connection.recv()
                except (EOFError, OSError):  # closed, perhaps in the middle of a message
                    yield from self._after_death(worker)
                    continue
                worker.ready, worker.task, self._failed_starts = True, None, 0
                if isinstance(result, OSError):
                    raise result
                if result is not None:
                    yield result
            elif task is not None and time.monotonic() >= worker.until:
                self._drop(worker)
                yield Outcome(task.id, "quarantined", "timeout")

    def _after_death(self, worker: _Worker) -> Iterator[Outcome]:
        self._drop(worker)
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= _STARTS:
                raise WorkersError("the worker processes end before they are ready")
        task = worker.task
        if task is None:
            return
        self._deaths[task.id] = self._deaths.get(task.id, 0) + 1
        if self._deaths[task.id] < self._attempts:
            self._again.append(task)
        else:
            yield Outcome(task.id, "quarantined", "worker_killed")

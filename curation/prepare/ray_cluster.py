"""Tasks run on a Ray cluster: an executor like `workers.local_processes`, with a worker for each CPU of all nodes.

Each worker is an actor that has one task at a time: so its time can be limited, and its death concerns that task alone.
All nodes must see source and destination under the same paths, and have the same versions of the tools; both is checked
before a node gets work. Nothing of a sample travels over Ray but its id, its paths and its outcome; an exception of a
sample never does, for its message may quote the patient (Ray would write it to its logs).
"""

from __future__ import annotations

import hashlib
import logging
import re
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curation.prepare.run import tools
from curation.prepare.workers import Executor, Outcome, Task, Work, WorkersError
from medllm.errors import user_error

_ADDRESS = re.compile(r"auto|(?P<host>[A-Za-z0-9][A-Za-z0-9.-]*):(?P<port>[1-9]\d{0,4})")
# Ours: an open port answers within this; Ray itself would try a closed one for some three minutes.
_CONNECT_S = 5.0
# Ours: how often new and lost nodes are looked for, and how long it may take until some worker is ready.
_LOOK_S, _START_S = 2.0, 300.0
# Ours: a sample whose nodes are lost so often may be what takes them down.
_MOST_ENDS = 5


@dataclass(frozen=True, slots=True)
class _Ready:
    """Where a worker runs, and what it has there. `seen`: SHA-256 of each shared file, empty where it is not seen."""

    node: str
    address: str
    seen: tuple[str, ...]
    tools: tuple[tuple[str, str], ...]


class Worker:
    """The actor's class."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def ready(self, shared: Sequence[str]) -> _Ready:
        """The first call."""
        import ray

        node = ray.get_runtime_context().get_node_id()
        return _Ready(node, ray.util.get_node_ip_address(), _seen(shared), tuple(tools().items()))

    def run(self, task: Task) -> Outcome | tuple[Any, ...]:
        """The outcome, or the arguments of an OSError: nothing can be written."""
        try:
            return self._work(task)
        except OSError as error:
            return error.errno, error.strerror, error.filename


@dataclass(slots=True)
class _Slot:
    """An actor and the call that it has; `task` is None during its first call and while it is idle."""

    actor: Any
    call: Any
    task: Task | None = None
    node: str = ""
    until: float = 0.0


def check_address(address: str) -> str:
    """`auto` or HOST:PORT of a cluster that answers.

    Raises:
        UserError: neither, or nothing answers there.
    """
    match = _ADDRESS.fullmatch(address)
    if not match or int(match["port"] or 1) > 65535:
        raise user_error(f"{address!r} is no address of a Ray cluster", "give auto or HOST:PORT", key="--ray")
    if address != "auto":
        try:
            socket.create_connection((match["host"], int(match["port"])), _CONNECT_S).close()
        except OSError:
            fix = "start it (`ray start --head`), or correct the address"
            raise user_error(f"no Ray cluster answers at {address}", fix, key="--ray") from None
    return address


def ray_cluster(address: str, shared: Sequence[Path], timeout_s: float = 600.0, attempts: int = 2) -> Executor:
    """An executor over all CPUs of the cluster at `address`; nodes may come and go while it works.

    A task whose worker dies is tried again alone and after `attempts` in all quarantined as `worker_killed`; one whose
    node is lost goes to another node (five times at most). One that takes longer than `timeout_s` is quarantined as
    `timeout`. The executor raises what `local_processes` does.

    Args:
        shared: files that every node must see with the same content as this machine

    Raises:
        UserError: Ray is not installed, or no cluster answers.
    """
    try:
        import ray
    except ImportError:
        fix = "install it on this machine and on each node: pip install 'medllm-cluster[curate,ray]'"
        raise user_error("Ray is not installed", fix, key="--ray") from None
    check_address(address)

    def execute(work: Work, tasks: Iterable[Task]) -> Iterator[Outcome]:
        _connect(ray, address)
        pool = _Pool(ray, work, [str(path) for path in shared], timeout_s, attempts)
        try:
            yield from pool.run(iter(tasks))
        finally:
            pool.end()
            ray.shutdown()

    return execute


def _connect(ray: Any, address: str) -> None:
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
    except (ConnectionError, RuntimeError, SystemExit) as error:
        fix = "run this on a machine of the cluster (`ray start --address=…`), with the same Ray and Python"
        raise user_error(f"can't join the Ray cluster ({type(error).__name__})", fix, key="--ray") from None


def _seen(paths: Iterable[str]) -> tuple[str, ...]:
    found = []
    for path in paths:
        try:
            with open(path, "rb") as stream:
                found.append(hashlib.file_digest(stream, "sha256").hexdigest())
        except OSError:
            found.append("")
    return tuple(found)


class _Pool:
    def __init__(self, ray: Any, work: Work, shared: list[str], timeout_s: float, attempts: int) -> None:
        self._ray, self._shared, self._timeout_s, self._attempts = ray, shared, timeout_s, attempts
        self._work = ray.put(work)
        options = {"num_cpus": 1, "max_restarts": 0, "max_task_retries": 0, "scheduling_strategy": "SPREAD"}
        self._start: Callable[..., Any] = ray.remote(Worker).options(**options).remote
        self._slots: list[_Slot] = []
        self._lost: deque[Task] = deque()
        self._again: deque[Task] = deque()
        self._deaths: dict[str, int] = {}
        self._ends: dict[str, int] = {}
        self._failed_starts = 0
        self._looked, self._lively = -_LOOK_S, time.monotonic()

    def end(self) -> None:
        while self._slots:
            self._drop(self._slots[0])

    def run(self, tasks: Iterator[Task]) -> Iterator[Outcome]:
        following = next(tasks, None)
        while following is not None or self._lost or self._again or self._busy():
            self._fill()
            for slot in self._slots:
                if not slot.node or slot.task is not None:
                    continue
                if self._lost:
                    self._give(slot, self._lost.popleft())
                elif following is not None:
                    self._give(slot, following)
                    following = next(tasks, None)
                # One only: the others then see a busy worker.
                elif self._again and not self._busy():
                    self._give(slot, self._again.popleft())
            yield from self._collect()

    def _busy(self) -> list[_Slot]:
        return [slot for slot in self._slots if slot.task is not None]

    def _fill(self) -> None:
        """A worker for each CPU that the cluster has now; one for which there is no room waits for it."""
        now = time.monotonic()
        if any(slot.node for slot in self._slots):
            self._lively = now
        elif now - self._lively > _START_S:
            raise WorkersError(f"no worker of the Ray cluster was ready within {_START_S:.0f} s: it has no free CPU")
        if now - self._looked < _LOOK_S:
            return
        self._looked = now
        wanted = int(self._ray.cluster_resources().get("CPU", 0))
        while len(self._slots) < wanted:
            actor = self._start(self._work)
            self._slots.append(_Slot(actor, actor.ready.remote(self._shared)))

    def _give(self, slot: _Slot, task: Task) -> None:
        slot.task, slot.until = task, time.monotonic() + self._timeout_s
        slot.call = slot.actor.run.remote(task)

    def _drop(self, slot: _Slot) -> None:
        # Also where it only does not answer: nothing may go on with a task that another worker gets.
        self._ray.kill(slot.actor, no_restart=True)
        self._slots.remove(slot)
        self._looked = -_LOOK_S

    def _collect(self) -> Iterator[Outcome]:
        """What has happened since: results, deaths, times that are up."""
        waiting = {slot.call: slot for slot in self._slots if slot.task is not None or not slot.node}
        if not waiting:
            time.sleep(0.1)
            return
        left = min([slot.until - time.monotonic() for slot in self._busy()], default=_LOOK_S)
        self._ray.wait(list(waiting), num_returns=1, timeout=max(0.0, min(left, _LOOK_S)))
        done, _ = self._ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
        for call in done:
            yield from self._end_of_call(waiting.pop(call))
        for slot in waiting.values():
            if slot.task is not None and time.monotonic() >= slot.until:
                self._drop(slot)
                yield Outcome(slot.task.id, "quarantined", "timeout")

    def _end_of_call(self, slot: _Slot) -> Iterator[Outcome]:
        errors = self._ray.exceptions
        try:
            result = self._ray.get(slot.call)
        except errors.RayTaskError as error:  # the message may quote the patient
            raise WorkersError(f"a worker failed ({type(error.cause).__name__})") from None
        except errors.RayError as error:
            yield from self._after_death(slot, isinstance(error, errors.ActorDiedError))
            return
        task, slot.task = slot.task, None
        if isinstance(result, _Ready):
            self._check(result)
            slot.node, self._failed_starts = result.node, 0
        elif isinstance(result, Outcome):
            yield result
        else:
            assert task is not None
            raise OSError(*result)

    def _check(self, ready: _Ready) -> None:
        for path, there, here in zip(self._shared, ready.seen, _seen(self._shared), strict=True):
            if there != here:
                raise WorkersError(f"the node {ready.address} does not see {path} as this machine does: share it")
        if dict(ready.tools) != tools():
            names = {name for name, version in tools().items() if dict(ready.tools).get(name) != version}
            raise WorkersError(f"the node {ready.address} has another version of {', '.join(sorted(names))}")

    def _after_death(self, slot: _Slot, certain: bool) -> Iterator[Outcome]:
        """`certain`: Ray knows that the process ended; else it only lost sight of it."""
        self._drop(slot)
        if not slot.node:
            self._failed_starts += 1
            # A lost node takes as many as it has CPUs with it.
            if self._failed_starts > 3 + 2 * len(self._slots):
                raise WorkersError(
                    "the workers on the Ray cluster end before they are ready: is medllm installed there?"
                )
        task = slot.task
        if task is None:
            return
        alive = {node["NodeID"] for node in self._ray.nodes() if node["Alive"]}
        died = certain and slot.node in alive
        self._ends[task.id] = self._ends.get(task.id, 0) + 1
        self._deaths[task.id] = self._deaths.get(task.id, 0) + died
        if self._deaths[task.id] >= self._attempts or self._ends[task.id] >= _MOST_ENDS:
            yield Outcome(task.id, "quarantined", "worker_killed")
        else:
            (self._again if died else self._lost).append(task)

"""One pod of a Kubernetes Job: `python -m trainer.pod --request FILE --meet HOST:PORT --ranks-per-node N`.

Its number is JOB_COMPLETION_INDEX. It waits until all pods of the run are there (see `gang`), starts this node's ranks
beside theirs, passes SIGTERM on to them, and exits with what the Job's podFailurePolicy tells apart:

| Status | Meaning | The Job |
|---|---|---|
| 0 | all steps are done | counts the index as complete |
| 2 | refused input; each pod says so | fails: another attempt would be refused too |
| 75 | not all pods came in time | starts the pod again, without counting |
| 143 | stopped by SIGTERM to any of the pods; a checkpoint is written | starts it again, without counting |
| other | the ranks of some pod broke, or a node was lost | starts it again, so often as the site says |

When one pod's ranks end, those of all end within seconds; the next attempt goes on from the newest checkpoint. A pod
starts its ranks again by itself as often as the configuration's `launch.max_restarts` says.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from medllm.errors import UserError, system_error, user_error
from trainer.checkpoint import store
from trainer.gang import BROKE, Gang, Leader, Member
from trainer.launch import rank_environment
from trainer.rank_processes import RankProcesses
from trainer.request import REFUSED, STOPPED, Request
from trainer.run_files import is_locked

INDEX = "JOB_COMPLETION_INDEX"
INCOMPLETE = os.EX_TEMPFAIL
# Files that probes look at.
ALIVE, TRAINING = "alive", "training"
# A node may be long in coming back. Longer than the ten minutes that a Job waits between two starts of a pod, so that
# pods that start at different times meet.
_MEET_S = 1800.0
_POLL_S, _BEAT_S, _SAY_S = 0.2, 5.0, 60.0
# What ranks get to say why they end, once those of another pod have ended.
_LAST_WORDS_S = 5.0


@dataclass(frozen=True, slots=True)
class Pod:
    """This pod's place in the run. `host` and `port`: where the first pod listens."""

    request_file: Path
    request: Request
    index: int
    ranks: int
    host: str
    port: int
    meet_s: float = _MEET_S
    probes: Path | None = None

    @property
    def size(self) -> int:
        """How many pods the run has."""
        return self.request.world_size // self.ranks

    def gang(self) -> Gang:
        """A place among the pods, for one attempt."""
        digest = hashlib.sha256(self.request.model_dump_json().encode()).hexdigest()
        if self.index == 0:
            return Leader(self.port, self.size, digest)
        return Member(self.host, self.port, self.index, digest)

    def finished(self) -> bool:
        """Whether a whole checkpoint of the last step is there: the other pods may be done and gone.

        All pods must answer the same, and a kubelet asks for signs of life meanwhile, so nothing is hashed.
        """
        newest = store.published(self.request.run_directory)[:1]
        return any(
            checkpoint.step >= self.request.steps and store.problem_of(checkpoint.path, content=False) is None
            for checkpoint in newest
        )

    def environment(self, address: str, port: int) -> dict[str, str]:
        """What this pod's ranks have in common."""
        return {
            **os.environ,
            **rank_environment(self.request.config.engine.threads_per_rank, self.request.accelerator),
            "WORLD_SIZE": str(self.request.world_size),
            "MASTER_ADDR": address,
            "MASTER_PORT": str(port),
        }


class _Signs:
    """Of life, for the probes; and the wish that the pod ends."""

    def __init__(self, directory: Path | None) -> None:
        self.stop = False
        self._directory = directory
        self._beaten = 0.0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def beat(self) -> None:
        """The pod is alive. To be called all the time."""
        if self._directory and time.monotonic() - self._beaten > _BEAT_S:
            self._beaten = time.monotonic()
            (self._directory / ALIVE).touch()

    def training(self, ranks_run: bool) -> None:
        """Whether this pod's ranks run."""
        if self._directory and ranks_run:
            (self._directory / TRAINING).touch()
        elif self._directory:
            (self._directory / TRAINING).unlink(missing_ok=True)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self.stop = True


def run(pod: Pod) -> int:
    """Train until the run is finished or can't go on; the pod's exit status."""
    signs = _Signs(pod.probes)
    # Here, so that each pod proves that it may write.
    pod.request.run_directory.mkdir(parents=True, exist_ok=True)
    status = 0
    for attempt in range(pod.request.config.launch.max_restarts + 1):
        signs.beat()
        if pod.finished():
            _say(pod, f"run {pod.request.run!r} is finished: step {pod.request.steps} is done")
            return 0
        with pod.gang() as gang:
            status = _attempt(pod, gang, signs)
        if status == 0 or pod.finished():
            # Ranks that broke after the last checkpoint have left nothing undone.
            return 0
        _say(pod, f"attempt {attempt} ended with status {status}")
        if signs.stop or status in {REFUSED, INCOMPLETE}:
            break
    return status


def _attempt(pod: Pod, gang: Gang, signs: _Signs) -> int:
    begin = said = time.monotonic()
    # A rank 0 of an earlier attempt may still live, cut off or writing its last checkpoint; two must not write one run.
    while (meeting := gang.meet(lambda: not is_locked(pod.request.run_directory))) is None:
        signs.beat()
        now = time.monotonic()
        if signs.stop:
            gang.report(STOPPED)
            return STOPPED
        if now - begin > pod.meet_s:
            _say(pod, f"gave up after {pod.meet_s:.0f} s of waiting for {gang.waits_for()}")
            return INCOMPLETE
        if now - said > _SAY_S:
            said = now
            _say(pod, f"waits for {gang.waits_for()}")
        time.sleep(_POLL_S)
    ranks = RankProcesses(
        pod.request_file,
        pod.environment(meeting.address, meeting.port),
        first=pod.index * pod.ranks,
        count=pod.ranks,
        options=["--each-tells"],
    )
    try:
        signs.training(True)
        return _follow(gang, ranks, signs)
    finally:
        signs.training(False)
        ranks.end()


def _follow(gang: Gang, ranks: RankProcesses, signs: _Signs) -> int:
    """Wait for the end of all pods' ranks; the status that stands for it here."""
    asked = reported = False
    while (verdict := gang.verdict()) is None:
        signs.beat()
        if signs.stop and not asked:
            asked = True
            ranks.terminate()
        if not reported and (ranks.bad or not ranks.running):
            reported = True
            gang.report(_own(ranks))
        time.sleep(_POLL_S)
    if verdict == STOPPED:
        # Those that load their libraries still have no peer to learn it from.
        ranks.terminate()
    ranks.wait(_LAST_WORDS_S)
    # Another pod's signal would be misleading here: nobody killed these ranks, or nobody but us.
    return verdict if verdict in {0, REFUSED, STOPPED} else _own(ranks) or BROKE


def _own(ranks: RankProcesses) -> int:
    """This pod's ranks in one exit status, as a shell has it for a process that a signal ended."""
    return ranks.bad if ranks.bad >= 0 else 128 - ranks.bad


def _say(pod: Pod, text: str) -> None:
    print(f"pod {pod.index}: {text}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m trainer.pod", description="One pod of a training Job.")
    parser.add_argument("--request", type=Path, required=True, help="what is trained: the file that the Job mounts")
    parser.add_argument("--meet", required=True, metavar="HOST:PORT", help="where the pod with index 0 is reached")
    parser.add_argument("--ranks-per-node", type=int, default=1, metavar="N", help="ranks of each pod")
    parser.add_argument(
        "--meet-seconds", type=float, default=_MEET_S, metavar="S", help="how long to wait for the rest"
    )
    parser.add_argument("--probes", type=Path, metavar="DIR", help="where to put signs of life for the probes")
    options = parser.parse_args(arguments)
    try:
        return run(_pod(options))
    except UserError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr, flush=True)
        return REFUSED
    except OSError as error:
        text, status = system_error(error)
        print(f"error: {text}", file=sys.stderr, flush=True)
        return status


def _pod(options: argparse.Namespace) -> Pod:
    """Raises UserError: the Job and the run do not fit together."""
    host, _, port = options.meet.rpartition(":")
    if not host or not port.isdecimal():
        raise user_error(f"{options.meet!r} is no meeting place", "write HOST:PORT", key="--meet")
    request, ranks = Request.read(options.request), options.ranks_per_node
    if ranks < 1 or request.world_size % ranks:
        raise user_error(
            f"{request.world_size} ranks can't be shared out {ranks} a pod", "correct it", key="--ranks-per-node"
        )
    size, index = request.world_size // ranks, os.environ.get(INDEX, "")
    if not index.isdecimal() or int(index) >= size:
        raise user_error(
            f"{INDEX} is {index!r} and the run has {size} pods",
            "start it by an Indexed Job with so many completions",
            key=INDEX,
        )
    return Pod(options.request, request, int(index), ranks, host, int(port), options.meet_seconds, options.probes)


if __name__ == "__main__":
    sys.exit(main())

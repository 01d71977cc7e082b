"""Let a run go on after a recovery: `python -m trainer.resume --run DIR --deadline SECONDS`.

Runs on mgmt as the run's owner. Verifies the checkpoints, submits the run's job again unless one is queued or runs, and
waits until the ranks have resumed at exactly the verified step and done a step beyond it. Prints one JSON object.
Exits 0 when training goes on (or was finished already), 1 when not, 2 when there is nothing to go on with.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medllm.errors import UserError, user_error
from trainer import verify_checkpoint
from trainer.launch_file import RECOVERY, Launch, begun, submit
from trainer.run_files import METRICS, read_lines

_POLL_S = 0.5
_COMMAND_S = 30
# A job that left the queue may still write its last word.
_LEFT_S = 5.0


class NotResumedError(Exception):
    """The run does not train; says why."""


def resume(run: Path, deadline_s: float) -> dict[str, Any]:
    """See the module. `checkpoint_step` is None where the run had no checkpoint yet and began at step 0.

    Raises:
        NotResumedError: Slurm takes no job, or the ranks did not begin as they should within the deadline.
        UserError: no submission to repeat, or checkpoints of which none is good.
    """
    end = time.monotonic() + deadline_s
    with (run / ".resume.lock").open("w") as lock:
        # Two that resume the same run would submit it twice.
        fcntl.flock(lock, fcntl.LOCK_EX)
        launch = Launch.read(run)
        verdict = verify_checkpoint.verify(run)
        facts: dict[str, Any] = {
            "run": run.name,
            "checkpoint_step": verdict["step"],
            "checkpoints_refused": [entry["checkpoint"] for entry in verdict["refused"]],
            "restarts_before": len(begun(run)),
        }
        if not verdict["usable"]:
            raise user_error(
                f"none of the {len(verdict['refused'])} checkpoints is good ({verdict['refused'][0]['problem']})",
                "restore one from a backup, or begin anew with `medllm train --fresh`",
                file=run / "checkpoints",
            )
        if (verdict["step"] or 0) >= launch.steps:
            return {**facts, "job": launch.job, "finished": True}
        running = _job_to_wait_for(run, launch, end)
        fresh = running is None
        launch = running or submit(run, Path(launch.request), Path(launch.script), launch.steps)
    facts |= {"job": launch.job, "submitted": fresh, "restarts_before": launch.restarts_before}
    watch = _Watch(run, launch, end)
    began = watch.ranks()
    expected = verdict["step"] or 0
    if fresh and began["step"] != expected:
        raise NotResumedError(f"job {launch.job} began at step {began['step']} instead of {expected}")
    step = watch.step(began)
    (run / RECOVERY).unlink(missing_ok=True)
    return {**facts, "finished": False, "resumed_step": began["step"], "step": step}


def _queued(run: Path) -> list[tuple[str, str, str]]:
    """(job, state, reason) of the run's jobs that Slurm still has work with. Raises NotResumedError: it is silent."""
    command = ["squeue", "--noheader", f"--name=medllm-{run.name}", "--format=%i|%T|%r"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotResumedError(f"squeue: {error}") from None
    if done.returncode:
        raise NotResumedError(f"squeue: {done.stderr.strip() or f'exit status {done.returncode}'}")
    rows = [line.strip().split("|") for line in done.stdout.splitlines() if line.count("|") == 2]
    # Its ranks are gone; it only holds nodes that are cleaned up.
    return [(job, state, reason) for job, state, reason in rows if state != "COMPLETING"]


def _job_to_wait_for(run: Path, launch: Launch, end: float) -> Launch | None:
    """The job that trains the run or is about to; None when one must be submitted.

    Slurm starts a job that lost its node again only two minutes later ("BeginTime"): such a one is cancelled, so that a
    new one starts at once.
    """
    for job, state, reason in _queued(run):
        if state == "PENDING" and reason == "BeginTime":
            subprocess.run(["scancel", job], capture_output=True, timeout=_COMMAND_S, check=False)
            while any(other == job for other, *_ in _queued(run)):
                if time.monotonic() > end:
                    raise NotResumedError(f"job {job} does not leave the queue")
                time.sleep(_POLL_S)
            continue
        if job == launch.job:
            return launch
        # Submitted, and not recorded: whoever submitted it ended between the two.
        adopted = replace(launch, job=job, restarts_before=len(begun(run)))
        adopted.write(run)
        return adopted
    return None


class _Watch:
    """Waits for what the job's ranks write, and notices when the job is gone."""

    def __init__(self, run: Path, launch: Launch, end: float) -> None:
        self.run, self.launch, self.end = run, launch, end
        self._gone_since: float | None = None

    def ranks(self) -> dict[str, Any]:
        """The event with which the job's ranks began."""
        while True:
            events = begun(self.run)
            if len(events) > self.launch.restarts_before:
                return events[-1]
            self._hold("its ranks have not begun")

    def step(self, began: dict[str, Any]) -> int:
        """The first step that was done beyond the one where the ranks began."""
        while True:
            for record in read_lines(self.run / METRICS):
                if record.get("restart") == began["restart"] and record["step"] > began["step"]:
                    return int(record["step"])
            self._hold(f"no step after {began['step']} was done")

    def _hold(self, what: str) -> None:
        """Wait a moment. Raises NotResumedError at the deadline, and when the job is gone."""
        now, job = time.monotonic(), self.launch.job
        found = [(state, reason) for name, state, reason in _queued(self.run) if name == job]
        if now > self.end:
            says = ", ".join(word.lower() for word in (found[0] if found else ("gone",)) if word not in {"", "None"})
            raise NotResumedError(f"job {job} ({says}): {what} within the deadline")
        self._gone_since = None if found else (self._gone_since or now)
        if self._gone_since is not None:
            last_word = Path(self.launch.script).parent / f"job-{job}.exit"
            if last_word.is_file() or now - self._gone_since > _LEFT_S:
                status = f"status {last_word.read_text().strip()}" if last_word.is_file() else "no last word"
                raise NotResumedError(f"job {job} ended with {status}: {what}; see {last_word.with_suffix('.log')}")
        time.sleep(_POLL_S)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m trainer.resume", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="the run's directory")
    parser.add_argument("--deadline", type=float, default=300, help="seconds until training must go on")
    options = parser.parse_args(arguments)
    try:
        print(json.dumps(resume(options.run, options.deadline)))
    except UserError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        return 2
    except (NotResumedError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The training runs on the shared file system: what was wanted, how far they are, how their jobs ended."""

from __future__ import annotations

import base64
import json
import re
import shlex
from collections.abc import Iterable
from datetime import UTC, datetime, tzinfo
from typing import Any

from runbooks.engine.model import Job, RunView
from runbooks.engine.slurm_view import expand, parse_jobs
from trainer.launch_file import RECOVERY, Launch

_PARTS = ("launch", "recovery", "metrics", "stop", "begun", "checkpoint", "exit", "exit_time")
# Job states of squeue(1) that are no end.
ALIVE = frozenset(
    {
        "PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "RESIZING",
        "SIGNALING", "STAGE_OUT", "STOPPED",
    }
)  # fmt: skip


# Ends that somebody wanted: a person's scancel, the job's own time limit or deadline, another's priority.
WANTED_ENDS = frozenset({"CANCELLED", "TIMEOUT", "DEADLINE", "PREEMPTED", "REVOKED"})
# Where role `slurm` lets slurmctld record every ended job. Slurm itself forgets one after MinJobAge (five minutes).
JOB_LOG = "/var/log/slurm/jobcomp.log"
_LOGGED = re.compile(r"JobId=(\d+) UserId=(\S+?)\(\d+\) GroupId=\S+ Name=(.*?) JobState=([A-Z_]+) Partition=(.*)$")


def command(checkpoints: str) -> str:
    """One frame a run directory that has a launch.json, each part base64 on a line of its own; then Slurm's jobs, and
    what its log says of jobs that it has forgotten.

    The runs come first: a job that is in a launch.json was submitted before, so Slurm knows it or its log does. The
    last lines and counts only: the files themselves grow for months.
    """
    return f"""cd {shlex.quote(checkpoints)} 2>/dev/null || exit 3
ids=
for run in */launch.json; do
  [ -f "$run" ] || continue
  d=${{run%/launch.json}}
  job=$(sed -n 's/^ *"job": "\\([0-9]*\\)".*/\\1/p' "$d/launch.json")
  ids="$ids $job"
  echo "@@ $d"
  base64 -w0 "$d/launch.json"; echo
  base64 -w0 "$d/{RECOVERY}" 2>/dev/null; echo
  tail -n 1 "$d/metrics.jsonl" 2>/dev/null | base64 -w0; echo
  grep '"event": "stop"' "$d/events.jsonl" 2>/dev/null | tail -n 1 | base64 -w0; echo
  grep -cE '"event": "(start|resume)"' "$d/events.jsonl" 2>/dev/null | base64 -w0; echo
  for c in "$d"/checkpoints/step-*; do
    [ -f "$c/COMPLETE" ] && echo "${{c##*/step-}}"
  done | sort -n | tail -n 1 | base64 -w0; echo
  cat "$d/logs/job-$job.exit" 2>/dev/null | base64 -w0; echo
  stat -c %Y "$d/logs/job-$job.exit" 2>/dev/null | base64 -w0; echo
done
echo "@@ end"
known=$(TZ=UTC timeout 8 scontrol --oneliner --all --details show job) || exit 4
printf '%s\\n@@log\\n' "$known"
lost=
for job in $ids; do
  case "$known" in *"JobId=$job "*) ;; *) lost="$lost|$job" ;; esac
done
[ -z "$lost" ] || tail -c 20000000 {JOB_LOG} | grep -E "^JobId=(${{lost#|}}) "
echo "@@ done"
"""


def parse_answer(text: str, zone: tzinfo) -> tuple[RunView, ...]:
    """What `command` printed. `zone`: that of slurmctld, whose log has local times.

    Raises:
        ValueError: it is cut off.
    """
    runs, mark, rest = text.partition("@@ end\n")
    jobs, logged, log = rest.partition("@@log\n")
    if not mark or not logged or not log.rstrip("\n").endswith("@@ done"):
        raise ValueError("the list of runs is cut off")
    # A job in the queue is newer than what the log says of its runs before.
    return parse_runs(runs + mark, [*parse_log(log, zone), *parse_jobs(jobs)])


def parse_log(text: str, zone: tzinfo) -> list[Job]:
    """Ended jobs in Slurm's log (jobcomp/filetxt); of one that ran twice the last."""
    jobs = {}
    for line in text.splitlines():
        if found := _LOGGED.match(line):
            fields = dict(word.partition("=")[::2] for word in found[5].split())
            try:
                ended = datetime.fromisoformat(fields.get("EndTime", "")).replace(tzinfo=zone).astimezone(UTC)
            except ValueError:
                ended = None
            nodes = expand(fields.get("NodeList", ""))
            jobs[found[1]] = Job(found[1], found[3], found[2], found[4], nodes, ended=ended)
    return list(jobs.values())


def parse_runs(text: str, jobs: Iterable[Job]) -> tuple[RunView, ...]:
    """The runs in the first part of what `command` printed, beside Slurm's jobs (of two with one id the last).

    Raises:
        ValueError: a frame is cut off.
    """
    lines = text.splitlines()
    if not lines or lines[-1] != "@@ end":
        raise ValueError("the list of runs is cut off")
    by_id = {job.id: job for job in jobs}
    runs = []
    for at, line in enumerate(lines[:-1]):
        if not line.startswith("@@ "):
            continue
        body = lines[at + 1 : at + 1 + len(_PARTS)]
        if len(body) < len(_PARTS) or any(part.startswith("@@") for part in body):
            raise ValueError(f"what is said of run {line[3:]!r} is cut off")
        parts = {
            name: base64.b64decode(part).decode("utf-8", "replace") for name, part in zip(_PARTS, body, strict=True)
        }
        try:
            launch = Launch.parse(parts["launch"])
            runs.append(_view(line[3:], launch, parts, by_id.get(launch.job)))
        except (ValueError, TypeError, OverflowError, OSError):
            # Written by another version, or by hand: nobody may submit it again, and it hides no other run.
            continue
    return tuple(runs)


def _view(name: str, launch: Launch, parts: dict[str, str], job: Job | None) -> RunView:
    metrics, stop, note = (_record(parts[part]) for part in ("metrics", "stop", "recovery"))
    step = max(int(metrics.get("step", 0)), int(stop.get("step", 0)))
    alive = job is not None and job.state in ALIVE
    ours = float(note.get("time", 0)) > launch.submitted
    exit_time = parts["exit_time"].strip()
    stepped = float(metrics.get("time", 0))
    if exit_time.isdigit():
        ended_at = datetime.fromtimestamp(int(exit_time), UTC)
    else:
        # Where nobody says when, the last sign of life.
        ended_at = (job.ended if job else None) or datetime.fromtimestamp(max(stepped, launch.submitted), UTC)
    begun = parts["begun"].strip()
    checkpoint = parts["checkpoint"].strip()
    return RunView(
        run=name,
        wanted_steps=launch.steps,
        job=launch.job,
        job_state=job.state if job else None,
        ended=None if alive else _ended(parts["exit"].strip(), job, ours),
        nodes=job.nodes if job else (),
        step=step,
        last_step_at=datetime.fromtimestamp(stepped, UTC) if stepped else None,
        checkpoint_step=int(checkpoint) if checkpoint.isdigit() else None,
        restarts=int(begun) if begun.isdigit() else 0,
        finished=step >= launch.steps,
        ended_at=None if alive else ended_at,
    )


def _ended(status: str, job: Job | None, ours: bool) -> str:
    """How a job ended that Slurm no longer runs.

    A job that the recovery ended is `lost`, whatever its last word: its owner still wants it. A person's `scancel` lets
    it end well (status 0 after SIGTERM), or badly when the ranks take too long, or without a word when it had not
    begun; Slurm's word counts before the ranks'.
    """
    if ours:
        return "lost"
    if status == "2":
        return "refused"
    if job is not None and job.state in WANTED_ENDS:
        return "cancelled"
    if re.fullmatch(r"\d+", status):
        return "completed" if status == "0" else "failed"
    return "lost"


def _record(text: str) -> dict[str, Any]:
    """A JSON object; nothing for a line that a crash tore."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}

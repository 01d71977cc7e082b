"""The training runs on the shared file system: what was wanted, how far they are, how their jobs ended."""

from __future__ import annotations

import base64
import json
import re
import shlex
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from runbooks.engine.model import Job, RunView
from trainer.launch_file import RECOVERY, Launch

_PARTS = ("launch", "recovery", "metrics", "stop", "begun", "checkpoint", "exit", "exit_time")
# Job states of squeue(1) that are no end.
ALIVE = frozenset(
    {
        "PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "RESIZING",
        "SIGNALING", "STAGE_OUT", "STOPPED",
    }
)  # fmt: skip


def command(checkpoints: str) -> str:
    """One frame a run directory that has a launch.json, each part base64 on a line of its own.

    The last lines and counts only: the files themselves grow for months.
    """
    return f"""cd {shlex.quote(checkpoints)} 2>/dev/null || exit 3
for run in */launch.json; do
  [ -f "$run" ] || continue
  d=${{run%/launch.json}}
  job=$(sed -n 's/^ *"job": "\\([0-9]*\\)".*/\\1/p' "$d/launch.json")
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
"""


def parse_runs(text: str, jobs: Iterable[Job]) -> tuple[RunView, ...]:
    """The runs in what `command` printed, beside Slurm's jobs.

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
        except ValueError:
            # Written by another version, or by hand: nobody may submit it again.
            continue
        runs.append(_view(line[3:], launch, parts, by_id.get(launch.job)))
    return tuple(runs)


def _view(name: str, launch: Launch, parts: dict[str, str], job: Job | None) -> RunView:
    metrics, stop, note = (_record(parts[part]) for part in ("metrics", "stop", "recovery"))
    step = max(int(metrics.get("step", 0)), int(stop.get("step", 0)))
    alive = job is not None and job.state in ALIVE
    ours = float(note.get("time", 0)) > launch.submitted
    exit_time = parts["exit_time"].strip()
    ended_at = datetime.fromtimestamp(int(exit_time), UTC) if exit_time.isdigit() else None
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
        last_step_at=datetime.fromtimestamp(float(metrics["time"]), UTC) if "time" in metrics else None,
        checkpoint_step=int(checkpoint) if checkpoint.isdigit() else None,
        restarts=int(begun) if begun.isdigit() else 0,
        finished=step >= launch.steps,
        ended_at=ended_at,
    )


def _ended(status: str, job: Job | None, ours: bool) -> str:
    """How a job ended that Slurm no longer runs.

    A job that the recovery ended is `lost`, whatever its last word: its owner still wants it. A person's `scancel` lets
    it end well (status 0 after SIGTERM) or leaves it CANCELLED.
    """
    if ours:
        return "lost"
    if re.fullmatch(r"\d+", status):
        return {"0": "completed", "2": "refused"}.get(status, "failed")
    if job is not None and job.state == "CANCELLED":
        return "cancelled"
    return "lost"


def _record(text: str) -> dict[str, Any]:
    """A JSON object; nothing for a line that a crash tore."""
    try:
        record = json.loads(text)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}

"""`launch.json` in a run's directory: what was submitted last, so that somebody else can submit it again.

Standard library and `medllm.files` alone: it is read on mgmt by short commands.
"""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medllm.errors import user_error
from medllm.files import write_atomic
from trainer.run_files import EVENTS, read_lines

LAUNCH = "launch.json"
# The recovery engine's word that it works on this run: it ended the job, or will submit the next one.
RECOVERY = "recovery.json"
_SBATCH_S = 60


@dataclass(frozen=True, slots=True)
class Launch:
    """A submission. `restarts_before`: how often ranks had begun on the run before it (`start` and `resume` events).

    `submitted` in seconds since 1970; `steps` is the number of optimizer steps asked for in the run's whole life.
    """

    run: str
    job: str
    request: str
    script: str
    steps: int
    submitted: float
    user: str
    restarts_before: int

    @classmethod
    def parse(cls, text: str) -> Launch:
        """Raises ValueError when it is no such record; keys of later versions are passed over."""
        data = json.loads(text)
        if not isinstance(data, dict):
            raise ValueError("it is no object")
        try:
            return cls(
                str(data["run"]), str(data["job"]), str(data["request"]), str(data["script"]), int(data["steps"]),
                float(data["submitted"]), str(data["user"]), int(data["restarts_before"]),
            )  # fmt: skip
        except (KeyError, TypeError) as error:
            raise ValueError(f"it lacks {error}") from None

    @classmethod
    def read(cls, run: Path) -> Launch:
        """Of a run's directory. Raises UserError: there is none, or it can't be read."""
        path = run / LAUNCH
        try:
            return cls.parse(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise user_error(
                f"the run's submission can't be read ({error.strerror})", "start the run with `medllm train`", file=path
            ) from None
        except ValueError as error:
            raise user_error(
                f"this is no record of a submission ({error})", "start the run with `medllm train`", file=path
            ) from None

    def write(self, run: Path) -> None:
        """Replace the run's record in one step."""
        write_atomic(run / LAUNCH, json.dumps(asdict(self), indent=1) + "\n")


def begun(run: Path) -> list[dict[str, Any]]:
    """The events of ranks that began, oldest first: `start` at step 0, or `resume` from a checkpoint."""
    return [record for record in read_lines(run / EVENTS) if record.get("event") in {"start", "resume"}]


def submit(run: Path, request: Path, script: Path, steps: int) -> Launch:
    """Queue the run's job and record it. Raises RuntimeError: Slurm takes no job."""
    restarts = len(begun(run))
    command = ["sbatch", "--parsable", f"--chdir={script.parent}", str(script), str(request)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SBATCH_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"sbatch: {error}") from None
    if done.returncode:
        raise RuntimeError(f"sbatch: {done.stderr.strip() or f'exit status {done.returncode}'}")
    job = done.stdout.strip().partition(";")[0]
    user = pwd.getpwuid(os.getuid()).pw_name
    launch = Launch(run.name, job, str(request), str(script), steps, time.time(), user, restarts)
    launch.write(run)
    return launch

"""Steps as transient systemd units: they outlive the engine, cannot start twice, and log to the journal.

The unit's name is the step's id. systemd refuses a second unit of a name while the first one is loaded, and a step
that began once has the file `started`: between the two nothing is done twice, wherever the engine is killed.
"""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from medllm.files import write_atomic
from runbooks.engine import step_files
from runbooks.engine.model import Incident, Step, StepResult

log = logging.getLogger("medllm.recover.units")

# systemd answers in milliseconds; the engine's tick must not wait for one that does not.
SYSTEMD_DEADLINE_S = 5
# The runner ends its work at the step's deadline by itself and writes why; systemd ends a runner that can't.
MARGIN_S = 15
STARTS = 3
# How Python was told to find our code; a unit begins with an empty environment.
CARRIED = ("PYTHONPATH", "PYTHONNOUSERSITE", "PYTHONSAFEPATH", "PYTHONDONTWRITEBYTECODE")


class Systemd:
    """The two things that are asked of this machine's systemd."""

    def active(self, unit: str) -> bool | None:
        """Whether a service runs, starts or stops just now; None: systemd did not say."""
        command = ["systemctl", "show", "--property=ActiveState", "--value", f"{unit}.service"]
        try:
            done = _ask(command)
        except (OSError, subprocess.TimeoutExpired) as error:
            log.warning("systemctl did not answer: %s", error)
            return None
        state = done.stdout.strip()
        if done.returncode or not state:
            return None
        return state not in {"inactive", "failed"}

    def run(self, unit: str, command: Sequence[str], *, deadline_s: int, directory: Path) -> str:
        """Start a service; what went wrong, or "" when systemd took it.

        `RuntimeMaxSec` ends it with all that it started, 5 s after it was asked to end and not the default's 90 s.
        The working directory is the step's own: Python would import from the one it is started in.
        """
        properties = {
            "Type": "exec",
            "RuntimeMaxSec": str(deadline_s),
            "TimeoutStopSec": "5",
            "KillMode": "control-group",
            "UMask": "0077",
            "WorkingDirectory": str(directory),
        }
        words = ["systemd-run", "--quiet", "--no-ask-password", "--collect", f"--unit={unit}"]
        words += [f"--description=Recovery step {unit}"]
        words += [f"--property={name}={value}" for name, value in properties.items()]
        words += [f"--setenv={name}={os.environ[name]}" for name in CARRIED if name in os.environ]
        try:
            done = _ask([*words, "--", *command])
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        return (done.stderr.strip() or f"exit status {done.returncode}") if done.returncode else ""


def _ask(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SYSTEMD_DEADLINE_S, check=False
    )


class UnitActions:
    """Starts a step's work as a unit and reads what came of it. Never raises for what systemd or the disk says."""

    def __init__(
        self, steps: Path, inventory: Path, *, systemd: Systemd | None = None, runner: Sequence[str] | None = None
    ) -> None:
        self.steps = steps
        self.inventory = inventory.resolve()
        self._systemd = systemd or Systemd()
        self._runner = runner or (sys.executable, "-m", "runbooks.engine.step_run")
        self._starts: dict[str, int] = {}

    def directory(self, step: Step) -> Path:
        """The step's directory. Raises ValueError for an id that is no plain name."""
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,119}", step.id):
            raise ValueError(f"{step.id!r} can't be a unit's name")
        return self.steps / step.id

    def start(self, step: Step, incident: Incident) -> None:
        """Make sure that the step's work has begun; nothing when it had. What fails here shows at the next poll."""
        directory = self.directory(step)
        if (directory / "started").exists() or (directory / "result.json").exists():
            return
        try:
            self.steps.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.mkdir(mode=0o700, exist_ok=True)
            step_files.sync_directory(self.steps)
            text = json.dumps(step_files.describe(step, incident, self.inventory), indent=1)
            write_atomic(directory / "step.json", text + "\n", mode=0o600)
        except OSError as error:
            log.error("%s: its directory can't be written: %s", step.id, error)
            return
        self._launch(step)

    def poll(self, step: Step) -> StepResult | None:
        """What came of the step; None while it runs, or while nobody can tell whether it does."""
        try:
            return self._poll(step, self.directory(step))
        except OSError as error:
            log.error("%s: its directory can't be read or written: %s", step.id, error)
            return None

    def _poll(self, step: Step, directory: Path) -> StepResult | None:
        if (result := step_files.read_result(directory)) is not None:
            return result
        active = self._systemd.active(step.id)
        if active is None or active:
            return None
        # It may have ended between the two questions.
        if (result := step_files.read_result(directory)) is not None:
            return result
        if (directory / "started").exists():
            return step_files.unknown("ended without a result: its deadline, a kill or a restart of this machine")
        if not (directory / "step.json").exists():
            return step_files.unknown("its directory is gone")
        if self._starts.get(step.id, 0) < STARTS:
            self._launch(step)
            return None
        return self._give_up(step, directory)

    def _launch(self, step: Step) -> None:
        self._starts[step.id] = self._starts.get(step.id, 0) + 1
        if self._systemd.active(step.id):
            return
        directory = self.directory(step)
        command = [*self._runner, str(directory), "-i", str(self.inventory)]
        deadline_s = step.work.deadline_s + MARGIN_S
        problem = self._systemd.run(step.id, command, deadline_s=deadline_s, directory=directory)
        if problem:
            log.warning("%s: systemd did not take it: %s", step.id, step_files.one_line(problem))

    def _give_up(self, step: Step, directory: Path) -> StepResult | None:
        """Take the permission away, so that a start that systemd still holds back can't do the work later."""
        if not step_files.claim(directory, {"by": "engine", "why": "given up"}):
            return None  # it began this instant
        result = step_files.failed(f"could not be started ({STARTS} times); see the journal of {step.id}.service")
        step_files.write_result(directory, result)
        return result

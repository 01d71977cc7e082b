"""Steps as units: started once, wherever the engine is killed, and whatever systemd says. systemd itself is in
tests/lab/test_recovery_units.py; here a stand-in starts processes, refuses, hangs or forgets.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from runbooks.engine import step_files, units
from runbooks.engine.model import Incident, Slot, State, Step, StepResult, StepStatus, Work
from runbooks.engine.units import Systemd, UnitActions

NOW = datetime(2026, 11, 23, 1, 0, tzinfo=UTC)
INCIDENT = Incident(
    "inc-20261123-0001",
    "gpu_fallen_off",
    "node3",
    "3",
    "medllm-tiny",
    State.ACTING,
    1,
    NOW,
    NOW,
    None,
    "",
    "",
    "",
    (),
    {},
)
WORK = Work(Slot.ACT, "reboot.yml", {"via": "bmc"}, deadline_s=20)
STEP = Step("medllm-inc-20261123-0001-2-act", INCIDENT.id, 2, 1, WORK, StepStatus.PLANNED, NOW, NOW)

# Claims the step as the runner does, leaves a mark, and reports.
RUNNER = """
import sys, time
from datetime import UTC, datetime
from pathlib import Path
from runbooks.engine import step_files
from runbooks.engine.model import StepResult, StepStatus
directory = Path(sys.argv[1])
if not step_files.claim(directory, {}):
    sys.exit(3)
with (directory.parent / "done").open("a") as stream:
    stream.write(directory.name + "\\n")
time.sleep(float(MODE))
if float(MODE) < 5:
    step_files.write_result(directory, StepResult(StepStatus.OK, "did it", {"boot_id": "b"}, datetime.now(UTC)))
"""


class Processes(Systemd):
    """Processes for units, with systemd's rules: no second unit of a name while the first is there."""

    def __init__(self) -> None:
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.asked = 0
        self.answers = True
        self.refuses = False
        self.forgets = False

    def active(self, unit: str) -> bool | None:
        if not self.answers:
            return None
        return unit in self.processes and self.processes[unit].poll() is None

    def run(self, unit: str, command: Sequence[str], *, deadline_s: int, directory: Path) -> str:
        self.asked += 1
        if self.refuses or self.active(unit):
            return f"Unit {unit}.service was already loaded or has a fragment file."
        if not self.forgets:
            self.processes[unit] = subprocess.Popen(command, cwd=directory)
        return ""


@pytest.fixture
def systemd() -> Processes:
    return Processes()


def actions(tmp_path: Path, systemd: Systemd, seconds: float = 0) -> UnitActions:
    runner = (sys.executable, "-c", RUNNER.replace("MODE", str(seconds)))
    return UnitActions(tmp_path / "steps", tmp_path / "content/inventory/site", systemd=systemd, runner=runner)


def wait(made: UnitActions) -> StepResult:
    end = time.monotonic() + 20
    while (result := made.poll(STEP)) is None:
        assert time.monotonic() < end
        time.sleep(0.05)
    return result


def done(tmp_path: Path) -> list[str]:
    path = tmp_path / "steps/done"
    return path.read_text().split() if path.exists() else []


def test_a_step_is_written_whole_before_it_is_started(tmp_path: Path, systemd: Processes) -> None:
    systemd.forgets = True
    actions(tmp_path, systemd).start(STEP, INCIDENT)
    directory = tmp_path / "steps" / STEP.id
    described = json.loads((directory / "step.json").read_text())
    assert step_files.work_of(described) == WORK
    assert described["variables"] == {
        "via": "bmc", "recovery_deadline_s": 10, "recovery_boot_id": "", "recovery_incident": INCIDENT.id,
        "recovery_node": "node3", "recovery_device": "3",
        "recovery_run": "medllm-tiny",
    }  # fmt: skip
    assert described["node"] == "node3"
    assert directory.stat().st_mode & 0o077 == 0


def test_started_again_and_again_it_is_done_once(tmp_path: Path, systemd: Processes) -> None:
    made = actions(tmp_path, systemd, 0.5)
    for _ in range(5):
        made.start(STEP, INCIDENT)
    result = wait(made)
    assert (result.status, result.summary, result.facts) == (StepStatus.OK, "did it", {"boot_id": "b"})
    # An engine that was killed before it wrote the result down starts the step again.
    actions(tmp_path, systemd).start(STEP, INCIDENT)
    assert wait(actions(tmp_path, systemd)).status is StepStatus.OK
    assert done(tmp_path) == [STEP.id]


def test_two_engines_at_once_do_it_once(tmp_path: Path) -> None:
    """Even without systemd's refusal: each brings its own, and the file `started` alone decides."""
    several = [actions(tmp_path, Processes(), 0.2) for _ in range(4)]
    threads = [threading.Thread(target=made.start, args=(STEP, INCIDENT)) for made in several]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    end = time.monotonic() + 20
    while step_files.read_result(tmp_path / "steps" / STEP.id) is None:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert done(tmp_path) == [STEP.id]


class KilledError(BaseException):
    """The engine ends here, as by SIGKILL: nothing after this runs."""


@pytest.mark.parametrize("instant", range(1, 12))
def test_killed_at_any_instant_of_start_nothing_is_lost_or_done_twice(
    tmp_path: Path, systemd: Processes, monkeypatch: pytest.MonkeyPatch, instant: int
) -> None:
    """Die at the nth system call of `start`; a new engine starts the step again, as it does after every restart."""
    calls = 0

    def deadly(real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            nonlocal calls
            calls += 1
            if calls == instant:
                raise KilledError
            return real(*arguments, **named)

        return call

    made = actions(tmp_path, systemd, 0.1)
    with monkeypatch.context() as patch:
        for name in ("open", "fsync", "mkdir", "replace", "fdopen", "rename"):
            patch.setattr(os, name, deadly(getattr(os, name)))
        patch.setattr(systemd, "run", deadly(systemd.run))
        patch.setattr(systemd, "active", deadly(systemd.active))
        try:
            made.start(STEP, INCIDENT)
        except KilledError:
            pass
        else:
            assert calls < instant, "every instant was tried"
    again = actions(tmp_path, systemd, 0.1)
    again.start(STEP, INCIDENT)
    assert wait(again).status is StepStatus.OK
    assert done(tmp_path) == [STEP.id]


def test_a_kill_between_systemd_and_the_answer_does_not_start_it_again(tmp_path: Path, systemd: Processes) -> None:
    actions(tmp_path, systemd, 0.5).start(STEP, INCIDENT)
    # The engine died here; its successor knows nothing of the first start.
    again = actions(tmp_path, systemd, 0.5)
    again.start(STEP, INCIDENT)
    assert wait(again).status is StepStatus.OK
    assert systemd.asked == 1


def test_a_step_that_was_ended_without_a_result_is_unknown_and_stays_so(tmp_path: Path, systemd: Processes) -> None:
    made = actions(tmp_path, systemd, 60)
    made.start(STEP, INCIDENT)
    while not done(tmp_path):
        time.sleep(0.05)
    assert made.poll(STEP) is None
    systemd.processes[STEP.id].kill()
    systemd.processes[STEP.id].wait()
    for engine in (made, actions(tmp_path, systemd)):
        engine.start(STEP, INCIDENT)
        assert wait(engine).status is StepStatus.UNKNOWN
    assert done(tmp_path) == [STEP.id]
    assert systemd.asked == 1


def test_while_systemd_does_not_answer_nothing_is_concluded(tmp_path: Path, systemd: Processes) -> None:
    made = actions(tmp_path, systemd, 60)
    made.start(STEP, INCIDENT)
    while not done(tmp_path):
        time.sleep(0.05)
    systemd.answers = False
    assert made.poll(STEP) is None
    systemd.answers = True
    systemd.processes[STEP.id].kill()
    systemd.processes[STEP.id].wait()
    assert wait(made).status is StepStatus.UNKNOWN


@pytest.mark.parametrize("fault", ["refuses", "forgets"])
def test_what_never_started_is_tried_a_few_times_and_then_can_never_start(
    tmp_path: Path, systemd: Processes, fault: str
) -> None:
    setattr(systemd, fault, True)
    made = actions(tmp_path, systemd)
    made.start(STEP, INCIDENT)
    result = wait(made)
    assert result.status is StepStatus.FAILED
    assert "could not be started" in result.summary
    assert systemd.asked == units.STARTS
    # A start that systemd held back until now finds the permission gone.
    late = subprocess.run(
        [sys.executable, "-c", RUNNER.replace("MODE", "0"), tmp_path / "steps" / STEP.id], timeout=30, check=False
    )
    assert late.returncode == 3
    assert done(tmp_path) == []
    assert wait(actions(tmp_path, systemd)).status is StepStatus.FAILED


def test_a_first_refusal_is_made_good(tmp_path: Path, systemd: Processes) -> None:
    systemd.refuses = True
    made = actions(tmp_path, systemd)
    made.start(STEP, INCIDENT)
    systemd.refuses = False
    assert wait(made).status is StepStatus.OK
    assert done(tmp_path) == [STEP.id]


def test_a_directory_that_is_gone_is_not_done_again(tmp_path: Path, systemd: Processes) -> None:
    assert wait(actions(tmp_path, systemd)).status is StepStatus.UNKNOWN


def test_a_disk_that_takes_nothing_stops_nobody(tmp_path: Path, systemd: Processes) -> None:
    (tmp_path / "steps").write_text("not a directory")
    made = actions(tmp_path, systemd)
    made.start(STEP, INCIDENT)
    assert made.poll(STEP) is None
    assert systemd.asked == 0


@pytest.mark.parametrize("name", ["", "../x", "a/b", "--property=x", "A", "x" * 200, "a b", "a.service\n"])
def test_an_id_that_is_no_plain_name_is_refused(tmp_path: Path, systemd: Processes, name: str) -> None:
    with pytest.raises(ValueError, match="unit's name"):
        actions(tmp_path, systemd).start(replace(STEP, id=name), INCIDENT)


def test_what_is_asked_of_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The words, by a stand-in for the command; that systemd takes them is shown in the lab."""
    bin_directory = tmp_path / "bin"
    bin_directory.mkdir()
    tool = bin_directory / "systemd-run"
    tool.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/words\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_directory}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", "/opt/medllm/ops/app")
    monkeypatch.setenv("SECRET", "hunter2")
    assert Systemd().run(STEP.id, ["python3", "-m", "x"], deadline_s=35, directory=tmp_path) == ""
    words = (tmp_path / "words").read_text().splitlines()
    assert f"--unit={STEP.id}" in words
    assert {"--collect", "--property=RuntimeMaxSec=35", "--property=KillMode=control-group"} <= set(words)
    assert "--setenv=PYTHONPATH=/opt/medllm/ops/app" in words
    assert words[-4:] == ["--", "python3", "-m", "x"]
    assert "hunter2" not in " ".join(words)


@pytest.mark.parametrize(
    ("script", "active"),
    [
        ("echo active", True), ("echo activating", True), ("echo deactivating", True), ("echo inactive", False),
        ("echo failed", False), ("echo Failed to connect to bus >&2; exit 1", None), ("exit 0", None),
        ("sleep 60", None),
    ],
)  # fmt: skip
def test_what_systemd_says_of_a_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, active: bool | None
) -> None:
    tool = tmp_path / "systemctl"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(units, "SYSTEMD_DEADLINE_S", 0.5)
    assert Systemd().active(STEP.id) is active

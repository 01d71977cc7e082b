"""`medllm recover`: what an operator types, on mgmt or from elsewhere, right and wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from medllm.errors import UserError
from medllm.remote import Result
from medllm.site import load_site
from runbooks.engine import commands, history
from runbooks.engine.metrics import Metrics, tally, why
from runbooks.engine.model import Event, Incident, Signal, Slot, State, Step, StepStatus, Work
from runbooks.engine.plan import outlook
from runbooks.engine.policy import load_policy
from runbooks.engine.procedure import load_procedures
from runbooks.engine.store import Store

REPOSITORY = Path(__file__).parents[2]
MEDLLM = Path(sys.executable).parent / "medllm"
FAULT = datetime(2026, 11, 23, 1, 0, 0, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return FAULT + timedelta(seconds=seconds)


def incident(number: int, state: State, **changes: Any) -> Incident:
    fields: dict[str, Any] = {
        "id": f"inc-20261123-000{number}", "fault_class": "gpu_fallen_off", "node": "node3", "device": "5",
        "run": "medllm-tiny", "state": state, "attempt": 1, "opened_at": after(4), "updated_at": after(90),
        "ended_at": after(95.5) if state in (State.CLOSED, State.ESCALATED) else None, "reason": "XID 79 on GPU 5",
        "waiting": "", "approved_by": "",
        "signals": (
            Signal("alert", "GpuXidCritical", after(2), "node3", "5"),
            Signal("kernel", "xid-79", FAULT, "node3", "5", detail="GPU has fallen off the bus. [x]"),
        ),
        "before": {"boot_id": "11111111-aaaa", "job": "41", "step": 27},
    }  # fmt: skip
    return Incident(**{**fields, **changes})


def step(number: int, work: Work, start: float, end: float, facts: dict[str, Any]) -> Step:
    return Step(
        f"medllm-inc-20261123-0001-{number}-{work.slot}", "inc-20261123-0001", number, 1, work, StepStatus.OK,
        after(start - 1), after(start - 1), after(start), after(end), "ended well", facts,
    )  # fmt: skip


STEPS = (
    step(1, Work(Slot.QUIESCE, "drain.yml"), 6, 12, {"state": "drained"}),
    step(2, Work(Slot.ACT, "reboot.yml", {"how": "reboot"}), 13, 50, {"boot_id_after": "22222222-bbbb"}),
    step(3, Work(Slot.REVALIDATE, checks=("gpu_count", "nvlink")), 51, 60, {"gpu_count": "PASS", "nvlink": "PASS"}),
    step(
        4, Work(Slot.RESUME, "resume_training.yml"), 62, 95, {"run": "medllm-tiny", "job": "42", "checkpoint_step": 25}
    ),
)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    with Store(tmp_path / "incidents.db") as store:
        store.save(
            incident(1, State.CLOSED),
            STEPS,
            [Event("inc-20261123-0001", after(95.5), "closed", "all is well", {"x": 1})],
        )
        store.save(incident(2, State.DIAGNOSED, node="node1", waiting="approval: reboot.yml needs a person"))
        store.save(incident(3, State.ESCALATED, node="node2"))
    return tmp_path


def medllm(*arguments: str, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [MEDLLM, "recover", *arguments], capture_output=True, text=True, timeout=120, check=False, cwd=cwd
    )


@pytest.mark.slow
def test_history_lists_every_incident_with_its_times(state: Path) -> None:
    done = medllm("history", "--state", str(state), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [one["incident"]["id"][-1] for one in told["incidents"]] == ["1", "2", "3"]
    assert told["incidents"][0]["times"] == {"detect_s": 4.0, "act_s": 6.0, "recover_s": 95.5}
    # What has not come is null; an escalated incident did not recover.
    assert told["incidents"][1]["times"] == {"detect_s": 4.0, "act_s": None, "recover_s": None}
    assert told["incidents"][2]["times"]["recover_s"] is None
    for word in ("inc-20261123-0001", "closed", "gpu_fallen_off", "95.5"):
        assert word in medllm("history", "--state", str(state)).stdout


def test_history_of_one_shows_what_was_done_and_what_came_of_it(state: Path) -> None:
    done = medllm("history", "inc-20261123-0001", "--state", str(state))
    assert done.returncode == 0, done.stderr
    flat = " ".join(done.stdout.split())
    for word in (
        "node3", "GPU 5", "11111111-aaaa", "22222222-bbbb", "checkpoint_step 25", "job 42", "reboot.yml",
        "gpu_count, nvlink", "detected after 4.0 s, acted after 6.0 s, recovered after 95.5 s", "XID 79", "all is well",
        "[x]",
    ):  # fmt: skip
        assert word in flat, word


def test_what_one_machine_tells_another_reads_the_same(state: Path) -> None:
    with Store(state / "incidents.db") as store:
        told = history.read(store)
    assert history.parse(told.dump()) == told


def test_an_empty_history_is_said_and_not_an_error(tmp_path: Path) -> None:
    Store(tmp_path / "incidents.db").__enter__().__exit__(None, None, None)
    done = medllm("history", "--state", str(tmp_path))
    assert (done.returncode, done.stdout) == (0, "There was no incident.\n")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["history", "inc-19700101-0001"], "there is no incident"),
        (["approve", "inc-19700101-0001"], "inc-20261123-0002"),
        (["approve", "inc-20261123-0001"], "is closed"),
        (["resolve", "inc-20261123-0002"], "only an escalated"),
        (["pause", "--reason", "  "], "a pause without a reason"),
    ],
)
def test_what_cannot_be_is_refused_with_2(state: Path, arguments: list[str], says: str) -> None:
    done = medllm(*arguments, "--state", str(state))
    assert done.returncode == 2
    assert says in done.stderr
    assert "Fix:" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_directory_without_incidents_is_refused_and_not_made_one(tmp_path: Path) -> None:
    done = medllm("history", "--state", str(tmp_path))
    assert done.returncode == 2
    assert "no engine ran here" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_pause_and_unpause(state: Path) -> None:
    assert medllm("pause", "--reason", "moving racks", "--by", "ana", "--state", str(state)).returncode == 0
    with Store(state / "incidents.db") as store:
        assert store.paused() == "ana: moving racks"
    assert "moving racks" in medllm("history", "--state", str(state)).stdout
    assert "moving racks" in medllm("unpause", "--state", str(state)).stdout
    with Store(state / "incidents.db") as store:
        assert store.paused() == ""


def test_approve_and_resolve_are_told_to_the_engine(state: Path) -> None:
    done = medllm("approve", "inc-20261123-0002", "--by", "ana", "--state", str(state), "--json")
    assert json.loads(done.stdout)["by"] == "ana"
    assert medllm("resolve", "inc-20261123-0003", "--by", "ben", "--state", str(state)).returncode == 0
    with Store(state / "incidents.db") as store:
        asked = [(request.incident[-1], request.kind, request.who) for request in store.requests()]
    assert asked == [("2", "approve", "ana"), ("3", "resolve", "ben")]


class Mgmt:
    """Stands in for the SSH session to mgmt."""

    asked: list[tuple[str, bool]]

    def __init__(self, rc: int | None, stdout: str, stderr: str = "", error: str | None = None) -> None:
        self.answer = (rc, stdout, stderr, error)
        self.asked = []

    def __call__(self, host: Any) -> Mgmt:
        assert host.name == "mgmt"
        return self

    def __enter__(self) -> Mgmt:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, command: str, *, deadline_s: float, sudo: bool) -> Result:
        self.asked.append((command, sudo))
        rc, stdout, stderr, error = self.answer
        return Result("mgmt", command, rc, stdout, stderr, FAULT, 0.1, error)


def call(monkeypatch: pytest.MonkeyPatch, mgmt: Mgmt, *arguments: str) -> int:
    monkeypatch.setattr(commands, "Remote", mgmt)
    arguments = (*arguments, "-i", str(REPOSITORY / "inventory/lab"))
    return int(commands.app(args=list(arguments), standalone_mode=False) or 0)


def test_from_elsewhere_mgmt_is_asked_by_the_same_words(
    state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Store(state / "incidents.db") as store:
        mgmt = Mgmt(0, history.read(store).dump())
    call(monkeypatch, mgmt, "history")
    ((command, sudo),) = mgmt.asked
    assert command == "/opt/medllm/ops/current/medllm recover history --state /var/lib/medllm/recover --json"
    assert sudo
    assert "inc-20261123-0003" in capsys.readouterr().out


def test_words_of_a_person_cannot_become_a_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mgmt = Mgmt(0, '{"said": "paused by ana: x"}')
    call(monkeypatch, mgmt, "pause", "--reason", "'; reboot; echo '$(id)", "--by", "ana")
    ((command, _),) = mgmt.asked
    assert """--reason ''"'"'; reboot; echo '"'"'$(id)' --by ana""" in command
    assert capsys.readouterr().out == "paused by ana: x\n"


def test_what_mgmt_refuses_is_refused_here(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = {"file": None, "line": None, "key": "INCIDENT", "rule": "there is no incident 'x'", "fix": "look"}
    mgmt = Mgmt(2, json.dumps({"problems": [problem]}), "error: …")
    with pytest.raises(UserError, match=r"there is no incident 'x'\. Fix: look"):
        call(monkeypatch, mgmt, "approve", "x", "--by", "ana")


@pytest.mark.parametrize(
    "mgmt",
    [
        Mgmt(None, "", "", "timed out after 30 s"),
        Mgmt(127, "", "sudo: /opt/medllm/ops/current/medllm: command not found"),
        Mgmt(2, "no JSON", "usage: …"),
        Mgmt(0, "no JSON"),
    ],
)
def test_a_mgmt_that_cannot_answer_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], mgmt: Mgmt
) -> None:
    assert call(monkeypatch, mgmt, "history") == 1
    assert "error: " in capsys.readouterr().err


def plan(*arguments: str) -> subprocess.CompletedProcess[str]:
    return medllm("plan", *arguments, "-i", "inventory/lab")


def test_plan_shows_each_step_and_asks_no_machine() -> None:
    done = plan("GpuMissing", "--node", "node3", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["node"], told["mode"]) == ("node3", "act")
    (fallen,) = [one for one in told["fault_classes"] if one["fault_class"] == "gpu_fallen_off"]
    slots = [(step["slot"], step["playbook"]) for step in fallen["steps"] if step["playbook"]]
    assert slots == [
        ("quiesce", "drain.yml"), ("act", "reboot.yml"), ("act", "power_cycle.yml"),
        ("return", "return_to_service.yml"), ("resume", "resume_training.yml"),
    ]  # fmt: skip
    assert [step["playbook"] for step in fallen["if_all_fail"]] == ["isolate.yml"]


def test_plan_is_readable_and_takes_a_fault_class_too() -> None:
    flat = " ".join(plan("gpu_overheat").stdout.split())
    for word in ("gpu_overheat", "limit_power.yml", "waits", "isolate.yml", "At most 1 node(s)", "a person drained"):
        assert word in flat, word


@pytest.mark.slow
def test_every_alert_and_every_fault_class_has_a_plan() -> None:
    site = load_site(REPOSITORY / "inventory/lab")
    policy = load_policy(REPOSITORY / "runbooks")
    procedures = load_procedures(REPOSITORY / "runbooks/procedures")
    for name in (*policy.alerts, *procedures):
        told = outlook(site, name, "")
        assert all(one["steps"] for one in told["fault_classes"]), name


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["GpuMising"], "GpuMissing"),
        (["gpumissing"], "GpuMissing"),
        (["gpu_fallen_of"], "gpu_fallen_off"),
        (["Zzzz"], "use one of:"),
        (["GpuMissing", "--node", "node9"], "node4"),
        (["GpuMissing", "--node", "mgmt"], "node4"),
    ],
)
def test_a_plan_for_what_is_unknown_names_what_is_near(arguments: list[str], says: str) -> None:
    done = plan(*arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_the_numbers_for_prometheus() -> None:
    metrics = Metrics()
    metrics.count_webhook("accepted")
    waiting = incident(2, State.DIAGNOSED, waiting="dry run: it would do drain.yml, then an approval: reboot.yml")
    metrics.ticked(FAULT, {"alerts": 1.5, "node:node3": 40.0}, tally([incident(1, State.CLOSED), waiting], STEPS))
    lines = metrics.text().decode().splitlines()
    for line in (
        'medllm_recovery_incidents{fault_class="gpu_fallen_off",state="closed"} 1.0',
        'medllm_recovery_incidents{fault_class="gpu_fallen_off",state="diagnosed"} 1.0',
        'medllm_recovery_waiting{fault_class="gpu_fallen_off",why="dry_run"} 1.0',
        'medllm_recovery_source_age_seconds{source="node:node3"} 40.0',
        'medllm_recovery_webhooks_total{result="accepted"} 1.0',
        'medllm_recovery_webhooks_total{result="unauthorized"} 0.0',
        'medllm_recovery_steps_total{slot="act",status="ok"} 1.0',
        'medllm_recovery_steps_total{slot="act",status="failed"} 0.0',
    ):
        assert line in lines, line
    (tick,) = [line for line in lines if line.startswith("medllm_recovery_tick_timestamp_seconds ")]
    assert float(tick.split()[1]) == FAULT.timestamp()


def test_why_an_incident_waits_is_one_of_a_few_words() -> None:
    """A label with a sentence in it would be a new series each time."""
    sentences = [
        "approval: a person must agree to reboot.yml", "pause: ana: racks", "dry run: it would do it", "settle: 300 s",
        "guard: Slurm's state is not known", "something else", "",
    ]  # fmt: skip
    assert [why(text) for text in sentences] == ["approval", "pause", "dry_run", "settle", "guard", "guard", "guard"]

"""The drill's own judgement: each proof fails for what it must notice, and the figures are the clock's."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medllm.errors import UserError
from medllm.remote import RemoteError
from runbooks.drill import injector as injectors
from runbooks.drill.drill import Outcome
from runbooks.drill.injector import Injector, Target
from runbooks.drill.look import (
    Alert,
    Look,
    NodeLook,
    Resume,
    Training,
    parse_alerts,
    parse_nodes,
    parse_training,
    ranks_pattern,
)
from runbooks.drill.prove import Proof, Seen, figures, prove, prove_settled, timeline
from runbooks.drill.report import judged, spread
from runbooks.drill.told import Told, ToldEvent, ToldStep, parse_history
from runbooks.drill.training import is_warm
from runbooks.drill.watch import Watch
from runbooks.engine.model import SchedulerNode, Slot, State, StepStatus

ROOT = Path(__file__).parents[2]
T0 = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)
ALERT = "GpuMissing"
MARK = "medllm-recover:inc-20261123-0001"


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def nothing(*_: object) -> None:
    return None


FELL_OFF = Injector("gpu_fallen_off", "gpu_fallen_off", "a GPU falls off", nothing, nothing, reboots=True)
KILLED = Injector("training_lost", "training_stalled", "a rank dies", nothing, nothing, scope="run")
HOT = Injector("gpu_overheat", "gpu_overheat", "a GPU is hot", nothing, nothing, ends="escalated", spares_training=True)
TARGET = Target("node2", 3, "drill")


def slurm(**states: tuple[str, str]) -> dict[str, SchedulerNode]:
    found = {f"node{number}": SchedulerNode(f"node{number}", frozenset({"ALLOCATED"})) for number in (1, 2, 3, 4)}
    return found | {
        name: SchedulerNode(name, frozenset(state.split("+")), reason) for name, (state, reason) in states.items()
    }


def look(seconds: float, training: Training | None = None, alerts: tuple[Alert, ...] = (), **states: Any) -> Look:
    return Look(at(seconds), slurm(**states), alerts, training or Training(), True)


def step(number: int, slot: Slot, begin: float, end: float, playbook: str = "", **facts: Any) -> ToldStep:
    name = f"medllm-inc-20261123-0001-{number}-{slot}"
    return ToldStep(name, number, slot, StepStatus.OK, playbook, at(begin), at(end), "done", facts)


STEPS = (
    step(1, Slot.QUIESCE, 12, 16, "drain.yml"),
    step(2, Slot.ACT, 17, 40, "reboot.yml"),
    step(3, Slot.REVALIDATE, 41, 50),
    step(4, Slot.RETURN, 51, 55, "return_to_service.yml"),
    step(5, Slot.RESUME, 56, 80, "resume_training.yml", checkpoint_step=30),
)
INCIDENT = Told(
    "inc-20261123-0001", State.CLOSED, "gpu_fallen_off", "node2", "drill", "", at(10), at(81), STEPS, ()
)  # fmt: skip
BEFORE = Training(
    "7", "RUNNING", tuple((number, at(number - 34)) for number in range(20, 35)), ((20, at(-14)), (30, at(-4))), (), 2
)
AFTER = Training(
    "8", "RUNNING", (*BEFORE.steps, (35, at(1)), (31, at(78)), (32, at(79))), BEFORE.checkpoints,
    (Resume(30, at(75)),), 3,
)  # fmt: skip
NODES = {f"node{number}": NodeLook(f"boot-{number}", frozenset({f"{90 + number}@500"})) for number in (1, 2, 3, 4)}
RENEWED = {name: NodeLook(node.boot_id, frozenset({"300@9000"})) for name, node in NODES.items()} | {
    # After a reboot a process may get the very number and age that an old one had.
    "node2": NodeLook("boot-new", NODES["node2"].ranks)
}


def watched(*looks: Look) -> Watch:
    watch = Watch.from_now(look(0), T0)
    for each in looks:
        watch.see(each)
    return watch


GOOD_WATCH = (
    look(20, alerts=(Alert(ALERT, "node2", at(3)),), node2=("MIXED+DRAIN", MARK)),
    look(30, node2=("DOWN+DRAIN", MARK)),
    look(56),
)


def seen(**changes: Any) -> Seen:
    whole = Seen(
        FELL_OFF, TARGET, T0, look(0, BEFORE), NODES, look(82, AFTER), RENEWED, watched(*GOOD_WATCH), (INCIDENT,),
        frozenset({ALERT}),
    )  # fmt: skip
    return replace(whole, **changes)


def failed(proofs: list[Proof]) -> set[str]:
    return {proof.name for proof in proofs if not proof.ok}


def test_a_good_drill_is_proved() -> None:
    proofs = prove(seen())
    assert failed(proofs) == set(), proofs
    assert len(proofs) == 9


def test_the_figures_are_those_of_the_clock() -> None:
    assert figures(seen()) == {
        "detect_s": 10, "alert_s": 20, "alert_to_action_s": -8, "act_s": 43, "recover_s": 78, "close_s": 81,
        "steps_lost": 5,
    }  # fmt: skip


def test_the_time_line_is_in_order() -> None:
    lines = list(timeline(seen()))
    assert [at for at, _ in lines] == sorted(at for at, _ in lines)
    assert lines[0] == (0, "fault: a GPU falls off")
    assert (78, "training step 31") in lines


def told(**changes: Any) -> tuple[Told, ...]:
    return (replace(INCIDENT, **changes),)


def with_step(number: int, **changes: Any) -> tuple[Told, ...]:
    return told(steps=tuple(replace(one, **changes) if one.number == number else one for one in STEPS))


def training(**changes: Any) -> Look:
    return look(82, replace(AFTER, **changes))


WRONG: list[tuple[str, dict[str, Any], set[str]]] = [
    ("no incident", {"told": ()}, {"one_incident", "steps", "resumed_at_the_checkpoint", "drained_then_resumed"}),
    ("two incidents", {"told": (INCIDENT, replace(INCIDENT, id="inc-2", node="node4"))}, {"one_incident"}),
    ("another class", {"told": told(fault_class="node_hung")}, {"one_incident"}),
    ("another node", {"told": told(node="node3")}, {"one_incident"}),
    ("still open", {"told": told(state=State.REVALIDATING)}, {"one_incident"}),
    ("escalated", {"told": told(state=State.ESCALATED)}, {"one_incident"}),
    ("a step failed last", {"told": with_step(3, status=StepStatus.FAILED)}, {"steps"}),
    ("a step twice", {"told": told(steps=(*STEPS, STEPS[1]))}, {"steps"}),
    ("acted before it was drained", {"told": with_step(1, started_at=at(30))}, {"steps"}),
    ("isolated", {"told": told(steps=(*STEPS, step(6, Slot.ISOLATE, 81, 82)))}, {"steps"}),
    ("not resumed", {"told": told(steps=STEPS[:4])}, {"steps", "resumed_at_the_checkpoint"}),
    ("an old rank", {"nodes_after": RENEWED | {"node3": NODES["node3"]}}, {"ranks_are_new"}),
    ("a rank too few", {"nodes_after": RENEWED | {"node3": NodeLook("boot-3")}}, {"ranks_are_new"}),
    ("a silent node", {"nodes_after": {name: RENEWED[name] for name in ("node1", "node2", "node4")}},
     {"ranks_are_new", "boot_ids"}),
    ("not rebooted", {"nodes_after": RENEWED | {"node2": NodeLook("boot-2", frozenset({"300@9000"}))}}, {"boot_ids"}),
    ("another one rebooted", {"nodes_after": RENEWED | {"node4": NodeLook("x", frozenset({"1@1"}))}}, {"boot_ids"}),
    ("restarted twice", {"after": training(restarts=4)}, {"one_restart"}),
    ("resumed at an older step", {"after": training(resumes=(Resume(20, at(75)),))},
     {"resumed_at_the_checkpoint", "trains_again"}),
    ("no step since", {"after": training(steps=BEFORE.steps)}, {"trains_again"}),
    ("resumed before the fault only", {"after": training(resumes=(Resume(30, at(-1)),))},
     {"resumed_at_the_checkpoint", "trains_again"}),
    ("never drained", {"watch": watched(look(20))}, {"drained_then_resumed"}),
    ("drained by a person", {"watch": watched(look(20, node2=("DRAIN", "maintenance")), look(50))},
     {"drained_then_resumed"}),
    ("not back", {"watch": watched(*GOOD_WATCH[:2])}, {"drained_then_resumed"}),
    ("another node drained", {"watch": watched(*GOOD_WATCH, look(60, node4=("IDLE+DRAIN", MARK)))},
     {"no_other_node_touched"}),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "names"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_what_is_wrong_is_not_proved(changes: dict[str, Any], names: set[str]) -> None:
    assert failed(prove(seen(**changes))) == names


def test_an_incident_that_another_one_explains_is_set_aside() -> None:
    """A run's loss may be seen a moment before the node's fault that is its cause."""
    aside = replace(INCIDENT, id="inc-2", node="", fault_class="training_stalled", steps=())
    assert failed(prove(seen(told=(aside, INCIDENT)))) == set()
    waits = replace(aside, state=State.OPEN)
    assert "one_incident" in failed(prove(seen(told=(INCIDENT, waits))))


def test_another_node_that_only_did_not_answer_slurm_was_not_touched() -> None:
    watch = watched(*GOOD_WATCH, look(60, node4=("ALLOCATED+NOT_RESPONDING", "")))
    assert failed(prove(seen(watch=watch))) == set()


def test_the_node_of_a_drill_beside_this_one_does_not_count() -> None:
    watch = watched(*GOOD_WATCH, look(60, node4=("DRAIN", "medllm-recover:inc-2")))
    hot = replace(INCIDENT, id="inc-2", node="node4", fault_class="gpu_overheat", state=State.ACTING)
    both = seen(watch=watch, told=(hot, INCIDENT), apart=frozenset({"node4"}))
    assert failed(prove(both)) == set()


def lost(**changes: Any) -> Seen:
    incident = replace(
        INCIDENT, fault_class="training_stalled", node="",
        steps=(step(1, Slot.QUIESCE, 12, 16, "end_job.yml"), replace(STEPS[4], number=2)),
    )  # fmt: skip
    renewed = {name: NodeLook(node.boot_id, frozenset({"300@9000"})) for name, node in NODES.items()}
    return seen(injector=KILLED, nodes_after=renewed, watch=watched(look(20)), told=(incident,), **changes)


def test_a_runs_own_fault_takes_no_node_out() -> None:
    assert failed(prove(lost())) == set()
    assert figures(lost())["act_s"] == 44, "to the start of the ranks"
    drained = replace(lost(), watch=watched(*GOOD_WATCH))
    assert failed(prove(drained)) == {"no_node_drained", "no_other_node_touched"}
    rebooted = replace(lost(), nodes_after=RENEWED)
    assert failed(prove(rebooted)) == {"boot_ids"}


def hot(**changes: Any) -> Seen:
    steps = (
        step(1, Slot.ACT, 70, 75, "limit_power.yml"),
        replace(step(2, Slot.REVALIDATE, 375, 380), status=StepStatus.FAILED),
        step(3, Slot.ISOLATE, 381, 384, "isolate.yml"),
        step(4, Slot.REVALIDATE, 400, 405),
        step(5, Slot.RETURN, 406, 412, "restore_power.yml"),
    )
    incident = replace(
        INCIDENT, fault_class="gpu_overheat", steps=steps,
        events=(ToldEvent(at(385), "escalated", "GPU 3, serial 1650000000001: send it in"),),
    )  # fmt: skip
    same = look(420, replace(BEFORE, steps=(*BEFORE.steps, (700, at(419)))))
    watch = watched(look(385, node2=("ALLOCATED+DRAIN", MARK)), look(413))
    whole = seen(injector=HOT, told=(incident,), after=same, nodes_after=NODES, watch=watch)
    return replace(whole, **changes)


def test_a_fault_that_only_a_repair_ends_is_handed_over() -> None:
    assert failed(prove_settled(hot(), [250, 700], 250, 700)) == set()


def test_what_is_wrong_with_a_hand_over_is_not_proved() -> None:
    assert failed(prove_settled(hot(), [700, 700], 250, 700)) == {"power_limited"}
    assert failed(prove_settled(hot(), [250, 250], 250, 700)) == {"power_limited"}
    assert failed(prove_settled(hot(), [], 250, 700)) == {"power_limited"}
    silent = (replace(hot().told[0], events=()),)
    assert failed(prove_settled(hot(told=silent), [250, 700], 250, 700)) == {"escalated"}
    hasty = (replace(hot().told[0], steps=hot().told[0].steps[:2]),)
    assert failed(prove_settled(hot(told=hasty), [250, 700], 250, 700)) == {"steps"}
    assert failed(prove_settled(hot(nodes_after=RENEWED), [250, 700], 250, 700)) == {
        "boot_ids", "training_untouched",
    }  # fmt: skip


def test_where_less_power_helps_no_node_is_out() -> None:
    steps = (*hot().told[0].steps[:1], step(2, Slot.REVALIDATE, 375, 380), step(3, Slot.RETURN, 381, 385))
    spell = replace(HOT, ends="closed")
    calm = hot(injector=spell, told=(replace(hot().told[0], steps=steps, events=()),), watch=watched(look(385)))
    assert failed(prove_settled(calm, [250, 700], 250, 700)) == set()
    assert failed(prove_settled(replace(calm, watch=hot().watch), [250, 700], 250, 700)) == {"no_node_drained"}
    assert failed(prove_settled(replace(calm, told=hot().told), [250, 700], 250, 700)) == {"steps"}


def test_an_alert_that_fired_before_the_fault_is_none_of_it() -> None:
    old = Alert(ALERT, "node2", at(-100))
    watch = Watch.from_now(replace(look(0), alerts=(old,)), T0)
    watch.see(look(5, alerts=(old,)))
    assert watch.fired == {}
    watch.see(look(9, alerts=(replace(old, since=at(4)),)))
    assert watch.fired == {(ALERT, "node2"): at(9)}


def test_the_watch_remembers_records_that_a_look_no_longer_reaches() -> None:
    watch = Watch.from_now(look(0, BEFORE), T0)
    late = Training("8", "RUNNING", ((900, at(500)),), (), (Resume(30, at(75)),), 3)
    watch.see(look(501, late))
    assert watch.whole(late).steps == (*BEFORE.steps, (900, at(500)))
    assert watch.whole(late).checkpoints == BEFORE.checkpoints


def test_at_most_so_many_nodes_were_out_at_once() -> None:
    watch = watched(look(1, node1=("DRAIN", "x")), look(2, node1=("DRAIN", "x"), node3=("DOWN", "y")), look(3))
    assert watch.most_out == 2


@pytest.mark.parametrize(
    ("changes", "warm"),
    [
        ({}, True),
        ({"job_state": "PENDING"}, False),
        ({"checkpoints": ()}, False),
        ({"steps": ((34, at(-60)),)}, False),
        ({"resumes": (Resume(30, at(-2)),)}, False),
        ({"resumes": (Resume(20, at(-9)),)}, True),
    ],
)
def test_a_fault_waits_until_there_is_something_to_lose(changes: dict[str, Any], warm: bool) -> None:
    assert is_warm(look(1, replace(BEFORE, **changes))) is warm


# Formats: scontrol(1) of Slurm 22.05; api/v1/alerts of Prometheus 2.42; events.jsonl of trainer/run_files.py.
def test_slurms_nodes_are_read() -> None:
    nodes = parse_nodes(
        "NodeName=node1 Arch=x86_64 State=MIXED+DRAIN ThreadsPerCore=1 "
        "Reason=medllm-recover:inc-1 [root@2026-11-23T03:00:00]\n"
        "NodeName=node2 Arch=x86_64 State=DOWN* ThreadsPerCore=1 Reason=Not responding [slurm@2026-11-23T03:00:00]\n"
        "NodeName=node3 Arch=x86_64 State=IDLE ThreadsPerCore=1\n"
        "slurm_load_node error: Unable to contact slurm controller\n"
    )
    assert nodes["node1"] == SchedulerNode("node1", frozenset({"MIXED", "DRAIN"}), "medllm-recover:inc-1")
    assert nodes["node2"] == SchedulerNode("node2", frozenset({"DOWN", "NOT_RESPONDING"}), "Not responding")
    assert (nodes["node3"].out, nodes["node3"].reason, len(nodes)) == (False, "", 3)


def test_prometheus_that_says_nothing_is_not_one_without_alerts() -> None:
    assert parse_alerts("") is None
    assert parse_alerts('{"status": "error"}') is None
    text = json.dumps(
        {
            "status": "success",
            "data": {
                "alerts": [
                    {"labels": {"alertname": ALERT, "node": "node2"}, "state": "firing",
                     "activeAt": "2026-11-23T03:00:04.123456789Z"},
                    {"labels": {"alertname": "NodeDown"}, "state": "pending", "activeAt": "2026-11-23T03:00:04Z"},
                ]
            },
        }
    )  # fmt: skip
    assert parse_alerts(text) == (Alert(ALERT, "node2", datetime(2026, 11, 23, 3, 0, 4, 123456, UTC)),)


def test_a_runs_torn_records_are_passed_over() -> None:
    training = parse_training(
        "8 RUNNING",
        '{"step": 31, "loss": 1.0, "time": 1795401600.0}\n{"step": 32, "los',
        '{"event": "resume", "step": 30, "time": 1795401590.0}\n'
        '{"event": "checkpoint", "step": 30, "time": 1795401500.0}',
        "3",
    )
    assert (training.step, training.checkpoint, training.restarts, training.job) == (31, 30, 3, "8")
    assert parse_training("", "", "", "") == Training()


def test_only_ranks_of_the_run_are_found(tmp_path: Path) -> None:
    """srun's own command line and other runs' ranks contain almost the same words."""
    lines = [
        "/opt/medllm/trainer/deps-1/bin/python -m trainer.worker --request /mnt/lustre/checkpoints/drill/logs/r.json",
        "/opt/medllm/trainer/deps-1/bin/python -m trainer.worker --request /mnt/lustre/checkpoints/drill-2/logs/r.json",
        "srun --label /opt/medllm/trainer/current/python -m trainer.worker --request /x/drill/logs/r.json",
        "sh -c pgrep -f '^[^ ]*python[^ ]* -m trainer[.]worker --request [^ ]*/drill/'",
    ]
    found = subprocess.run(
        f"grep -E {ranks_pattern('drill')}",
        shell=True,
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.stdout.splitlines() == lines[:1]


def test_a_history_that_is_none_is_an_error() -> None:
    for text in ("", "{}", '{"incidents": [{"id": 1}]}'):
        with pytest.raises(RemoteError, match="history can't be read"):
            parse_history("mgmt", text)


def outcome(drill: str, number: int, ok: bool = True, **values: float | None) -> Outcome:
    return Outcome(drill, drill, "node1", number, T0, "inc", dict(values), (Proof("steps", ok, ""),))


def test_goals_are_judged_by_the_worst_run() -> None:
    runs = [
        outcome("node_gone", 1, alert_to_action_s=None, recover_s=90.0),
        outcome("node_gone", 2, alert_to_action_s=-4.0, recover_s=121.0),
        outcome("node_hung", 1, alert_to_action_s=3.0, recover_s=500.0),
    ]
    assert [(goal["figure"], goal["worst"], goal["met"]) for goal in judged(runs)] == [
        ("alert_to_action_s", 3, True), ("recover_s", 121, False),
    ]  # fmt: skip
    assert spread(run.figures for run in runs[:2]) == {
        "recover_s": {"median": 105.5, "min": 90, "max": 121, "runs": 2},
        "alert_to_action_s": {"median": -4, "min": -4, "max": -4, "runs": 1},
    }


def test_a_drill_without_proofs_is_not_good() -> None:
    assert not replace(outcome("x", 1), proofs=()).good
    assert not replace(outcome("x", 1), problem="RemoteError: mgmt").good
    assert not outcome("x", 1, ok=False).good


def entry(offered: dict[str, Injector]) -> Any:
    return SimpleNamespace(load=lambda: offered)


def test_without_an_injector_nothing_can_be_drilled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(injectors, "entry_points", lambda group: [])
    with pytest.raises(UserError, match="no fault injector is installed"):
        injectors.load_injectors()


def test_a_drill_offered_twice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(injectors, "entry_points", lambda group: [entry({"a": HOT}), entry({"a": HOT})])
    with pytest.raises(UserError, match="two packages offer the drill 'a'"):
        injectors.load_injectors()


COMMAND = [sys.executable, "-m", "cli.main", "recover", "drill"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "a drill needs one fault class, or --all"),
        (["gpu_fallen_off", "--all"], "a drill needs one fault class, or --all"),
        (["coffee"], "there is no drill 'coffee'"),
        (["gpu_fallen_off", "-i", "inventory/h200"], "mode dry_run"),
    ],
)
def test_wrong_usage_touches_nothing(words: list[str], says: str) -> None:
    done = subprocess.run([*COMMAND, *words], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr


def test_the_lab_offers_a_drill_for_each_of_its_faults() -> None:
    from lab.drills import INJECTORS
    from lab.faults import FAULTS

    assert len([name for name in INJECTORS if not name.startswith("training_")]) == len(FAULTS)
    assert {one.name for one in INJECTORS.values() if one.ends == "escalated"} == {"gpu_overheat"}
    assert {one.name for one in INJECTORS.values() if one.spares_training} == {"gpu_overheat", "gpu_hot_spell"}
    check: Callable[[Injector], bool] = lambda one: (one.scope == "run") == one.name.startswith("training_")  # noqa: E731
    assert all(check(one) for one in INJECTORS.values())

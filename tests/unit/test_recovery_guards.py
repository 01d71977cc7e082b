"""Each guard just below, at, and just above its limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from recovery_fakes import LAB, NODES, START

from runbooks.engine import guards
from runbooks.engine.model import Incident, SchedulerNode, Slot, State, Step, StepStatus, Work, World

RECOVERY = LAB.recovery.model_copy(
    update={
        "max_nodes_out": 1, "attempts_per_day": 3, "storm_incidents": 3, "storm_window_s": 600, "storm_cooldown_s": 900,
    }
)  # fmt: skip
DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)


def incident(number: int = 1, node: str = "node3", state: State = State.DIAGNOSED, **changes: object) -> Incident:
    plain = Incident(
        f"inc-20261123-{number:04d}", "gpu_fallen_off", node, "", "", state, 1, START, START, None, "", "", "", (), {}
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def step(slot: Slot, number: int = 1, status: StepStatus = StepStatus.OK, at: timedelta = timedelta()) -> Step:
    return Step(f"s{number}", "inc", number, 1, Work(slot, "x.yml"), status, START + at, START + at)


def world(**nodes: tuple[str, str]) -> World:
    """`node2=("DRAIN+IDLE", "reason")`; those left out are idle."""
    known = {name: SchedulerNode(name, frozenset({"IDLE"})) for name in NODES}
    for name, (states, reason) in nodes.items():
        known[name] = SchedulerNode(name, frozenset(states.split("+")), reason)
    return World(START, (), {}, known, (), ())


@pytest.mark.parametrize(
    ("states", "reason", "who"),
    [
        ("IDLE", "", "nobody"),
        ("ALLOCATED", "an old reason that Slurm kept", "nobody"),
        ("IDLE+DRAIN", "medllm-recover:inc-20261123-0001", "ours"),
        ("DOWN", "medllm-recover:inc-20261123-0001 [root@2026-11-23T02:00:00]", "ours"),
        ("DRAIN", "medllm-recover:inc-20261123-00011", "incident"),
        ("DRAIN", "medllm-recover:inc-20261122-0007", "incident"),
        ("DOWN", "Not responding", "slurm"),
        ("DOWN+NOT_RESPONDING", "Not responding [slurm@2026-11-23T02:00:00]", "slurm"),
        ("DOWN", "Node unexpectedly rebooted", "slurm"),
        ("IDLE+NOT_RESPONDING", "", "slurm"),
        ("UNKNOWN", "", "slurm"),
        # slurm-ready: whatever is drained is its owner's.
        ("DOWN+DRAIN", "Not responding", "person"),
        ("DRAIN", "", "person"),
        ("DRAIN", "bad fan, Kim", "person"),
        ("DRAIN", "see medllm-recover:inc-20261123-0001", "person"),
        ("DOWN", "Kill task failed", "person"),
        ("FAIL", "replace", "person"),
        ("IDLE+MAINT", "", "person"),
        ("IDLE+REBOOT_ISSUED", "", "person"),
    ],
)
def test_who_took_a_node_out(states: str, reason: str, who: str) -> None:
    """NHC #134: what an administrator had drained was put back."""
    known = SchedulerNode("node3", frozenset(states.split("+")), reason)
    assert guards.holder(known, "inc-20261123-0001") == who
    held = guards.ownership(world(node3=(states, reason)), incident())
    assert bool(held) is (who in ("person", "incident")), held


def test_what_slurm_does_not_tell_holds() -> None:
    silent = replace(world(), scheduler_nodes=None)
    assert "not known" in guards.ownership(silent, incident())
    assert "not known" in guards.nodes_out(silent, incident(), [], {}, 1)
    assert "does not know node9" in guards.ownership(world(), incident(node="node9"))
    assert guards.ownership(silent, incident(node="")) == ""


@pytest.mark.parametrize(("limit", "held"), [(1, True), (2, True), (3, False)])
def test_as_many_nodes_as_the_limit_may_be_out_and_no_more(limit: int, held: bool) -> None:
    out = world(node1=("DRAIN", "Kim"), node2=("DOWN", "Not responding"))
    assert bool(guards.nodes_out(out, incident(), [], {}, limit)) is held


def test_a_node_that_is_out_itself_does_not_count_against_itself() -> None:
    assert guards.nodes_out(world(node3=("DOWN", "Not responding")), incident(), [], {}, 1) == ""


def test_a_node_that_another_incident_takes_out_counts_before_slurm_shows_it() -> None:
    other = incident(2, "node1", State.ACTING)
    steps: dict[str, Sequence[Step]] = {other.id: [step(Slot.QUIESCE, status=StepStatus.PLANNED)]}
    assert "node1" in guards.nodes_out(world(), incident(), [other], steps, 1)
    steps[other.id] = [step(Slot.QUIESCE), step(Slot.RETURN, 2)]
    assert guards.nodes_out(world(), incident(), [other], steps, 1) == "", "it is back, only its run is resumed"
    steps[other.id] = [step(Slot.ACT)]
    assert guards.nodes_out(world(), incident(), [other], steps, 1) == "", "a lower power limit takes no node out"


@pytest.mark.parametrize(("after", "held"), [(timedelta(0), True), (guards.LAG, True), (guards.LAG + SECOND, False)])
def test_an_escalated_one_counts_by_slurms_word_and_at_first_by_its_own(after: timedelta, held: bool) -> None:
    other = incident(2, "node1", State.ESCALATED, ended_at=START - after)
    steps = {other.id: [step(Slot.ISOLATE)]}
    assert bool(guards.nodes_out(world(), incident(), [other], steps, 1)) is held
    assert guards.nodes_out(world(node1=("DRAIN", f"medllm-recover:{other.id}")), incident(), [other], steps, 1)


def test_nodes_that_died_together_do_not_wait_for_each_other_for_ever() -> None:
    dead = world(node1=("DOWN", "Not responding"), node3=("DOWN", "Not responding"))
    other = incident(2, "node1")
    assert guards.nodes_out(dead, incident(), [other], {other.id: []}, 1) == ""
    begun = {other.id: [step(Slot.QUIESCE, status=StepStatus.RUNNING)]}
    assert "node1" in guards.nodes_out(dead, incident(), [replace(other, state=State.ACTING)], begun, 1)
    persons = world(node1=("DRAIN", "Kim"), node3=("DOWN", "Not responding"))
    assert "node1" in guards.nodes_out(persons, incident(), [other], {other.id: []}, 1)
    assert "node1" in guards.nodes_out(dead, incident(), [], {}, 1), "down, and no incident of ours"


def acted(number: int, times: int, ago: timedelta = timedelta(), **changes: object) -> tuple[Incident, list[Step]]:
    one = incident(number, state=State.CLOSED, **changes)  # type: ignore[arg-type]
    return one, [step(Slot.QUIESCE)] + [step(Slot.ACT, 2 + index, at=-ago) for index in range(times)]


def ask(*past: tuple[Incident, list[Step]], me: Incident | None = None, besides: str = "") -> str:
    steps = {one.id: taken for one, taken in past}
    history = [one for one, _ in past]
    return guards.attempts(me or incident(), history, steps, limit=3, now=START, besides=besides)


@pytest.mark.parametrize(("times", "held"), [(2, False), (3, True), (4, True)])
def test_attempts_in_a_day_up_to_the_limit(times: int, held: bool) -> None:
    """NVSentinel #1543: without a cap it tried for ever."""
    assert bool(ask(acted(2, times))) is held


@pytest.mark.parametrize(("ago", "held"), [(DAY - SECOND, True), (DAY, False)])
def test_a_day_is_a_day(ago: timedelta, held: bool) -> None:
    assert bool(ask(acted(2, 3, ago))) is held


def test_other_nodes_and_classes_do_not_count_nor_does_the_step_that_asks() -> None:
    assert ask(acted(2, 3, node="node1")) == ""
    assert ask(acted(2, 3, fault_class="lustre_evicted")) == ""
    assert ask(acted(2, 3), besides="s4") == ""


def test_of_a_run_each_ended_job_is_an_attempt() -> None:
    me = incident(node="", run="tiny", fault_class="training_stalled")
    past = [
        (incident(n, "", State.CLOSED, run="tiny", fault_class="training_stalled"), [step(Slot.QUIESCE)])
        for n in (2, 3, 4)
    ]
    assert "run tiny" in ask(*past, me=me)
    assert ask(*past[:2], me=me) == ""
    assert ask(*past, me=replace(me, run="other")) == ""


def opened(*seconds: float) -> list[Incident]:
    return [incident(n, opened_at=START + timedelta(seconds=at)) for n, at in enumerate(seconds, 1)]


@pytest.mark.parametrize(
    ("seconds", "storm"),
    [
        ((0, 1, 2), False),  # as many as the limit
        ((0, 1, 2, 3), True),
        ((0, 200, 400, 600), True),  # exactly the window
        ((0, 200, 400, 600.5), False),
        ((0, 300, 700, 800, 900), True),
        ((), False),
    ],
)
def test_more_incidents_than_the_limit_within_the_window_are_a_storm(seconds: tuple[float, ...], storm: bool) -> None:
    assert (guards.storm_until(opened(*seconds), RECOVERY) is not None) is storm


def test_a_storm_holds_until_its_cool_down_is_over_and_a_new_one_prolongs_it() -> None:
    history = opened(0, 1, 2, 3)
    end = START + timedelta(seconds=3 + 900)
    assert "storm" in guards.storm(history, RECOVERY, end - SECOND)
    assert guards.storm(history, RECOVERY, end) == ""
    assert guards.storm_until(opened(0, 1, 2, 3, 100), RECOVERY) == START + timedelta(seconds=100 + 900)
    # One alone, later, is none.
    assert guards.storm_until(opened(0, 1, 2, 3, 850), RECOVERY) == end

"""The engine's decisions on a small cluster: from the first signal to the end, and what makes it wait."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
from recovery_fakes import NODES, RUN, SEEN, START, Lab, fast_directory, site_with

from medllm.site import Site
from runbooks.engine.model import Incident, Slot, State, StepStatus

FAILED, UNKNOWN, OK = StepStatus.FAILED, StepStatus.UNKNOWN, StepStatus.OK
SITES = {
    "ask": site_with(reboot_approval="ask"),
    "dry_run": site_with(mode="dry_run"),
    "spare": site_with(on_node_loss="spare"),
    "two": site_with(max_nodes_out=2),
    "storm": site_with(storm_incidents=2, storm_window_s=600, storm_cooldown_s=900, max_nodes_out=3),
    "once": site_with(attempts_per_day=1),
}


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Parametrize it indirectly with the name of a site above."""
    site: Site | None = SITES[request.param] if hasattr(request, "param") else None
    with fast_directory() as directory:
        lab = Lab(directory, site)
        lab.tick()
        yield lab
        lab.store.close()


def on(lab: Lab, node: str) -> Incident:
    """The newest incident of a node."""
    return [one for one in lab.store.incidents() if one.node == node][-1]


def site(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("lab", [name], indirect=True)


EXPECTED = {
    "node_gone": "take_down power_on checks return_to_service resume_training",
    "node_hung": "take_down power_cycle checks return_to_service resume_training",
    "gpu_fallen_off": "drain reboot checks return_to_service resume_training",
    "gpu_needs_reset": "drain reset_gpu checks return_to_service resume_training",
    "fabric_manager_dead": "drain restart_fabric_manager checks return_to_service resume_training",
    "lustre_evicted": "drain remount_lustre checks return_to_service resume_training",
    "gpu_overheat": "limit_power checks restore_power return_to_service",
    "training_stalled": "end_job resume_training",
}


@pytest.mark.parametrize("fault_class", SEEN)
def test_each_class_from_its_first_signal_to_its_end(lab: Lab, fault_class: str) -> None:
    lab.cluster.fault("node3", fault_class)
    lab.tick()
    if fault_class == "training_stalled":
        assert not lab.actions.began, "a node's own word may come a moment later"
    else:
        assert len(lab.actions.began) == 1, "the first step begins in the tick that sees the fault"
    lab.until(lab.over)
    assert [book.removesuffix(".yml") for book in lab.actions.books] == EXPECTED[fault_class].split()
    assert lab.only.state is State.CLOSED
    assert {place for place, _ in lab.cluster.touched} == {RUN if fault_class == "training_stalled" else "node3"}
    assert lab.cluster.restarts == (0 if fault_class == "gpu_overheat" else 1)
    assert all(count == 1 for count in lab.actions.asked.values())
    slots = [step.work.slot for step in lab.store.steps(lab.only.id)]
    assert [step.number for step in lab.store.steps(lab.only.id)] == list(range(1, len(slots) + 1))
    assert all(step.status is OK and step.started_at and step.ended_at for step in lab.store.steps(lab.only.id))


def test_a_step_is_stored_before_it_is_started(lab: Lab) -> None:
    seen = []
    start = lab.actions.start

    def look(step, incident):  # type: ignore[no-untyped-def]
        stored = lab.store.steps(incident.id)[-1]
        seen.append((stored.id, stored.status, step.id, lab.store._db.in_transaction))
        start(step, incident)

    lab.actions.start = look  # type: ignore[method-assign]
    lab.cluster.fault("node3", "gpu_fallen_off")
    lab.until(lab.over)
    assert len(seen) == 5
    assert all(stored == step and status is StepStatus.PLANNED and not open_ for stored, status, step, open_ in seen)


def test_what_was_before_is_written_down(lab: Lab) -> None:
    lab.cluster.fault("node3", "node_hung")
    lab.until(lab.over)
    assert lab.only.before == {
        "boot_id": "node3-boot1", "run": RUN, "job": "10", "step": 100, "checkpoint_step": 90, "restarts": 0,
        "nodes": list(NODES),
    }  # fmt: skip
    (act,) = [step for step in lab.store.steps(lab.only.id) if step.work.slot is Slot.ACT]
    assert act.facts["boot_id_after"] == "node3-boot2"
    assert lab.only.run == RUN


def test_a_failed_revalidation_leads_to_the_next_attempt_and_then_to_a_person(lab: Lab) -> None:
    lab.cluster.fault("node3", "gpu_fallen_off", ends_by=set())
    lab.until(lab.over)
    books = [book.removesuffix(".yml") for book in lab.actions.books]
    assert books == ["drain", "reboot", "checks", "power_cycle", "checks"], "it is out already: nothing to isolate"
    assert lab.only.state is State.ESCALATED
    text = next(event.text for event in lab.store.events(lab.only.id) if event.kind == "escalated")
    for word in (
        "gpu_fallen_off of node3", "xid-79 seen", "reboot.yml: ok", "power_cycle.yml: ok", "gpu_count FAIL",
        "node3-boot1 → node3-boot2 → node3-boot3", "nvidia-bug-report.sh", f"resolve {lab.only.id}",
    ):  # fmt: skip
        assert word in text, text
    lab.until(lambda: lab.cluster.now >= START + timedelta(hours=2), limit_s=9000, every_s=60)
    assert len(lab.store.incidents()) == 1, "its signals hold on, and the one incident stands for them"


def test_one_that_needs_the_second_attempt(lab: Lab) -> None:
    lab.cluster.fault("node3", "gpu_fallen_off", ends_by={"power_cycle.yml"})
    lab.until(lab.over)
    assert lab.only.state is State.CLOSED
    assert lab.only.attempt == 2
    assert lab.actions.books[-1] == "resume_training.yml"


def test_a_person_mends_it_and_it_is_checked_and_given_back(lab: Lab) -> None:
    lab.cluster.fault("node3", "gpu_fallen_off", ends_by=set())
    lab.until(lab.over)
    lab.store.request_resolve(lab.only.id, "kim", lab.cluster.now)
    lab.tick()
    lab.until(lab.over)
    assert lab.only.state is State.ESCALATED, "it is not mended: the checks say so"
    lab.cluster.nodes["node3"].faults.clear()
    lab.store.request_resolve(lab.only.id, "kim", lab.cluster.now)
    lab.tick()
    lab.until(lab.over)
    assert lab.only.state is State.CLOSED
    assert lab.actions.books[-4:] == ["checks", "checks", "return_to_service.yml", "resume_training.yml"]
    assert lab.cluster.nodes["node3"].states == {"IDLE"}
    assert lab.store.requests() == []


def test_heat_that_stays_is_isolated_and_what_was_limited_is_restored(lab: Lab) -> None:
    fault = lab.cluster.fault("node2", "gpu_overheat", ends_by=set())
    took = lab.until(lab.over)
    assert took >= 300
    assert lab.actions.books == ["limit_power.yml", "checks", "isolate.yml"]
    assert lab.only.state is State.ESCALATED
    assert lab.cluster.nodes["node2"].states == {"DRAIN", "IDLE"}
    assert lab.cluster.restarts == 0
    assert lab.cluster.job_runs, "the job is left alone"
    del lab.cluster.nodes["node2"].faults[fault.fault_class]
    lab.store.request_resolve(lab.only.id, "kim", lab.cluster.now)
    lab.tick()
    assert lab.until(lab.over) < 60, "a repair needs no time to settle"
    assert lab.actions.books[3:] == ["checks", "restore_power.yml", "return_to_service.yml"]
    assert not lab.cluster.nodes["node2"].power_limited
    assert lab.cluster.nodes["node2"].states == {"IDLE"}


def test_settling_holds_nobody_else_up(lab: Lab) -> None:
    lab.cluster.fault("node2", "gpu_overheat")
    lab.until(lambda: lab.only.waiting.startswith("settle"))
    lab.cluster.fault("node3", "lustre_evicted")
    assert lab.until(lambda: on(lab, "node3").state is State.CLOSED if len(lab.store.incidents()) > 1 else False) < 60
    assert on(lab, "node2").waiting.startswith("settle")
    lab.until(lab.over)
    assert {one.state for one in lab.store.incidents()} == {State.CLOSED}


def test_a_settling_one_whose_node_dies_makes_room_for_that(lab: Lab) -> None:
    lab.cluster.fault("node2", "gpu_overheat", ends_by=set())
    lab.until(lambda: lab.only.waiting.startswith("settle"))
    lab.cluster.fault("node2", "node_hung", ends_by={"power_cycle.yml"})
    del lab.cluster.nodes["node2"].faults["gpu_overheat"]
    lab.tick()
    heat, hung = lab.store.incidents()
    assert (heat.state, heat.reason[:24]) == (State.CLOSED, "superseded by node_hung:")
    assert hung.state is State.ACTING
    lab.until(lab.over)
    assert on(lab, "node2").state is State.CLOSED
    assert lab.actions.books.count("checks") == 1, "what had been planned was never started"


@pytest.mark.parametrize("under_way", ["limit_power.yml", "checks"])
def test_heat_whose_step_runs_is_not_left_for_another_fault(lab: Lab, under_way: str) -> None:
    lab.cluster.fault("node2", "gpu_overheat", ends_by=set())
    lab.until(lambda: lab.actions.books[-1:] == [under_way], every_s=1)
    lab.cluster.fault("node2", "node_hung", ends_by={"power_cycle.yml"})
    lab.tick(1)
    assert lab.only.state is not State.CLOSED
    assert lab.store.steps(lab.only.id)[-1].status is StepStatus.RUNNING


def test_two_faults_at_once_are_mended_one_after_the_other_and_the_run_once(lab: Lab) -> None:
    lab.cluster.fault("node2", "gpu_fallen_off")
    lab.cluster.fault("node3", "lustre_evicted")
    out = set()
    lab.until(lambda: out.add(frozenset(n for n, one in lab.cluster.nodes.items() if one.reason)) or lab.over())
    assert max(len(nodes) for nodes in out) == 1
    assert [one.state for one in lab.store.incidents()] == [State.CLOSED, State.CLOSED]
    assert lab.actions.books.count("resume_training.yml") == 1
    waits = [event.text for event in lab.store.events(on(lab, "node3").id) if event.kind == "waiting"]
    assert waits == ["guard: out of service already: node2 (max_nodes_out 1)"]


@site("two")
def test_two_nodes_may_be_out_where_the_site_says_so(lab: Lab) -> None:
    lab.cluster.fault("node2", "gpu_fallen_off")
    lab.cluster.fault("node3", "node_hung")
    lab.cluster.fault("node4", "lustre_evicted")
    lab.tick()
    assert {place for place, _, _ in lab.actions.began} == {"node2", "node3"}
    lab.until(lab.over)
    assert {one.state for one in lab.store.incidents()} == {State.CLOSED}


def drained_by_kim(lab: Lab) -> None:
    node = lab.cluster.nodes["node3"]
    node.states, node.reason = {"DRAIN", "IDLE"}, "Kim swaps the fan"


def given_back(lab: Lab) -> None:
    node = lab.cluster.nodes["node3"]
    node.states, node.reason = {"IDLE"}, ""


def test_a_persons_node_is_left_alone(lab: Lab) -> None:
    """NHC #134: an administrator's drain was undone."""
    drained_by_kim(lab)
    lab.cluster.fault("node3", "gpu_fallen_off")
    for _ in range(60):
        lab.tick(30)
    assert lab.actions.began == []
    assert lab.only.waiting.startswith("guard: node3 is out (Kim swaps the fan)")
    given_back(lab)
    lab.until(lab.over)
    assert lab.only.state is State.CLOSED


@pytest.mark.parametrize("under_way", ["reboot.yml", "checks"])
def test_a_person_who_takes_the_node_from_us_keeps_it_and_then_the_checks_decide(lab: Lab, under_way: str) -> None:
    lab.cluster.fault("node3", "gpu_fallen_off")
    lab.until(lambda: lab.actions.books[-1:] == [under_way])
    drained_by_kim(lab)
    begun = len(lab.actions.began)
    for _ in range(60):
        lab.tick(30)
    assert len(lab.actions.began) == begun
    assert "Kim swaps the fan" in lab.only.waiting
    assert lab.cluster.nodes["node3"].reason == "Kim swaps the fan"
    given_back(lab)
    lab.cluster.nodes["node3"].faults.clear()
    lab.until(lab.over)
    assert lab.only.state is State.CLOSED
    after = ["checks", "return_to_service.yml", "resume_training.yml"]
    assert lab.actions.books[begun:] == after


def test_what_a_person_gives_back_broken_is_isolated(lab: Lab) -> None:
    lab.cluster.fault("node3", "gpu_fallen_off", ends_by=set())
    lab.until(lambda: lab.actions.books[-1:] == ["reboot.yml"])
    drained_by_kim(lab)
    lab.tick(10)
    given_back(lab)
    lab.until(lab.over)
    assert lab.only.state is State.ESCALATED
    assert lab.actions.books == ["drain.yml", "reboot.yml", "checks", "isolate.yml"]


@pytest.mark.parametrize("mended", [False, True])
def test_a_person_who_was_quicker_than_our_drain_leaves_the_incident_as_it_was(lab: Lab, mended: bool) -> None:
    """Slurm's last answer was older than the person's drain: ours was refused, so nothing of ours is to be checked."""
    lab.cluster.fault("node3", "gpu_fallen_off")
    lab.until(lambda: lab.actions.books == ["drain.yml"])
    drained_by_kim(lab)
    for _ in range(60):
        lab.tick(30)
    assert lab.actions.books == ["drain.yml"]
    assert "Kim swaps the fan" in lab.only.waiting
    given_back(lab)
    if mended:
        lab.cluster.nodes["node3"].faults.clear()
    lab.until(lab.over)
    assert lab.only.state is State.CLOSED
    again = (
        [] if mended else [f"{book}.yml".replace("checks.yml", "checks") for book in EXPECTED["gpu_fallen_off"].split()]
    )
    assert lab.actions.books[1:] == again


def test_a_drain_that_is_refused_again_and_again_is_told_to_a_person(lab: Lab) -> None:
    """The engine sees a free node, the playbook a person's: one of them is wrong, and trying on does not tell which."""
    lab.cluster.fault("node3", "gpu_fallen_off")
    for _ in range(3):
        begun = len(lab.actions.began)
        lab.until(lambda begun=begun: len(lab.actions.began) > begun)
        drained_by_kim(lab)
        lab.tick(10)
        given_back(lab)
    lab.until(lab.over)
    assert lab.only.state is State.ESCALATED
    assert lab.actions.books == ["drain.yml"] * 3, "the person has it out already"


@site("dry_run")
def test_a_dry_run_says_what_it_would_do_and_does_nothing(lab: Lab) -> None:
    lab.cluster.fault("node3", "gpu_fallen_off")
    for _ in range(20):
        lab.tick(30)
    assert lab.actions.began == []
    assert lab.store.steps(lab.only.id) == []
    assert lab.only.state is State.DIAGNOSED
    for word in ("dry run", "drain.yml", "reboot.yml or then power_cycle.yml", "gpu_count", "resume_training.yml"):
        assert word in lab.only.waiting
    assert lab.kinds() == ["opened", "diagnosed", "waiting"], "told once"


@site("ask")
def test_an_approval_is_good_for_one_attempt(lab: Lab) -> None:
    lab.cluster.fault("node3", "gpu_fallen_off", ends_by={"power_cycle.yml"})
    lab.until(lambda: lab.only.waiting.startswith("approval"))
    assert lab.actions.books == ["drain.yml"], "the node is out; only the reboot waits"
    for _ in range(30):
        lab.tick(60)
    assert lab.actions.books == ["drain.yml"]
    lab.store.approve(lab.only.id, "kim", lab.cluster.now)
    lab.tick()
    assert lab.actions.books == ["drain.yml", "reboot.yml"]
    assert lab.only.approved_by == "kim"
    # Given while the first attempt is under way: it is for that one.
    lab.store.approve(lab.only.id, "kim", lab.cluster.now)
    lab.until(lambda: "power_cycle.yml" in lab.only.waiting)
    assert lab.only.approved_by == ""
    lab.store.approve(lab.only.id, "lee", lab.cluster.now)
    lab.until(lab.over)
    assert lab.only.state is State.CLOSED
    told = [event.text for event in lab.store.events(lab.only.id) if event.kind == "approved"]
    assert told[-1] == "attempt 2 is approved by lee"


def test_a_late_approval_or_an_early_resolve_is_refused_and_told(lab: Lab) -> None:
    lab.cluster.fault("node3", "gpu_fallen_off")
    lab.tick()
    lab.store.request_resolve(lab.only.id, "kim", lab.cluster.now)
    lab.until(lab.over)
    lab.store.approve(lab.only.id, "kim", lab.cluster.now)
    lab.tick()
    assert lab.kinds().count("refused") == 2
    assert lab.store.requests() == []
    assert lab.only.state is State.CLOSED


def test_a_pause_lets_nothing_new_begin_and_what_is_well_return(lab: Lab) -> None:
    lab.store.set_paused("kim: cables")
    lab.cluster.fault("node3", "gpu_fallen_off")
    for _ in range(10):
        lab.tick(60)
    assert lab.actions.began == []
    assert lab.only.waiting == "pause: kim: cables"
    lab.store.set_paused("")
    lab.until(lambda: lab.actions.books[-1:] == ["reboot.yml"])
    lab.store.set_paused("kim: more cables")
    lab.until(lab.over)
    assert lab.actions.books[-3:] == ["checks", "return_to_service.yml", "resume_training.yml"]


@site("storm")
def test_a_storm_holds_new_incidents_and_lets_nodes_return(lab: Lab) -> None:
    """NVSentinel PR #1852: its breaker also kept nodes from coming back."""
    lab.cluster.fault("node1", "gpu_fallen_off")
    lab.until(lambda: lab.actions.books[-1:] == ["reboot.yml"])
    lab.cluster.fault("node2", "fabric_manager_dead")
    lab.cluster.fault("node3", "lustre_evicted")
    lab.tick()
    begun = {place for place, _, _ in lab.actions.began}
    assert begun == {"node1"}, "three within the window are more than two"
    lab.until(lambda: lab.store.incidents()[0].state is State.CLOSED)
    assert lab.cluster.nodes["node1"].states == {"IDLE"}
    assert "storm" in on(lab, "node2").waiting
    tripped = max(one.opened_at for one in lab.store.incidents())
    lab.until(lambda: len(lab.actions.began) > 5, limit_s=1500, every_s=10)
    assert lab.cluster.now >= tripped + timedelta(seconds=900)


@site("once")
def test_a_capped_fault_that_comes_again_waits_and_one_half_way_is_handed_over(lab: Lab) -> None:
    lab.cluster.fault("node3", "lustre_evicted")
    lab.until(lab.over)
    lab.tick(60)
    lab.cluster.fault("node3", "lustre_evicted")
    for _ in range(30):
        lab.tick(60)
    again = lab.store.incidents()[-1]
    assert again.state is State.DIAGNOSED
    assert "1 times in a day (attempts_per_day 1)" in again.waiting
    assert lab.store.steps(again.id) == []
    lab.cluster.fault("node2", "gpu_fallen_off", ends_by=set())
    lab.tick()
    lab.until(lambda: on(lab, "node2").state is State.ESCALATED)
    assert lab.actions.books[-1] == "checks"
    assert "power_cycle.yml" not in lab.actions.books


@site("spare")
def test_with_spare_nodes_the_run_goes_on_before_the_node_is_back(lab: Lab) -> None:
    world = lab.cluster.world

    def smaller(**without):  # type: ignore[no-untyped-def]
        seen = world(**without)
        return replace(seen, runs=tuple(replace(run, nodes=("node2", "node3", "node4")) for run in seen.runs))

    lab.cluster.world = smaller  # type: ignore[method-assign]
    lab.cluster.fault("node3", "node_gone")
    lab.until(lab.over)
    books = [book.removesuffix(".yml") for book in lab.actions.books]
    assert books == ["take_down", "resume_training", "power_on", "checks", "return_to_service"]


@site("spare")
def test_without_enough_nodes_the_run_waits_for_the_node(lab: Lab) -> None:
    lab.cluster.fault("node3", "node_gone")
    lab.until(lab.over)
    assert lab.actions.books[-1] == "resume_training.yml"
    assert lab.actions.books.count("resume_training.yml") == 1

"""What observations can do to the engine: fall silent, flap, repeat old news; and steps that end badly or never."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
from recovery_fakes import RUN, Lab, fast_directory, finding, site_with

from runbooks.engine.model import Slot, State, StepStatus, World

BACK = "return_to_service resume_training"
MOUNT = "drain remount_lustre checks"
FAILED, UNKNOWN, OK = StepStatus.FAILED, StepStatus.UNKNOWN, StepStatus.OK


@pytest.fixture
def lab() -> Iterator[Lab]:
    with fast_directory() as directory:
        lab = Lab(directory)
        lab.tick()
        yield lab
        lab.store.close()


def paused_with(lab: Lab, fault_class: str) -> None:
    """An incident for which nothing was started."""
    lab.store.set_paused("kim")
    lab.cluster.fault("node3", fault_class)
    lab.tick()


def test_the_incident_of_a_node_that_vanished_goes_on(lab: Lab) -> None:
    lab.cluster.fault("node3", "gpu_fallen_off")
    lab.tick()
    for _ in range(40):
        lab.cluster.now += timedelta(seconds=2)
        world = lab.cluster.world(alerts=None, jobs=None, runs=None)
        lab.engine.tick(replace(world, nodes={}), [])
    assert lab.only.state is State.CLOSED
    assert lab.actions.books[-1] == "resume_training.yml"


def test_one_that_vanished_before_anything_was_started_is_acted_on_all_the_same(lab: Lab) -> None:
    paused_with(lab, "gpu_fallen_off")
    lab.store.set_paused("")
    lab.cluster.now += timedelta(seconds=2)
    world = lab.cluster.world()
    lab.engine.tick(replace(world, nodes={}), [])
    assert lab.actions.books == ["drain.yml"]


def test_signals_that_go_away_by_themselves_close_it_after_a_minute(lab: Lab) -> None:
    paused_with(lab, "lustre_evicted")
    lab.cluster.nodes["node3"].faults.clear()
    lab.tick(2)
    lab.store.set_paused("")
    lab.tick(58)
    assert lab.only.state is State.DIAGNOSED, "58 s of silence"
    lab.tick(2)
    assert lab.only.state is State.CLOSED
    assert lab.store.events(lab.only.id)[-1].text == "cleared by itself"
    assert lab.actions.began == [], "the node was not touched, though nothing held it any more"


def test_a_flap_begins_the_minute_anew_and_a_silent_source_ends_no_incident(lab: Lab) -> None:
    paused_with(lab, "fabric_manager_dead")
    faults = lab.cluster.nodes["node3"].faults
    gone = faults.pop("fabric_manager_dead")
    lab.tick(2)
    lab.tick(50)
    faults["fabric_manager_dead"] = gone
    lab.tick(5)
    del faults["fabric_manager_dead"]
    lab.tick(50)
    assert lab.only.state is State.DIAGNOSED
    for _ in range(20):
        lab.tick(30, alerts=None)
    assert lab.only.state is State.DIAGNOSED, "no answer of Prometheus' says that nothing fires"
    assert lab.only.waiting == "pause: kim"


def test_what_cleared_by_itself_is_no_old_news_when_it_comes_again(lab: Lab) -> None:
    paused_with(lab, "lustre_evicted")
    faults = lab.cluster.nodes["node3"].faults
    gone = faults.pop("lustre_evicted")
    lab.until(lab.over)
    lab.store.set_paused("")
    faults["lustre_evicted"] = gone
    lab.tick()
    assert len(lab.store.incidents()) == 2
    assert lab.actions.books == ["drain.yml"]


@pytest.mark.parametrize("fault_class", ["gpu_fallen_off", "fabric_manager_dead"])
def test_old_news_is_not_acted_on_again(lab: Lab, fault_class: str) -> None:
    """NVSentinel #450: what had been mended was replayed. A log line stays old; an alert counts again after 300 s."""
    fault = lab.cluster.fault("node3", fault_class)
    lab.until(lab.over)
    ended = lab.only.ended_at
    assert ended is not None
    old = finding(fault_class, node="node3", since=fault.since)

    def see(at: float) -> int:
        lab.cluster.now = ended + timedelta(seconds=at)
        lab.engine.tick(lab.cluster.world(), [old])
        return len(lab.store.incidents())

    assert see(2) == 1
    assert see(299) == 1
    assert see(300) == (1 if fault_class == "gpu_fallen_off" else 2)
    assert see(86400) == (1 if fault_class == "gpu_fallen_off" else 2)


def test_new_news_of_a_mended_node_count_at_once(lab: Lab) -> None:
    lab.cluster.fault("node3", "gpu_fallen_off")
    lab.until(lab.over)
    ended = lab.only.ended_at
    assert ended is not None
    lab.engine.tick(lab.cluster.world(), [finding("gpu_fallen_off", node="node3", since=ended)])
    assert len(lab.store.incidents()) == 2
    # Another node's past is its own.
    lab.engine.tick(
        lab.cluster.world(), [finding("lustre_evicted", node="node2", since=lab.cluster.now - timedelta(1))]
    )
    assert len(lab.store.incidents()) == 3


def test_a_stall_from_before_its_nodes_incident_ended_is_old_news(lab: Lab) -> None:
    lab.cluster.fault("node3", "gpu_fallen_off")
    stalled = finding("training_stalled", run=RUN, since=lab.cluster.now)
    lab.until(lab.over)
    lab.engine.tick(lab.cluster.world(), [stalled])
    assert len(lab.store.incidents()) == 1


@pytest.mark.parametrize("silent", ["scheduler_nodes", "alerts", "jobs", "runs"])
def test_a_silent_source_makes_it_wait_or_does_not_matter_and_breaks_nothing(lab: Lab, silent: str) -> None:
    lab.cluster.fault("node3", "gpu_fallen_off")
    for _ in range(10):
        lab.tick(2, **{silent: None})
    if silent == "scheduler_nodes":
        assert lab.actions.began == []
        assert "Slurm's state is not known" in lab.only.waiting
    else:
        assert lab.actions.began
    lab.until(lab.over)
    assert lab.only.state is State.CLOSED


def test_nothing_at_all_is_known(lab: Lab) -> None:
    lab.cluster.fault("node3", "gpu_fallen_off")
    for _ in range(20):
        lab.cluster.now += timedelta(seconds=2)
        lab.engine.tick(World(lab.cluster.now, None, {}, None, None, None), lab.cluster.findings())
    assert lab.actions.began == []
    assert lab.only.waiting


@pytest.mark.parametrize(
    ("fault_class", "results", "books", "state"),
    [
        # An act that failed is not worth the checks while there is more to try; the last one is.
        ("gpu_fallen_off", {"reboot.yml": [FAILED]}, f"drain reboot power_cycle checks {BACK}", State.CLOSED),
        ("node_hung", {"power_cycle.yml": [FAILED]}, "take_down power_cycle checks", State.ESCALATED),
        # One that left no result may have been done: the checks decide, and it is never done again.
        ("gpu_fallen_off", {"reboot.yml": [UNKNOWN]}, f"drain reboot checks power_cycle checks {BACK}", State.CLOSED),
        # The rest says what shall be: once more.
        ("lustre_evicted", {"drain.yml": [UNKNOWN]}, f"drain drain remount_lustre checks {BACK}", State.CLOSED),
        ("lustre_evicted", {"checks": [UNKNOWN]}, f"{MOUNT} checks {BACK}", State.CLOSED),
        ("lustre_evicted", {"return_to_service.yml": [UNKNOWN]}, f"{MOUNT} return_to_service {BACK}", State.CLOSED),
        ("lustre_evicted", {"resume_training.yml": [UNKNOWN]}, f"{MOUNT} {BACK} resume_training", State.CLOSED),
        ("training_stalled", {"end_job.yml": [UNKNOWN]}, "end_job end_job resume_training", State.CLOSED),
        # Twice without a result, or a clear no: a person's.
        ("lustre_evicted", {"drain.yml": [UNKNOWN, UNKNOWN]}, "drain drain isolate", State.ESCALATED),
        ("lustre_evicted", {"drain.yml": [FAILED], "isolate.yml": [FAILED]}, "drain isolate", State.ESCALATED),
        ("lustre_evicted", {"drain.yml": [FAILED], "isolate.yml": [UNKNOWN]}, "drain isolate isolate", State.ESCALATED),
        ("lustre_evicted", {"return_to_service.yml": [FAILED]}, f"{MOUNT} return_to_service", State.ESCALATED),
        ("lustre_evicted", {"checks": [UNKNOWN, UNKNOWN]}, f"{MOUNT} checks reboot checks {BACK}", State.CLOSED),
        # The node is proved well: it stays in service, and a person looks at the run.
        ("lustre_evicted", {"resume_training.yml": [FAILED]}, f"{MOUNT} {BACK}", State.ESCALATED),
        ("training_stalled", {"resume_training.yml": [FAILED]}, "end_job resume_training", State.ESCALATED),
        ("training_stalled", {"end_job.yml": [FAILED]}, "end_job", State.ESCALATED),
        ("gpu_overheat", {"limit_power.yml": [FAILED]}, "limit_power checks isolate", State.ESCALATED),
    ],
)  # fmt: skip
def test_steps_that_end_badly(
    lab: Lab, fault_class: str, results: dict[str, list[StepStatus]], books: str, state: State
) -> None:
    lab.actions.results = {book: list(each) for book, each in results.items()}
    lab.cluster.fault("node3", fault_class)
    lab.until(lambda: lab.over())
    assert [book.removesuffix(".yml") for book in lab.actions.books] == books.split()
    assert lab.only.state is state
    assert max(lab.actions.asked.values()) == 1
    if state is State.ESCALATED:
        text = lab.store.events(lab.only.id)[-1].text
        for book in dict.fromkeys(books.split()):
            assert book in text, "what was tried is told"
        in_service = results.keys() & {"resume_training.yml"} or fault_class == "training_stalled"
        isolated = results.get("isolate.yml") != [FAILED]
        assert (lab.cluster.nodes["node3"].states == {"IDLE"}) is bool(in_service or not isolated)


def test_a_step_that_hangs_is_only_what_its_poll_says(lab: Lab) -> None:
    lab.cluster.fault("node3", "gpu_fallen_off", ends_by={"power_cycle.yml"})
    lab.actions.hangs = {"reboot.yml"}
    lab.until(lambda: lab.actions.books[-1:] == ["reboot.yml"])
    for _ in range(100):
        lab.tick(60)
    assert lab.actions.books == ["drain.yml", "reboot.yml"], "not started again, not given up by a clock of its own"
    assert lab.only.state is State.ACTING
    # systemd ended it: nobody knows what it did.
    lab.actions.hangs, lab.actions.results = set(), {"reboot.yml": [UNKNOWN]}
    lab.until(lab.over)
    assert lab.only.state is State.CLOSED


def test_a_hung_step_holds_no_other_incident_up() -> None:
    with fast_directory() as directory:
        lab = Lab(directory, site_with(max_nodes_out=2))
        lab.actions.hangs = {"reboot.yml"}
        lab.cluster.fault("node3", "gpu_fallen_off")
        lab.until(lambda: lab.actions.books[-1:] == ["reboot.yml"])
        lab.cluster.fault("node2", "lustre_evicted")
        lab.until(lambda: lab.store.incidents()[-1].state is State.CLOSED, limit_s=60)
        assert lab.store.incidents()[0].state is State.ACTING


def test_a_run_that_could_not_go_on_since_another_node_broke_is_left_to_that_one(lab: Lab) -> None:
    lab.cluster.fault("node3", "gpu_fallen_off")
    lab.until(lambda: lab.actions.books[-1:] == ["resume_training.yml"])
    lab.actions.results = {"resume_training.yml": [FAILED]}
    lab.cluster.fault("node2", "lustre_evicted")
    lab.until(lab.over)
    assert [one.state for one in lab.store.incidents()] == [State.CLOSED, State.CLOSED]
    assert lab.cluster.restarts == 1


def test_an_engine_that_lost_its_memory_waits_its_minute_anew(lab: Lab) -> None:
    paused_with(lab, "lustre_evicted")
    lab.cluster.nodes["node3"].faults.clear()
    lab.tick(2)
    lab.tick(50)
    lab.restart()
    lab.tick(20)
    assert lab.only.state is State.DIAGNOSED
    lab.tick(60)
    assert lab.only.state is State.CLOSED


def test_a_class_that_this_version_does_not_know_waits(lab: Lab) -> None:
    lab.store.set_paused("kim")
    lab.cluster.fault("node3", "gpu_fallen_off")
    lab.tick()
    lab.store.save(replace(lab.only, fault_class="gpu_of_the_future"))
    lab.store.set_paused("")
    lab.cluster.nodes["node3"].faults.clear()
    lab.tick()
    assert "no procedure" in lab.only.waiting
    assert lab.actions.began == []


def test_the_attempts_of_a_restarted_engine_are_those_of_the_store(lab: Lab) -> None:
    lab.cluster.fault("node3", "gpu_fallen_off", ends_by=set())
    lab.until(lambda: lab.actions.books[-1:] == ["power_cycle.yml"])
    lab.restart()
    lab.until(lab.over)
    acts = [step for step in lab.store.steps(lab.only.id) if step.work.slot is Slot.ACT]
    assert [step.attempt for step in acts] == [1, 2]
    assert max(lab.actions.asked.values()) == 1

"""What the engine takes in: which finding opens an incident, joins one, replaces its class, or is refused."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
from recovery_fakes import RUN, START, Lab, fast_directory, finding


@pytest.fixture
def lab() -> Iterator[Lab]:
    with fast_directory() as directory:
        lab = Lab(directory)
        lab.tick()
        yield lab
        lab.store.close()


def test_a_run_is_explained_by_its_nodes_fault_and_not_ended_twice(lab: Lab) -> None:
    lab.cluster.fault("node3", "gpu_fallen_off")
    lab.cluster.fault("", "training_stalled")
    lab.until(lab.over)
    assert [one.fault_class for one in lab.store.incidents()] == ["gpu_fallen_off"]
    assert lab.cluster.restarts == 1


def test_a_run_waits_for_a_word_on_a_node_that_does_not_answer(lab: Lab) -> None:
    world = lab.cluster.world()
    silent = replace(world.nodes["node2"], reachable=False)
    world = replace(world, nodes={**world.nodes, "node2": silent})
    stalled = finding("training_stalled", run=RUN, since=lab.cluster.now - timedelta(hours=1))
    lab.engine.tick(world, [stalled])
    assert lab.store.incidents() == []
    # Not known is waited for too, though not for ever.
    world = replace(world, nodes={**world.nodes, "node2": replace(silent, reachable=None)})
    lab.engine.tick(world, [replace(stalled, signals=(replace(stalled.signals[0], since=world.time),))])
    assert lab.store.incidents() == []
    lab.engine.tick(world, [stalled])
    assert lab.only.fault_class == "training_stalled"


def test_signals_join_the_one_incident_of_their_node(lab: Lab) -> None:
    lab.cluster.fault("node3", "gpu_fallen_off")
    lab.tick()
    lab.cluster.fault("node3", "lustre_evicted", ends_by={"reboot.yml"})
    for _ in range(5):
        lab.tick()
    assert {signal.name for signal in lab.only.signals} == {"xid-79", "lustre-evicted"}
    assert lab.kinds().count("joined") == 1
    flood = [
        finding("gpu_fallen_off", node="node3", since=lab.cluster.now + timedelta(seconds=n)) for n in range(10000)
    ]
    lab.engine.tick(lab.cluster.world(), flood)
    assert len(lab.only.signals) <= 50


def test_a_more_basic_diagnosis_replaces_the_class_while_nothing_was_started(lab: Lab) -> None:
    lab.store.set_paused("kim")
    lab.cluster.fault("node3", "lustre_evicted", ends_by={"reboot.yml"})
    lab.tick()
    assert lab.only.fault_class == "lustre_evicted"
    lab.cluster.fault("node3", "gpu_fallen_off")
    lab.tick()
    assert (lab.only.fault_class, lab.only.reason) == ("gpu_fallen_off", "xid-79 on node3")
    lab.cluster.fault("node3", "fabric_manager_dead", ends_by={"reboot.yml"})
    lab.tick()
    assert lab.only.fault_class == "gpu_fallen_off"
    lab.store.set_paused("")
    lab.until(lab.over)
    assert lab.actions.books[:2] == ["drain.yml", "reboot.yml"]


def test_once_started_the_class_stays(lab: Lab) -> None:
    lab.cluster.fault("node3", "lustre_evicted", ends_by={"reboot.yml"})
    lab.tick()
    lab.cluster.fault("node3", "gpu_fallen_off")
    lab.until(lab.over)
    assert lab.store.incidents()[0].fault_class == "lustre_evicted"
    assert lab.actions.books[:4] == ["drain.yml", "remount_lustre.yml", "checks", "reboot.yml"]


def test_an_unknown_node_class_or_run_is_refused_and_nothing_is_done(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    since = lab.cluster.now
    strange = [
        replace(finding("gpu_fallen_off", node="node3", since=since), fault_class="gpu_melted"),
        finding("gpu_fallen_off", node="node99; reboot", since=since),
        finding("gpu_fallen_off", node="mgmt", since=since),
        finding("training_stalled", run="", since=since),
        finding("training_stalled", run="nobody-knows-it", since=since),
    ]
    for _ in range(3):
        lab.engine.tick(lab.cluster.world(), strange)
    assert lab.store.incidents() == []
    assert len(caplog.records) == 4, "each told once"


def test_a_storm_of_ten_thousand_findings_is_acted_on_once_and_in_time(lab: Lab) -> None:
    lab.cluster.fault("node3", "gpu_fallen_off")
    (one,) = lab.cluster.findings()
    flood = [one] * 5000 + [finding("gpu_fallen_off", node=f"x{n}", since=START) for n in range(5000)]
    begin = time.monotonic()
    lab.engine.tick(lab.cluster.world(), flood)
    assert time.monotonic() - begin < 5
    assert len(lab.actions.began) == 1
    assert len(lab.store.incidents()) == 1

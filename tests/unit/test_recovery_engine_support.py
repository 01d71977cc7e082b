"""A fault that nothing is known to help against: no act, a person at once, and nothing that looks like a repair."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from recovery_fakes import SEEN, START, Lab, fast_directory

from runbooks.engine.model import State


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    monkeypatch.setitem(SEEN, "gpu_support", ("kernel", "xid-154-SUPPORT"))
    with fast_directory() as directory:
        lab = Lab(directory, None)
        lab.tick()
        yield lab
        lab.store.close()


def test_it_is_isolated_and_escalated_while_its_job_goes_on_and_never_called_well(lab: Lab) -> None:
    lab.cluster.fault("node3", "gpu_support")
    lab.until(lambda: lab.only.state is State.ESCALATED, limit_s=60)
    assert lab.actions.books == ["isolate.yml"]
    assert lab.cluster.job_runs
    assert lab.cluster.restarts == 0
    assert lab.cluster.nodes["node3"].states == {"DRAIN", "IDLE"}
    text = lab.store.events(lab.only.id)[-1].text
    assert "nothing is known to help" in text
    assert "nvidia-bug-report.sh" in text


def test_a_persons_repair_is_checked_and_given_back(lab: Lab) -> None:
    lab.cluster.fault("node3", "gpu_support")
    lab.until(lambda: lab.only.state is State.ESCALATED, limit_s=60)
    del lab.cluster.nodes["node3"].faults["gpu_support"]
    lab.store.request_resolve(lab.only.id, "ada", START)
    lab.until(lambda: lab.only.state is State.CLOSED, limit_s=120)
    assert lab.actions.books == ["isolate.yml", "checks", "return_to_service.yml"]
    assert lab.cluster.nodes["node3"].states == {"IDLE"}

"""The registry and the choice of checks: whole, without collisions, and never an acceptance of nothing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from benchmarks.acceptance import suite
from medllm.checks import CHECKS
from medllm.errors import UserError
from medllm.verdict import Outcome
from tests.unit.acceptance_inputs import (
    CHECK_IDS,
    SUBJECT,
    change,
    check,
    command_of,
    good,
    good_results,
    site,
    thresholds,
)

SITE = site()
THRESHOLDS = thresholds(SITE)
GOOD = good_results(SITE)
TEXT = good(SITE)


def test_a_busy_queue_decides_nothing() -> None:
    host = SITE.mgmt
    item = check("scheduler")
    busy = TEXT["scheduler"]["sinfo"].replace("node2|idle", "node2|allocated")
    results = change(GOOD, host.name, command_of(SITE, host, item, "sinfo"), stdout=busy)
    results = change(
        results,
        host.name,
        command_of(SITE, host, item, "srun"),
        rc=1,
        stdout="",
        stderr="srun: error: Requested nodes are busy",
    )
    plan = suite.plan(SITE, THRESHOLDS, [item], SUBJECT)
    dossier, _ = suite.assess(plan, results, created=datetime.now(UTC), duration_s=1)
    assert (dossier.items[0].outcome, "node2 busy" in dossier.items[0].reason) == (Outcome.INCONCLUSIVE, True)


@pytest.mark.parametrize("identifier", ["scheduler", "job_memlock"])
def test_no_node_under_slurm_is_no_pass(identifier: str) -> None:
    """Zero of zero nodes answered would be equal."""
    nodes = [host.model_copy(update={"scheduler": "kubernetes"}) if host.scheduler else host for host in SITE.hosts]
    of = SITE.model_copy(update={"hosts": tuple(nodes)})
    plan = suite.plan(of, thresholds(of), [check(identifier)], SUBJECT)
    dossier, _ = suite.assess(plan, GOOD, created=datetime.now(UTC), duration_s=1)
    assert dossier.items[0].outcome is Outcome.NOT_RUN


def test_registry_is_whole() -> None:
    assert len(set(CHECK_IDS)) == len(CHECK_IDS)
    for item in CHECKS:
        assert not item.tags & set(CHECK_IDS), "--tag takes both"
        assert item.proves.endswith(".")
        assert item.clears
        assert item.attested or item.binaries or item.node_binaries, f"{item.id} stands on nothing"
        assert "node" in item.tags or item.where == "mgmt"


def plan_with(**options: object) -> Callable[[], object]:
    return lambda: suite.plan(SITE, THRESHOLDS, CHECKS, SUBJECT, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tags": ["nodes"]}, "no check has the tag 'nodes'"),
        ({"hosts": ["node9"]}, "no host 'node9'"),
        ({"tags": ["training"], "hosts": ["node1"]}, "no check is left"),
    ],
)
def test_a_selection_of_nothing_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan_with(**options)()


def test_selection_by_tag_and_by_id() -> None:
    node = suite.plan(SITE, THRESHOLDS, CHECKS, SUBJECT, tags=["node"])
    assert {item.where for item, _ in node.checks} == {"gpu_nodes"}
    one = suite.plan(SITE, THRESHOLDS, CHECKS, SUBJECT, tags=["nvlink"], hosts=["node2"])
    assert [(item.id, [host.name for host in one.hosts_of(item)]) for item, _ in one.checks] == [("nvlink", ["node2"])]

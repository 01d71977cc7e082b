"""What the engine sees: real answers of Prometheus, journald and Slurm; broken and hanging ones say nothing."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from medllm.site import load_site
from runbooks.engine import runs_view
from runbooks.engine.kernel_log import parse_kernel_log
from runbooks.engine.model import Job
from runbooks.engine.observe import Observer, Source
from runbooks.engine.policy import load_policy
from runbooks.engine.prometheus import Alerts, parse_alerts
from runbooks.engine.slurm_view import expand, parse_slurm

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data" / "recovery"
POLICY = load_policy(ROOT / "runbooks")


def test_firing_alerts_carry_node_gpu_and_the_time_they_became_active() -> None:
    found = parse_alerts(json.loads((DATA / "alerts.json").read_text())["data"]["result"])
    xid = next(one for one in found if one.name == "GpuXidCritical")
    assert (xid.kind, xid.node, xid.device) == ("alert", "node2", "3")
    assert xid.since == datetime.fromtimestamp(1795401808, UTC)
    assert {one.name for one in found} == {"GpuXidCritical", "RecoveryEngineDown", "Watchdog"}


def test_ten_thousand_alerts_are_one_a_node_and_quick() -> None:
    one = json.loads((DATA / "alerts.json").read_text())["data"]["result"][0]
    storm = [
        {
            "metric": {**one["metric"], "instance": f"i{number}", "node": f"node{number % 4 + 1}"},
            "value": [0, str(number)],
        }
        for number in range(10_000)
    ]
    begin = time.monotonic()
    found = parse_alerts(storm)
    assert time.monotonic() - begin < 1
    assert sorted(signal.node for signal in found) == ["node1", "node2", "node3", "node4"]
    assert {signal.since.timestamp() for signal in found} == {0, 1, 2, 3}, "each since it first became active"


@pytest.mark.parametrize(
    "broken", [None, [{}], [{"metric": {}}], [{"metric": {"alertname": "A"}, "value": []}], "text"]
)
def test_a_broken_answer_is_no_empty_one(broken: object) -> None:
    with pytest.raises(ValueError, match="no list of alerts"):
        parse_alerts(broken)


def test_the_kernel_log_gives_boot_id_and_known_messages() -> None:
    boot_id, signals = parse_kernel_log((DATA / "kernel_log.txt").read_text(), "node2", POLICY)
    assert boot_id == "0a78cfea-bfbd-4402-a563-0c69c4b0d47e"
    assert [(one.name, one.device) for one in signals] == [("xid-79", "0000:5d:00"), ("lustre-evicted", "")]
    assert signals[0].since.year == 2026
    assert POLICY.fault_classes_of(signals[0]) == ("gpu_fallen_off",)


def test_a_log_without_matches_is_an_answer_and_a_cut_one_is_none() -> None:
    assert parse_kernel_log("0a78cfea-bfbd-4402-a563-0c69c4b0d47e\n-- No entries --\n", "n", POLICY)[1] == ()
    with pytest.raises(ValueError, match="no boot id"):
        parse_kernel_log("", "n", POLICY)
    with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
        parse_kernel_log('0a78cfea-bfbd-4402-a563-0c69c4b0d47e\n{"MESSAGE": "NVRM', "n", POLICY)


def test_slurm_nodes_and_jobs_are_read_with_whole_reasons() -> None:
    nodes, jobs = parse_slurm((DATA / "scontrol.txt").read_text())
    assert nodes["node1"].states == {"IDLE"}
    assert not nodes["node1"].out
    assert nodes["node3"].states == {"IDLE", "DRAIN"}
    assert nodes["node3"].reason == "fan noise, ask Anna [rack 2]"
    assert nodes["node4"].reason == "medllm-recover:inc-20261123-0001"
    assert nodes["node4"].out
    job = jobs[0]
    assert (job.name, job.user, job.nodes) == ("medllm-books-11074-hung", "ops", ("node1", "node2"))
    assert job.started is not None
    assert job.started.tzinfo is UTC


def test_a_node_that_does_not_respond_is_out_whatever_else_it_is() -> None:
    text = (DATA / "scontrol.txt").read_text().replace("State=IDLE ", "State=IDLE* ", 1)
    nodes, _ = parse_slurm(text)
    assert nodes["node1"].states == {"IDLE", "NOT_RESPONDING"}
    assert nodes["node1"].out


@pytest.mark.parametrize("text", ["", "@@\n", "slurm_load_node error: Unable to contact slurm controller\n@@\n"])
def test_a_slurm_that_does_not_answer_is_not_an_empty_cluster(text: str) -> None:
    with pytest.raises(ValueError, match=r"cut off|no node"):
        parse_slurm(text)


def test_node_lists_expand_as_slurm_means_them() -> None:
    assert expand("node[1-3,7]") == ("node1", "node2", "node3", "node7")
    assert expand("gpu[008-010],mgmt") == ("gpu008", "gpu009", "gpu010", "mgmt")
    assert expand("(null)") == ()


LAUNCH = {
    "run": "r", "job": "7", "request": "/q", "script": "/s", "steps": 100, "submitted": 1000.0, "user": "ops",
    "restarts_before": 1,
}  # fmt: skip


def _frame(**parts: object) -> str:
    values = {"launch": LAUNCH, "metrics": {"step": 20, "time": 1100.0}, "begun": 2, "checkpoint": 20} | parts
    lines = ["@@ r"]
    for name in ("launch", "recovery", "metrics", "stop", "begun", "checkpoint", "exit", "exit_time"):
        value = values.get(name, "")
        text = json.dumps(value) if isinstance(value, dict) else str(value)
        lines.append(base64.b64encode(text.encode()).decode())
    return "\n".join([*lines, "@@ end"]) + "\n"


def _job(state: str) -> Job:
    return Job("7", "medllm-r", "ops", state, ("node1", "node2"))


@pytest.mark.parametrize(
    ("parts", "state", "ended"),
    [
        ({}, "RUNNING", None),
        ({"exit": "0"}, "COMPLETED", "completed"),
        ({"exit": "137"}, "FAILED", "failed"),
        ({"exit": "2"}, "FAILED", "refused"),
        ({}, "CANCELLED", "cancelled"),
        ({}, "NODE_FAIL", "lost"),
        ({"recovery": {"incident": "inc-1", "time": 1200.0}}, "CANCELLED", "lost"),
        ({"recovery": {"incident": "inc-1", "time": 1200.0}, "exit": "0"}, "COMPLETED", "lost"),
        ({"recovery": {"incident": "inc-0", "time": 900.0}, "exit": "0"}, "COMPLETED", "completed"),
    ],
)
def test_how_a_job_ended_says_whether_its_run_is_wanted(
    parts: dict[str, object], state: str, ended: str | None
) -> None:
    (run,) = runs_view.parse_runs(_frame(**parts), [_job(state)])
    assert run.ended == ended
    assert (run.step, run.checkpoint_step, run.restarts, run.finished) == (20, 20, 2, False)
    assert run.nodes == ("node1", "node2")


def test_runs_that_slurm_forgot_that_are_torn_or_cut_off() -> None:
    (run,) = runs_view.parse_runs(_frame(metrics='{"step": 2'), [])
    assert (run.ended, run.step, run.last_step_at) == ("lost", 0, None)
    assert runs_view.parse_runs(_frame(launch="{"), []) == ()
    with pytest.raises(ValueError, match="cut off"):
        runs_view.parse_runs(_frame().replace("@@ end\n", ""), [])


def test_a_source_that_hangs_costs_only_itself() -> None:
    release = threading.Event()
    slow, quick = Source("slow", 0.1, lambda: release.wait(60)), Source("quick", 0.1, lambda: 1)
    slow.start()
    quick.start()
    time.sleep(0.5)
    assert (slow.value(), quick.value()) == (None, 1)
    assert slow.age() > 0.4
    begin = time.monotonic()
    slow.stop()
    quick.stop()
    assert time.monotonic() - begin < 1
    release.set()


def test_what_is_too_old_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source("once", 60, lambda: 1)
    source._once()
    assert source.value() == 1
    monkeypatch.setattr("runbooks.engine.observe.STALE_S", 0.0)
    assert source.value() is None


def test_an_error_keeps_the_last_answer_until_it_is_old() -> None:
    answers = iter([1])
    source = Source("once", 60, lambda: next(answers))
    source._once()
    source._once()
    assert source.value() == 1


def test_a_prometheus_that_takes_the_connection_and_says_nothing_ends_at_its_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("runbooks.engine.prometheus.DEADLINE_S", 1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        alerts = Alerts(f"http://127.0.0.1:{server.getsockname()[1]}")
        begin = time.monotonic()
        with pytest.raises(OSError, match=r"timed out"):
            alerts.read()
        assert time.monotonic() - begin < 5


def test_a_site_that_nobody_answers_for_is_not_known_and_nothing_waits() -> None:
    site = load_site(ROOT / "inventory" / "lab")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        silent = tuple(host.model_copy(update={"address": "127.0.0.1", "port": port}) for host in site.hosts)
        observer = Observer(
            site.model_copy(update={"hosts": silent}), POLICY, None, prometheus_url=f"http://127.0.0.1:{port}"
        )
        observer.start()
        time.sleep(1)
        begin = time.monotonic()
        world = observer.world()
        observer.stop()
        assert time.monotonic() - begin < 1
    assert (world.alerts, world.scheduler_nodes, world.jobs, world.runs) == (None, None, None, None)
    assert {view.reachable for view in world.nodes.values()} == {None}

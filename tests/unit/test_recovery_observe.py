"""What the engine sees: real answers of Prometheus, journald and Slurm; broken and hanging ones say nothing."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from urllib3.exceptions import HTTPError

from medllm.remote import Result
from medllm.site import load_site
from medllm.site.model import Host
from runbooks.engine import runs_view
from runbooks.engine.kernel_log import parse_kernel_log
from runbooks.engine.model import Job
from runbooks.engine.observe import NodeProbe, Observer, Source
from runbooks.engine.policy import load_policy
from runbooks.engine.prometheus import Alerts, parse_alerts
from runbooks.engine.slurm_view import expand, parse_jobs, parse_slurm

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data" / "recovery"
POLICY = load_policy(ROOT / "runbooks")


def test_firing_alerts_carry_node_gpu_and_the_time_they_became_active() -> None:
    found = parse_alerts((DATA / "alerts.json").read_text())
    xid = next(one for one in found if one.name == "GpuXidCritical")
    assert (xid.kind, xid.node, xid.device, xid.detail) == ("alert", "node2", "3", "XID 79")
    assert xid.since == datetime(2026, 11, 23, 2, 43, 28, 105193, UTC)
    assert {one.name for one in found} == {"GpuXidCritical", "RecoveryEngineDown", "Watchdog"}, "pending ones are none"


def test_ten_thousand_alerts_are_one_a_node_and_quick() -> None:
    one = json.loads((DATA / "alerts.json").read_text())["data"]["alerts"][2]
    storm = [
        {
            **one,
            "labels": {**one["labels"], "instance": f"i{number}", "node": f"node{number % 4 + 1}"},
            "activeAt": f"2026-11-23T02:{number // 60 % 60:02d}:{number % 60:02d}.235485786Z",
        }
        for number in range(10_000)
    ]
    text = json.dumps({"status": "success", "data": {"alerts": storm}})
    begin = time.monotonic()
    found = parse_alerts(text)
    # One pass takes a fraction of a second; comparing each with each would take minutes.
    assert time.monotonic() - begin < 30
    assert sorted(signal.node for signal in found) == ["node1", "node2", "node3", "node4"]
    assert {signal.since.second for signal in found} == {0, 1, 2, 3}, "each since it first became active"


@pytest.mark.parametrize(
    "broken",
    [
        "", "null", "[]", "{}", '{"status": "error", "error": "no"}', '{"status": "success", "data": {"alerts": [{}]}}',
        '{"status": "success", "data": {"alerts": [{"state": "firing", "labels": {"alertname": "A"}}]}}',
    ],
)  # fmt: skip
def test_a_broken_answer_is_no_empty_one(broken: str) -> None:
    with pytest.raises(ValueError, match=r"."):
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
    with pytest.raises(ValueError, match="no record of its journal"):
        parse_kernel_log('0a78cfea-bfbd-4402-a563-0c69c4b0d47e\n{"MESSAGE": "NVRM', "n", POLICY)


def _journal(*lines: tuple[int, str]) -> str:
    records = [json.dumps({"__REALTIME_TIMESTAMP": str(at * 1_000_000), "MESSAGE": text}) for at, text in lines]
    return "\n".join([BOOT, "@1795402326.876329675", *records]) + "\n"


BOOT = "0a78cfea-bfbd-4402-a563-0c69c4b0d47e"
EVICTED = "LustreError: 167-0: m-MDT0000-mdc-ffff9d0f4a3c1000: This client was evicted by m-MDT0000; in progress"
CHANGED = "NVRM: Xid (PCI:0000:5d:00): 154, GPU recovery action changed from 0x{} to 0x{}"


@pytest.mark.parametrize(
    "said",
    [
        "Data from the specified boot (+0) is not available: No such boot ID in journal",
        "Failed to open system journal: Permission denied",
        "No journal files were found.",
    ],
)
def test_a_journal_that_is_not_there_is_not_a_quiet_one(said: str) -> None:
    """systemd 252 exits with 1 for both; AzNHC's XID check passes where there is no syslog."""
    with pytest.raises(ValueError, match="no record of its journal"):
        parse_kernel_log(f"{BOOT}\n@1795402326.9\n{said}\n", "n", POLICY)


def test_what_comes_again_in_the_same_boot_is_news() -> None:
    (signal,) = parse_kernel_log(_journal((1795400000, EVICTED), (1795402000, EVICTED)), "n", POLICY)[1]
    assert signal.since == datetime.fromtimestamp(1795402000, UTC)


def test_a_recovery_action_that_was_taken_back_asks_for_nothing() -> None:
    asked, back = (
        CHANGED.format("0 (None)", "1 (GPU Reset Required)"),
        CHANGED.format("1 (GPU Reset Required)", "0 (None)"),
    )
    (signal,) = parse_kernel_log(_journal((1, asked), (2, back)), "n", POLICY)[1]
    assert POLICY.fault_classes_of(signal) == ()
    (signal,) = parse_kernel_log(_journal((1, back), (2, asked)), "n", POLICY)[1]
    assert POLICY.fault_classes_of(signal) == ("gpu_needs_reset",)


def test_a_node_whose_clock_is_wrong_does_not_make_old_news_of_new_ones() -> None:
    now = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
    log = _journal((1795402320, EVICTED))
    (right,) = parse_kernel_log(log, "n", POLICY, datetime.fromtimestamp(1795402328, UTC))[1]
    assert right.since == datetime.fromtimestamp(1795402320, UTC), "seconds are the answer's way"
    (wrong,) = parse_kernel_log(log, "n", POLICY, now)[1]
    assert 6 < (now - wrong.since).total_seconds() < 7


def test_a_message_that_is_no_text_and_a_flood_of_an_applications_errors_hide_nothing() -> None:
    raw = '{"__REALTIME_TIMESTAMP": "1", "MESSAGE": [78, 86, 255]}\n{"__REALTIME_TIMESTAMP": "1", "MESSAGE": null}\n'
    assert parse_kernel_log(f"{BOOT}\n{raw}", "n", POLICY)[1] == ()
    pattern = re.compile(POLICY.kernel_pattern)
    for xid, wanted in ((13, False), (31, False), (45, False), (79, True), (4, True), (131, True), (154, True)):
        line = f"NVRM: Xid (PCI:0000:5d:00): {xid}, pid=1, name=python, text"
        assert (pattern.search(line) is not None) == wanted, xid


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


def test_a_jobs_name_speaks_for_nothing_but_itself() -> None:
    line = next(line for line in (DATA / "scontrol.txt").read_text().splitlines() if line.startswith("JobId="))
    name = "x JobState=RUNNING NodeList=node3 UserId=root(0)"
    (job,) = parse_jobs(re.sub(r"JobName=\S+", f"JobName={name}", line))
    (true,) = parse_jobs(line)
    assert (job.state, job.nodes, job.user, job.name) == (true.state, true.nodes, true.user, name)
    split = re.sub(r"JobName=\S+", "JobName=x\nJobId=1 JobName=y", line) + "\n" + line.replace("JobId=", "JobId=9", 1)
    assert len(parse_jobs(split)) == 2
    with pytest.raises(ValueError, match="no job"):
        parse_jobs("slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    assert parse_jobs("No jobs in the system\n") == ()


def test_a_job_that_ends_still_has_the_nodes_that_it_has_left() -> None:
    """Captured on Slurm 22.05.8 (shortened): its NodeList shrinks while it is COMPLETING."""
    line = (
        "JobId=16 JobName=medllm-drill UserId=ops(1000) GroupId=ops(1000) MCS_label=N/A Priority=4294901744 Nice=0 "
        "JobState=COMPLETING Reason=JobLaunchFailure StartTime=2026-11-23T03:18:12 EndTime=2026-11-23T03:19:12 "
        "ReqNodeList=(null) ExcNodeList=(null) NodeList=node[2-4] BatchHost=node1 NumNodes=3 Socks/Node=* "
        "JOB_GRES=gpu:h200:32   Nodes=node[1-2] CPU_IDs=0-1 Mem=3932 GRES=gpu:h200:8(IDX:0-7)   "
        "Nodes=node[3-4] CPU_IDs=0 Mem=3932 GRES=gpu:h200:8(IDX:0-7) MinCPUsNode=1 Features=(null) "
        "Command=/tmp/x Nodes=node9 CPU_IDs=0"
    )
    (job,) = parse_jobs(line)
    assert job.nodes == ("node1", "node2", "node3", "node4")
    (waiting,) = parse_jobs(re.sub(r"NodeList=\S+|Nodes=\S+ CPU_IDs", "NodeList=(null)", line))
    assert waiting.nodes == ()


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
        ({"exit": "143"}, "CANCELLED", "cancelled"),  # a person's scancel, and ranks that took too long
        ({"exit": "0"}, "TIMEOUT", "cancelled"),
        ({"exit": "2"}, "CANCELLED", "refused"),
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
    for bad in (
        {"launch": "{"}, {"metrics": {"step": None}}, {"metrics": {"step": 1, "time": "x"}}, {"stop": {"step": []}},
        {"metrics": {"step": 1, "time": 1e300}}, {"launch": LAUNCH | {"submitted": "inf"}},
    ):  # fmt: skip
        two = _frame(**bad).replace("@@ end\n", "") + _frame()
        assert len(runs_view.parse_runs(two, [])) == 1, f"{bad} costs only its own run"
    with pytest.raises(ValueError, match="cut off"):
        runs_view.parse_runs(_frame().replace("@@ end\n", ""), [])


def test_a_job_that_slurm_has_forgotten_is_looked_up_before_it_counts_as_lost() -> None:
    """A person's scancel leaves no last word when the job had not begun; five minutes later Slurm forgets it."""
    log = (DATA / "jobcomp.log").read_text()
    frame = _frame(launch=LAUNCH | {"job": "11"})
    (run,) = runs_view.parse_answer(f"{frame}No jobs in the system\n@@log\n{log}@@ done\n", ZoneInfo("Asia/Shanghai"))
    assert (run.ended, run.nodes) == ("cancelled", ("node1", "node2"))
    assert run.ended_at == datetime(2026, 11, 22, 18, 37, 43, tzinfo=UTC), "the log has local times"
    (run,) = runs_view.parse_answer(f"{frame}No jobs in the system\n@@log\n@@ done\n", UTC)
    assert (run.ended, run.ended_at) == ("lost", datetime.fromtimestamp(1100, UTC)), "its last sign of life"
    for cut in (frame, f"{frame}No jobs in the system\n", f"{frame}No jobs in the system\n@@log\n{log}"):
        with pytest.raises(ValueError, match="cut off"):
            runs_view.parse_answer(cut, UTC)


def test_a_job_in_the_queue_is_newer_than_what_the_log_says_of_it() -> None:
    jobs = (DATA / "scontrol.txt").read_text().partition("@@\n")[2]
    queued = re.sub(r"JobState=\S+", "JobState=RUNNING", re.sub(r"^JobId=\d+", "JobId=11", jobs.splitlines()[0]))
    text = f"{_frame(launch=LAUNCH | {'job': '11'})}{queued}\n@@log\n{(DATA / 'jobcomp.log').read_text()}@@ done\n"
    (run,) = runs_view.parse_answer(text, UTC)
    assert (run.job_state, run.ended, run.ended_at) == ("RUNNING", None, None)


@pytest.fixture
def mgmt(tmp_path: Path) -> Path:
    """What the runs' command finds on mgmt: a run, and an scontrol that knows no job of it."""
    run = tmp_path / "runs" / "books"
    (run / "logs").mkdir(parents=True)
    (run / "launch.json").write_text(json.dumps(LAUNCH | {"job": "11"}, indent=1))
    (run / "metrics.jsonl").write_text('{"step": 1, "time": 1.0}\n{"step": 30, "time": 1200.5}\n')
    (run / "events.jsonl").write_text('{"event": "start", "step": 0}\n{"event": "resume", "step": 20}\n')
    for step, complete in (("000020", True), ("000030", False)):
        (run / "checkpoints" / f"step-{step}").mkdir(parents=True)
        if complete:
            (run / "checkpoints" / f"step-{step}" / "COMPLETE").touch()
    (tmp_path / "runs" / "other").mkdir()
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho No jobs in the system\n")
    (tmp_path / "scontrol").chmod(0o755)
    return tmp_path


def _runs(mgmt: Path, monkeypatch: pytest.MonkeyPatch) -> subprocess.CompletedProcess[str]:
    monkeypatch.setattr(runs_view, "JOB_LOG", str(DATA / "jobcomp.log"))
    environment = {"PATH": f"{mgmt}:/usr/bin:/bin"}
    command = ["sh", "-c", runs_view.command(str(mgmt / "runs"))]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20, check=False)


def test_the_command_on_mgmt_tells_runs_jobs_and_forgotten_jobs(mgmt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run,) = runs_view.parse_answer(_runs(mgmt, monkeypatch).stdout, UTC)
    assert (run.run, run.step, run.checkpoint_step, run.restarts) == ("books", 30, 20, 2)
    assert (run.ended, run.job_state) == ("cancelled", "CANCELLED")


def test_without_slurm_or_without_storage_nothing_is_known_of_the_runs(
    mgmt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (mgmt / "scontrol").write_text("#!/bin/sh\necho slurm_load_jobs error >&2\nexit 1\n")
    assert _runs(mgmt, monkeypatch).returncode == 4
    (mgmt / "runs").rename(mgmt / "away")
    assert _runs(mgmt, monkeypatch).returncode == 3


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
    # One pass takes a fraction of a second; comparing each with each would take minutes.
    assert time.monotonic() - begin < 30
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
        alerts = Alerts(f"http://127.0.0.1:{server.getsockname()[1]}", "Watchdog")
        begin = time.monotonic()
        with pytest.raises(OSError, match=r"."):
            alerts.read()
        assert time.monotonic() - begin < 3


@pytest.fixture
def answering() -> Iterator[Callable[[Callable[[socket.socket], None]], str]]:
    """Starts a server whose every connection the given function handles; returns its URL."""
    servers = []

    def start(handle: Callable[[socket.socket], None]) -> str:
        server = socket.create_server(("127.0.0.1", 0))
        servers.append(server)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    threading.Thread(target=handle, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        return f"http://127.0.0.1:{server.getsockname()[1]}"

    yield start
    for server in servers:
        server.close()


def _tell(body: str) -> Callable[[socket.socket], None]:
    def handle(connection: socket.socket) -> None:
        with connection:
            connection.recv(4096)
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body.encode())

    return handle


@pytest.mark.parametrize("head", ["", "HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n"])
def test_a_prometheus_that_trickles_ends_at_the_deadline(
    head: str, answering: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte begins the timeouts of `requests` anew; the deadline is the whole request's."""
    monkeypatch.setattr("runbooks.engine.prometheus.DEADLINE_S", 1)

    def trickle(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.recv(4096)
            connection.sendall(head.encode())
            for _ in range(100):
                connection.sendall(b"H")
                time.sleep(0.2)

    alerts = Alerts(answering(trickle), "Watchdog")
    begin = time.monotonic()
    with pytest.raises((OSError, HTTPError)):
        alerts.read()
    assert time.monotonic() - begin < 3


def test_alerts_are_read_again_and_again(answering: Callable[..., str]) -> None:
    alerts = Alerts(answering(_tell((DATA / "alerts.json").read_text())), "Watchdog")
    for _ in range(3):
        assert len(alerts.read()) == 3


def test_that_nothing_fires_means_nothing_without_the_alert_that_always_does(answering: Callable[..., str]) -> None:
    """Rules that were not loaded, or are not evaluated: Prometheus answers, and its list is empty."""
    alerts = Alerts(answering(_tell('{"status": "success", "data": {"alerts": []}}')), "Watchdog")
    with pytest.raises(ValueError, match="evaluates no rules"):
        alerts.read()


HOST = Host(name="node1", address="127.0.0.1", groups=("gpu_nodes",))


def _result(out: str = "", *, rc: int | None = 0, error: str | None = None) -> Result:
    return Result("node1", "c", rc, out, "", datetime.now(UTC), 0.1, error)


def _probe(monkeypatch: pytest.MonkeyPatch, result: Result, *, port: int = 1, power: str = "On") -> NodeProbe:
    monkeypatch.setattr("runbooks.engine.observe.UNREACHABLE_S", 0.0)
    probe = NodeProbe(HOST, POLICY, lambda _: power, port)
    monkeypatch.setattr(probe._remote, "run", lambda *_, **__: result)
    return probe


def test_a_silent_node_has_its_bmc_asked_and_one_that_answers_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    view = _probe(monkeypatch, _result(error="timed out", rc=None), power="Off").read()
    assert (view.reachable, view.power) == (False, "Off")
    view = _probe(monkeypatch, _result(f"{BOOT}\n@{time.time()}\n"), power="Off").read()
    assert (view.reachable, view.power, view.boot_id) == (True, None, BOOT)


def test_a_node_whose_ssh_server_alone_is_ill_is_not_taken_for_a_hung_one(
    monkeypatch: pytest.MonkeyPatch, answering: Callable[..., str]
) -> None:
    """Power-cycling it would end a healthy job."""
    monkeypatch.setattr("runbooks.engine.observe.WITNESS_DEADLINE_S", 0.5)
    port = int(answering(_tell("up")).rpartition(":")[2])
    silent = _result(error="unreachable: it takes the connection and then says nothing", rc=None)
    assert _probe(monkeypatch, silent, port=port).read().reachable is None
    # A frozen machine's kernel takes connections too; it never says a word.
    mute = int(answering(lambda connection: time.sleep(5)).rpartition(":")[2])
    assert _probe(monkeypatch, silent, port=mute).read().reachable is False


def test_a_node_that_answers_without_a_readable_journal_has_no_boot_id(monkeypatch: pytest.MonkeyPatch) -> None:
    for result in (_result("", rc=1), _result(f"{BOOT}\nNo journal files were found.\n")):
        view = _probe(monkeypatch, result).read()
        assert (view.reachable, view.boot_id, view.events) == (True, None, ())


def test_twelve_seconds_of_silence_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = _probe(monkeypatch, _result(error="timed out", rc=None))
    monkeypatch.setattr("runbooks.engine.observe.UNREACHABLE_S", 12.0)
    view = probe.read()
    assert (view.reachable, view.power) == (None, None)
    assert view.unreachable_since is not None


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
        # One pass takes a fraction of a second; comparing each with each would take minutes.
    assert time.monotonic() - begin < 30
    assert (world.alerts, world.scheduler_nodes, world.jobs, world.runs) == (None, None, None, None)
    assert {view.reachable for view in world.nodes.values()} == {None}

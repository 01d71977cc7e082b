"""What observations mean, and what they do not mean."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medllm.errors import UserError
from runbooks.engine.diagnose import diagnose
from runbooks.engine.model import Job, NodeView, RunView, Signal, World
from runbooks.engine.policy import load_policy

ROOT = Path(__file__).parents[2]
POLICY = load_policy(ROOT / "runbooks")
NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
THEN = NOW - timedelta(minutes=5)
WELL = NodeView("node1", True, boot_id="b")
# NVIDIA's XID documentation, "Understanding XID messages".
XID = "NVRM: Xid (PCI:0000:5d:00): {}, pid='<unknown>', name=<unknown>, text"


def world(**parts: object) -> World:
    empty = World(NOW, (), {"node1": WELL}, {}, (), ())
    return replace(empty, **parts)  # type: ignore[arg-type]


def classes(seen: World) -> dict[str, str]:
    return {one.fault_class: one.node or one.run for one in diagnose(seen, POLICY, stall_s=60)}


def kernel(*lines: str) -> World:
    signals = (POLICY.signal_of(line, "node1", THEN) for line in lines)
    return world(nodes={"node1": replace(WELL, events=tuple(one for one in signals if one))})


def alert(name: str, node: str = "node1", run: str = "") -> Signal:
    return Signal("alert", name, THEN, node=node, run=run)


@pytest.mark.parametrize(
    ("xid", "expected"),
    [
        (79, "gpu_fallen_off"), (48, "gpu_needs_reset"), (64, "gpu_needs_reset"), (74, "gpu_needs_reset"),
        (95, "gpu_needs_reset"), (109, "gpu_needs_reset"), (119, "gpu_needs_reset"), (120, "gpu_needs_reset"),
        (140, "gpu_needs_reset"), (13, ""), (31, ""), (43, ""), (63, ""), (92, ""), (94, ""), (999, ""),
        (45, ""),  # teardown noise: NVSentinel PR #1629 flagged 77 healthy nodes
    ],
)  # fmt: skip
def test_each_xid_means_what_the_catalogue_says(xid: int, expected: str) -> None:
    assert classes(kernel(XID.format(xid))) == ({expected: "node1"} if expected else {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)", "gpu_fallen_off"),
        ("GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)", "gpu_needs_reset"),
        ("GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)", ""),
        ("GPU recovery action changed from 0x0 (None) to 0x2 (OS Reboot)", "gpu_fallen_off"),
        ("GPU recovery action changed from 0x0 (None) to 0x1 (PF FLR)", "gpu_needs_reset"),
        ("GPU recovery action changed from 0x0 (None) to 0x9 (Something New)", "gpu_support"),
        ("no action in it", ""),
    ],
)
def test_xid_154_means_what_its_text_carries(text: str, expected: str) -> None:
    assert classes(kernel(f"NVRM: Xid (PCI:0000:9b:00): 154, {text}")) == ({expected: "node1"} if expected else {})


def test_a_fatal_sxid_is_the_fabrics_and_other_lines_are_nothing() -> None:
    fatal = "nvidia-nvswitch0: SXid (PCI:0000:0d:00.0): 20034, Fatal, Link 28 LTSSM Fault Up"
    assert classes(kernel(fatal)) == {"fabric_manager_dead": "node1"}
    assert classes(kernel(fatal.replace("Fatal", "Non-fatal"), "usb 1-1: new device")) == {}


def test_log_and_alerts_of_one_fault_are_one_finding_with_the_device_of_the_log() -> None:
    seen = replace(kernel(XID.format(79)), alerts=(alert("GpuXidCritical"), alert("GpuMissing")))
    (finding,) = diagnose(seen, POLICY, stall_s=60)
    assert finding.device == "0000:5d:00"
    assert {signal.name for signal in finding.signals} == {"xid-79", "GpuXidCritical", "GpuMissing"}


def test_the_sticky_gauge_alone_is_no_fault_beside_a_clean_log() -> None:
    """dcgm-exporter#500: the gauge keeps the last XID, so after a reboot the alert may still fire for a moment."""
    assert classes(world(alerts=(alert("GpuXidCritical"),))) == {}


@pytest.mark.parametrize(
    ("detail", "expected"),
    [("XID 79", "gpu_fallen_off"), ("XID 48", "gpu_needs_reset"), ("XID 13", ""), ("XID 999", ""), ("", "")],
)
def test_the_gauge_counts_where_the_log_cannot_be_read(detail: str, expected: str) -> None:
    unread = {"node1": NodeView("node1", True)}
    seen = world(nodes=unread, alerts=(replace(alert("GpuXidCritical"), detail=detail),))
    assert classes(seen) == ({expected: "node1"} if expected else {})
    assert "gpu_fallen_off" in classes(world(nodes=unread, alerts=(alert("GpuMissing"),)))


def test_what_the_log_said_long_ago_is_no_fault_of_today() -> None:
    """A GPU that was reset by hand last week: the line stays as long as the boot."""
    for xid, expected in ((48, {}), (79, {"gpu_fallen_off": "node1"})):
        (event,) = kernel(XID.format(xid)).nodes["node1"].events
        old = replace(event, since=NOW - timedelta(days=7))
        assert classes(world(nodes={"node1": replace(WELL, events=(old,))})) == expected


def test_a_run_that_stands_still_again_right_after_it_was_mended_is_news() -> None:
    """Since when it counts as stalled, not since the step that ended the incident before."""
    (finding,) = diagnose(world(runs=(RUN,), jobs=(JOB,)), POLICY, stall_s=60)
    assert finding.signals[0].since == THEN + timedelta(seconds=60)
    (first,) = diagnose(world(runs=(replace(RUN, ended="lost"),)), POLICY, stall_s=60)
    (later,) = diagnose(
        replace(world(runs=(replace(RUN, ended="lost"),)), time=NOW + timedelta(minutes=1)), POLICY, stall_s=60
    )
    assert first == later, "one fault, however often it is looked at"


def test_alerts_find_what_no_log_says() -> None:
    seen = world(alerts=tuple(alert(name) for name in ("FabricManagerDown", "LustreUnavailable", "GpuTemperatureHigh")))
    assert set(classes(seen)) == {"fabric_manager_dead", "lustre_evicted", "gpu_overheat"}


def test_an_unknown_alert_a_foreign_node_and_an_exporter_that_is_down_are_no_faults_of_a_node() -> None:
    assert classes(world(alerts=(alert("MadeUp"), alert("GpuMissing", node="mgmt"), alert("NodeDown")))) == {}


@pytest.mark.parametrize(
    ("power", "expected"), [("Off", {"node_gone": "node1"}), ("On", {"node_hung": "node1"}), (None, {})]
)
def test_only_the_bmc_tells_gone_from_hung_and_without_its_word_nothing_is_found(power: str, expected: object) -> None:
    view = NodeView("node1", False, unreachable_since=THEN, power=power)  # type: ignore[arg-type]
    seen = world(nodes={"node1": view}, alerts=(alert("NodeDown"), alert("LustreUnavailable")))
    assert classes(seen) == expected


def test_a_node_of_which_nothing_is_known_has_no_fault() -> None:
    seen = world(nodes={"node1": NodeView("node1", None)}, alerts=(alert("GpuMissing"),))
    assert classes(seen) == {}


RUN = RunView("r", 100, "7", "RUNNING", None, ("node1",), 20, THEN, 20, 1, finished=False)
JOB = Job("7", "medllm-r", "ops", "RUNNING", ("node1",), started=NOW - timedelta(hours=1))


@pytest.mark.parametrize(
    ("run", "job", "found"),
    [
        (RUN, JOB, True),
        (replace(RUN, last_step_at=NOW - timedelta(seconds=59)), JOB, False),
        (RUN, replace(JOB, started=NOW - timedelta(seconds=30)), False),  # it starts anew
        (RUN, replace(JOB, state="PENDING"), False),
        (RUN, None, False),
        (replace(RUN, finished=True), JOB, False),
        (replace(RUN, ended="failed"), None, True),
        (replace(RUN, ended="lost"), None, True),
        # The engine's first start finds all runs that ever failed.
        (replace(RUN, ended="failed", ended_at=NOW - timedelta(days=7)), None, False),
        (replace(RUN, ended="lost", last_step_at=None), None, False),
        (replace(RUN, ended="cancelled"), None, False),
        (replace(RUN, ended="completed"), None, False),
        (replace(RUN, ended="refused"), None, False),
    ],
)
def test_a_run_is_down_when_it_stands_still_or_ended_against_its_owners_will(
    run: RunView, job: Job | None, found: bool
) -> None:
    seen = world(runs=(run,), jobs=(job,) if job else ())
    assert classes(seen) == ({"training_stalled": "r"} if found else {})


def test_what_could_not_be_read_proves_nothing() -> None:
    assert classes(world(alerts=None, scheduler_nodes=None, jobs=None, runs=None)) == {}


@given(st.text(max_size=300))
def test_no_line_of_a_kernel_is_too_strange(line: str) -> None:
    for text in (line, f"NVRM: Xid (PCI:0000:18:00): 154, recovery action changed from {line}", XID.format(79) + line):
        signal = POLICY.signal_of(text, "node1", NOW)
        if signal is not None:
            POLICY.fault_classes_of(signal)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("action: RESTART_BM", "action: EXPLODE", "xids.79.action"),
        ("  RESET_GPU: gpu_needs_reset\n", "", "no class for RESET_GPU"),
        ("catalogue:", "catalog:", "catalog"),
        ("SXid ", "SXid ((", "messages.0.pattern"),
        ("  RESET_GPU: 3600\n", "", "no time for RESET_GPU"),
        ("valid_s: 900", "valid_s: -1", "messages.1.valid_s"),
    ],
)
def test_a_bad_policy_is_refused_with_its_place(tmp_path: Path, old: str, new: str, says: str) -> None:
    text = (ROOT / "runbooks" / "policy.yml").read_text()
    assert old in text
    (tmp_path / "policy.yml").write_text(text.replace(old, new))
    with pytest.raises(UserError) as caught:
        load_policy(tmp_path)
    assert says in str(caught.value)
    assert "policy.yml" in str(caught.value)


def test_a_page_whose_front_matter_is_broken_is_refused(tmp_path: Path) -> None:
    shutil.copy(ROOT / "runbooks" / "policy.yml", tmp_path)
    for text in ("---\nfault_classes: gpu\n---\n# Alert\n", "# Alert\n", "---\nfault_classes: []\n# Alert\n", ""):
        (tmp_path / "Alert.md").write_text(text)
        with pytest.raises(UserError, match=r"Alert\.md.*front matter"):
            load_policy(tmp_path)

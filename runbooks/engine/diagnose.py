"""From observations to faults: one pure function. What could not be observed proves nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

from runbooks.engine.model import Finding, Job, NodeView, RunView, Signal, World
from runbooks.engine.policy import Policy

STALLED = "training_stalled"


def diagnose(world: World, policy: Policy, *, stall_s: float) -> list[Finding]:
    """The faults that the newest observations speak for, at most one for a node and class, one for a run.

    `stall_s`: a running job without a training step for so long, in seconds, is stalled.

    A node that does not answer gets no other finding than that: whatever else is seen of it follows. It is `gone` or
    `hung` by its BMC's word alone; without that word nothing is found, since a cut cable looks the same from here and a
    power cycle would end a healthy job.
    """
    found: list[Finding] = []
    alerts = _by_node(policy, world.alerts or ())
    for view in world.nodes.values():
        if view.reachable is False:
            found += _unreachable(view, [one for one in world.alerts or () if one.node == view.name])
        elif view.reachable:
            found += _node(view, alerts.get(view.name, ()), policy, world.time)
    for run in world.runs or ():
        found += _run(run, world, policy, stall_s)
    return found


def _by_node(policy: Policy, alerts: Iterable[Signal]) -> dict[str, list[Signal]]:
    by_node: dict[str, list[Signal]] = defaultdict(list)
    for signal in alerts:
        if signal.node and policy.fault_classes_of(signal):
            by_node[signal.node].append(signal)
    return by_node


def _unreachable(view: NodeView, alerts: list[Signal]) -> list[Finding]:
    if view.unreachable_since is None or view.power is None:
        return []
    gone = view.power == "Off"
    text = "its BMC says that it is off" if gone else "it has power and does not answer over SSH"
    signal = Signal("unreachable", "unreachable", view.unreachable_since, node=view.name, detail=text)
    down = [one for one in alerts if one.name == "NodeDown"]
    return [Finding("node_gone" if gone else "node_hung", view.name, "", "", (signal, *down), text)]


def _node(view: NodeView, alerts: Iterable[Signal], policy: Policy, now: datetime) -> list[Finding]:
    """Kernel messages and alerts of a node that answers, joined by fault class.

    The XID gauge is sticky (dcgm-exporter#500): beside this boot's kernel log it proves nothing new, so an XID alert
    counts for the classes that the log shows; where the log can't be read, for that of the XID it carries.
    `NodeDown` of a node that answers is its exporter's fault.
    """
    grouped: dict[str, list[Signal]] = defaultdict(list)
    for event in view.events:
        for fault_class in policy.fault_classes_of(event) if policy.is_valid(event, now) else ():
            grouped[fault_class].append(event)
    for alert in alerts:
        classes = policy.fault_classes_of(alert)
        if alert.name in policy.sticky_alerts:
            code = alert.detail.removeprefix("XID ")
            carried = policy.class_of_xid(int(code)) if code.isdigit() else ""
            read = view.boot_id is not None
            classes = tuple(one for one in classes if (one in grouped if read else one == carried))
        for fault_class in classes:
            if fault_class not in ("node_gone", "node_hung"):
                grouped[fault_class].append(alert)
    return [_finding(fault_class, view.name, signals) for fault_class, signals in grouped.items()]


def _finding(fault_class: str, node: str, signals: Sequence[Signal]) -> Finding:
    told = (one.name + (f" ({one.detail})" if one.kind == "kernel" else "") for one in signals)
    device = next((one.device for one in signals if one.device), "")
    return Finding(fault_class, node, device, "", tuple(signals), "; ".join(dict.fromkeys(told))[:500])


def _run(run: RunView, world: World, policy: Policy, stall_s: float) -> list[Finding]:
    if run.finished:
        return []
    if run.ended in ("failed", "lost"):
        # Not now: each look would find another fault.
        at = run.ended_at or run.last_step_at or datetime.fromtimestamp(0, UTC)
        if world.time - at > timedelta(seconds=policy.ended_valid_s):
            return []
        text = f"its job {run.job or '?'} {'failed' if run.ended == 'failed' else 'ended without a word'}"
        signal = Signal("job", f"job-{run.ended}", at, run=run.run, detail=text)
        return [Finding(STALLED, "", "", run.run, (signal,), text)]
    job = next((one for one in world.jobs or () if one.id == run.job), None)
    since = _silent_since(run, job)
    if job is None or job.state != "RUNNING" or since is None or world.time - since <= timedelta(seconds=stall_s):
        return []
    text = f"no step for {(world.time - since).total_seconds():.0f} s, its job {job.id} runs"
    alerts = [one for one in world.alerts or () if one.run == run.run and one.name == "TrainerStalled"]
    # Since when it counts as stalled: its last step may have been the one that ended the incident before.
    signal = Signal("heartbeat", "stalled", since + timedelta(seconds=stall_s), run=run.run, detail=text)
    return [Finding(STALLED, "", "", run.run, (signal, *alerts), text)]


def _silent_since(run: RunView, job: Job | None) -> datetime | None:
    """Since when nothing is heard: a job that starts anew has its own time to make its first step."""
    times = [at for at in (run.last_step_at, job.started if job else None) if at is not None]
    return max(times) if times else None

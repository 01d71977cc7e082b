"""What holds an incident back. Pure functions; each answers with a sentence for people, or "" when nothing holds.

Counts are absolute: a share means little on four nodes (NVSentinel PR #1852 tells small clusters to switch its breaker
off for that reason). What is not known holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal

from medllm.site.model import Recovery
from runbooks.engine.model import Incident, SchedulerNode, Slot, State, Step, StepStatus, World

REASON = "medllm-recover:"
# What Slurm writes itself; the same two as in roles/slurm/files/slurm-ready and plugins/action/slurm_node.py. Any other
# reason is a person's: NHC #134 put a node back that an administrator had drained.
SLURMS_OWN = ("Not responding", "Node unexpectedly rebooted")
DAY = timedelta(days=1)
# Slurm is asked every few seconds; what was done to a node may be missing from the answer for so long.
LAG = timedelta(seconds=60)
# These give back what an incident took. They go on in a storm and in a pause (NVSentinel PR #1852: its breaker also
# stopped nodes from coming back).
GIVES_BACK = frozenset({Slot.REVALIDATE, Slot.RETURN, Slot.RESUME})

# How the sentence ends that says that a node is a person's.
TAKEN = ": it belongs to the person who took it"

Holder = Literal["nobody", "ours", "slurm", "incident", "person"]


def holder(node: SchedulerNode, incident: str) -> Holder:
    """Who took a node out of service: this incident, another one, Slurm by itself, or a person."""
    if node.states & {"MAINT", "REBOOT", "REBOOT_REQUESTED", "REBOOT_ISSUED"}:
        return "person"
    if node.reason.split(" ")[0] == REASON + incident:
        return "ours" if node.out else "nobody"
    if not node.states & {"DRAIN", "DRAINED", "DRAINING", "DOWN", "FAIL", "FAILING"}:
        # Not responding, or unknown yet, without anybody having set it so.
        return "slurm" if node.out else "nobody"
    if node.reason.startswith(REASON):
        return "incident"
    drained = node.states & {"DRAIN", "DRAINED", "DRAINING"}
    return "slurm" if node.reason.startswith(SLURMS_OWN) and not drained else "person"


def ownership(world: World, incident: Incident) -> str:
    """A node that a person took out is left alone for ever, and so is one of which Slurm says nothing."""
    if not incident.node:
        return ""
    if world.scheduler_nodes is None:
        return "guard: Slurm's state is not known"
    known = world.scheduler_nodes.get(incident.node)
    if known is None:
        return f"guard: Slurm does not know {incident.node}"
    match holder(known, incident.id):
        case "person":
            return f"guard: {incident.node} is out ({known.reason or 'no reason given'}){TAKEN}"
        case "incident":
            return f"guard: {incident.node} is still held by an earlier incident ({known.reason})"
        case _:
            return ""


def has_node(incident: Incident, steps: Sequence[Step], now: datetime) -> bool:
    """Whether an incident has taken its node out and not given it back, as far as Slurm may not show it yet.

    An escalated one is known to Slurm; only in its first minute its own word counts too.
    """
    if not incident.node or incident.state is State.CLOSED:
        return False
    if incident.state is State.ESCALATED and incident.ended_at is not None and now - incident.ended_at > LAG:
        return False
    has = False
    for step in steps:
        if step.work.slot in (Slot.QUIESCE, Slot.ISOLATE):
            has = has or not step.refused
        elif step.work.slot is Slot.RETURN and step.status is StepStatus.OK:
            has = False
    return has


def nodes_out(
    world: World, incident: Incident, others: Sequence[Incident], steps: Mapping[str, Sequence[Step]], limit: int
) -> str:
    """No node is taken out while `limit` others are out, for whatever reason and by whomever.

    Nodes that broke together, where none was acted on, do not count against each other: they would wait for each other
    for ever, and the first one to be mended makes room for the next.
    """
    if world.scheduler_nodes is None:
        return "guard: Slurm's state is not known"
    ours = {one.node: one for one in others if has_node(one, steps[one.id], world.time)}
    untouched = {one.node: one for one in others if one.node and not steps[one.id] and one.state is not State.CLOSED}
    out = set(ours)
    for name, node in world.scheduler_nodes.items():
        by_itself = name in untouched and holder(node, untouched[name].id) == "slurm"
        if node.out and not by_itself:
            out.add(name)
    out.discard(incident.node)
    if len(out) < limit:
        return ""
    return f"guard: out of service already: {', '.join(sorted(out))} (max_nodes_out {limit})"


def attempts(
    incident: Incident,
    history: Iterable[Incident],
    steps: Mapping[str, Sequence[Step]],
    *,
    limit: int,
    now: datetime,
    besides: str = "",
) -> str:
    """No further attempt once `limit` began within a day for this node (run) and class (NVSentinel #1543: no cap).

    Args:
        besides: the id of the step that is asked about, which may be stored already.
    """
    began = 0
    for one in history:
        if (one.fault_class, one.node) != (incident.fault_class, incident.node):
            continue
        if not incident.node and one.run != incident.run:
            continue
        taken = [step for step in steps[one.id] if step.id != besides and step.planned_at > now - DAY]
        acts = [step for step in taken if step.work.slot is Slot.ACT]
        # Where nothing is acted on, ending the job is the attempt.
        began += len(acts or ([] if one.node else [step for step in taken if step.work.slot is Slot.QUIESCE]))
    if began < limit:
        return ""
    place = incident.node or f"run {incident.run}"
    return f"guard: {incident.fault_class} of {place} was acted on {began} times in a day (attempts_per_day {limit})"


def storm_until(history: Iterable[Incident], recovery: Recovery) -> datetime | None:
    """When the cool-down of the last storm ends; None: there was none. More than `storm_incidents` that open within
    `storm_window_s` are a storm.
    """
    opened = sorted(one.opened_at for one in history)
    window = timedelta(seconds=recovery.storm_window_s)
    last = None
    for first, at in zip(opened, opened[recovery.storm_incidents :], strict=False):
        if at - first <= window:
            last = at
    return last + timedelta(seconds=recovery.storm_cooldown_s) if last else None


def storm(history: Iterable[Incident], recovery: Recovery, now: datetime) -> str:
    """Nothing new begins while a storm of incidents cools down (medik8s: stormCooldownDuration)."""
    until = storm_until(history, recovery)
    if until is None or now >= until:
        return ""
    return f"guard: a storm of more than {recovery.storm_incidents} incidents; nothing new until {until:%H:%M:%S} UTC"

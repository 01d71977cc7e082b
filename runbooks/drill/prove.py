"""From what was seen before, during and after a fault to proofs and figures. Pure: nothing here asks a machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from runbooks.drill.injector import Injector, Target
from runbooks.drill.look import Look, NodeLook, Resume, Training
from runbooks.drill.told import Told, ToldStep
from runbooks.drill.watch import Outage, Watch
from runbooks.engine.model import Slot, State, StepStatus

Figures = dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Proof:
    """One thing that must hold, whether it does, and what was seen."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Seen:
    """All that one drill saw. `told`: the engine's incidents since the fault; `apart`: nodes of another drill that
    runs at the same time, with "" when that one has the run too; `alerts`: those that speak for the fault class.
    """

    injector: Injector
    target: Target
    fault_at: datetime
    before: Look
    nodes_before: Mapping[str, NodeLook]
    after: Look
    nodes_after: Mapping[str, NodeLook]
    watch: Watch
    told: tuple[Told, ...]
    alerts: frozenset[str]
    apart: frozenset[str] = frozenset()

    @property
    def incident(self) -> Told | None:
        """The one that this fault must have opened; the oldest, should there be several."""
        return next(iter(self.incidents), None)

    @property
    def incidents(self) -> tuple[Told, ...]:
        """Those of this drill for which something was done, or is still to be done; oldest first."""
        return tuple(told for told in self.told if told.node not in self.apart and not told.set_aside)

    @property
    def resume(self) -> Resume | None:
        """The first time since the fault that the run went on."""
        return next((resume for resume in self.after.training.resumes if resume.at > self.fault_at), None)


def prove(seen: Seen) -> list[Proof]:
    """What must hold after a drill that the engine ends by itself."""
    return [
        _one_incident(seen, State.CLOSED),
        _steps(seen),
        _ranks(seen),
        _boots(seen),
        _restarts(seen),
        _resumed_step(seen),
        _trains(seen),
        _drained(seen),
        _others(seen),
    ]


_LIMITED = [(Slot.ACT, StepStatus.OK), (Slot.REVALIDATE, StepStatus.OK), (Slot.RETURN, StepStatus.OK)]
_GIVEN_UP = [(Slot.ACT, StepStatus.OK), (Slot.REVALIDATE, StepStatus.FAILED), (Slot.ISOLATE, StepStatus.OK)]
_GIVEN_BACK = [(Slot.REVALIDATE, StepStatus.OK), (Slot.RETURN, StepStatus.OK)]


def prove_settled(seen: Seen, limits: Sequence[float], lowered_w: int, declared_w: int) -> list[Proof]:
    """What must hold after a GPU was too hot, and training went on. `limits`: the GPU's power limit as it was seen,
    oldest first, in W; it must be lowered to `lowered_w`, and in the end be `declared_w` again.

    Where less power helped, no node was out; where only a repair did, the node was isolated and handed over.
    """
    told = seen.incident
    given_up = seen.injector.ends == "escalated"
    outcomes = [(step.slot, step.status) for step in told.steps] if told else []
    order = iter(outcomes)
    proofs = [
        _one_incident(seen, State.CLOSED),
        Proof(
            "steps",
            all(step in order for step in (_GIVEN_UP + _GIVEN_BACK if given_up else _LIMITED))
            and given_up == any(slot is Slot.ISOLATE for slot, _ in outcomes),
            _say_steps(told.steps if told else ()),
        ),
        Proof(
            "power_limited",
            lowered_w in limits and limits[-1] == declared_w,
            f"limits seen: {', '.join(f'{limit:g} W' for limit in limits) or 'none'}",
        ),
        _boots(seen),
        _others(seen),
    ]
    if given_up:
        escalated = [event.text for event in (told.events if told else ()) if event.kind == "escalated"]
        ours = _our_outage(seen)
        proofs.append(Proof("escalated", bool(escalated), next(iter(escalated), "it was never escalated")))
        proofs.append(
            Proof("isolated_then_returned", ours is not None and ours.back_at is not None, _say_outages(seen))
        )
    else:
        proofs.append(Proof("no_node_drained", not seen.watch.of(seen.target.node), _say_outages(seen)))
    if not seen.apart:
        same = all(seen.nodes_before[name].ranks == node.ranks for name, node in seen.nodes_after.items())
        counted = seen.after.training.restarts - seen.before.training.restarts
        said = f"{counted} restarts, ranks {'the same' if same else 'new'}"
        proofs.append(Proof("training_untouched", same and counted == 0, said))
    return proofs


def _is_ours(seen: Seen, told: Told) -> bool:
    """Whether an incident is of this drill's node or run."""
    return told.node == seen.target.node or (not told.node and told.run == seen.target.run)


def _one_incident(seen: Seen, end: State) -> Proof:
    mine = seen.incidents
    said = "; ".join(
        f"{told.id} {told.fault_class} {told.node or told.run} "
        f"{told.state}" + (f" ({told.waiting})" if told.waiting else "")
        for told in mine
    )
    ok = (
        len(mine) == 1
        and _is_ours(seen, mine[0])
        and bool(mine[0].node) == (seen.injector.scope == "node")
        and mine[0].fault_class == seen.injector.fault_class
        and mine[0].state is end
    )
    return Proof("one_incident", ok, said or "no incident was opened")


def _steps(seen: Seen) -> Proof:
    """Each slot's last step was good, nothing ran twice, and what comes first began first."""
    steps = seen.incident.steps if seen.incident else ()
    last = {step.slot: step for step in steps}
    order = [slot for slot in Slot if slot in last]
    began = [last[slot].started_at for slot in order]
    ordered = None not in began and sorted(filter(None, began)) == began
    ok = (
        bool(steps)
        and all(step.status is StepStatus.OK for step in last.values())
        and len({step.number for step in steps}) == len(steps)
        and ordered
        and Slot.ISOLATE not in last
        and Slot.RESUME in last
    )
    return Proof("steps", ok, _say_steps(steps))


def _ranks(seen: Seen) -> Proof:
    """Every rank is a new process, and as many as before."""
    bad = []
    for name, before in seen.nodes_before.items():
        after = seen.nodes_after.get(name)
        if after is None:
            bad.append(f"{name} does not answer")
        elif not before.ranks or len(before.ranks) != len(after.ranks):
            bad.append(f"{name} had {len(before.ranks)} ranks and has {len(after.ranks)}")
        # The same number on another boot is another process.
        elif before.boot_id == after.boot_id and before.ranks & after.ranks:
            bad.append(f"{name} has an old rank: {', '.join(sorted(before.ranks & after.ranks))}")
    pids = [
        f"{name} {_pids(before)}→{_pids(seen.nodes_after[name])}"
        for name, before in seen.nodes_before.items()
        if name in seen.nodes_after
    ]
    return Proof("ranks_are_new", bool(seen.nodes_before) and not bad, "; ".join(bad or pids))


def _pids(node: NodeLook) -> str:
    return "+".join(sorted(rank.partition("@")[0] for rank in node.ranks))


def _boots(seen: Seen) -> Proof:
    """The node has a new boot exactly if the fault asks for one, and no other node has."""
    new = {
        name for name, node in seen.nodes_after.items()
        if name in seen.nodes_before and seen.nodes_before[name].boot_id != node.boot_id
    }  # fmt: skip
    lost = set(seen.nodes_before) - set(seen.nodes_after) - seen.apart
    wanted = {seen.target.node} if seen.injector.reboots else set()
    said = f"new boot ids: {', '.join(sorted(new)) or 'none'}" + (f"; no answer: {sorted(lost)}" if lost else "")
    return Proof("boot_ids", new - seen.apart == wanted and not lost, said)


def _restarts(seen: Seen) -> Proof:
    before, after = seen.before.training.restarts, seen.after.training.restarts
    return Proof("one_restart", after == before + 1, f"{before} → {after}")


def _resumed_step(seen: Seen) -> Proof:
    """The run went on at the newest checkpoint that it had published, the one that the engine verified."""
    resume = seen.resume
    if resume is None:
        return Proof("resumed_at_the_checkpoint", False, "the run did not go on")
    published = [step for step, at in seen.after.training.checkpoints if at < resume.at]
    steps = seen.incident.steps if seen.incident else ()
    facts = next((step.facts for step in reversed(steps) if step.slot is Slot.RESUME), {})
    verified = facts.get("checkpoint_step")
    ok = bool(published) and resume.step == published[-1] == verified
    return Proof(
        "resumed_at_the_checkpoint", ok,
        f"resumed at {resume.step}; newest checkpoint {published[-1] if published else 'none'}; verified {verified}",
    )  # fmt: skip


def _trains(seen: Seen) -> Proof:
    step = _step_after(seen)
    resume = seen.resume
    ok = step is not None and resume is not None and step[0] == resume.step + 1
    return Proof("trains_again", ok, f"step {step[0]} was the first after" if step else "no step after the fault")


def _drained(seen: Seen) -> Proof:
    """The node was seen out of service by the engine's hand, and seen back; a run's own fault takes no node out."""
    if seen.injector.scope == "run":
        touched = [outage for outage in seen.watch.outages if outage.node not in seen.apart]
        return Proof("no_node_drained", not touched, _say_outages(seen))
    ours = _our_outage(seen)
    return Proof("drained_then_resumed", ours is not None and ours.back_at is not None, _say_outages(seen))


def _others(seen: Seen) -> Proof:
    """No other node was taken out."""
    mine = {seen.target.node} if seen.injector.scope == "node" else set()
    others = [outage for outage in seen.watch.outages if outage.node not in mine | seen.apart]
    said = "; ".join(f"{outage.node} ({', '.join(outage.reasons)})" for outage in others)
    return Proof("no_other_node_touched", not others, said or "none was")


def _our_outage(seen: Seen) -> Outage | None:
    """The first time that the engine took the node out for this incident."""
    told = seen.incident
    mark = f"medllm-recover:{told.id}" if told else ""
    outages = seen.watch.of(seen.target.node)
    return next((each for each in outages if mark and any(reason.startswith(mark) for reason in each.reasons)), None)


def _say_outages(seen: Seen) -> str:
    def one(outage: Outage) -> str:
        begin = (outage.seen_at - seen.fault_at).total_seconds()
        end = f"{(outage.back_at - seen.fault_at).total_seconds():.0f} s" if outage.back_at else "now"
        return f"{outage.node} out from {begin:.0f} s to {end} ({', '.join(outage.reasons)})"

    return "; ".join(one(outage) for outage in seen.watch.outages) or "no node was out"


def _say_steps(steps: Sequence[ToldStep]) -> str:
    return ", ".join(f"{step.slot} {step.playbook or 'checks'} {step.status}" for step in steps) or "no step"


def _step_after(seen: Seen) -> tuple[int, datetime] | None:
    """The first training step after the resume."""
    resume = seen.resume
    return next(((step, at) for step, at in seen.after.training.steps if resume and at > resume.at), None)


def figures(seen: Seen) -> Figures:
    """Seconds from the fault on, and steps that were computed twice; None for what did not happen.

    `detect_s`: fault → incident. `alert_to_action_s`: first alert of the class → first action; below zero when the
    engine acted on a kernel's word before any alert fired. `act_s`: first action → the node is in service again, for a
    run's fault → the ranks are started. `recover_s`: fault → next training step. `close_s`: fault → incident closed.
    """
    told = seen.incident
    action = told.first_action if told else None
    fired = [
        at for (name, node), at in seen.watch.fired.items()
        if name in seen.alerts and (node in {seen.target.node, ""} or seen.injector.scope == "run")
    ]  # fmt: skip
    after = _step_after(seen)
    resume = seen.resume
    return {
        "detect_s": _seconds(seen.fault_at, told.opened_at if told else None),
        "alert_s": _seconds(seen.fault_at, min(fired, default=None)),
        "alert_to_action_s": _seconds(min(fired, default=None), action),
        "act_s": _seconds(action, _acted(told)),
        "recover_s": _seconds(seen.fault_at, after[1] if after else None),
        "close_s": _seconds(seen.fault_at, told.ended_at if told else None),
        "steps_lost": max(0, last_step(seen.after.training, seen.fault_at) - resume.step) if resume else None,
    }


def _acted(told: Told | None) -> datetime | None:
    """When the node was in service again, or the run's ranks were asked for."""
    steps = told.steps if told else ()
    returned = [step.ended_at for step in steps if step.slot is Slot.RETURN]
    resumed = [step.started_at for step in steps if step.slot is Slot.RESUME]
    return next(iter([*reversed(returned), *resumed]), None)


def last_step(training: Training, before: datetime) -> int:
    """The newest step that was done before a time, or went on after it before the ranks died; 0 for none."""
    resumes = [resume.at for resume in training.resumes if resume.at > before]
    end = resumes[0] if resumes else None
    return max((step for step, at in training.steps if end is None or at < end), default=0)


def _seconds(begin: datetime | None, end: datetime | None) -> float | None:
    return round((end - begin).total_seconds(), 1) if begin and end else None


def timeline(seen: Seen) -> Iterator[tuple[float, str]]:
    """What happened, in seconds from the fault on, in order."""
    entries: list[tuple[datetime, str]] = [(seen.fault_at, f"fault: {seen.injector.summary}")]
    entries += [(at, f"alert {name} {node}".strip()) for (name, node), at in seen.watch.fired.items()]
    for outage in seen.watch.outages:
        entries.append((outage.seen_at, f"{outage.node} seen out of service ({outage.reasons[0]})"))
        if outage.back_at:
            entries.append((outage.back_at, f"{outage.node} seen in service"))
    for told in seen.incidents:
        entries.append((told.opened_at, f"{told.id} opened: {told.fault_class}"))
        if told.ended_at:
            entries.append((told.ended_at, f"{told.id} {told.state}"))
        for step in told.steps:
            name = f"{step.slot} {step.playbook or 'checks'}"
            entries += [(step.started_at, f"{name} began")] if step.started_at else []
            entries += [(step.ended_at, f"{name} {step.status}: {step.summary}")] if step.ended_at else []
    if seen.resume:
        entries.append((seen.resume.at, f"the ranks loaded the checkpoint of step {seen.resume.step}"))
    if after := _step_after(seen):
        entries.append((after[1], f"training step {after[0]}"))
    for at, text in sorted(entries):
        yield round((at - seen.fault_at).total_seconds(), 1), text

"""The engine: one tick takes the newest observations and findings, and moves every incident as far as it may go.

It decides by what is stored alone: a step is stored before it is started and started again by its id after a crash,
which `Actions` makes harmless. What is in memory alone only makes it more patient after a restart, never bolder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from medllm.site.model import Site
from runbooks.engine import guards
from runbooks.engine.handover import hand_over
from runbooks.engine.intake import Intake, run_named, run_on
from runbooks.engine.machine import Close, Do, GiveUp, NextAttempt, following
from runbooks.engine.model import (
    Event,
    Finding,
    Incident,
    Slot,
    State,
    Step,
    StepResult,
    StepStatus,
    Work,
    World,
)
from runbooks.engine.procedure import Procedure
from runbooks.engine.store import Request, Store

# Signals that stay away so long, before anything was started, were a flap.
QUIET = timedelta(seconds=60)
# A diagnosis waits so long for the runs' directories, which lie on the storage that may be the fault.
RUNS_KNOWN = timedelta(seconds=10)
# A run fails within a second of the fault that took it down; the node's own word on it comes with the next probe.
NODES_SPEAK = timedelta(seconds=10)
NODES_OUT = "guard: out of service already"


class Actions(Protocol):
    """How steps are done."""

    def start(self, step: Step, incident: Incident) -> None:
        """Begin a step's work; nothing when it has begun. Returns at once."""

    def poll(self, step: Step) -> StepResult | None:
        """What came of a step; None while it runs."""


class Engine:
    """The decisions. Not for several threads."""

    def __init__(self, site: Site, store: Store, actions: Actions, procedures: Mapping[str, Procedure]) -> None:
        self._site, self._store, self._actions, self._procedures = site, store, actions, procedures
        self._intake = Intake(site, store, procedures)
        # The last boot id of a node that does not answer any more; where a run was whose job Slurm has forgotten.
        self._boots, self._nodes = store.kept("boots"), store.kept("nodes")
        # Since when an incident's signals are away.
        self._quiet: dict[str, datetime] = {}

    def tick(self, world: World, findings: Sequence[Finding]) -> None:
        """One round. It waits for nothing and nobody."""
        self._remember(world)
        for request in self._store.requests():
            self._answer(request, world.time)
        seen = self._intake.take(world, findings)
        for incident in self._store.incidents(open_only=True):
            while self._move(incident.id, world, incident.id in seen):
                pass

    def _remember(self, world: World) -> None:
        """Keep what an incident must be able to tell of the time before it."""
        boots = self._boots | {name: view.boot_id for name, view in world.nodes.items() if view.boot_id}
        nodes = self._nodes | {run.run: list(run.nodes) for run in world.runs or () if run.nodes}
        if boots != self._boots:
            self._store.keep("boots", boots)
        if nodes != self._nodes:
            self._store.keep("nodes", nodes)
        self._boots, self._nodes = boots, nodes

    def _answer(self, request: Request, now: datetime) -> None:
        """What a person asked for, with one event that says what came of it."""
        incident = self._store.incident(request.incident)
        procedure = self._procedures.get(incident.fault_class)
        kind, text = "refused", ""
        if request.kind == "approve":
            if incident.state in (State.ESCALATED, State.CLOSED):
                text = f"{request.who} approved it, and it is {incident.state}"
            elif request.attempt != incident.attempt:
                text = f"{request.who} approved attempt {request.attempt}, and this is attempt {incident.attempt}"
            else:
                kind, text = "approved", f"attempt {incident.attempt} is approved by {request.who}"
                incident = replace(incident, approved_by=request.who, updated_at=now)
        elif incident.state is not State.ESCALATED or procedure is None:
            text = f"{request.who} resolved it, and it is {incident.state}"
        else:
            kind, text = "resolved", f"{request.who} says that it is mended: it is checked and given back"
            incident = replace(
                incident, state=State.REVALIDATING, attempt=max(incident.attempt, procedure.attempts) + 1,
                ended_at=None, waiting="", approved_by="", updated_at=now,
            )  # fmt: skip
        self._store.save(incident, (), [Event(incident.id, now, kind, text, {"request": request.number})])

    def _move(self, name: str, world: World, seen: bool) -> bool:
        """Go on with an incident; whether there may be more to do for it at once."""
        incident, now = self._store.incident(name), world.time
        if incident.state in (State.CLOSED, State.ESCALATED):
            return False
        procedure = self._procedures.get(incident.fault_class)
        if procedure is None:
            return self._wait(incident, f"guard: there is no procedure for {incident.fault_class}", now)
        steps = self._store.steps(name)
        if steps and steps[-1].status is StepStatus.RUNNING:
            return self._poll(incident, steps[-1], now)
        if steps and steps[-1].status is StepStatus.PLANNED:
            return self._start(incident, procedure, steps, world)
        touched = any(not step.refused for step in steps)
        if not touched and not seen and (held := self._flaps(incident, world)) is not None:
            return held
        self._quiet.pop(name, None)
        if incident.state is State.OPEN:
            return self._diagnose(incident, world)
        if touched and (held := self._persons(incident, procedure, world)) is not None:
            return held
        explains = self._explains(incident, world)
        if not steps and not incident.node and explains:
            return self._close(incident, f"{explains} explains it, and resumes the run", now)
        spare = procedure.on_node_loss and self._spare(incident, world)
        move = following(incident, steps, procedure, self._site, spare=spare, resumes=explains)
        match move:
            case Do(work):
                return self._plan(incident, procedure, steps, work, world)
            case NextAttempt(why):
                text = f"attempt {incident.attempt + 1}: {why}"
                # An approval is good for the attempt that the person saw.
                self._store.save(
                    replace(incident, attempt=incident.attempt + 1, approved_by="", updated_at=now),
                    (), [Event(name, now, "attempt", text)],
                )  # fmt: skip
                return True
            case GiveUp(why, isolate):
                return self._give_up(incident, procedure, steps, why, isolate, world)
            case Close(text):
                return self._close(incident, text, now)

    def _persons(self, incident: Incident, procedure: Procedure, world: World) -> bool | None:
        """A person took the node while it was worked on: wait; then let the checks decide, whatever they did to it.

        None: nobody did. What was to be done next was for the node as it was before.
        """
        now, held = world.time, guards.ownership(world, incident)
        if held.endswith(guards.TAKEN):
            return self._wait(incident, held, now)
        if held or not incident.waiting.endswith(guards.TAKEN):
            return None
        text = "a person had the node and gave it back: it is checked as it is"
        self._store.save(
            replace(
                incident, state=State.REVALIDATING, attempt=max(incident.attempt, procedure.attempts) + 1, waiting="",
                approved_by="", updated_at=now,
            ),
            (), [Event(incident.id, now, "attempt", text)],
        )  # fmt: skip
        return True

    def _flaps(self, incident: Incident, world: World) -> bool | None:
        """Nothing was started and its signals are not seen. None: that proves nothing, since a source is silent."""
        if not self._readable(incident, world):
            return None
        since = self._quiet.setdefault(incident.id, world.time)
        if world.time - since >= QUIET:
            del self._quiet[incident.id]
            return self._close(incident, "cleared by itself", world.time)
        text = f"guard: its signals are gone; it is closed when they stay away for {QUIET.seconds} s"
        return self._wait(incident, text, world.time)

    def _readable(self, incident: Incident, world: World) -> bool:
        """Whether the sources of all its signals have spoken: only then their silence means something."""
        view = world.nodes.get(incident.node)
        answers = view is not None and view.reachable is True
        spoken = {
            "alert": world.alerts is not None,
            "kernel": answers,
            "unreachable": answers,
            "heartbeat": world.runs is not None,
            "job": world.runs is not None and world.jobs is not None,
        }
        return all(spoken[signal.kind] for signal in incident.signals)

    def _diagnose(self, incident: Incident, world: World) -> bool:
        """The class is known; write down how things stand, so that history can prove what changed."""
        now = world.time
        if not incident.node and now - incident.opened_at < NODES_SPEAK:
            return self._wait(incident, "guard: a node's fault may yet explain it", now)
        if world.runs is None and now - incident.opened_at < RUNS_KNOWN:
            return self._wait(incident, "guard: which run it concerns is not known yet", now)
        run = run_named(world, incident.run) if incident.run else run_on(world, incident.node, self._nodes)
        before: dict[str, Any] = {}
        if boot := self._boots.get(incident.node):
            before["boot_id"] = boot
        if run is not None:
            before |= {
                "run": run.run, "job": run.job, "step": run.step, "checkpoint_step": run.checkpoint_step,
                "restarts": run.restarts, "nodes": list(run.nodes) or self._nodes.get(run.run, []),
            }  # fmt: skip
        diagnosed = replace(
            incident, state=State.DIAGNOSED, run=run.run if run is not None else incident.run, before=before,
            waiting="", updated_at=now,
        )  # fmt: skip
        concerns = f"; it concerns run {run.run} at step {run.step}" if run is not None and incident.node else ""
        text = f"{incident.fault_class}{concerns}"
        self._store.save(diagnosed, (), [Event(incident.id, now, "diagnosed", text, before)])
        return True

    def _plan(self, incident: Incident, procedure: Procedure, steps: Sequence[Step], work: Work, world: World) -> bool:
        """Store the next step, unless something holds it."""
        now, number = world.time, len(steps) + 1
        name = f"medllm-{incident.id}-{number}-{work.slot}"
        if held := self._held(incident, procedure, work, world, name):
            if work.slot is Slot.ACT and steps and held == self._attempts(incident, now, name):
                # The node is out and nothing may be tried on it today: a person must know (NVSentinel #911).
                why = held.removeprefix("guard: ")
                return self._give_up(incident, procedure, steps, why, True, world)
            return self._wait(incident, held, now)
        begin = now + timedelta(seconds=work.settle_s)
        step = Step(name, incident.id, number, incident.attempt, work, StepStatus.PLANNED, now, begin)
        acts = work.slot in (Slot.QUIESCE, Slot.ACT) or (
            work.slot in (Slot.RESUME, Slot.ISOLATE) and incident.state is State.ACTING
        )
        going = replace(
            incident, state=State.ACTING if acts else State.REVALIDATING, waiting=_settling(step, now), updated_at=now
        )
        text = f"{work.slot}: {_what(work)}" + (f", after {work.settle_s} s" if work.settle_s else "")
        self._store.save(going, [step], [Event(incident.id, now, "planned", text, {"step": name})])
        return True

    def _start(self, incident: Incident, procedure: Procedure, steps: Sequence[Step], world: World) -> bool:
        """Start the stored step. After a crash it may have been started before: its id starts nothing twice."""
        step, now = steps[-1], world.time
        if settling := _settling(step, now):
            return self._wait(incident, settling, now)
        if held := self._held(incident, procedure, step.work, world, step.id):
            return self._wait(incident, held, now)
        self._actions.start(step, incident)
        running = replace(step, status=StepStatus.RUNNING, started_at=now)
        text = f"{step.work.slot}: {_what(step.work)}"
        self._store.save(
            replace(incident, waiting="", updated_at=now), [running],
            [Event(incident.id, now, "started", text, {"step": step.id})],
        )  # fmt: skip
        return True

    def _poll(self, incident: Incident, step: Step, now: datetime) -> bool:
        """Take a step's result, once it has one."""
        result = self._actions.poll(step)
        if result is None:
            return False
        ended = replace(
            step, status=result.status, ended_at=result.ended_at, summary=result.summary, facts=dict(result.facts)
        )
        text = f"{step.work.slot}: {result.status}: {result.summary}"
        self._store.save(
            replace(incident, updated_at=now), [ended], [Event(incident.id, now, "ended", text, {"step": step.id})]
        )
        return True

    def _held(self, incident: Incident, procedure: Procedure, work: Work, world: World, step: str) -> str:
        """What holds this work back; "" when it may begin. `step`: its own id, which does not count against it."""
        now, recovery, slot = world.time, self._site.recovery, work.slot
        if recovery.mode == "dry_run":
            return f"dry run: it would do {_outline(procedure, self._site)}"
        # A run goes on where Slurm sees fit; for that nobody's node is touched.
        if slot is not Slot.RESUME and (held := guards.ownership(world, incident)):
            return held
        if slot not in guards.GIVES_BACK:
            if paused := self._store.paused():
                return f"pause: {paused}"
            if held := guards.storm(self._store.incidents(), recovery, now):
                return held
        if slot in (Slot.QUIESCE, Slot.ISOLATE) and incident.node:
            others = [one for one in self._store.incidents(open_only=True) if one.id != incident.id]
            theirs = {one.id: self._store.steps(one.id) for one in others}
            if held := guards.nodes_out(world, incident, others, theirs, recovery.max_nodes_out):
                return held
        if slot in (Slot.QUIESCE, Slot.ACT) and (held := self._attempts(incident, now, step)):
            return held
        if work.approval and recovery.reboot_approval == "ask" and not incident.approved_by:
            return f"approval: a person must agree to {_what(work)} (medllm recover approve {incident.id})"
        return ""

    def _attempts(self, incident: Incident, now: datetime, besides: str) -> str:
        recent = [one for one in self._store.incidents() if one.updated_at > now - guards.DAY]
        steps = {one.id: self._store.steps(one.id) for one in recent}
        limit = self._site.recovery.attempts_per_day
        return guards.attempts(incident, recent, steps, limit=limit, now=now, besides=besides)

    def _give_up(
        self, incident: Incident, procedure: Procedure, steps: Sequence[Step], why: str, isolate: bool, world: World
    ) -> bool:
        """Keep the node out of service, where it is not out already; then hand over to a person."""
        now = world.time
        mine = [step for step in steps if step.attempt == incident.attempt and step.work.slot is Slot.ISOLATE]
        unknown = [step for step in mine if step.status is StepStatus.UNKNOWN]
        if isolate and procedure.isolate is not None and (not mine or (mine == unknown and len(mine) < 2)):
            known = (world.scheduler_nodes or {}).get(incident.node)
            if known is None:
                return self._wait(incident, guards.ownership(world, incident), now)
            if not known.out:
                work = procedure.steps(Slot.ISOLATE, self._site)[0]
                return self._plan(incident, procedure, steps, work, world)
        text = hand_over(incident, steps, procedure, why)
        given = replace(incident, state=State.ESCALATED, ended_at=now, updated_at=now, waiting="")
        self._store.save(given, (), [Event(incident.id, now, "escalated", text)])
        return False

    def _spare(self, incident: Incident, world: World) -> bool:
        """Whether the run may go on now, on nodes that serve without this one."""
        needed = len(incident.before.get("nodes") or ())
        if (
            self._site.recovery.on_node_loss != "spare"
            or world.scheduler_nodes is None
            or not (needed and incident.run)
        ):
            return False
        serving = [node for node in world.scheduler_nodes.values() if not node.out and node.name != incident.node]
        return len(serving) >= needed

    def _explains(self, incident: Incident, world: World) -> str:
        """Another open incident that takes a node of this one's run, and will resume it; "" when there is none.

        One that waits for a person would keep the run down: it does not count.
        """
        if not incident.run:
            return ""
        run = run_named(world, incident.run)
        nodes = set(incident.before.get("nodes") or ()) | set(run.nodes if run is not None else ())
        for one in self._intake.node_incidents(incident.run, nodes):
            if one.id != incident.id and (not one.waiting or one.waiting.startswith((NODES_OUT, "settle"))):
                return one.id
        return ""

    def _wait(self, incident: Incident, why: str, now: datetime) -> bool:
        """Say why it does not go on; stored when it is another reason than before."""
        if incident.waiting != why:
            waiting = replace(incident, waiting=why, updated_at=now)
            self._store.save(waiting, (), [Event(incident.id, now, "waiting", why)])
        return False

    def _close(self, incident: Incident, text: str, now: datetime) -> bool:
        closed = replace(incident, state=State.CLOSED, ended_at=now, updated_at=now, waiting="")
        self._store.save(closed, (), [Event(incident.id, now, "closed", text)])
        return False


def _settling(step: Step, now: datetime) -> str:
    until = step.not_before
    return f"settle: {_what(step.work)} not before {until:%H:%M:%S} UTC" if now < until else ""


def _what(work: Work) -> str:
    return work.playbook or f"checks {', '.join(work.checks)}"


def _outline(procedure: Procedure, site: Site) -> str:
    """All that a procedure may do, in one line."""
    parts = []
    for slot in (Slot.QUIESCE, Slot.ACT, Slot.REVALIDATE, Slot.RETURN, Slot.RESUME):
        attempts = range(1, procedure.attempts + 1) if slot is Slot.ACT else (1,)
        works = [_what(work) for attempt in attempts for work in procedure.steps(slot, site, attempt)]
        if works:
            parts.append(f"{slot} {(' or then ' if slot is Slot.ACT else ', ').join(works)}")
    return "; ".join(parts)

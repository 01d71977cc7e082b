"""One drill: training is under way, a fault goes in, the engine mends it, and what was seen is put to proof."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from medllm.remote import Remote, RemoteError
from medllm.site import Site
from runbooks.drill import training
from runbooks.drill.injector import Injector, Target
from runbooks.drill.look import Look, look, look_at_nodes
from runbooks.drill.prove import Figures, Proof, Seen, figures, prove, prove_settled, timeline
from runbooks.drill.show import Line, Show
from runbooks.drill.told import EngineTold, Told
from runbooks.drill.watch import Watch
from runbooks.engine.model import Slot, State, StepStatus

# From the fault to the closed incident; an overheat settles in between and gets that time on top.
LIMIT_S = 480.0
READY_S = 300.0
POLL_S = 1.0
# To ask the engine for its history costs a second of a processor that the recovery could use.
ASK_S = 8.0
CLOSE_S = 180.0
# mgmt is busy at times, and one look that fails is no reason to give a drill up.
PATIENCE_S = 30.0
MILESTONES = 5
WHO = "drill"

T = TypeVar("T")
Done = Callable[[Look, tuple[Told, ...]], bool]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One drill, for the report. `began` is when the fault went in; `problem`: why it could not be ended."""

    drill: str
    fault_class: str
    node: str
    number: int
    began: datetime
    incident: str = ""
    figures: Figures = field(default_factory=dict)
    proofs: tuple[Proof, ...] = ()
    timeline: tuple[tuple[float, str], ...] = ()
    problem: str = ""

    @property
    def good(self) -> bool:
        """Every proof holds."""
        return not self.problem and bool(self.proofs) and all(proof.ok for proof in self.proofs)


@dataclass(slots=True)
class Course:
    """Where a drill stands that others run beside. `free_until`: its node is not taken out before that; None: not
    known yet. `beside`: the outcomes of those others.
    """

    free_until: datetime | None = None
    over: bool = False
    beside: list[Outcome] = field(default_factory=list)


class Drill:
    """Drills one fault after the other, over one session on mgmt. `alerts`: the names that speak for a fault class."""

    def __init__(self, site: Site, alerts: Mapping[str, frozenset[str]], show: Show) -> None:
        self.site, self.alerts, self.show = site, alerts, show
        self.mgmt = Remote(site.mgmt)
        self.engine = EngineTold(self.mgmt, site)

    def close(self) -> None:
        """End the session on mgmt."""
        self.mgmt.close()

    def run(
        self, injector: Injector, target: Target, number: int, *, apart: frozenset[str] = frozenset(),
        course: Course | None = None,
    ) -> Outcome:  # fmt: skip
        """One drill from its fault to its proofs. `apart`: nodes of another drill that is under way; `course` is kept
        up to date for those who want to start a drill beside this one.

        Whatever goes wrong is in the outcome, and what was put in is then repaired.
        """
        line = self.show.drill(f"{injector.name} {number} on {target.node}", MILESTONES)
        blank = Outcome(injector.name, injector.fault_class, target.node, number, datetime.now(UTC))
        course = course or Course()
        try:
            seen = self._inject(injector, target, line, apart)
            blank = replace(blank, began=seen.fault_at)
            work = self._settled if injector.spares_training else self._mended
            full, proofs = work(seen, line, course)
            outcome = replace(
                blank, incident=full.incident.id if full.incident else "", figures=figures(full), proofs=tuple(proofs),
                timeline=tuple(timeline(full)),
            )  # fmt: skip
        except Exception as error:  # a broken injector or network: the drill failed, and what it broke is mended below
            outcome = replace(blank, problem=f"{type(error).__name__}: {error}")
        if not outcome.good:
            self._tidy(injector, target, outcome.began)
        line.end(_summary(outcome), good=outcome.good)
        return outcome

    def _inject(self, injector: Injector, target: Target, line: Line, apart: frozenset[str]) -> Seen:
        alerts = self.alerts.get(injector.fault_class, frozenset())
        before = self.ready(target, alerts, line, apart)
        nodes = look_at_nodes(self.site, training.RUN)
        watch = Watch.from_now(before, datetime.now(UTC))
        injector.inject(self.site, target)
        line.reach("the fault is in")
        return Seen(injector, target, watch.begin, before, nodes, before, nodes, watch, (), alerts, apart)

    def ready(self, target: Target, alerts: frozenset[str], line: Line, apart: frozenset[str] = frozenset()) -> Look:
        """Wait until nothing of an earlier fault is left that could pass for this one's doing.

        Raises:
            RemoteError: something still is after five minutes; says what.
        """
        deadline = time.monotonic() + READY_S
        while True:
            seen = self.look()
            why = _not_ready(seen, target, alerts, apart)
            if not why:
                paused, told = self._patiently(self.engine.read)
                opened = [each.id for each in told if not each.over and each.node not in apart]
                if not opened and not paused:
                    return seen
                why = f"{', '.join(opened)} is open" if opened else f"the engine is paused by {paused}"
            if time.monotonic() > deadline:
                raise RemoteError(self.site.mgmt.name, f"not ready for a drill after {READY_S:.0f} s: {why}")
            line.say(f"waits: {why}")
            time.sleep(2 * POLL_S)

    def _mended(self, seen: Seen, line: Line, _course: Course) -> tuple[Seen, list[Proof]]:
        """Watch until the incident is closed and the run makes steps again; then prove."""

        def done(after: Look, told: tuple[Told, ...]) -> bool:
            run = seen.watch.whole(after.training)
            resumed = [resume.at for resume in run.resumes if resume.at > seen.fault_at]
            stepped = bool(resumed) and run.steps[-1][1] > resumed[0]
            if stepped:
                line.reach("training makes steps")
            mine = [each for each in told if each.node not in seen.apart]
            if any(each.state is State.ESCALATED for each in mine):
                return True  # nothing more will happen
            # A second incident must be seen to its end too, to be told of.
            return stepped and bool(mine) and all(each.over for each in mine)

        after, told = self._watch(seen, line, time.monotonic() + LIMIT_S, done)
        full = self._full(seen, after, told)
        return full, prove(full)

    def _settled(self, seen: Seen, line: Line, course: Course) -> tuple[Seen, list[Proof]]:
        """Watch while the fault settles; where the engine gives up, do what a person does, and watch it go on."""
        settle = timedelta(seconds=self.site.recovery.overheat_settle_s)
        limits: list[float] = []
        course.free_until = datetime.now(UTC) + settle

        def settled(_after: Look, told: tuple[Told, ...]) -> bool:
            mine = _of_target(seen, told)
            acted = [
                step.ended_at for each in mine for step in each.steps
                if step.slot is Slot.ACT and step.status is StepStatus.OK and step.ended_at
            ]  # fmt: skip
            if acted and not limits:
                line.reach("the power is limited")
                course.free_until = acted[0] + settle
                limits.append(self._limit(seen.target))
            return bool(mine) and all(each.over for each in mine)

        after, told = self._watch(seen, line, time.monotonic() + LIMIT_S + settle.total_seconds(), settled)
        course.free_until = None
        escalated = [each for each in _of_target(seen, told) if each.state is State.ESCALATED]
        if escalated:
            line.reach("escalated to a person")
            after, told = self._as_a_person(seen, line, escalated[0])
        limits.append(self._limit(seen.target))
        if course.beside:
            # Whatever happened elsewhere meanwhile has a drill of its own to judge it.
            elsewhere = {host.name for host in self.site.gpu_nodes if host.name != seen.target.node}
            seen = replace(seen, apart=frozenset({"", *elsewhere}))
        full = self._full(seen, after, told)
        lowered = max(self.site.recovery.overheat_power_w, self.site.gpu.power_limit_min_w)
        proofs = prove_settled(full, limits, lowered, self.site.gpu.power_limit_w)
        if course.beside:
            ended = [f"{each.incident} {each.drill} {'mended' if each.good else 'FAILED'}" for each in course.beside]
            good = all(each.good for each in course.beside)
            proofs.append(Proof("blocks_nobody", good, f"meanwhile: {', '.join(ended)}"))
        return full, proofs

    def _as_a_person(self, seen: Seen, line: Line, escalated: Told) -> tuple[Look, tuple[Told, ...]]:
        """Mend the node, say so to the engine, and watch until it is in service again."""
        seen.injector.repair(self.site, seen.target)
        self._patiently(lambda: self.engine.resolve(escalated.id, WHO))

        def back(after: Look, told: tuple[Told, ...]) -> bool:
            closed = any(each.id == escalated.id and each.state is State.CLOSED for each in told)
            return closed and not after.slurm[seen.target.node].out

        return self._watch(seen, line, time.monotonic() + CLOSE_S, back)

    def _full(self, seen: Seen, after: Look, told: tuple[Told, ...]) -> Seen:
        nodes = look_at_nodes(self.site, training.RUN)
        whole = replace(after, training=seen.watch.whole(after.training))
        return replace(seen, after=whole, nodes_after=nodes, told=told)

    def _watch(self, seen: Seen, line: Line, deadline: float, done: Done) -> tuple[Look, tuple[Told, ...]]:
        """Look once a second and ask the engine now and then, until `done` or the deadline."""
        told: tuple[Told, ...] = ()
        asked = -ASK_S
        while True:
            now = self.look()
            seen.watch.see(now)
            late = time.monotonic() > deadline
            if any(name in seen.alerts for name, _ in seen.watch.fired):
                line.reach("an alert fires")
            if seen.watch.of(seen.target.node):
                line.reach("the node is out of service")
            if late or time.monotonic() - asked >= ASK_S:
                told = self._patiently(lambda: self.engine.incidents(seen.fault_at))
                asked = time.monotonic()
            if mine := [each for each in told if each.node not in seen.apart]:
                line.reach("an incident is open")
                line.say(mine[0].waiting or f"{mine[0].id} {mine[0].state}")
            if done(now, told) or late:
                return now, told
            time.sleep(POLL_S)

    def look(self) -> Look:
        """One look; borne with for half a minute when mgmt does not answer. Raises RemoteError."""
        return self._patiently(lambda: look(self.mgmt, self.site, training.RUN))

    def _patiently(self, work: Callable[[], T]) -> T:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return work()
            except RemoteError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL_S)

    def _limit(self, target: Target) -> float:
        """The GPU's power limit in W, as the driver has it."""
        command = f"nvidia-smi --id={target.gpu} --query-gpu=power.limit --format=csv,noheader,nounits"
        with Remote(self.site.host(target.node)) as node:
            return float(node.run(command, deadline_s=20, sudo=True).check().stdout)

    def _tidy(self, injector: Injector, target: Target, began: datetime) -> None:
        """After a failed drill: take the fault out as a technician would, and say so to the engine."""
        try:
            injector.repair(self.site, target)
            for told in self.engine.incidents(began):
                if told.state is State.ESCALATED and told.node == target.node:
                    self.engine.resolve(told.id, WHO)
        except Exception as error:  # the drill's own failure is what is reported
            self.show.console.print(f"{target.node} could not be repaired: {error}", markup=False)


def _of_target(seen: Seen, told: tuple[Told, ...]) -> list[Told]:
    return [each for each in told if each.node == seen.target.node]


def _not_ready(seen: Look, target: Target, alerts: frozenset[str], apart: frozenset[str]) -> str:
    """Why a fault must not go in yet; empty when it may."""
    if not seen.engine_runs:
        return "medllm-recover.service does not run"
    if out := [f"{name} ({node.reason})" for name, node in seen.slurm.items() if node.out and name not in apart]:
        return f"not in service: {', '.join(sorted(out))}"
    if seen.alerts is None:
        return "Prometheus does not answer"
    if old := [alert.name for alert in seen.alerts if alert.name in alerts and alert.node in {target.node, ""}]:
        return f"{old[0]} still fires"
    if not training.is_warm(seen):
        return f"the run {target.run} is at step {seen.training.step} ({seen.training.job_state or 'no job'})"
    return ""


def _summary(outcome: Outcome) -> str:
    if outcome.problem:
        return outcome.problem
    shown = ", ".join(f"{name} {value:g}" for name, value in outcome.figures.items() if value is not None)
    bad = "; ".join(f"{proof.name}: {proof.detail}" for proof in outcome.proofs if not proof.ok)
    return f"{shown}; " + (f"NOT PROVED: {bad}" if bad else f"{len(outcome.proofs)} proofs hold")

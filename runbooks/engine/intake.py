"""From findings to incidents: which finding opens one, which joins one, which is old news."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from medllm.site.model import Site
from runbooks.engine.model import Event, Finding, Incident, RunView, Signal, State, Step, StepStatus, World
from runbooks.engine.procedure import Procedure
from runbooks.engine.store import Store

log = logging.getLogger("medllm.recover")

# A flood of signals says no more than its first ones.
SIGNALS_KEPT = 50
# A run's own incident waits so long for a word on nodes of which nothing is known just now.
NODES_KNOWN = timedelta(seconds=60)
SUPERSEDED = "superseded by "

Place = tuple[str, str]


def place_of(one: Incident | Finding) -> Place:
    """What has at most one open incident: a node, or else a run."""
    return (one.node, "") if one.node else ("", one.run)


class Intake:
    """Takes the findings of one tick into the store."""

    def __init__(self, site: Site, store: Store, procedures: Mapping[str, Procedure]) -> None:
        self._nodes = {host.name for host in site.gpu_nodes}
        self._store, self._procedures = store, procedures
        self._refused: set[str] = set()

    def take(self, world: World, findings: Sequence[Finding]) -> set[str]:
        """Open, join, replace. Returns the incidents whose own fault class is seen at this moment."""
        seen: set[str] = set()
        open_ones = {place_of(one): one for one in self._store.incidents(open_only=True)}
        for finding in sorted(self._grouped(findings), key=self._order):
            procedure = self._procedures[finding.fault_class]
            signals = self._fresh(finding, procedure, world.time)
            if not signals:
                continue
            finding = replace(finding, signals=signals)
            current = open_ones.get(place_of(finding))
            if current is not None:
                current = self._join(current, finding, procedure, world.time)
            elif finding.node or not self._explained(finding, world):
                current = self._open(finding, world.time)
            if current is not None:
                open_ones[place_of(finding)] = current
                if current.fault_class == finding.fault_class:
                    seen.add(current.id)
        return seen

    def node_incidents(self, run: str, nodes: Collection[str]) -> list[Incident]:
        """Open incidents of nodes that explain why a run does not go on, and will resume it."""
        found = []
        for one in self._store.incidents(open_only=True):
            procedure = self._procedures.get(one.fault_class)
            resumes = procedure is not None and procedure.resume is not None and one.state is not State.ESCALATED
            if one.node and resumes and (one.node in nodes or one.run == run):
                found.append(one)
        return found

    def _grouped(self, findings: Sequence[Finding]) -> list[Finding]:
        """One finding a fault class and place, whatever came in; what nobody can act on is refused and told once."""
        groups: dict[tuple[str, Place], Finding] = {}
        for finding in findings:
            procedure = self._procedures.get(finding.fault_class)
            if procedure is None:
                self._refuse(f"there is no procedure for {finding.fault_class!r}")
            elif procedure.scope == "node" and finding.node not in self._nodes:
                self._refuse(f"{finding.fault_class}: the site has no GPU node {finding.node!r}")
            elif procedure.scope == "run" and not finding.run:
                self._refuse(f"{finding.fault_class}: it names no run")
            else:
                if procedure.scope == "run":
                    finding = replace(finding, node="")
                key = (finding.fault_class, place_of(finding))
                first = groups.get(key)
                if first is None:
                    groups[key] = finding
                elif len(first.signals) < SIGNALS_KEPT:
                    groups[key] = replace(first, signals=(*first.signals, *finding.signals))
        return list(groups.values())

    def _refuse(self, why: str) -> None:
        if why not in self._refused and len(self._refused) < 1000:
            self._refused.add(why)
            log.warning("a finding is refused: %s", why)

    def _order(self, finding: Finding) -> tuple[bool, int, str]:
        """Nodes before runs, the most basic fault first."""
        return not finding.node, self._procedures[finding.fault_class].rank, finding.node or finding.run

    def _fresh(self, finding: Finding, procedure: Procedure, now: datetime) -> tuple[Signal, ...]:
        """The signals that began after the last incident of this place ended (NVSentinel #450: what had been mended
        was acted on again). What still holds long after that, and is no line of a log, counts again.
        """
        mended = [one for one in self._store.incidents() if self._mended(one, finding)]
        ended = max((one.ended_at for one in mended if one.ended_at is not None), default=None)
        if ended is None:
            return finding.signals
        again = now >= ended + timedelta(seconds=procedure.alert_memory_s)
        return tuple(one for one in finding.signals if one.since >= ended or (again and one.kind != "kernel"))

    def _mended(self, one: Incident, finding: Finding) -> bool:
        """Whether an incident acted on the finding's place and has ended well. One that ended by itself mended
        nothing, so what it had seen is no old news.
        """
        if one.state is not State.CLOSED or one.reason.startswith(SUPERSEDED):
            return False
        same = one.node == finding.node if finding.node else one.run == finding.run
        return same and bool(self._store.steps(one.id))

    def _explained(self, finding: Finding, world: World) -> bool:
        """Whether a node's fault explains, or may yet turn out to explain, what is wrong with a run."""
        run = run_named(world, finding.run)
        if run is None or self.node_incidents(finding.run, run.nodes):
            return True
        handed_over = {one.node for one in self._store.incidents(open_only=True) if one.state is State.ESCALATED}
        young = world.time - min(signal.since for signal in finding.signals) < NODES_KNOWN
        for name in set(run.nodes) - handed_over:
            view = world.nodes.get(name)
            reachable = view.reachable if view is not None else None
            if reachable is False or (reachable is None and young):
                return True
        return False

    def _open(self, finding: Finding, now: datetime) -> Incident:
        incident = Incident(
            id=self._store.new_id(now), fault_class=finding.fault_class, node=finding.node, device=finding.device,
            run=finding.run, state=State.OPEN, attempt=1, opened_at=now, updated_at=now, ended_at=None,
            reason=finding.reason, waiting="", approved_by="", signals=finding.signals[:SIGNALS_KEPT], before={},
        )  # fmt: skip
        text = f"{finding.fault_class}: {finding.reason}"
        self._store.save(incident, (), [Event(incident.id, now, "opened", text)])
        return incident

    def _join(self, incident: Incident, finding: Finding, procedure: Procedure, now: datetime) -> Incident:
        """Add what is new; let a more basic diagnosis replace the class, as long as that undoes nothing."""
        if incident.state is State.ESCALATED:
            return incident
        steps = self._store.steps(incident.id)
        known = {_key(signal) for signal in incident.signals}
        new = [signal for signal in dict.fromkeys(finding.signals) if _key(signal) not in known]
        new = new[: SIGNALS_KEPT - len(incident.signals)]
        events = []
        if new:
            names = ", ".join(dict.fromkeys(signal.name for signal in new))
            events.append(Event(incident.id, now, "joined", f"{finding.fault_class}: {names}"))
        joined = replace(incident, signals=(*incident.signals, *new), updated_at=now) if new else incident
        if self._replaces(finding.fault_class, incident):
            if not steps:
                text = f"{incident.fault_class} is {finding.fault_class}: {finding.reason}"
                events.append(Event(incident.id, now, "class", text))
                # Diagnosed anew: what is to be done, and what was before it, follow from the class.
                joined = replace(
                    joined, fault_class=finding.fault_class, device=finding.device, run=finding.run or joined.run,
                    reason=finding.reason, state=State.OPEN, waiting="", approved_by="", updated_at=now,
                )  # fmt: skip
            elif procedure.restarts_node and self._can_be_left(incident, steps):
                self._supersede(joined, steps, finding, now)
                return self._open(finding, now)
        if joined is not incident:
            self._store.save(joined, (), events)
        return joined

    def _replaces(self, fault_class: str, incident: Incident) -> bool:
        """Whether a class explains more. Of two that explain as much, the newer word counts (the BMC answered late)."""
        old = self._procedures.get(incident.fault_class)
        return fault_class != incident.fault_class and (old is None or self._procedures[fault_class].rank <= old.rank)

    def _can_be_left(self, incident: Incident, steps: Sequence[Step]) -> bool:
        """Whether all that was done is a thing that a restart of the node undoes, and nothing runs: a GPU's lowered
        power limit, while it settles.
        """
        procedure = self._procedures.get(incident.fault_class)
        settles = steps[-1].status is StepStatus.PLANNED and steps[-1].work.settle_s > 0
        return procedure is not None and procedure.quiesce is None and settles and incident.waiting.startswith("settle")

    def _supersede(self, incident: Incident, steps: Sequence[Step], finding: Finding, now: datetime) -> None:
        text = f"{SUPERSEDED}{finding.fault_class}: {finding.reason}"
        left = [
            replace(step, status=StepStatus.FAILED, ended_at=now, summary=f"never started: {text}")
            for step in steps
            if step.status is StepStatus.PLANNED
        ]
        closed = replace(
            incident, state=State.CLOSED, ended_at=now, updated_at=now, waiting="", reason=f"{text}; {incident.reason}"
        )
        self._store.save(closed, left, [Event(incident.id, now, "closed", text)])


def run_named(world: World, name: str) -> RunView | None:
    """A run by its name; None when it, or all of them, are not known."""
    return next((run for run in world.runs or () if run.run == name), None)


def run_on(world: World, node: str, last_nodes: Mapping[str, Sequence[str]]) -> RunView | None:
    """The wanted run whose job has, or last had, this node; one that still has a job first.

    `last_nodes`: where each run was when Slurm still knew its job.
    """
    runs = [run for run in world.runs or () if not run.finished and run.ended in (None, "failed", "lost")]
    here = [run for run in runs if node in (run.nodes or last_nodes.get(run.run, ()))]
    return min(here, key=lambda run: run.ended is not None, default=None)


def _key(signal: Signal) -> tuple[str, str, str, datetime | None]:
    """What makes a signal another one. A log has a line for each event; a condition only holds on."""
    return signal.kind, signal.name, signal.device, signal.since if signal.kind == "kernel" else None

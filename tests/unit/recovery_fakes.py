"""A small cluster for the recovery engine's tests: nodes, Slurm, one training run, and steps that take their time.

It knows what each playbook does to it and no more. Faults say what ends them. The clock only moves when a test says so.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from medllm.site import Site, load_site
from runbooks.engine.engine import Engine
from runbooks.engine.model import (
    Finding,
    Incident,
    Job,
    NodeView,
    RunView,
    SchedulerNode,
    Signal,
    SignalKind,
    Slot,
    State,
    Step,
    StepResult,
    StepStatus,
    World,
)
from runbooks.engine.procedure import Procedure, load_procedures
from runbooks.engine.store import Store

ROOT = Path(__file__).parents[2]
PROCEDURES: dict[str, Procedure] = load_procedures(ROOT / "runbooks" / "procedures")
START = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
NODES = ("node1", "node2", "node3", "node4")
RUN = "tiny"
LAB = load_site(ROOT / "inventory" / "lab")

# Fault class → the kind and name of what is seen of it.
SEEN: dict[str, tuple[SignalKind, str]] = {
    "node_gone": ("unreachable", "unreachable"),
    "node_hung": ("unreachable", "unreachable"),
    "gpu_fallen_off": ("kernel", "xid-79"),
    "gpu_needs_reset": ("kernel", "xid-119"),
    "fabric_manager_dead": ("alert", "FabricManagerDown"),
    "lustre_evicted": ("kernel", "lustre-evicted"),
    "gpu_overheat": ("alert", "GpuTemperatureHigh"),
    "training_stalled": ("heartbeat", "stalled"),
}
# Playbook → fault classes that it can end, where the fault itself says no other.
MENDS = {
    "reboot.yml": {"gpu_fallen_off", "gpu_needs_reset", "fabric_manager_dead", "lustre_evicted"},
    "power_cycle.yml": {"gpu_fallen_off", "node_hung"},
    "power_on.yml": {"node_gone"},
    "reset_gpu.yml": {"gpu_needs_reset"},
    "restart_fabric_manager.yml": {"fabric_manager_dead"},
    "remount_lustre.yml": {"lustre_evicted"},
    "limit_power.yml": {"gpu_overheat"},
}
SLURM_BOOKS = {"drain.yml", "take_down.yml", "isolate.yml", "return_to_service.yml"}
BOOTS = {"reboot.yml", "power_cycle.yml", "power_on.yml"}


def site_with(**recovery: Any) -> Site:
    """The lab's site with other rules for recovery."""
    return LAB.model_copy(update={"recovery": LAB.recovery.model_copy(update=recovery)})


@dataclass
class Fault:
    """`ends_by`: playbooks that end it; None: those in MENDS, an empty set: none does."""

    fault_class: str
    since: datetime
    ends_by: set[str] | None = None


@dataclass
class Node:
    """A node as it is. `reason`, `states`: as Slurm has it."""

    states: set[str] = field(default_factory=lambda: {"IDLE"})
    reason: str = ""
    boot: int = 1
    faults: dict[str, Fault] = field(default_factory=dict)
    power_limited: bool = False


class Cluster:
    """The world, and the steps under way in it."""

    def __init__(self) -> None:
        self.now = START
        self.nodes = {name: Node() for name in NODES}
        self.run_fault: Fault | None = None
        self.job_runs, self.step, self.restarts = True, 100, 0
        self.touched: list[tuple[str, str]] = []

    def fault(self, node: str, fault_class: str, ends_by: set[str] | None = None) -> Fault:
        """Break something now."""
        fault = Fault(fault_class, self.now, ends_by)
        if fault_class == "training_stalled":
            self.run_fault = fault
        else:
            self.nodes[node].faults[fault_class] = fault
        return fault

    def unreachable(self, name: str) -> bool:
        return bool(self.nodes[name].faults.keys() & {"node_gone", "node_hung"})

    def world(self, **without: None) -> World:
        """What is observed now. `alerts=None` and the like: that source is silent."""
        views = {
            name: NodeView(
                name, not self.unreachable(name), boot_id=None if self.unreachable(name) else f"{name}-boot{node.boot}"
            )
            for name, node in self.nodes.items()
        }
        run = RunView(
            RUN, 1000, str(10 + self.restarts), "RUNNING" if self.job_runs else None,
            None if self.job_runs else "lost", NODES, self.step, self.now, 90, self.restarts, False,
        )  # fmt: skip
        parts: dict[str, Any] = {
            "alerts": (),
            "nodes": views,
            "scheduler_nodes": {
                name: SchedulerNode(name, frozenset(node.states), node.reason) for name, node in self.nodes.items()
            },
            "jobs": (Job("10", f"medllm-{RUN}", "lab", "RUNNING", NODES),) if self.job_runs else (),
            "runs": (run,),
        }
        return World(time=self.now, **{**parts, **without})

    def findings(self) -> list[Finding]:
        """What a diagnosis makes of it. A node that does not answer tells nothing else."""
        found = []
        for name, node in self.nodes.items():
            for fault in node.faults.values():
                if not self.unreachable(name) or fault.fault_class in ("node_gone", "node_hung"):
                    found.append(finding(fault.fault_class, node=name, since=fault.since))
        if self.run_fault is not None:
            found.append(finding("training_stalled", run=RUN, since=self.run_fault.since))
        return found

    def do(self, step: Step, incident: Incident) -> tuple[StepStatus, str, Mapping[str, Any]]:
        """The effect of a step at its end, as the playbooks describe it."""
        book, node = step.work.playbook, self.nodes.get(incident.node)
        if node is not None and node.reason and not node.reason.startswith("medllm-recover:") and book in SLURM_BOOKS:
            refused = {"refused_by": "person"} if step.work.slot is Slot.QUIESCE else {}
            return StepStatus.FAILED, f"{incident.node} was taken out of service by a person", refused
        self.touched.append((incident.node or incident.run, book or "checks"))
        if step.work.slot is Slot.REVALIDATE:
            assert node is not None
            good = not any(self._shows(one, step.work.checks, node) for one in node.faults)
            return (StepStatus.OK, "all passed", {}) if good else (StepStatus.FAILED, "gpu_count FAIL", {})
        if book == "end_job.yml":
            self.job_runs = False
        elif book == "resume_training.yml":
            self.job_runs, self.restarts, self.run_fault = True, self.restarts + 1, None
            return StepStatus.OK, "resumed", {"run": RUN, "checkpoint_step": 90}
        if node is None:
            return StepStatus.OK, "done", {}
        facts: dict[str, Any] = {}
        if book in ("drain.yml", "take_down.yml", "isolate.yml"):
            node.states, node.reason = {"DRAIN", "IDLE"}, f"medllm-recover:{incident.id}"
            self.job_runs = self.job_runs and book == "isolate.yml"
        elif book == "return_to_service.yml":
            node.states, node.reason = {"IDLE"}, ""
        elif book in ("limit_power.yml", "restore_power.yml"):
            node.power_limited = book == "limit_power.yml"
        if book in BOOTS:
            facts["boot_id_before"] = f"{incident.node}-boot{node.boot}"
            node.boot += 1
            facts["boot_id_after"] = f"{incident.node}-boot{node.boot}"
        for name, fault in list(node.faults.items()):
            ends_by = (
                {one for one, classes in MENDS.items() if name in classes} if fault.ends_by is None else fault.ends_by
            )
            if book in ends_by:
                del node.faults[name]
        return StepStatus.OK, "done", facts

    @staticmethod
    def _shows(fault_class: str, checks: tuple[str, ...], node: Node) -> bool:
        if fault_class == "gpu_overheat":
            return "gpu_temperature" in checks
        if fault_class == "lustre_evicted":
            return "lustre_readiness" in checks
        return True


def finding(fault_class: str, *, node: str = "", run: str = "", since: datetime, device: str = "") -> Finding:
    """A finding with the one signal that is typical for its class."""
    kind, name = SEEN[fault_class]
    signal = Signal(kind, name, since, node=node, run=run, device=device, detail=f"{name} seen")
    return Finding(fault_class, node, device, run, (signal,), f"{name} on {node or run}")


class FakeActions:
    """Steps as systemd runs them: they outlive every engine, begin once an id, and end at their time.

    `results`: what a playbook (or "checks") ends with instead of its effect, one after another.
    """

    def __init__(self, cluster: Cluster, seconds: float = 4) -> None:
        self.cluster, self.seconds = cluster, seconds
        self.asked: Counter[str] = Counter()
        self.began: list[tuple[str, Step, datetime]] = []
        self.results: dict[str, list[StepStatus]] = {}
        self.hangs: set[str] = set()
        self._ends: dict[str, datetime] = {}
        self._done: dict[str, StepResult] = {}
        self._of: dict[str, Incident] = {}

    def start(self, step: Step, incident: Incident) -> None:
        self.asked[step.id] += 1
        if step.id in self._ends:
            return
        self._ends[step.id] = self.cluster.now + timedelta(seconds=self.seconds)
        self._of[step.id] = incident
        self.began.append((incident.node or incident.run, step, self.cluster.now))

    def poll(self, step: Step) -> StepResult | None:
        if step.id not in self._ends:
            return StepResult(StepStatus.UNKNOWN, "its directory is gone", {}, self.cluster.now)
        if step.id not in self._done:
            book = step.work.playbook or "checks"
            if self.cluster.now < self._ends[step.id] or book in self.hangs:
                return None
            status, text, facts = self._end(step, book)
            assert status in (StepStatus.OK, StepStatus.FAILED, StepStatus.UNKNOWN)
            self._done[step.id] = StepResult(status, text, facts, self.cluster.now)
        return self._done[step.id]

    def _end(self, step: Step, book: str) -> tuple[StepStatus, str, Mapping[str, Any]]:
        if wanted := self.results.get(book):
            status = wanted.pop(0)
            if status is not StepStatus.OK:
                return status, f"{book} {status}", {}
        return self.cluster.do(step, self._of[step.id])

    @property
    def books(self) -> list[str]:
        """What was begun, in order."""
        return [step.work.playbook or "checks" for _, step, _ in self.began]


@contextmanager
def fast_directory() -> Iterator[Path]:
    """A directory in memory where there is one: these tests commit tens of thousands of times."""
    parent = Path("/dev/shm")
    place = Path(tempfile.mkdtemp(prefix="medllm-test-", dir=parent if os.access(parent, os.W_OK) else None))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


class Lab:
    """Cluster, actions, store and engine together."""

    def __init__(
        self, directory: Path, site: Site | None = None, *, store: Callable[[Path], Store] = Store, seconds: float = 4
    ) -> None:
        self.path, self.site, self.make_store = directory / "incidents.db", site or LAB, store
        self.cluster = Cluster()
        self.actions = FakeActions(self.cluster, seconds)
        self.store = store(self.path)
        self.engine = Engine(self.site, self.store, self.actions, PROCEDURES)

    def tick(self, seconds: float = 2, **without: None) -> None:
        """Let time pass, then go round once with what is to be seen."""
        self.cluster.now += timedelta(seconds=seconds)
        self.engine.tick(self.cluster.world(**without), self.cluster.findings())

    def until(self, holds: Callable[[], bool], *, limit_s: float = 1200, every_s: float = 2) -> float:
        """Go round until something holds; the seconds that it took."""
        begin = self.cluster.now
        while not (self.store.incidents() and holds()):
            passed = (self.cluster.now - begin).total_seconds()
            assert passed < limit_s, f"after {passed} s: {[(i.state, i.waiting) for i in self.store.incidents()]}"
            self.tick(every_s)
        return (self.cluster.now - begin).total_seconds()

    def over(self) -> bool:
        """There was an incident, and all are closed or escalated."""
        incidents = self.store.incidents()
        return bool(incidents) and all(one.state in (State.CLOSED, State.ESCALATED) for one in incidents)

    def restart(self) -> None:
        """The engine is gone without a word, and another one begins."""
        self.store.close()
        self.store = self.make_store(self.path)
        self.engine = Engine(self.site, self.store, self.actions, PROCEDURES)

    @property
    def only(self) -> Incident:
        """The one incident."""
        incidents = self.store.incidents()
        assert len(incidents) == 1, incidents
        return incidents[0]

    def kinds(self) -> list[str]:
        """The kinds of the only incident's events."""
        return [event.kind for event in self.store.events(self.only.id)]

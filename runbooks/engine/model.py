"""The engine's words: what was observed, what it means, what is done about it.

Everything here is plain data. Times are aware datetimes in UTC. Nothing in it is a patient's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal


class State(StrEnum):
    """Where an incident stands. CLOSED and ESCALATED are ends: the cluster is well again, or a person must act."""

    OPEN = "open"
    DIAGNOSED = "diagnosed"
    ACTING = "acting"
    REVALIDATING = "revalidating"
    CLOSED = "closed"
    ESCALATED = "escalated"


class Slot(StrEnum):
    """The places of the one state machine that a procedure fills."""

    QUIESCE = "quiesce"
    ACT = "act"
    REVALIDATE = "revalidate"
    RETURN = "return"
    RESUME = "resume"
    ISOLATE = "isolate"


class StepStatus(StrEnum):
    """PLANNED: stored, perhaps not started. UNKNOWN: started, and it left no result: only the machine can tell."""

    PLANNED = "planned"
    RUNNING = "running"
    OK = "ok"
    FAILED = "failed"
    UNKNOWN = "unknown"


# A step's fact: who held the node, where that was found before anything was done.
REFUSED_BY = "refused_by"

SignalKind = Literal["alert", "kernel", "unreachable", "heartbeat", "job"]


@dataclass(frozen=True, slots=True)
class Signal:
    """One observation that speaks for a fault.

    `name`: the alert's name, `xid-79`, `sxid-20034`, `lustre-evicted`, `unreachable`, `stalled`, `job-failed`.
    `since`: when the condition began (the alert's activeAt, the log line's time). `node` is empty for a run's own.
    """

    kind: SignalKind
    name: str
    since: datetime
    node: str = ""
    device: str = ""
    run: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """A diagnosed fault: signals that one fault class explains, joined by node, device, run."""

    fault_class: str
    node: str
    device: str
    run: str
    signals: tuple[Signal, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class NodeView:
    """What is known of a GPU node. None: not known (the probe did not end, or its answer is too old).

    `reachable`: it answered over SSH; `unreachable_since`: when it stopped to. `power`: the BMC's word, asked only of a
    node that is not reachable. `events`: kernel messages of this boot that the policy knows.
    """

    name: str
    reachable: bool | None
    unreachable_since: datetime | None = None
    boot_id: str | None = None
    power: Literal["On", "Off"] | None = None
    events: tuple[Signal, ...] = ()


@dataclass(frozen=True, slots=True)
class SchedulerNode:
    """A node as Slurm has it: states in capitals without suffix characters (DRAIN, DOWN, IDLE, ALLOCATED, …)."""

    name: str
    states: frozenset[str]
    reason: str = ""

    @property
    def out(self) -> bool:
        """It takes no job."""
        return bool(self.states & {"DRAIN", "DOWN", "FAIL", "NOT_RESPONDING", "UNKNOWN"})


@dataclass(frozen=True, slots=True)
class Job:
    """A job that Slurm still knows. `state`: RUNNING, PENDING, COMPLETING, FAILED, … `ended`: when it did, or when its
    time is up.
    """

    id: str
    name: str
    user: str
    state: str
    nodes: tuple[str, ...]
    started: datetime | None = None
    ended: datetime | None = None


@dataclass(frozen=True, slots=True)
class RunView:
    """A training run whose directory has a launch.json: what was wanted, and how far it is.

    `ended`: how its newest job ended (`completed`, `failed`, `cancelled`, `lost`, `refused`); None while it is
    queued or runs. `failed` is a bad exit of the ranks, `lost` an end without a last word or by the engine itself,
    `refused` exit status 2.
    """

    run: str
    wanted_steps: int
    job: str | None
    job_state: str | None
    ended: str | None
    nodes: tuple[str, ...]
    step: int
    last_step_at: datetime | None
    checkpoint_step: int | None
    restarts: int
    finished: bool
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class World:
    """The newest observations, side by side. A part that is None could not be read or is too old: nothing follows
    from it.
    """

    time: datetime
    alerts: tuple[Signal, ...] | None
    nodes: Mapping[str, NodeView]
    scheduler_nodes: Mapping[str, SchedulerNode] | None
    jobs: tuple[Job, ...] | None
    runs: tuple[RunView, ...] | None


@dataclass(frozen=True, slots=True)
class Work:
    """One slot of a procedure: a playbook with variables, or checks by id (REVALIDATE). `approval`: a person must agree
    where the site says `reboot_approval: ask`. `settle_s`: wait so long before it starts, without blocking others.
    """

    slot: Slot
    playbook: str = ""
    variables: Mapping[str, Any] = field(default_factory=dict)
    checks: tuple[str, ...] = ()
    deadline_s: int = 60
    settle_s: int = 0
    approval: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """One piece of work of an incident, stored before it is started. `id` is also the name of its directory and unit:
    `medllm-<incident>-<number>-<slot>`.
    """

    id: str
    incident: str
    number: int
    attempt: int
    work: Work
    status: StepStatus
    planned_at: datetime
    not_before: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    summary: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def refused(self) -> bool:
        """Whether it did nothing at all, since another held the node: a person was quicker than Slurm's last answer."""
        return self.status is StepStatus.FAILED and self.work.slot is Slot.QUIESCE and REFUSED_BY in self.facts


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step left behind. `facts`: what its playbook reported (`set_stats`), or the checks' outcomes."""

    status: Literal[StepStatus.OK, StepStatus.FAILED, StepStatus.UNKNOWN]
    summary: str
    facts: Mapping[str, Any]
    ended_at: datetime


@dataclass(frozen=True, slots=True)
class Incident:
    """A fault on one node (or of one run) from its first signal to its end. `waiting`: why it does not go on now."""

    id: str
    fault_class: str
    node: str
    device: str
    run: str
    state: State
    attempt: int
    opened_at: datetime
    updated_at: datetime
    ended_at: datetime | None
    reason: str
    waiting: str
    approved_by: str
    signals: tuple[Signal, ...]
    before: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Event:
    """One line of an incident's time line."""

    incident: str
    at: datetime
    kind: str
    text: str
    data: Mapping[str, Any] = field(default_factory=dict)

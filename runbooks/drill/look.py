"""What a drill sees with its own eyes, beside the engine: Slurm, alerts, the run's records, ranks and boots."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from medllm.remote import Remote, RemoteError, run_many
from medllm.site import Site
from runbooks.engine.model import SchedulerNode
from trainer.launch import job_name
from trainer.run_files import EVENTS, METRICS, parse_lines

LOOK_S = 15.0
_MARK = "-- medllm --"
# Only the newest lines are of interest, and a run of many steps has many.
_NEWEST = 100


@dataclass(frozen=True, slots=True)
class Alert:
    """A firing alert of Prometheus; `since`: when its condition began, before the `for:` of its rule."""

    name: str
    node: str
    since: datetime


@dataclass(frozen=True, slots=True)
class Resume:
    """The run went on from a checkpoint."""

    step: int
    at: datetime


@dataclass(frozen=True, slots=True)
class Training:
    """A run as its own records tell it. `steps`: the newest (step, time) pairs in the order written."""

    job: str = ""
    job_state: str = ""
    steps: tuple[tuple[int, datetime], ...] = ()
    checkpoints: tuple[tuple[int, datetime], ...] = ()
    resumes: tuple[Resume, ...] = ()
    restarts: int = 0

    @property
    def step(self) -> int:
        """The newest step; 0 before the first."""
        return self.steps[-1][0] if self.steps else 0

    @property
    def checkpoint(self) -> int:
        """Step of the newest checkpoint; 0 before the first."""
        return self.checkpoints[-1][0] if self.checkpoints else 0


@dataclass(frozen=True, slots=True)
class Look:
    """One look from mgmt. `alerts` is None when Prometheus did not answer, `engine_runs` the service's word."""

    at: datetime
    slurm: Mapping[str, SchedulerNode]
    alerts: tuple[Alert, ...] | None
    training: Training
    engine_runs: bool


@dataclass(frozen=True, slots=True)
class NodeLook:
    """A node's boot and the ranks on it, each as "pid@start" (clock ticks after the boot): a number may come again."""

    boot_id: str = ""
    ranks: frozenset[str] = field(default_factory=frozenset)


def ranks_pattern(run: str) -> str:
    """For `pgrep -f`, quoted for a shell: the ranks of a run, and neither srun nor the shell that asks."""
    return shlex.quote(rf"^[^ ]*python[^ ]* -m trainer[.]worker --request [^ ]*/{re.escape(run)}/")


def look(mgmt: Remote, site: Site, run: str) -> Look:
    """See all that mgmt can tell, in one round trip. Raises RemoteError."""
    directory = shlex.quote(f"{site.paths.checkpoints}/{run}")
    alerts = f"http://127.0.0.1:{site.ports.prometheus}/api/v1/alerts"
    parts = [
        "systemctl is-active medllm-recover.service",
        "scontrol --oneliner show node",
        f"curl -fsS --max-time 5 {alerts}",
        f"squeue --noheader --name={job_name(run)} --format='%i %T' | sort -n | tail -n 1",
        f"tail -n {_NEWEST} {directory}/{METRICS}",
        f"tail -n {_NEWEST} {directory}/{EVENTS}",
        f'grep -c \'"event": "resume"\' {directory}/{EVENTS}',
    ]
    script = f"; echo; echo {shlex.quote(_MARK)}; ".join(f"{part} 2>/dev/null" for part in parts)
    done = mgmt.run(script + " || true", deadline_s=LOOK_S).check()
    now = datetime.now(UTC)
    answers = [part.strip() for part in done.stdout.split(f"{_MARK}\n")]
    if len(answers) != len(parts):
        raise RemoteError(mgmt.host.name, "its answer ended early")
    active, nodes, firing, job, metrics, events, restarts = answers
    return Look(
        now, parse_nodes(nodes), parse_alerts(firing), parse_training(job, metrics, events, restarts),
        active == "active",
    )  # fmt: skip


def parse_nodes(text: str) -> dict[str, SchedulerNode]:
    """`scontrol --oneliner show node`: names, states without suffix characters, reasons without who and when."""
    nodes = {}
    for line in text.splitlines():
        name, state = re.match(r"NodeName=(\S+)", line), re.search(r"\sState=(\S+)", line)
        if name is None or state is None:
            continue
        # Slurm writes NOT_RESPONDING as a star behind the state.
        states = {word.rstrip("*~#!%$@^-+") for word in state[1].split("+")}
        if "*" in state[1]:
            states.add("NOT_RESPONDING")
        reason = re.search(r"\sReason=(.*?)(?:\s\[[^\]]*\])?\s*$", line)
        nodes[name[1]] = SchedulerNode(name[1], frozenset(states), reason[1] if reason else "")
    return nodes


def parse_alerts(text: str) -> tuple[Alert, ...] | None:
    """The firing ones in the answer of /api/v1/alerts; None for no answer."""
    try:
        listed = json.loads(text)["data"]["alerts"]
        return tuple(
            Alert(entry["labels"]["alertname"], entry["labels"].get("node", ""), _stamp(entry["activeAt"]))
            for entry in listed
            if entry["state"] == "firing"
        )
    except (ValueError, KeyError, TypeError):
        return None


def parse_training(job: str, metrics: str, events: str, restarts: str) -> Training:
    """The run's newest job ("id STATE"), the ends of its two record files, the count of its resumes."""
    number, _, state = job.partition(" ")
    happened = list(parse_lines(events))

    def of(kind: str) -> Iterable[dict[str, Any]]:
        return (record for record in happened if record.get("event") == kind)

    return Training(
        number,
        state.strip(),
        tuple((record["step"], _at(record)) for record in parse_lines(metrics) if "step" in record),
        tuple((record["step"], _at(record)) for record in of("checkpoint")),
        tuple(Resume(record["step"], _at(record)) for record in of("resume")),
        int(restarts) if restarts.isdigit() else 0,
    )


def look_at_nodes(site: Site, run: str, names: Iterable[str] = ()) -> dict[str, NodeLook]:
    """Boot and ranks of the GPU nodes (or of those named); a node that does not answer is left out."""
    probe = (
        "cat /proc/sys/kernel/random/boot_id; "
        f"for pid in $(pgrep -f {ranks_pattern(run)}); do awk '{{print $1, $22}}' /proc/$pid/stat 2>/dev/null; done"
    )
    wanted = set(names)
    hosts = [host for host in site.gpu_nodes if not wanted or host.name in wanted]
    found = {}
    for name, done in run_many(hosts, probe, deadline_s=LOOK_S).items():
        lines = done.stdout.split("\n")
        if done.error is None and lines[0]:
            found[name] = NodeLook(lines[0], frozenset(line.replace(" ", "@") for line in lines[1:] if line))
    return found


def _at(record: Mapping[str, Any]) -> datetime:
    return datetime.fromtimestamp(float(record["time"]), UTC)


def _stamp(text: str) -> datetime:
    # Go prints nanoseconds; datetime takes microseconds at most.
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text))

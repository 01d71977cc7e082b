"""The observer: one thread a source, each with its own period and deadline. A source that hangs costs only itself.

What was read is kept with its time; what is too old is not known. Nothing here decides anything.
"""

from __future__ import annotations

import logging
import shlex
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from medllm.redfish import Bmc, RedfishError
from medllm.remote import Remote
from medllm.site import Site
from medllm.site.model import Host
from runbooks.engine import kernel_log, runs_view, slurm_view
from runbooks.engine.model import Job, NodeView, RunView, SchedulerNode, Signal, World
from runbooks.engine.policy import Policy
from runbooks.engine.prometheus import Alerts

log = logging.getLogger("medllm.recover.observe")

ALERTS_PERIOD_S = 2.0
NODE_PERIOD_S = 4.0
SLURM_PERIOD_S = 3.0
PROBE_DEADLINE_S = 5.0
SLURM_DEADLINE_S = 20.0
# Three probes in a row: the goal of two minutes from a node's loss to the next step leaves no time for the alert.
UNREACHABLE_S = 12.0
STALE_S = 30.0

SlurmState = tuple[dict[str, SchedulerNode], tuple[Job, ...], tuple[RunView, ...] | None]


class Source:
    """Reads something again and again in a thread of its own. `value` is the newest answer, `at` its monotonic time."""

    def __init__(self, name: str, period_s: float, read: Callable[[], Any]) -> None:
        self.name, self._period_s, self._read = name, period_s, read
        self._lock = threading.Lock()
        self._value: Any = None
        self._at: float | None = None
        self._begun = time.monotonic()
        self._problem = ""
        self._wake, self._stopped = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._begun = time.monotonic()
        self._thread.start()

    def hurry(self) -> None:
        self._wake.set()

    def stop(self) -> None:
        """Ask the thread to end; one that hangs is left to die with the process."""
        self._stopped.set()
        self._wake.set()

    def age(self) -> float:
        """Seconds since the newest answer; without one since the start."""
        with self._lock:
            return time.monotonic() - (self._begun if self._at is None else self._at)

    def value(self) -> Any:
        """The newest answer; None when there is none or it is too old."""
        with self._lock:
            if self._at is None or time.monotonic() - self._at > STALE_S:
                return None
            return self._value

    def _run(self) -> None:
        while not self._stopped.is_set():
            begin = time.monotonic()
            self._once()
            self._wake.wait(max(0.1, self._period_s - (time.monotonic() - begin)))
            self._wake.clear()

    def _once(self) -> None:
        try:
            value = self._read()
        except Exception as error:  # whatever a source does, the others go on
            problem = f"{type(error).__name__}: {error}"
            if problem != self._problem:
                log.warning("%s can't be read: %s", self.name, problem[:300])
            self._problem = problem
            return
        if self._problem:
            log.info("%s can be read again", self.name)
        self._problem = ""
        with self._lock:
            self._value, self._at = value, time.monotonic()


class NodeProbe:
    """One node: its kernel log over SSH; its BMC when SSH is silent."""

    def __init__(self, host: Host, policy: Policy, bmc: Callable[[Host], str]) -> None:
        self._host, self._policy, self._bmc = host, policy, bmc
        self._remote = Remote(host, connect_deadline_s=PROBE_DEADLINE_S)
        self._silent_since: datetime | None = None

    def read(self) -> NodeView:
        """What is known of it now."""
        asked = datetime.now(UTC)
        result = self._remote.run(kernel_log.command(self._policy), deadline_s=PROBE_DEADLINE_S, sudo=True)
        name = self._host.name
        if result.error is None:
            self._silent_since = None
            if not result.ok:
                # It answers, and its kernel log can't be read: it is there, and nothing is known of its GPUs.
                raise ValueError(f"{name}: {(result.stderr.strip() or f'exit status {result.rc}')[:200]}")
            boot_id, events = kernel_log.parse_kernel_log(result.stdout, name, self._policy)
            return NodeView(name, True, boot_id=boot_id, events=events)
        self._silent_since = self._silent_since or asked
        if (datetime.now(UTC) - self._silent_since).total_seconds() < UNREACHABLE_S:
            return NodeView(name, None, unreachable_since=self._silent_since)
        return NodeView(name, False, unreachable_since=self._silent_since, power=self._power())

    def _power(self) -> Literal["On", "Off"] | None:
        try:
            answer = self._bmc(self._host)
        except RedfishError as error:
            log.warning("%s: %s", self._host.name, str(error)[:300])
            return None
        return "On" if answer == "On" else "Off" if answer == "Off" else None


class Observer:
    """All sources of a site. `secrets` holds the BMCs' login; without it no power state is known."""

    def __init__(
        self,
        site: Site,
        policy: Policy,
        secrets: Path | None,
        *,
        prometheus_url: str = "",
        bmc: Callable[[Host], str] | None = None,
    ) -> None:
        self._site = site
        url = prometheus_url or f"http://{site.mgmt.address}:{site.ports.prometheus}"
        self._alerts = Source("prometheus", ALERTS_PERIOD_S, _lazily(lambda: Alerts(url).read))
        self._mgmt = Remote(site.mgmt, connect_deadline_s=PROBE_DEADLINE_S)
        self._slurm = Source("slurm", SLURM_PERIOD_S, self._read_slurm)
        ask = bmc or (lambda host: _power_of(host, secrets))
        self._nodes = {
            host.name: Source(host.name, NODE_PERIOD_S, NodeProbe(host, policy, ask).read) for host in site.gpu_nodes
        }

    @property
    def _sources(self) -> list[Source]:
        return [self._alerts, self._slurm, *self._nodes.values()]

    def start(self) -> None:
        """Begin to read."""
        for source in self._sources:
            source.start()

    def stop(self) -> None:
        """End; returns at once."""
        for source in self._sources:
            source.stop()

    def hurry(self) -> None:
        """Read the alerts now."""
        self._alerts.hurry()

    def world(self) -> World:
        """The newest of everything. Never waits."""
        slurm: SlurmState | None = self._slurm.value()
        views = {name: source.value() or NodeView(name, None) for name, source in self._nodes.items()}
        alerts: tuple[Signal, ...] | None = self._alerts.value()
        nodes, jobs, runs = slurm if slurm is not None else (None, None, None)
        return World(datetime.now(UTC), alerts, views, nodes, jobs, runs)

    def ages(self) -> dict[str, float]:
        """Seconds since each source was last read."""
        return {source.name: round(source.age(), 1) for source in self._sources}

    def _read_slurm(self) -> SlurmState:
        """Slurm and the runs by one command, so that both speak of the same moment."""
        runs_command = runs_view.command(self._site.paths.checkpoints)
        command = (
            f"{{ {slurm_view.COMMAND}; }} || exit 70; echo @@runs; ( timeout 8 sh -c {shlex.quote(runs_command)} )"
        )
        result = self._mgmt.run(command, deadline_s=SLURM_DEADLINE_S)
        slurm_text, mark, runs_text = result.stdout.partition("@@runs\n")
        if not mark:
            raise ValueError(result.error or result.stderr.strip()[:200] or "Slurm does not answer")
        nodes, jobs = slurm_view.parse_slurm(slurm_text)
        # The shared file system may be away while Slurm is well: then nothing is known of the runs.
        runs = runs_view.parse_runs(runs_text, jobs) if result.rc == 0 else None
        return nodes, jobs, runs


def _lazily(make: Callable[[], Callable[[], Any]]) -> Callable[[], Any]:
    """Make the reader in its own thread, on the first call: the library takes seconds to import its own."""
    made: list[Callable[[], Any]] = []

    def read() -> Any:
        if not made:
            made.append(make())
        return made[0]()

    return read


def _power_of(host: Host, secrets: Path | None) -> str:
    if secrets is None or host.bmc_url is None:
        raise RedfishError(f"{host.name}: no BMC is declared, or its login is not here")
    ca = secrets / "bmc-ca.pem"
    return Bmc(host.bmc_url, secrets / "bmc.json", ca if ca.exists() else None).power()

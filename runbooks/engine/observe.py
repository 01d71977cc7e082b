"""The observer: one thread a source, each with its own period and deadline. A source that hangs costs only itself.

What was read is kept with its time; what is too old is not known. Nothing here decides anything.
"""

from __future__ import annotations

import logging
import shlex
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

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
RUNS_PERIOD_S = 3.0
PROBE_DEADLINE_S = 5.0
SLURM_DEADLINE_S = 20.0
RUNS_DEADLINE_S = 25.0
WITNESS_DEADLINE_S = 2.0
# Three probes in a row: the goal of two minutes from a node's loss to the next step leaves no time for the alert.
UNREACHABLE_S = 12.0
STALE_S = 30.0

SlurmState = tuple[dict[str, SchedulerNode], tuple[Job, ...]]


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
    """One node: its kernel log over SSH; when SSH is silent, whether anything else of it lives, and its BMC."""

    def __init__(self, host: Host, policy: Policy, bmc: Callable[[Host], str], exporter_port: int) -> None:
        self._host, self._policy, self._bmc, self._exporter_port = host, policy, bmc, exporter_port
        self._remote = Remote(host, connect_deadline_s=PROBE_DEADLINE_S)
        self._silent_since: datetime | None = None
        self._told = ""

    def read(self) -> NodeView:
        """What is known of it now."""
        asked = datetime.now(UTC)
        result = self._remote.run(kernel_log.command(self._policy), deadline_s=PROBE_DEADLINE_S, sudo=True)
        name = self._host.name
        if result.error is None:
            self._silent_since = None
            try:
                if not result.ok:
                    raise ValueError(f"{name}: {(result.stderr.strip() or f'exit status {result.rc}')[:200]}")
                now = datetime.now(UTC)
                boot_id, events = kernel_log.parse_kernel_log(result.stdout, name, self._policy, now)
            except ValueError as error:
                # It answers, and its kernel log can't be read: without a boot id nothing follows from it.
                self._tell(f"its kernel log can't be read: {error}")
                return NodeView(name, True)
            self._told = ""
            return NodeView(name, True, boot_id=boot_id, events=events)
        self._silent_since = self._silent_since or asked
        if (datetime.now(UTC) - self._silent_since).total_seconds() < UNREACHABLE_S:
            return NodeView(name, None, unreachable_since=self._silent_since)
        if self._lives():
            # Only its SSH server is ill: a power cycle would end a healthy job.
            self._tell(f"it lives, and SSH does not answer: {result.error}")
            return NodeView(name, None, unreachable_since=self._silent_since)
        return NodeView(name, False, unreachable_since=self._silent_since, power=self._power())

    def _lives(self) -> bool:
        """Whether its node-exporter says a word. The kernel of a machine that hangs may still take connections."""
        address = (self._host.address, self._exporter_port)
        try:
            with socket.create_connection(address, timeout=WITNESS_DEADLINE_S) as connection:
                connection.settimeout(WITNESS_DEADLINE_S)
                connection.sendall(b"HEAD / HTTP/1.0\r\n\r\n")
                return connection.recv(5) != b""
        except OSError:
            return False

    def _tell(self, problem: str) -> None:
        if problem != self._told:
            log.warning("%s: %s", self._host.name, problem[:300])
        self._told = problem

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
        self._alerts = Source("prometheus", ALERTS_PERIOD_S, _lazily(lambda: Alerts(url, policy.watchdog).read))
        # A session each: storage that hangs under the runs must not hide what Slurm says.
        self._for_slurm = Remote(site.mgmt, connect_deadline_s=PROBE_DEADLINE_S)
        self._for_runs = Remote(site.mgmt, connect_deadline_s=PROBE_DEADLINE_S)
        self._zone = ZoneInfo(site.timezone)
        self._slurm = Source("slurm", SLURM_PERIOD_S, self._read_slurm)
        self._runs = Source("runs", RUNS_PERIOD_S, self._read_runs)
        ask = bmc or (lambda host: _power_of(host, secrets))
        self._nodes = {
            host.name: Source(host.name, NODE_PERIOD_S, NodeProbe(host, policy, ask, site.ports.node_exporter).read)
            for host in site.gpu_nodes
        }

    @property
    def _sources(self) -> list[Source]:
        return [self._alerts, self._slurm, self._runs, *self._nodes.values()]

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
        nodes, jobs = slurm if slurm is not None else (None, None)
        runs: tuple[RunView, ...] | None = self._runs.value()
        return World(datetime.now(UTC), alerts, views, nodes, jobs, runs)

    def ages(self) -> dict[str, float]:
        """Seconds since each source was last read."""
        return {source.name: round(source.age(), 1) for source in self._sources}

    def _read_slurm(self) -> SlurmState:
        result = self._for_slurm.run(slurm_view.COMMAND, deadline_s=SLURM_DEADLINE_S)
        if not result.ok:
            raise ValueError(result.error or result.stderr.strip()[:200] or f"exit status {result.rc}")
        return slurm_view.parse_slurm(result.stdout)

    def _read_runs(self) -> tuple[RunView, ...]:
        """The runs with the jobs as Slurm has them just after, by one command: both speak of the same moment."""
        inner = runs_view.command(self._site.paths.checkpoints)
        result = self._for_runs.run(f"timeout 20 sh -c {shlex.quote(inner)}", deadline_s=RUNS_DEADLINE_S)
        if not result.ok:
            raise ValueError(result.error or result.stderr.strip()[:200] or f"exit status {result.rc}")
        return runs_view.parse_answer(result.stdout, self._zone)


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

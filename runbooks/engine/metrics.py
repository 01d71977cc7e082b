"""What the engine tells Prometheus. The alerts on it are in the role `prometheus`; a name here is a promise to them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Counter as PrometheusCounter
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from runbooks.engine.model import Incident, Slot, State, Step, StepStatus

# Why an incident may wait, as a label: `Incident.waiting` is a sentence for people that begins with its kind.
WHY = ("approval", "pause", "dry_run", "settle", "guard")
_ENDED = (StepStatus.OK, StepStatus.FAILED, StepStatus.UNKNOWN)


def why(waiting: str) -> str:
    """The kind of a waiting sentence; what is no other kind is a guard's."""
    kind = waiting.partition(":")[0].replace(" ", "_")
    return kind if kind in WHY else "guard"


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts of all incidents and ended steps, as the store has them."""

    incidents: Mapping[tuple[str, str], int]
    waiting: Mapping[tuple[str, str], int]
    steps: Mapping[tuple[str, str], int]


def tally(incidents: Iterable[Incident], steps: Iterable[Step]) -> Tally:
    """Count: incidents by state and class, waiting ones by class and why, ended steps by slot and status."""
    listed = list(incidents)
    open_ones = [incident for incident in listed if incident.state is not State.CLOSED]
    return Tally(
        Counter((incident.state.value, incident.fault_class) for incident in listed),
        Counter((incident.fault_class, why(incident.waiting)) for incident in open_ones if incident.waiting),
        Counter((step.work.slot.value, step.status.value) for step in steps if step.status in _ENDED),
    )


class Metrics:
    """Holds the newest numbers; a scrape reads them from any thread and touches neither store nor machines."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._webhooks = PrometheusCounter(
            "medllm_recovery_webhooks", "Webhooks and other requests, by what became of them.", ["result"],
            registry=self._registry,
        )  # fmt: skip
        for result in ("accepted", "unauthorized", "malformed", "unknown_alert"):
            self._webhooks.labels(result)
        self._lock = threading.Lock()
        self._tally = Tally({}, {}, {})
        self._ages: Mapping[str, float] = {}
        self._ticked: datetime | None = None
        self._registry.register(self)

    def count_webhook(self, result: str) -> None:
        """One more request that became `result`."""
        self._webhooks.labels(result).inc()

    def ticked(self, at: datetime, ages: Mapping[str, float], counts: Tally) -> None:
        """Replace the numbers after a tick. `ages`: seconds since each source was last read."""
        with self._lock:
            self._ticked, self._ages, self._tally = at, dict(ages), counts

    def text(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self._registry)

    def describe(self) -> list[Metric]:
        """Nothing: the registry would otherwise collect once to learn the names."""
        return []

    def collect(self) -> Iterable[Metric]:
        """prometheus_client's way to ask."""
        with self._lock:
            counts, ages, ticked = self._tally, self._ages, self._ticked
        incidents = GaugeMetricFamily(
            "medllm_recovery_incidents", "Incidents by state and fault class.", labels=["state", "fault_class"]
        )
        for labels, number in sorted(counts.incidents.items()):
            incidents.add_metric(labels, number)
        waiting = GaugeMetricFamily(
            "medllm_recovery_waiting", "Open incidents that something holds up.", labels=["fault_class", "why"]
        )
        for labels, number in sorted(counts.waiting.items()):
            waiting.add_metric(labels, number)
        steps = CounterMetricFamily("medllm_recovery_steps", "Steps that ended.", labels=["slot", "status"])
        for slot in Slot:
            for status in _ENDED:
                steps.add_metric((slot.value, status.value), counts.steps.get((slot.value, status.value), 0))
        age = GaugeMetricFamily(
            "medllm_recovery_source_age_seconds", "Seconds since a source was last read.", labels=["source"]
        )
        for source, seconds in sorted(ages.items()):
            age.add_metric([source], seconds)
        yield from (incidents, waiting, steps, age)
        if ticked is not None:
            yield GaugeMetricFamily(
                "medllm_recovery_tick_timestamp_seconds", "When the engine last went round.", value=ticked.timestamp()
            )

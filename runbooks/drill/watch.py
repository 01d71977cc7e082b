"""A drill's memory of what it saw from the fault on: who was out of service and when, which alerts fired."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime

from runbooks.drill.look import Alert, Look, Resume, Training

# What takes a node out on purpose; a node that merely does not answer Slurm for a moment was not touched.
TAKEN_OUT = frozenset({"DRAIN", "DOWN", "FAIL"})


@dataclass(slots=True)
class Outage:
    """A node was seen out of service, for these reasons; `back_at`: seen in service again."""

    node: str
    seen_at: datetime
    reasons: list[str] = field(default_factory=list)
    back_at: datetime | None = None


@dataclass(slots=True)
class Watch:
    """Everything seen since `begin`. `before`: alerts that fired already, which therefore prove nothing."""

    begin: datetime
    before: frozenset[tuple[str, str, datetime]] = frozenset()
    outages: list[Outage] = field(default_factory=list)
    fired: dict[tuple[str, str], datetime] = field(default_factory=dict)
    most_out: int = 0
    _steps: dict[datetime, int] = field(default_factory=dict)
    _checkpoints: dict[datetime, int] = field(default_factory=dict)
    _resumes: dict[datetime, int] = field(default_factory=dict)

    @classmethod
    def from_now(cls, look: Look, begin: datetime) -> Watch:
        """Begin with what is there already."""
        watch = cls(begin, frozenset(_identity(alert) for alert in look.alerts or ()))
        watch.remember(look.training)
        return watch

    def see(self, look: Look) -> None:
        """Take in one look."""
        self.remember(look.training)
        out = 0
        for name, node in sorted(look.slurm.items()):
            current = next((outage for outage in reversed(self.outages) if outage.node == name), None)
            taken = bool(node.states & TAKEN_OUT)
            out += taken
            if taken and (current is None or current.back_at is not None):
                current = Outage(name, look.at)
                self.outages.append(current)
            if taken and current is not None and node.reason not in current.reasons:
                current.reasons.append(node.reason)
            if current is not None and current.back_at is None and not node.out:
                current.back_at = look.at
        self.most_out = max(self.most_out, out)
        for alert in look.alerts or ():
            if _identity(alert) not in self.before:
                self.fired.setdefault((alert.name, alert.node), look.at)

    def remember(self, training: Training) -> None:
        """Keep records that the next look will no longer reach back to."""
        self._steps.update((at, step) for step, at in training.steps)
        self._checkpoints.update((at, step) for step, at in training.checkpoints)
        self._resumes.update((resume.at, resume.step) for resume in training.resumes)

    def whole(self, training: Training) -> Training:
        """The newest state of the run, with all records that were seen since the watch began."""
        return replace(
            training,
            steps=tuple((step, at) for at, step in sorted(self._steps.items())),
            checkpoints=tuple((step, at) for at, step in sorted(self._checkpoints.items())),
            resumes=tuple(Resume(step, at) for at, step in sorted(self._resumes.items())),
        )

    def of(self, node: str) -> list[Outage]:
        """The node's outages, oldest first."""
        return [outage for outage in self.outages if outage.node == node]


def _identity(alert: Alert) -> tuple[str, str, datetime]:
    return alert.name, alert.node, alert.since

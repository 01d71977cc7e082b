"""Incidents as a person reads them, and as JSON: the same whether they are read here or sent from another machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table

from runbooks.engine.model import Event, Incident, Signal, Slot, State, Step, StepStatus
from runbooks.engine.store import Store

_COLOURS = {
    State.OPEN: "yellow", State.DIAGNOSED: "yellow", State.ACTING: "cyan", State.REVALIDATING: "cyan",
    State.CLOSED: "green", State.ESCALATED: "red",
}  # fmt: skip
_MARKS = {
    StepStatus.OK: "[green]✓[/]", StepStatus.FAILED: "[red]✗[/]", StepStatus.UNKNOWN: "[yellow]?[/]",
    StepStatus.RUNNING: "[cyan]…[/]", StepStatus.PLANNED: "·",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Account:
    """One incident with all that belongs to it."""

    incident: Incident
    steps: tuple[Step, ...]
    events: tuple[Event, ...]

    @property
    def since(self) -> datetime:
        """When the first of its signals began."""
        return min((signal.since for signal in self.incident.signals), default=self.incident.opened_at)

    @property
    def detect_s(self) -> float | None:
        """Seconds from the first signal to the incident's opening."""
        return _seconds(self.since, self.incident.opened_at)

    @property
    def act_s(self) -> float | None:
        """Seconds from the first signal to the start of the first step; None: none was started."""
        return _seconds(self.since, min((step.started_at for step in self.steps if step.started_at), default=None))

    @property
    def recover_s(self) -> float | None:
        """Seconds from the first signal to the incident's end; None: it is open, or a person must end it."""
        return _seconds(self.since, self.incident.ended_at if self.incident.state is State.CLOSED else None)

    @property
    def after(self) -> dict[str, Any]:
        """What its playbooks reported, the newest word on each thing: boot id, job, resumed step."""
        facts: dict[str, Any] = {}
        for step in sorted(self.steps, key=lambda step: step.number):
            if step.work.slot is not Slot.REVALIDATE:
                facts |= step.facts
        return facts

    @property
    def where(self) -> str:
        """Node, device and run, as far as it has them."""
        one = self.incident
        return _where(one.node, one.device, one.run or str(self.after.get("run", "")))


@dataclass(frozen=True, slots=True)
class History:
    """Incidents, oldest first. `paused`: by whom and why, "" when the engine may act."""

    paused: str
    incidents: tuple[Account, ...]

    def dump(self) -> str:
        """As JSON. Beside each incident `times`: detect_s, act_s, recover_s as in `Account`."""
        told = _HISTORY.dump_python(self, mode="json")
        for account, described in zip(self.incidents, told["incidents"], strict=True):
            described["times"] = {name: getattr(account, name) for name in ("detect_s", "act_s", "recover_s")}
        return json.dumps(told, indent=1, ensure_ascii=False)


_HISTORY = TypeAdapter(History)


def read(store: Store, incident: str | None = None) -> History:
    """All incidents, or one. Raises KeyError: there is no such incident."""
    chosen = store.incidents() if incident is None else [store.incident(incident)]
    ordered = sorted(chosen, key=lambda one: (one.opened_at, one.id))
    accounts = (Account(one, tuple(store.steps(one.id)), tuple(store.events(one.id))) for one in ordered)
    return History(store.paused(), tuple(accounts))


def parse(text: str) -> History:
    """What `History.dump` wrote. Raises ValueError."""
    return _HISTORY.validate_json(text)


def show(history: History, *, one: bool) -> None:
    """Print the table, or the one incident's time line."""
    # Into a pipe or a file: wide enough for a sentence in the last column.
    console = Console(width=None if sys.stdout.isatty() else 180)
    if history.paused:
        console.print(f"[yellow]paused[/]: {escape(history.paused)}")
    if one:
        console.print(_time_line(history.incidents[0]))
    elif history.incidents:
        console.print(_table(history.incidents))
    else:
        console.print("There was no incident.")


def _table(accounts: Sequence[Account]) -> Table:
    table = Table(title="Incidents", title_justify="left")
    for heading in ("incident", "state", "fault class", "where", "opened (UTC)"):
        table.add_column(heading, no_wrap=heading != "where")
    for heading in ("detect s", "act s", "recover s"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("now")
    for account in accounts:
        incident = account.incident
        table.add_row(
            incident.id,
            _state(incident.state),
            incident.fault_class,
            escape(account.where),
            _clock(incident.opened_at, date=True),
            *(_number(seconds) for seconds in (account.detect_s, account.act_s, account.recover_s)),
            escape(incident.waiting and f"waits: {incident.waiting}"),
        )
    return table


def _time_line(account: Account) -> Group:
    """What it is, how long it took, what was done, every line of its time line."""
    incident = account.incident
    times = (
        f"detected after {_number(account.detect_s)} s, acted after {_number(account.act_s)} s, "
        f"recovered after {_number(account.recover_s)} s"
    )
    head = Table.grid(padding=(0, 2))
    for name, text in (
        ("incident", f"[bold]{incident.id}[/]  {_state(incident.state)}"),
        ("fault class", incident.fault_class),
        ("where", escape(account.where)),
        ("because", escape(incident.reason)),
        ("waits", escape(incident.waiting)),
        ("approved by", escape(incident.approved_by)),
        ("from first signal", times),
        ("before", escape(_pairs(incident.before))),
        ("after", escape(_pairs(account.after))),
    ):
        if text:
            head.add_row(f"[dim]{name}[/]", text)
    steps = Table(title="Steps", title_justify="left")
    for heading in ("", "step", "attempt", "what", "began (UTC)", "seconds", "what came of it"):
        steps.add_column(heading, justify="right" if heading == "seconds" else "left")
    for step in account.steps:
        steps.add_row(
            _MARKS[step.status],
            step.work.slot,
            str(step.attempt),
            step.work.playbook or ", ".join(step.work.checks),
            _clock(step.started_at),
            _number(_seconds(step.started_at, step.ended_at)),
            escape(step.summary),
        )
    events = Table(title="Time line", title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    lines = [(signal.since, "signal", _told(signal)) for signal in incident.signals]
    lines += [(event.at, event.kind, event.text) for event in account.events]
    for at, kind, text in sorted(lines, key=lambda line: line[0]):
        events.add_row(_clock(at), f"[dim]{escape(kind)}[/]", escape(text))
    return Group(head, "", steps, "", events)


def _where(node: str, device: str, run: str) -> str:
    return ", ".join(part for part in (node, device and f"GPU {device}", run and f"run {run}") if part)


def _told(signal: Signal) -> str:
    place = _where(signal.node, signal.device, signal.run)
    return " ".join(part for part in (signal.kind, signal.name, place and f"({place})", signal.detail) if part)


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _state(state: State) -> str:
    return f"[{_COLOURS[state]}]{state}[/]"


def _seconds(start: datetime | None, end: datetime | None) -> float | None:
    return round((end - start).total_seconds(), 1) if start and end else None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _clock(at: datetime | None, *, date: bool = False) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S" if date else "%H:%M:%S") if at else "-"

"""What the engine says of itself: its incidents with their steps and time lines, read on mgmt."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from medllm.remote import Remote, RemoteError
from medllm.site import Site
from runbooks.engine.history import Account, parse
from runbooks.engine.model import Slot, State, StepStatus

STATE = "/var/lib/medllm/recover"
COMMAND_S = 60.0
ENDS = frozenset({State.CLOSED, State.ESCALATED})


@dataclass(frozen=True, slots=True)
class ToldStep:
    """What a drill asks of a step."""

    id: str
    number: int
    slot: Slot
    status: StepStatus
    playbook: str
    started_at: datetime | None
    ended_at: datetime | None
    summary: str
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ToldEvent:
    """One line of the time line."""

    at: datetime
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Told:
    """One incident as the engine tells it."""

    id: str
    state: State
    fault_class: str
    node: str
    run: str
    waiting: str
    opened_at: datetime
    ended_at: datetime | None
    steps: tuple[ToldStep, ...]
    events: tuple[ToldEvent, ...]

    @property
    def over(self) -> bool:
        """The engine does nothing more about it by itself."""
        return self.state in ENDS

    @property
    def set_aside(self) -> bool:
        """Closed without a step: another incident explained it, or it cleared by itself. Nothing was done for it."""
        return self.state is State.CLOSED and not self.steps

    @property
    def first_action(self) -> datetime | None:
        """When its first step was started."""
        return min((step.started_at for step in self.steps if step.started_at), default=None)


class EngineTold:
    """The engine's command on mgmt, over one SSH session. Methods raise RemoteError."""

    def __init__(self, mgmt: Remote, site: Site) -> None:
        self._mgmt = mgmt
        self._command = f"{shlex.quote(site.paths.app)}/ops/current/medllm recover"

    def incidents(self, since: datetime | None = None) -> tuple[Told, ...]:
        """The incidents opened since then, or all; oldest first."""
        _, told = self.read()
        return tuple(each for each in told if since is None or each.opened_at >= since)

    def read(self) -> tuple[str, tuple[Told, ...]]:
        """Why the engine is paused ("" when it is not), and all incidents, oldest first."""
        return parse_history(self._mgmt.host.name, self._ask("history --json"))

    def resolve(self, incident: str, who: str) -> None:
        """Say that a person mended what was escalated."""
        self._ask(f"resolve {shlex.quote(incident)} --by {shlex.quote(who)}")

    def _ask(self, words: str) -> str:
        return (
            self._mgmt.run(f"{self._command} {words} --state {STATE}", deadline_s=COMMAND_S, sudo=True).check().stdout
        )


def parse_history(host: str, text: str) -> tuple[str, tuple[Told, ...]]:
    """`medllm recover history --json`: why it is paused, and the incidents. Raises RemoteError."""
    try:
        history = parse(text)
    except ValueError as error:
        raise RemoteError(host, f"the engine's history can't be read ({str(error).splitlines()[0]})") from None
    return history.paused, tuple(_told(account) for account in history.incidents)


def _told(account: Account) -> Told:
    one = account.incident
    return Told(
        one.id, one.state, one.fault_class, one.node, one.run, one.waiting, one.opened_at, one.ended_at,
        tuple(
            ToldStep(
                step.id, step.number, step.work.slot, step.status, step.work.playbook, step.started_at, step.ended_at,
                step.summary, step.facts,
            )
            for step in account.steps
        ),
        tuple(ToldEvent(event.at, event.kind, event.text) for event in account.events),
    )  # fmt: skip

"""Incidents, steps and time lines in one SQLite file: what is committed has happened, whoever is killed and when.

One engine writes incidents; a person's commands, in processes of their own, only add requests, which the engine reads
at its next tick. A request is done with once an event carries its number (`data["request"]`), in the same transaction
as what came of it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from pydantic import TypeAdapter

from medllm.errors import user_error
from runbooks.engine.model import Event, Incident, State, Step

SCHEMA = 1
# A command that holds the file for a moment must not end the engine.
BUSY_S = 10.0

_TABLES = """
CREATE TABLE incidents (id TEXT PRIMARY KEY, state TEXT NOT NULL, body TEXT NOT NULL) STRICT;
CREATE TABLE steps (
  id TEXT PRIMARY KEY, incident TEXT NOT NULL REFERENCES incidents (id), number INTEGER NOT NULL, body TEXT NOT NULL,
  UNIQUE (incident, number)
) STRICT;
CREATE TABLE events (
  sequence INTEGER PRIMARY KEY, incident TEXT NOT NULL REFERENCES incidents (id), request INTEGER, body TEXT NOT NULL
) STRICT;
CREATE INDEX events_incident ON events (incident);
CREATE INDEX events_request ON events (request) WHERE request IS NOT NULL;
CREATE TABLE requests (
  number INTEGER PRIMARY KEY AUTOINCREMENT, incident TEXT NOT NULL REFERENCES incidents (id), kind TEXT NOT NULL,
  who TEXT NOT NULL, at TEXT NOT NULL, attempt INTEGER NOT NULL
) STRICT;
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
"""
_INCIDENT = TypeAdapter(Incident)
_STEP = TypeAdapter(Step)
_EVENT = TypeAdapter(Event)


@dataclass(frozen=True, slots=True)
class Request:
    """What a person asked for. `attempt`: the incident's when it was asked; an approval is good for that one alone."""

    number: int
    incident: str
    kind: Literal["approve", "resolve"]
    who: str
    at: datetime
    attempt: int


class Store:
    """The database of one engine. Used by one thread; other processes may have it open too.

    Raises:
        UserError: the file can't be opened, is no such database, or was written by a newer version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._incidents: dict[str, Incident] | None = None
        self._steps: dict[str, list[Step]] = {}
        self._version = -1
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA foreign_keys = ON")
            with self._transaction():
                schema = self._db.execute("PRAGMA user_version").fetchone()[0]
                if schema == 0:
                    for statement in _TABLES.split(";"):
                        self._db.execute(statement)
                    self._db.execute(f"PRAGMA user_version = {SCHEMA}")
        except (sqlite3.Error, OSError) as error:
            fix = "name another directory with --state; move a broken file away to begin anew"
            raise user_error(f"the incidents can't be opened ({error})", fix, file=path) from None
        if schema > SCHEMA:
            self._db.close()
            rule = f"the file has schema {schema}, and this version knows {SCHEMA}"
            raise user_error(rule, "use the version that wrote it, or a newer one", file=path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what was not committed is gone."""
        self._db.close()

    def incidents(self, *, open_only: bool = False) -> list[Incident]:
        """All incidents, oldest first; or those that are not closed, escalated ones among them."""
        found = list(self._load().values())
        return [one for one in found if one.state is not State.CLOSED] if open_only else found

    def incident(self, name: str) -> Incident:
        """One incident. Raises KeyError."""
        return self._load()[name]

    def steps(self, incident: str) -> list[Step]:
        """The steps of an incident, in their order."""
        self._load()
        return list(self._steps.get(incident, ()))

    def events(self, incident: str) -> list[Event]:
        """The time line of an incident, in the order in which it was written."""
        rows = self._db.execute("SELECT body FROM events WHERE incident = ? ORDER BY sequence", (incident,))
        return [_EVENT.validate_json(body) for (body,) in rows]

    def save(self, incident: Incident, steps: Sequence[Step] = (), events: Sequence[Event] = ()) -> None:
        """Write an incident with what changed of its steps and what is new in its time line, in one transaction.

        Raises ValueError for a step or event of another incident: nothing is written then.
        """
        parts: tuple[Step | Event, ...] = (*steps, *events)
        if stray := [one for one in parts if one.incident != incident.id]:
            raise ValueError(f"{stray[0]} is not of {incident.id}")
        known = self._load()
        body = _INCIDENT.dump_json(incident).decode()
        bodies = [_STEP.dump_json(step).decode() for step in steps]
        self._incidents = None
        with self._transaction():
            self._db.execute(
                "INSERT INTO incidents VALUES (?, ?, ?)"
                " ON CONFLICT (id) DO UPDATE SET state = excluded.state, body = excluded.body",
                (incident.id, incident.state.value, body),
            )
            for step, text in zip(steps, bodies, strict=True):
                # An id stands for one start: another step of the same number must fail, not replace it.
                self._db.execute(
                    "INSERT INTO steps VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET body = excluded.body",
                    (step.id, step.incident, step.number, text),
                )
            for event in events:
                self._db.execute(
                    "INSERT INTO events (incident, request, body) VALUES (?, ?, ?)",
                    (event.incident, event.data.get("request"), _EVENT.dump_json(event).decode()),
                )
        # What is stored counts, not what was meant; the rest of a long history need not be read again for it.
        known[incident.id] = _INCIDENT.validate_json(body)
        kept = {step.id: step for step in self._steps.get(incident.id, ())}
        kept |= {step.id: step for step in map(_STEP.validate_json, bodies)}
        self._steps[incident.id] = sorted(kept.values(), key=lambda step: step.number)
        self._incidents = known

    def new_id(self, now: datetime) -> str:
        """The next free name, for example `inc-20261123-0001`; it is taken once an incident of it is saved."""
        day = f"inc-{now.astimezone(UTC):%Y%m%d}-"
        numbers = [int(name.removeprefix(day)) for name in self._load() if name.startswith(day)]
        return f"{day}{max(numbers, default=0) + 1:04d}"

    def paused(self) -> str:
        """By whom and why nothing new may begin; "" when it may."""
        row = self._db.execute("SELECT value FROM settings WHERE name = 'paused'").fetchone()
        return str(row[0]) if row else ""

    def set_paused(self, text: str) -> None:
        """Pause, or go on with ""."""
        with self._transaction():
            self._db.execute("INSERT OR REPLACE INTO settings VALUES ('paused', ?)", (text,))

    def kept(self, topic: str) -> dict[str, Any]:
        """What was last kept of a topic; empty when nothing was."""
        row = self._db.execute("SELECT value FROM settings WHERE name = ?", (f"kept {topic}",)).fetchone()
        found: dict[str, Any] = json.loads(row[0]) if row else {}
        return found

    def keep(self, topic: str, values: Mapping[str, Any]) -> None:
        """Keep what was seen last and will be needed when it can no longer be seen."""
        with self._transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO settings VALUES (?, ?)", (f"kept {topic}", json.dumps(dict(values)))
            )

    def approve(self, name: str, who: str, now: datetime) -> None:
        """Agree to what the incident's attempt of this moment needs an approval for. Raises KeyError."""
        self._request(name, "approve", who, now)

    def request_resolve(self, name: str, who: str, now: datetime) -> None:
        """Say that a person mended what was escalated. Raises KeyError."""
        self._request(name, "resolve", who, now)

    def requests(self) -> list[Request]:
        """What was asked for and not answered yet, oldest first."""
        rows = self._db.execute(
            "SELECT number, incident, kind, who, at, attempt FROM requests"
            " WHERE NOT EXISTS (SELECT 1 FROM events WHERE events.request = requests.number) ORDER BY number"
        )
        return [
            Request(number, incident, kind, who, datetime.fromisoformat(at), attempt)
            for number, incident, kind, who, at, attempt in rows
        ]

    def _request(self, name: str, kind: str, who: str, now: datetime) -> None:
        with self._transaction():
            # Inside of the transaction: the attempt agreed to is the one that stands while this is written.
            row = self._db.execute("SELECT body FROM incidents WHERE id = ?", (name,)).fetchone()
            if row is None:
                raise KeyError(name)
            values = (name, kind, who, now.isoformat(), json.loads(row[0])["attempt"])
            self._db.execute("INSERT INTO requests (incident, kind, who, at, attempt) VALUES (?, ?, ?, ?, ?)", values)

    def _load(self) -> dict[str, Incident]:
        """All incidents; read again only when another process has written."""
        version = self._db.execute("PRAGMA data_version").fetchone()[0]
        if self._incidents is None or version != self._version:
            self._steps = {}
            for (body,) in self._db.execute("SELECT body FROM steps ORDER BY incident, number"):
                step = _STEP.validate_json(body)
                self._steps.setdefault(step.incident, []).append(step)
            rows = self._db.execute("SELECT body FROM incidents ORDER BY id")
            self._incidents = {one.id: one for one in (_INCIDENT.validate_json(body) for (body,) in rows)}
            self._version = version
        return self._incidents

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            # Whatever it was: half of it must not stay.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

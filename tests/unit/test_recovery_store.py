"""The store: what was committed is there after any death, and half of something never is."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from medllm.errors import UserError
from runbooks.engine.model import Event, Incident, Signal, Slot, State, Step, StepStatus, Work
from runbooks.engine.store import Store

NOW = datetime(2026, 11, 23, 1, 2, 3, 456789, tzinfo=UTC)


def incident(number: int = 1, **changes: object) -> Incident:
    plain = Incident(
        id=f"inc-20261123-{number:04d}", fault_class="gpu_fallen_off", node="node3", device="0000:18:00", run="tiny",
        state=State.ACTING, attempt=2, opened_at=NOW, updated_at=NOW, ended_at=None, reason="xid-79 „ß“", waiting="",
        approved_by="", signals=(Signal("kernel", "xid-79", NOW, node="node3", detail="NVRM: Xid"),),
        before={"boot_id": "b", "nodes": ["node1"], "step": 7},
    )  # fmt: skip
    return replace(plain, **changes)  # type: ignore[arg-type]


def step(number: int = 1, status: StepStatus = StepStatus.PLANNED) -> Step:
    work = Work(Slot.ACT, "reboot.yml", {"recovery_grace_s": 0}, (), 60, 5, True)
    name = f"medllm-inc-20261123-0001-{number}-act"
    return Step(name, "inc-20261123-0001", number, 1, work, status, NOW, NOW + timedelta(seconds=5))


def event(text: str, **data: object) -> Event:
    return Event("inc-20261123-0001", NOW, "planned", text, data)


def test_what_is_saved_comes_back_the_same_in_another_process_too(tmp_path: Path) -> None:
    path = tmp_path / "new" / "incidents.db"
    with Store(path) as store:
        store.save(incident(), [step(2), step(1)], [event("one"), event("two", step="x")])
        seen = store.incident("inc-20261123-0001"), store.steps("inc-20261123-0001"), store.events("inc-20261123-0001")
    with Store(path) as other:
        again = other.incident("inc-20261123-0001"), other.steps("inc-20261123-0001"), other.events("inc-20261123-0001")
    assert seen == again == (incident(), [step(1), step(2)], [event("one"), event("two", step="x")])


def test_an_open_incident_is_one_that_is_not_closed(tmp_path: Path) -> None:
    with Store(tmp_path / "i.db") as store:
        for number, state in enumerate(State, 1):
            store.save(incident(number, state=state))
        assert len(store.incidents()) == len(State)
        assert {one.state for one in store.incidents(open_only=True)} == set(State) - {State.CLOSED}
        with pytest.raises(KeyError):
            store.incident("inc-20261123-0099")
        assert store.steps("inc-20261123-0099") == []
        assert store.events("inc-20261123-0099") == []


def test_a_save_is_whole_or_nothing(tmp_path: Path) -> None:
    with Store(tmp_path / "i.db") as store:
        store.save(incident(), [step(1)])
        # Another id for a number that is taken: it would be a second start of the same place in the order.
        bad = replace(step(1), id="medllm-inc-20261123-0001-1-other")
        with pytest.raises(sqlite3.IntegrityError):
            store.save(incident(state=State.CLOSED), [step(2), bad], [event("lost")])
        assert store.incident("inc-20261123-0001").state is State.ACTING
        assert store.steps("inc-20261123-0001") == [step(1)]
        assert store.events("inc-20261123-0001") == []
        with pytest.raises(ValueError, match="is not of"):
            store.save(incident(2), [step(1)])
        assert [one.id for one in store.incidents()] == ["inc-20261123-0001"]


def test_a_step_is_replaced_by_its_newer_self(tmp_path: Path) -> None:
    with Store(tmp_path / "i.db") as store:
        store.save(incident(), [step(1)])
        store.save(incident(), [step(1, StepStatus.RUNNING)])
        assert store.steps("inc-20261123-0001") == [step(1, StepStatus.RUNNING)]


def test_names_count_up_each_day_of_utc(tmp_path: Path) -> None:
    with Store(tmp_path / "i.db") as store:
        assert store.new_id(NOW) == store.new_id(NOW) == "inc-20261123-0001"
        store.save(incident(1))
        store.save(incident(41))
        assert store.new_id(NOW) == "inc-20261123-0042"
        assert store.new_id(NOW + timedelta(days=1)) == "inc-20261124-0001"
        late = datetime(2026, 11, 24, 1, 0, tzinfo=timezone(timedelta(hours=2)))
        assert store.new_id(late) == "inc-20261123-0042"


def test_what_another_process_asks_for_is_seen_and_answered_once(tmp_path: Path) -> None:
    path = tmp_path / "i.db"
    with Store(path) as engine:
        engine.save(incident())
        with Store(path) as command:
            command.approve("inc-20261123-0001", "kim", NOW)
            command.request_resolve("inc-20261123-0001", "lee", NOW)
            with pytest.raises(KeyError):
                command.approve("inc-20261123-0002", "kim", NOW)
            command.set_paused("kim: cables")
        assert engine.paused() == "kim: cables"
        approve, resolve = engine.requests()
        assert (approve.kind, approve.who, approve.at, approve.attempt) == ("approve", "kim", NOW, 2)
        engine.save(incident(), (), [event("approved", request=approve.number)])
        assert engine.requests() == [resolve]
        engine.set_paused("")
        assert engine.paused() == ""


def test_what_was_kept_of_a_topic_outlives_the_process(tmp_path: Path) -> None:
    with Store(tmp_path / "i.db") as store:
        assert store.kept("boots") == {}
        store.keep("boots", {"node1": "a"})
        store.keep("boots", {"node1": "b", "node2": "c"})
    with Store(tmp_path / "i.db") as store:
        assert store.kept("boots") == {"node1": "b", "node2": "c"}
        assert store.kept("nodes") == {}
        assert store.paused() == ""


def test_the_attempt_of_an_approval_is_that_of_the_moment_it_was_given(tmp_path: Path) -> None:
    path = tmp_path / "i.db"
    with Store(path) as engine, Store(path) as command:
        engine.save(incident(attempt=1))
        command.approve("inc-20261123-0001", "kim", NOW)
        engine.save(incident(attempt=2))
        command.approve("inc-20261123-0001", "kim", NOW)
        assert [one.attempt for one in engine.requests()] == [1, 2]


def test_a_process_killed_after_a_commit_has_lost_nothing(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[2])\n"
        "from test_recovery_store import *\n"
        "store = Store(Path(sys.argv[1])); store.save(incident(), [step()], [event('kept')])\n"
        "store._db.execute('BEGIN IMMEDIATE')\n"
        "store._db.execute('DELETE FROM events')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "i.db"
    done = subprocess.run([sys.executable, "-c", script, path, Path(__file__).parent], timeout=60, check=False)
    assert done.returncode == -9
    with Store(path) as store:
        assert [one.text for one in store.events("inc-20261123-0001")] == ["kept"]
        assert store.steps("inc-20261123-0001") == [step()]


def test_it_is_written_ahead_and_synced(tmp_path: Path) -> None:
    with Store(tmp_path / "i.db") as store:
        assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_file_of_a_newer_version_or_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "i.db"
    Store(path).close()
    with sqlite3.connect(path) as raw:
        raw.execute("PRAGMA user_version = 9")
    raw.close()
    with pytest.raises(UserError, match="schema 9"):
        Store(path)
    other = tmp_path / "other.db"
    other.write_text("no database at all, but text that is long enough\n" * 30)
    with pytest.raises(UserError, match="can't be opened"):
        Store(other)
    with pytest.raises(UserError, match="can't be opened"):
        Store(tmp_path)


@pytest.mark.slow
def test_a_long_history_is_read_once(tmp_path: Path) -> None:
    with Store(tmp_path / "i.db") as store:
        store._db.execute("BEGIN")
        for number in range(1, 3000):
            body = '{"x": 1}' if number == 0 else _json(incident(number, state=State.CLOSED))
            store._db.execute("INSERT INTO incidents VALUES (?, ?, ?)", (incident(number).id, "closed", body))
        store._db.execute("COMMIT")
        assert len(store.incidents()) == 2999
        first = store.incidents()[0]
        store.save(incident(3000))
        assert store.incidents()[0] is first, "what did not change is not read again"


def _json(one: Incident) -> str:
    from pydantic import TypeAdapter

    return TypeAdapter(Incident).dump_json(one).decode()

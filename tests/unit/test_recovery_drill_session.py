"""Which drills run beside which: a slow one holds nobody up, and nobody is caught by it when it takes its node out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medllm.site import load_site
from runbooks.drill import session as sessions
from runbooks.drill.drill import Course, Outcome
from runbooks.drill.injector import Injector, Target
from runbooks.drill.prove import Proof
from runbooks.drill.session import ROOM, Session

SITE = load_site(Path(__file__).parents[2] / "inventory/lab")


def nothing(*_: object) -> None:
    return None


QUICK = [Injector(name, name, name, nothing, nothing) for name in ("one", "two")]
SLOW = Injector("slow", "slow", "slow", nothing, nothing, spares_training=True)


class FakeDrill:
    """Notes who ran where beside whom. The slow one leaves room for two, then takes its node out."""

    log: list[tuple[str, int, str, frozenset[str]]]

    def __init__(self, *_: object) -> None:
        self.closed = False

    def run(
        self, injector: Injector, target: Target, number: int, *, apart: frozenset[str] = frozenset(),
        course: Course | None = None,
    ) -> Outcome:  # fmt: skip
        self.log.append((injector.name, number, target.node, apart))
        if course is not None:
            course.free_until = datetime.now(UTC) + ROOM + timedelta(seconds=60)
            end, begun = time.monotonic() + 5, len(self.log)
            while len(self.log) < begun + 2 and time.monotonic() < end:
                time.sleep(0.002)
            course.free_until = datetime.now(UTC)
            time.sleep(0.1)
        else:
            time.sleep(0.05)
        return Outcome(
            injector.name, injector.name, target.node, number, datetime.now(UTC), proofs=(Proof("x", True, ""),)
        )

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, str, frozenset[str]]]:
    @contextmanager
    def remote(_host: object) -> Iterator[None]:
        yield

    FakeDrill.log = []
    monkeypatch.setattr(sessions, "Drill", FakeDrill)
    monkeypatch.setattr(sessions, "Remote", remote)
    monkeypatch.setattr(sessions, "POLL_S", 0.01)
    calls = SimpleNamespace(start=lambda *_: True, stop=nothing, await_=nothing, RUN="drill", WARM_S=1)
    monkeypatch.setattr(sessions, "training", calls)
    return FakeDrill.log


def run(injectors: list[Injector], runs: int) -> list[Outcome]:
    line = SimpleNamespace(end=lambda *_, **__: None)
    show: Any = SimpleNamespace(drill=lambda *_: line)
    return Session(SITE, {}, show).run(injectors, runs)


def test_drills_go_round_the_nodes(log: list[tuple[str, int, str, frozenset[str]]]) -> None:
    outcomes = run(QUICK, 3)
    assert [(name, number, node) for name, number, node, _ in log] == [
        ("one", 1, "node1"), ("two", 1, "node2"), ("one", 2, "node3"), ("two", 2, "node4"), ("one", 3, "node1"),
        ("two", 3, "node2"),
    ]  # fmt: skip
    assert len(outcomes) == 6


def test_others_run_beside_a_slow_one_while_there_is_room(log: list[tuple[str, int, str, frozenset[str]]]) -> None:
    outcomes = run([*QUICK, SLOW], 2)
    assert len(outcomes) == 6
    hot = [node for name, _, node, _ in log if name == "slow"]
    assert hot == ["node4", "node4"]
    beside = [(name, node, apart) for name, _, node, apart in log if name != "slow"]
    assert all(apart == {"node4"} and node != "node4" for _, node, apart in beside)
    assert [name for name, *_ in beside] == ["one", "two", "one", "two"]
    order = [name for name, *_ in log]
    assert order == ["slow", "one", "two", "slow", "one", "two"], "the second slow one waits for the first"


def test_a_slow_one_alone_has_nobody_beside_it(
    log: list[tuple[str, int, str, frozenset[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeDrill, "run", lambda self, injector, target, number, **_: (
        self.log.append((injector.name, number, target.node, frozenset()))
        or Outcome(injector.name, "slow", target.node, number, datetime.now(UTC))
    ))  # fmt: skip
    assert [outcome.good for outcome in run([SLOW], 1)] == [False], "an outcome without a proof is none"

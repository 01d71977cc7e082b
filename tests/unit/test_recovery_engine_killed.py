"""The engine killed before and after every store write and every action call of a whole incident of each class: nothing
is lost, nothing is done twice. And random worlds, in which the guards hold whatever happens.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recovery_fakes import NODES, PROCEDURES, SEEN, FakeActions, Lab, fast_directory, site_with

from runbooks.engine import guards
from runbooks.engine.engine import Engine
from runbooks.engine.model import Event, Incident, SchedulerNode, State, Step, StepResult, StepStatus
from runbooks.engine.store import Store


class Killed(BaseException):
    """SIGKILL: nothing catches it."""


class Reaper:
    """Kills at the chosen one of all the moments it is asked about."""

    def __init__(self) -> None:
        self.moments = 0
        self.at: frozenset[int] = frozenset()

    def pass_by(self) -> None:
        self.moments += 1
        if self.moments in self.at:
            raise Killed


REAPER = Reaper()


class MortalStore(Store):
    """Dies right before or right after a commit; within one, SQLite itself is the proof (test_recovery_store)."""

    def save(self, incident: Incident, steps: Sequence[Step] = (), events: Sequence[Event] = ()) -> None:
        REAPER.pass_by()
        super().save(incident, steps, events)
        REAPER.pass_by()


class MortalActions:
    """The same around every call."""

    def __init__(self, actions: FakeActions) -> None:
        self.actions = actions

    def start(self, step: Step, incident: Incident) -> None:
        REAPER.pass_by()
        self.actions.start(step, incident)
        REAPER.pass_by()

    def poll(self, step: Step) -> StepResult | None:
        REAPER.pass_by()
        result = self.actions.poll(step)
        REAPER.pass_by()
        return result


class MortalLab(Lab):
    """A lab whose engine is started again by something like systemd."""

    def __init__(self, directory: Path, **recovery: object) -> None:
        super().__init__(directory, site_with(**recovery), store=MortalStore)
        self.deaths = 0
        self.revive()

    def revive(self) -> None:
        self.restart()
        self.engine = Engine(self.site, self.store, MortalActions(self.actions), PROCEDURES)

    def tick(self, seconds: float = 2, **without: None) -> None:
        try:
            super().tick(seconds, **without)
        except Killed:
            self.deaths += 1
            self.revive()


@contextmanager
def mortal(at: frozenset[int], **recovery: object) -> Iterator[MortalLab]:
    with fast_directory() as directory:
        REAPER.moments, REAPER.at = 0, at
        lab = MortalLab(directory, **recovery)
        lab.tick()
        yield lab
        lab.store.close()


def mended(lab: MortalLab, fault_class: str) -> None:
    lab.cluster.fault("node3", fault_class)
    lab.until(lab.over, every_s=4)


def given_up(lab: MortalLab, fault_class: str) -> None:
    """Nothing helps; a person mends it."""
    lab.cluster.fault("node3", fault_class, ends_by=set())
    lab.until(lab.over, every_s=4)
    assert lab.only.state is State.ESCALATED
    lab.cluster.nodes["node3"].faults.clear()
    lab.store.request_resolve(lab.only.id, "kim", lab.cluster.now)
    lab.until(lambda: lab.only.state is State.CLOSED, every_s=4)


def account(lab: MortalLab) -> list[tuple[object, ...]]:
    """What history tells, without the times, which a death delays."""
    (one,) = lab.store.incidents()
    steps = [(step.id, step.attempt, step.work, step.status, step.summary) for step in lab.store.steps(one.id)]
    events = [(event.kind, event.text) for event in lab.store.events(one.id) if event.kind != "waiting"]
    return [(one.state, one.attempt, one.before, one.signals), *steps, *events]


COURSES = [*((mended, name) for name in SEEN), (given_up, "gpu_fallen_off"), (given_up, "gpu_overheat")]


@pytest.mark.parametrize(("course", "fault_class"), COURSES)
def test_killed_at_every_moment_nothing_is_lost_and_nothing_done_twice(
    course: Callable[[MortalLab, str], None], fault_class: str
) -> None:
    with mortal(frozenset(), overheat_settle_s=30) as lab:
        course(lab, fault_class)
        moments, books, touched, whole = REAPER.moments, lab.actions.books, lab.cluster.touched, account(lab)
    assert moments > 20
    for moment in range(1, moments + 1):
        with mortal(frozenset({moment}), overheat_settle_s=30) as lab:
            course(lab, fault_class)
            assert lab.deaths == 1, moment
            assert lab.actions.books == books, f"killed at {moment}"
            assert lab.cluster.touched == touched, f"killed at {moment}"
            told = account(lab)
            if fault_class == "gpu_overheat":
                # The settle time's end stands in a text, and a death moves it.
                told, expected = told[:1], whole[:1]
            else:
                expected = whole
            assert told == expected, f"killed at {moment}"


def test_killed_again_and_again_it_gets_there() -> None:
    """Every fifth moment is a death: it still goes on, by what it could store in between."""
    with mortal(frozenset(range(5, 3000, 5))) as lab:
        mended(lab, "gpu_fallen_off")
        assert lab.deaths > 5
        assert lab.only.state is State.CLOSED
        began = [step.id for _, step, _ in lab.actions.began]
        assert len(began) == len(set(began)) == 5


CLASSES = st.sampled_from(sorted(SEEN))
WHAT = ["fault", "fault", "clear", "drain", "undrain", "silent", "restart", "pause", "approve", "resolve", "bad"]
STEP = st.tuples(
    st.sampled_from(WHAT),
    st.sampled_from(NODES),
    CLASSES,
    st.sampled_from([1, 2, 5, 20, 90, 400]),
)  # fmt: skip


class Watcher:
    """Looks at every start: whether the guards held."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.start = lab, lab.actions.start
        lab.actions.start = self.look  # type: ignore[method-assign]

    def look(self, step: Step, incident: Incident) -> None:
        if step.id not in self.lab.actions.asked and incident.node:
            node = self.lab.cluster.nodes[incident.node]
            known = SchedulerNode(incident.node, frozenset(node.states), node.reason)
            if step.work.playbook != "resume_training.yml":
                assert guards.holder(known, incident.id) != "person", (step.id, node)
        stored = {one.id for one in self.lab.store.steps(incident.id)}
        assert step.id in stored
        self.start(step, incident)


def out_by_us(lab: Lab) -> set[str]:
    return {name for name, node in lab.cluster.nodes.items() if node.reason.startswith("medllm-recover:")}


@settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
@given(
    course=st.lists(STEP, max_size=14),
    limit=st.sampled_from([1, 1, 2]),
    ask=st.booleans(),
    cap=st.sampled_from([1, 3, 100]),
)
def test_in_random_worlds_the_guards_hold_and_every_incident_ends_or_says_why(
    course: list[tuple[str, str, str, int]], limit: int, ask: bool, cap: int
) -> None:
    site = site_with(
        max_nodes_out=limit, reboot_approval="ask" if ask else "auto", attempts_per_day=cap, overheat_settle_s=30
    )
    with fast_directory() as directory:
        lab = Lab(directory, site)
        Watcher(lab)
        cluster = lab.cluster
        counter = itertools.count()

        def go(times: int, **without: None) -> None:
            for _ in range(times):
                lab.tick(2, **without)
                assert len(out_by_us(lab)) <= limit
                places = [one.node or one.run for one in lab.store.incidents(open_only=True)]
                assert len(places) == len(set(places)), "one open incident a node or run"
                for one in lab.store.incidents(open_only=True):
                    steps = lab.store.steps(one.id)
                    under_way = bool(steps) and steps[-1].status is StepStatus.RUNNING
                    assert one.state is State.ESCALATED or one.waiting or under_way, one

        for what, node, fault_class, times in course:
            state = cluster.nodes[node]
            if what == "fault":
                cluster.fault(node, fault_class, None if next(counter) % 3 else set())
            elif what == "clear":
                state.faults.clear()
                cluster.run_fault = None
            elif what == "drain":
                state.states, state.reason = {"DRAIN", "IDLE"}, "Kim"
            elif what == "undrain" and state.reason == "Kim":
                state.states, state.reason = {"IDLE"}, ""
            elif what == "silent":
                go(3, scheduler_nodes=None)
                go(3, alerts=None, runs=None)
            elif what == "restart":
                lab.restart()
            elif what == "pause":
                lab.store.set_paused("" if lab.store.paused() else "kim")
            elif what in ("approve", "resolve"):
                for one in lab.store.incidents(open_only=True):
                    (lab.store.approve if what == "approve" else lab.store.request_resolve)(one.id, "kim", cluster.now)
            elif what == "bad":
                book = {"node_gone": "drain.yml", "lustre_evicted": "checks"}.get(fault_class, "reboot.yml")
                lab.actions.results.setdefault(book, []).append(StepStatus.UNKNOWN if times > 5 else StepStatus.FAILED)
            go(min(times, 20))
            cluster.now += timedelta(seconds=times)
        # A person tidies up: whatever was open then comes to an end of its own.
        lab.store.set_paused("")
        for state in cluster.nodes.values():
            if state.reason == "Kim":
                state.states, state.reason = {"IDLE"}, ""
        go(150)
        for one in lab.store.incidents(open_only=True):
            assert one.state is State.ESCALATED or one.waiting.startswith(("guard", "approval")), one
        assert max(lab.actions.asked.values(), default=1) == 1
        lab.store.close()

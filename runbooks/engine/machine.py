"""The one state machine: what comes next in an incident, given what was stored of it. Pure.

quiesce → act → revalidate → return → resume → closed; a failed revalidation leads to the next attempt's act, the last
one to isolation and a person. A person's repair (`medllm recover resolve`) begins a round of its own, which only
revalidates and gives back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from medllm.site.model import Site
from runbooks.engine.model import Incident, Slot, Step, StepStatus, Work
from runbooks.engine.procedure import Procedure

# Their playbooks say what shall be, not what to do, so doing them again is harmless; an act is never done again.
_TRIES = 2
# So often a person may be quicker than we are: then the incident is theirs.
_REFUSALS = 3


@dataclass(frozen=True, slots=True)
class Do:
    """Begin this work."""

    work: Work


@dataclass(frozen=True, slots=True)
class NextAttempt:
    """What was tried did not help; there is more to try."""

    why: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """A person must act. `isolate`: nothing proves that the node is well, so it must not serve."""

    why: str
    isolate: bool


@dataclass(frozen=True, slots=True)
class Close:
    """The cluster is well again."""

    text: str


Move = Do | NextAttempt | GiveUp | Close


def following(
    incident: Incident, steps: Sequence[Step], procedure: Procedure, site: Site, *, spare: bool, resumes: str
) -> Move:
    """The next move. None of the steps is planned or runs any more.

    Args:
        spare: enough nodes serve without this one, and the site wants the run to go on there.
        resumes: another incident that will resume the run after its own node is mended; "" when there is none.
    """
    by_person = is_repaired(incident, procedure)
    if not by_person:
        if (move := _quiesce(steps, procedure, site)) is not None:
            return move
        if spare and not _of(steps, Slot.RESUME) and (work := _first(procedure, Slot.RESUME, site)):
            return Do(work)
        if (move := _act(incident, steps, procedure, site)) is not None:
            return move
    mine = [step for step in steps if step.attempt == incident.attempt]
    if (move := _revalidate(incident, mine, procedure, site, by_person)) is not None:
        return move
    for work in procedure.steps(Slot.RETURN, site):
        done = [step for step in _of(mine, Slot.RETURN) if step.work.playbook == work.playbook]
        if not _good(done):
            if _again(done):
                return Do(work)
            return GiveUp(f"it is well, but could not be returned: {done[-1].summary}", isolate=True)
    return _resume(incident, steps, mine, procedure, site, resumes)


def is_repaired(incident: Incident, procedure: Procedure) -> bool:
    """Whether this round began with a person's word that the cause is mended."""
    return incident.attempt > procedure.attempts


def _quiesce(steps: Sequence[Step], procedure: Procedure, site: Site) -> Move | None:
    done = _of(steps, Slot.QUIESCE)
    work = _first(procedure, Slot.QUIESCE, site)
    if work is None or _good(done):
        return None
    if _again(done) or (done[-1].refused and len(done) < _REFUSALS):
        return Do(work)
    return GiveUp(f"its work could not be ended: {done[-1].summary}", isolate=procedure.scope == "node")


def _act(incident: Incident, steps: Sequence[Step], procedure: Procedure, site: Site) -> Move | None:
    works = procedure.steps(Slot.ACT, site, incident.attempt)
    if not works:
        return GiveUp("nothing is known to help", isolate=True) if procedure.scope == "node" else None
    done = [step for step in _of(steps, Slot.ACT) if step.attempt == incident.attempt]
    if not done:
        return Do(works[0])
    # One that left no result may have helped: the checks decide. So they do after the last one, however it ended.
    if done[-1].status is StepStatus.FAILED and incident.attempt < procedure.attempts:
        return NextAttempt(f"{done[-1].work.playbook} failed: {done[-1].summary}")
    return None


def _revalidate(
    incident: Incident, mine: Sequence[Step], procedure: Procedure, site: Site, by_person: bool
) -> Move | None:
    done = _of(mine, Slot.REVALIDATE)
    work = _first(procedure, Slot.REVALIDATE, site)
    if work is None or _good(done):
        return None
    if _again(done):
        # Only what was done needs time to show.
        acted = any(step.work.slot is Slot.ACT and step.status is not StepStatus.FAILED for step in mine)
        return Do(work if acted and not done else replace(work, settle_s=0))
    if not by_person and incident.attempt < procedure.attempts:
        return NextAttempt(f"it is not well after attempt {incident.attempt}: {done[-1].summary}")
    tried = "a person's repair" if by_person else f"{procedure.attempts} attempt(s)"
    return GiveUp(f"it is not well after {tried}: {done[-1].summary}", isolate=procedure.scope == "node")


def _resume(
    incident: Incident, steps: Sequence[Step], mine: Sequence[Step], procedure: Procedure, site: Site, resumes: str
) -> Move:
    work = _first(procedure, Slot.RESUME, site)
    if work is None:
        return Close("the node is well" if incident.node else "the run is well")
    if not incident.run:
        return Close("the node is well; no run was on it")
    if _good(_of(steps, Slot.RESUME)[-1:]):
        return Close("the run goes on")
    if resumes:
        return Close(f"the node is well; {resumes} resumes the run after its own node")
    # A try beside a missing node (`spare`) was none of this round's.
    done = [step for step in _of(mine, Slot.RESUME) if not incident.node or _after_return(mine, step)]
    if _again(done):
        return Do(work)
    well = "the node is well, but " if incident.node else ""
    return GiveUp(f"{well}run {incident.run} did not go on: {done[-1].summary}", isolate=False)


def _after_return(steps: Sequence[Step], step: Step) -> bool:
    return any(one.work.slot is Slot.RETURN and one.number < step.number for one in steps)


def _first(procedure: Procedure, slot: Slot, site: Site) -> Work | None:
    return next(iter(procedure.steps(slot, site)), None)


def _of(steps: Sequence[Step], slot: Slot) -> list[Step]:
    return [step for step in steps if step.work.slot is slot]


def _good(steps: Sequence[Step]) -> bool:
    return bool(steps) and steps[-1].status is StepStatus.OK


def _again(steps: Sequence[Step]) -> bool:
    """Whether to begin it (once more): it was not begun yet, or nobody knows what came of it."""
    return not steps or (steps[-1].status is StepStatus.UNKNOWN and len(steps) < _TRIES)

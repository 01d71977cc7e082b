"""Outcome and evidence: two axes that are never mixed.

Outcome says what was found; evidence says what the finding stands on. Only a value that was really read and lies on
the right side of a threshold is a PASS: absent, stale, empty or unparseable input has no way to become one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal

Value = int | float | str
Operator = Literal["==", "<", "<=", ">", ">="]


class Outcome(StrEnum):
    """What a check found. NOT_RUN: nothing could be read. INCONCLUSIVE: something was read that decides nothing."""

    PASS = "PASS"
    FAIL = "FAIL"
    NOT_RUN = "NOT_RUN"
    INCONCLUSIVE = "INCONCLUSIVE"


class Evidence(StrEnum):
    """What a finding stands on: a vendor's own tool, a stand-in or an unknown tool, or a signed statement."""

    MEASURED = "measured"
    SIMULATED = "simulated"
    ATTESTED = "attested"


REHEARSED = "REHEARSED"

# From best to worst; a group is as good as its worst member.
_SEVERITY = (Outcome.PASS, Outcome.INCONCLUSIVE, Outcome.NOT_RUN, Outcome.FAIL)


@dataclass(frozen=True, slots=True)
class Measurement:
    """One value that was read.

    `refuted` is a reason why it is bad whatever the number says (a lost GPU beside seven good ones). `unsure` is a
    reason why it decides nothing. `raw_sha256` are the hashes of the texts it was read from.
    """

    value: Value
    unit: str
    host: str
    device: str
    command: str
    time: datetime
    raw_sha256: tuple[str, ...]
    detail: str = ""
    refuted: str | None = None
    unsure: str | None = None


@dataclass(frozen=True, slots=True)
class Threshold:
    """What a measurement must reach on one site.

    `low` and `high` are the physical bounds of the quantity (inclusive): a value outside them is no good news, it is
    a broken probe.
    """

    key: str
    quantity: str
    op: Operator
    value: Value
    unit: str
    asked: str
    source: str
    derivation: str
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Judgement:
    """An outcome with its reason; PASS has one too."""

    outcome: Outcome
    reason: str


def judge(measurement: Measurement, threshold: Threshold) -> Judgement:
    """Compare one measurement with its threshold."""
    place = f"{measurement.device}: " if measurement.device else ""
    if measurement.refuted:
        return Judgement(Outcome.FAIL, place + measurement.refuted)
    if measurement.unsure:
        return Judgement(Outcome.INCONCLUSIVE, place + measurement.unsure)
    if measurement.unit != threshold.unit:
        return Judgement(
            Outcome.INCONCLUSIVE, f"{place}measured in {measurement.unit!r}, the threshold is in {threshold.unit!r}"
        )
    value, wanted = measurement.value, threshold.value
    if isinstance(value, str) != isinstance(wanted, str):
        return Judgement(Outcome.INCONCLUSIVE, f"{place}{value!r} can't be compared with {wanted!r}")
    if not isinstance(value, str):
        if not math.isfinite(value):
            return Judgement(Outcome.FAIL, f"{place}{value} is no finite number")
        if not threshold.low <= value <= threshold.high:
            return Judgement(
                Outcome.INCONCLUSIVE,
                f"{place}{_text(value)} {threshold.unit} is physically impossible "
                f"({_text(threshold.low)} to {_text(threshold.high)}); the probe is broken",
            )
    shown = f"{place}{_text(value)} {threshold.unit}, wanted {threshold.op} {_text(wanted)}"
    if measurement.detail:
        shown += f" ({measurement.detail})"
    return Judgement(Outcome.PASS if _holds(value, threshold.op, wanted) else Outcome.FAIL, shown)


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """The outcome of a group. Nothing at all is NOT_RUN, never PASS."""
    found = list(outcomes)
    return max(found, key=_SEVERITY.index) if found else Outcome.NOT_RUN


def label(outcome: Outcome, evidence: Evidence | None) -> str:
    """What is printed: a PASS that stands on simulated or unknown evidence was a rehearsal."""
    if outcome is Outcome.PASS and evidence not in (Evidence.MEASURED, Evidence.ATTESTED):
        return REHEARSED
    return outcome.value


def _holds(value: Value, op: Operator, wanted: Value) -> bool:
    if op == "==":
        return value == wanted
    if isinstance(value, str) or isinstance(wanted, str):
        return False
    if op == "<":
        return value < wanted
    if op == "<=":
        return value <= wanted
    if op == ">":
        return value > wanted
    return value >= wanted


def _text(value: Value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)

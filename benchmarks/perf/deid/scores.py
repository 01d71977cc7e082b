"""From what an engine answers to the scores of `benchmarks.deid`. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.deid.evaluate import Result
from benchmarks.deid.labelled import Note, Span
from benchmarks.deid.score import named_recall, tally_all

# Presidio's entities → the set's kinds, for the figures that go by kind: recall counts any predicted character. What is
# not here (ORGANIZATION; NRP: nationality, religion, party) has no kind in the set and keeps its own name.
ENTITIES = {
    "PERSON": "NAME",
    "DATE_TIME": "DATE",
    "AGE": "AGE",
    "PHONE_NUMBER": "PHONE",
    "EMAIL_ADDRESS": "EMAIL",
    "URL": "URL",
    "IP_ADDRESS": "IP",
    "MAC_ADDRESS": "DEVICE",
    "US_SSN": "SSN",
    "UK_NHS": "MRN",
    "US_BANK_NUMBER": "ACCOUNT",
    "IBAN_CODE": "ACCOUNT",
    "CRYPTO": "ACCOUNT",
    "CREDIT_CARD": "BANK_CARD",
    "MEDICAL_LICENSE": "LICENCE",
    "US_DRIVER_LICENSE": "LICENCE",
    "US_PASSPORT": "PASSPORT",
    "US_ITIN": "OTHER_ID",
    "ID": "OTHER_ID",
    "UUID": "OTHER_ID",
    "LOCATION": "ADDRESS",
}


def spans(found: Sequence[Sequence[Any]], least: float = 0.0) -> list[Span]:
    """Spans named as the set names them, of a score of at least `least`. Each is [start, end, name, score]."""
    return [Span(start, end, ENTITIES.get(name, name)) for start, end, name, score in found if score >= least]


def quality(notes: Sequence[Note], found: Sequence[Sequence[Sequence[Any]]], least: float = 0.0) -> dict[str, Any]:
    """The scores of one engine on one group of notes, without its speed.

    Raises:
        ValueError: a span lies outside its note, or there are not as many answers as notes.
    """
    total = tally_all((note, spans(each, least)) for note, each in zip(notes, found, strict=True))
    # A second stands in for the time, which is measured apart.
    summary = Result(total, len(notes), 0, 1.0).summary()
    kept = {key: value for key, value in summary.items() if not key.endswith("_per_second")}
    return {**kept, "named_recall": round(named_recall(total), 4)}

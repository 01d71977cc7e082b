"""What kinds of identifiers there are, and what a found one looks like."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache

from curation.deid.words import lexicon


class Kind(StrEnum):
    """The identifiers of HIPAA's Safe Harbor list (45 CFR 164.514(b)(2)) and their Chinese counterparts."""

    NAME = "name"
    DATE = "date"
    AGE = "age"  # over 89
    PHONE = "phone"  # and fax, pager
    EMAIL = "email"
    URL = "url"
    IP = "ip"
    SSN = "ssn"
    MRN = "mrn"  # medical record, admission, accession, account and insurance numbers
    NATIONAL_ID = "national_id"  # Chinese resident ID, Hong Kong ID
    BANK_CARD = "bank_card"
    PASSPORT = "passport"  # and travel permits
    LICENSE = "license"  # professional and driving licences
    PLATE = "plate"
    DEVICE = "device"  # serial numbers
    ACCOUNT = "account"  # messenger and user names
    ADDRESS = "address"
    WARD = "ward"  # and room, bed
    FACILITY = "facility"
    NUMBER = "number"  # long numbers and codes without a label

    @property
    def tag(self) -> str:
        """What stands in the text in its place."""
        return f"[{self.name}_REDACTED]"


# When spans overlap, the kind named first wins.
PRIORITY = {kind: rank for rank, kind in enumerate((
    Kind.EMAIL, Kind.URL, Kind.NATIONAL_ID, Kind.SSN, Kind.BANK_CARD, Kind.MRN, Kind.PASSPORT, Kind.LICENSE,
    Kind.DEVICE, Kind.IP, Kind.PHONE, Kind.PLATE, Kind.ACCOUNT, Kind.AGE, Kind.ADDRESS, Kind.FACILITY, Kind.WARD,
    Kind.DATE, Kind.NAME, Kind.NUMBER,
))}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Span:
    """`[start, end)` in characters of the original. `replacement` is None for the kind's tag."""

    start: int
    end: int
    kind: Kind
    replacement: str | None = None


# Full-width forms, exotic blanks and dashes become ASCII one to one, so that offsets stay.
_VIEW = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {
    **dict.fromkeys((0x3000, 0x00A0, 0x2007, 0x202F, *range(0x2000, 0x200B)), 0x20),
    **dict.fromkeys((0x2010, 0x2011, 0x2012, 0x2013, 0x2014, 0x2015, 0x2212), 0x2D),
    **dict.fromkeys((0x2018, 0x2019, 0x02BC), 0x27),
}


@cache
def _view_of_characters() -> dict[int, int]:
    """Traditional characters as simplified ones, too: the same rules and lists find both."""
    return {ord(pair[0]): ord(pair[1]) for pair in lexicon("simplified_zh")} | _VIEW


# A line at least so long that ends in the middle of a sentence was wrapped.
_WRAPPED = 50


@dataclass(frozen=True, slots=True)
class Note:
    """A text and its `view`: same length, full-width characters as ASCII. Detectors look at the view."""

    text: str
    view: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "view", _unwrapped(self.text.translate(_view_of_characters())))


def _unwrapped(view: str) -> str:
    """Line ends inside a hard-wrapped paragraph as blanks: a name may stand on both sides of one."""
    lines = view.split("\n")
    parts = [lines[0]]
    for before, after in itertools.pairwise(lines):
        wrapped = len(before) >= _WRAPPED and before[-1] not in ".:;。" and after[:1].isalnum()
        parts += [" " if wrapped else "\n", after]
    return "".join(parts)


Detector = Callable[[Note], Iterable[Span]]


def merge(spans: Iterable[Span]) -> list[Span]:
    """Non-overlapping spans in order that cover all of the given ones; a union of several loses its replacement."""
    merged: list[Span] = []
    for span in sorted(spans, key=lambda item: (item.start, -item.end)):
        if not merged or span.start >= merged[-1].end:
            merged.append(span)
            continue
        last = merged[-1]
        winner = min(last, span, key=lambda item: PRIORITY[item.kind])
        if (last.start, last.end) == (span.start, span.end):
            merged[-1] = winner
        elif span.end <= last.end and winner is last:
            continue
        else:
            merged[-1] = Span(last.start, max(last.end, span.end), winner.kind)
    return merged


def apply(text: str, spans: Iterable[Span]) -> str:
    """The text with each span replaced."""
    parts, place = [], 0
    for span in spans:
        parts += [text[place : span.start], span.kind.tag if span.replacement is None else span.replacement]
        place = span.end
    return "".join([*parts, text[place:]])

"""De-identifying a text of any length in time and memory that grow with it: windows with margins, then what repeats.

Detectors look at a whole note, and some of them look at all of it again for each name that they found. So a long text
is cut at the borders of paragraphs into windows that overlap; what a detector finds in a window's middle counts. What
was found anywhere is then looked for everywhere, in one pass, however many values there are.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final

from curation.deid.grow import grow
from curation.deid.kinds import Kind, Note, Span, apply, merge
from curation.deid.names_en import TERM, repeats, words_of
from curation.deid.tables import tables
from curation.deid.text import REPEATED, Redaction, detect, is_distinct, redact

# Characters. Notes of a stay are shorter than this, and are read whole.
LONG: Final = 100_000
# RE2 counts from the text's begin at each match: a smaller window is faster (measured: 32 768 takes twice the time).
# The margin is more than any pattern of the detectors looks ahead or back.
_WINDOW, _MARGIN = 4_096, 512
# Longer values do not repeat; the number of lengths bounds the work at each place.
_LONGEST_VALUE: Final = 128
_TERM_REACH = 40
# Where a value can begin: not inside of a Latin word or a number.
_BEGINNINGS = re.compile(r"(?:(?<![A-Za-z0-9])[A-Za-z0-9]|[^A-Za-z0-9\s])")


def redact_any(text: str, shift_days: int, known: Iterable[tuple[Kind, str]] = ()) -> Redaction:
    """As `redact`; a text of more than `LONG` characters is read in windows."""
    if len(text) <= LONG:
        return redact(text, shift_days, known)
    known = tuple(known)
    spans: list[Span] = []
    values = Values()
    for left, start, end, right in windows(text):
        note = Note(text[left:right])
        found = detect(note, shift_days, known, whole=False)
        for span in found:
            values.add(span.kind, note.view[span.start : span.end])
        for span in (grow(note.view, span) for span in merge(found)):
            # A span over a border is found on both sides of it, and merged below.
            if span.end + left > start and span.start + left < end:
                spans.append(Span(span.start + left, span.end + left, span.kind, span.replacement))
    # The heading of a table may be far above its rows.
    note = Note(text)
    spans += [grow(note.view, span) for span in merge([*tables(note), *values.occurrences(note.view)])]
    merged = tuple(merge(spans))
    return Redaction(apply(text, merged), merged)


def windows(text: str) -> Iterator[tuple[int, int, int, int]]:
    """(margin's begin, begin, end, margin's end) of each window; from begin to end they cover the text once."""
    start = 0
    while start < len(text):
        end = _border(text, start + _WINDOW // 2, start + _WINDOW)
        left = max(0, start - _MARGIN)
        yield _border(text, max(0, left - _MARGIN), left) if left else 0, start, end, min(len(text), end + _MARGIN)
        start = end


def _border(text: str, first: int, last: int) -> int:
    """Just behind the last paragraph's end, line's end or blank between two places; else the second of them."""
    if last >= len(text):
        return len(text)
    for mark in ("\n\n", "\n", "。", " "):
        place = text.rfind(mark, first, last)
        if place >= 0:
            return place + len(mark)
    return last


class Values:
    """Texts that identify wherever they stand, found all at once: by their first characters, then by their length."""

    def __init__(self) -> None:
        self._kinds: dict[str, Kind] = {}
        self._lengths: defaultdict[str, set[int]] = defaultdict(set)

    def add(self, kind: Kind, value: str) -> None:
        """Remember a value, if another occurrence of it is no chance."""
        if len(value) > _LONGEST_VALUE:
            return
        for form in _name_forms(value) if kind is Kind.NAME else _forms(value) if kind in REPEATED else ():
            self._kinds.setdefault(form, kind)
            self._lengths[form[:2]].add(len(form))

    def occurrences(self, view: str) -> Iterator[Span]:
        """Where a value stands as a whole word (Chinese has no word borders)."""
        for match in _BEGINNINGS.finditer(view):
            start = match.start()
            for length in self._lengths.get(view[start : start + 2], ()):
                kind = self._kinds.get(view[start : start + length])
                if kind is None or _goes_on(view, start + length):
                    continue
                # A name before such a word is that of a disease.
                if kind is not Kind.NAME or not TERM.search(view[start + length : start + length + _TERM_REACH]):
                    yield Span(start, start + length, kind)


def _forms(value: str) -> set[str]:
    return {value, value.upper()} if is_distinct(value) else set()


def _name_forms(name: str) -> set[str]:
    """A Chinese name; of a Latin one each word that the detector looks for again in a note."""
    if not name.isascii():
        return {name} if len(name) > 1 else set()
    return {form for token in words_of(name) if repeats(token) for form in (token, token.upper(), token.capitalize())}


def _goes_on(view: str, end: int) -> bool:
    return bool(re.match(r"[A-Za-z0-9]{2}", view[end - 1 : end + 1]))

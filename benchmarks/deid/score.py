"""Scores predicted spans against labelled ones. Pure: nothing is read or written.

Only characters that say something count (`labelled.counts`): letters, marks and numbers, no space, punctuation or
symbol. Below, |X| is the number of counting characters in X, P the characters in any predicted span, P_k those in
predicted spans of kind k, I the characters in any labelled identifier, and shares of nothing are 1.0 for recall and
precision, 0.0 for over-redaction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from benchmarks.deid.labelled import Note, Span, counts


@dataclass(slots=True)
class Tally:
    """Counts that add up over notes; the scores are shares of their sums (micro averages), never means of shares."""

    labelled: Counter[str] = field(default_factory=Counter)
    """Labelled identifier spans, by kind."""
    found: Counter[str] = field(default_factory=Counter)
    """Of those, the ones wholly covered by predicted spans of whatever kind."""
    named: Counter[str] = field(default_factory=Counter)
    """Of those, the ones wholly covered by predicted spans of their own kind."""
    characters: Counter[str] = field(default_factory=Counter)
    """|P_k|, by predicted kind."""
    right_characters: Counter[str] = field(default_factory=Counter)
    """|P_k ∩ I|, by predicted kind."""
    predicted: Counter[str] = field(default_factory=Counter)
    """Predicted spans with at least one counting character, by kind."""
    right: Counter[str] = field(default_factory=Counter)
    """Of those, the ones with at least half of their counting characters in I."""
    all_characters: int = 0
    """|P|. Less than the sum of |P_k| where spans of several kinds overlap."""
    all_right_characters: int = 0
    """|P ∩ I|."""
    keeps: int = 0
    """KEEP spans."""
    touched: int = 0
    """Of those, the ones with at least one counting character in P."""
    other_characters: int = 0
    """Counting characters outside I."""
    other_covered: int = 0
    """|P \\ I|."""

    def add(self, other: Tally) -> None:
        """Adds the counts of another tally to these."""
        for name in self.__dataclass_fields__:
            mine, theirs = getattr(self, name), getattr(other, name)
            if isinstance(mine, Counter):
                mine.update(theirs)
            else:
                setattr(self, name, mine + theirs)


def tally(note: Note, predictions: Sequence[Span]) -> Tally:
    """The counts of one note. Predicted spans may overlap and come in any order; their kinds may be any words."""
    text = note.text
    for start, end, kind in predictions:
        if not 0 <= start < end <= len(text):
            raise ValueError(f"{note.name}: {kind} at {start}:{end} is no stretch of a note of {len(text)} characters")
    counting = {at for at, character in enumerate(text) if counts(character)}
    identifier = counting & _union(note.identifiers())
    everywhere = counting & _union(predictions)
    by_kind = {
        kind: counting & _union([span for span in predictions if span.kind == kind])
        for kind in {span.kind for span in predictions}
    }
    result = Tally()
    for span in note.identifiers():
        needed = counting & _union([span])
        result.labelled[span.kind] += 1
        result.found[span.kind] += needed <= everywhere
        result.named[span.kind] += needed <= by_kind.get(span.kind, set())
    for kind, covered in by_kind.items():
        result.characters[kind] += len(covered)
        result.right_characters[kind] += len(covered & identifier)
    for span in predictions:
        covered = counting & _union([span])
        if covered:
            result.predicted[span.kind] += 1
            result.right[span.kind] += 2 * len(covered & identifier) >= len(covered)
    result.all_characters = len(everywhere)
    result.all_right_characters = len(everywhere & identifier)
    result.keeps = len(note.keeps())
    result.touched = sum(bool(everywhere & _union([span])) for span in note.keeps())
    result.other_characters = len(counting - identifier)
    result.other_covered = len(everywhere - identifier)
    return result


def tally_all(pairs: Iterable[tuple[Note, Sequence[Span]]]) -> Tally:
    """The sum of the counts over notes with their predictions."""
    total = Tally()
    for note, predictions in pairs:
        total.add(tally(note, predictions))
    return total


def recall(total: Tally, kind: str | None = None) -> float:
    """found / labelled, of one kind or of all. A span with one counting character left uncovered is not found."""
    return _share(_of(total.found, kind), _of(total.labelled, kind), 1.0)


def named_recall(total: Tally, kind: str | None = None) -> float:
    """named / labelled: as `recall`, but only predicted spans of the label's own kind cover."""
    return _share(_of(total.named, kind), _of(total.labelled, kind), 1.0)


def character_precision(total: Tally, kind: str | None = None) -> float:
    """|P_k ∩ I| / |P_k| of a predicted kind, or |P ∩ I| / |P| of all: lying in an identifier of any kind is right."""
    if kind is None:
        return _share(total.all_right_characters, total.all_characters, 1.0)
    return _share(total.right_characters[kind], total.characters[kind], 1.0)


def span_precision(total: Tally, kind: str | None = None) -> float:
    """right / predicted: the share of predicted spans with at least half of their counting characters in I."""
    return _share(_of(total.right, kind), _of(total.predicted, kind), 1.0)


def keeps_touched(total: Tally) -> float:
    """touched / keeps: the share of KEEP spans that lose at least one counting character."""
    return _share(total.touched, total.keeps, 0.0)


def over_redaction(total: Tally) -> float:
    """|P \\ I| / (counting characters outside I): the share of harmless text that is lost."""
    return _share(total.other_covered, total.other_characters, 0.0)


def missed(note: Note, predictions: Sequence[Span]) -> tuple[Span, ...]:
    """The labelled identifiers that are not found, to look at by hand."""
    covered = _union(predictions)
    return tuple(
        span
        for span in note.identifiers()
        if any(counts(note.text[at]) and at not in covered for at in range(span.start, span.end))
    )


def touched(note: Note, predictions: Sequence[Span]) -> tuple[Span, ...]:
    """The KEEP spans that lose at least one counting character, to look at by hand."""
    covered = _union(predictions)
    return tuple(
        span
        for span in note.keeps()
        if any(counts(note.text[at]) and at in covered for at in range(span.start, span.end))
    )


def _union(spans: Iterable[Span]) -> set[int]:
    return {at for span in spans for at in range(span.start, span.end)}


def _of(counter: Counter[str], kind: str | None) -> int:
    return counter.total() if kind is None else counter[kind]


def _share(part: int, whole: int, of_nothing: float) -> float:
    return part / whole if whole else of_nothing

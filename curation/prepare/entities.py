"""A report → what it says: each finding with its place, side and whether it is there, doubted, absent or of the past.

By a lexicon and rules, English, Chinese and mixed. Where a sentence can be read two ways, the reading that asserts less
is taken: what is wrongly absent costs a sample, what is wrongly present makes a false one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from curation.prepare.lexicon import Mark, anatomies, matcher, usual_place
from curation.prepare.sentences import Sentence, SliceReference, references, sentences

Status = Literal["present", "uncertain", "absent", "past"]
Side = Literal["left", "right", "both", ""]


@dataclass(frozen=True, slots=True)
class Entity:
    """A finding of a report. Spans are [start, end) in characters of the text that was given.

    Attributes:
        finding: code of the lexicon
        anatomy: code of the lexicon; empty where neither the sentence nor the finding names a place
        named: whether the sentence names the place (else it is the finding's usual one)
        slices: the slices that the sentence names for it
        levels: landmarks in its clause that name a level (carina, basal ganglia)
    """

    finding: str
    anatomy: str
    named: bool
    side: Side
    status: Status
    span: tuple[int, int]
    anatomy_span: tuple[int, int] | None
    slices: tuple[SliceReference, ...]
    levels: tuple[str, ...]


def extract(text: str) -> list[Entity]:
    """The findings of a report, in the order of the text."""
    marks = list(matcher().find(text))
    found: list[Entity] = []
    at = 0
    for sentence in sentences(text):
        while at < len(marks) and marks[at].start < sentence.start:
            at += 1
        first = at
        while at < len(marks) and marks[at].start < sentence.end:
            at += 1
        inner = _in_parentheses(text, sentence)
        # A comma in parentheses, as in `(series 4, image 20)`, ends no clause.
        found += _of_sentence(
            text, sentence, [mark for mark in marks[first:at] if mark.kind != "comma" or mark.start not in inner]
        )
    return found


def _in_parentheses(text: str, sentence: Sentence) -> set[int]:
    places: set[int] = set()
    depth = 0
    for at in range(sentence.start, sentence.end):
        depth = max(0, depth + (text[at] in "(（") - (text[at] in ")）"))
        if depth:
            places.add(at)
    return places


def _of_sentence(text: str, sentence: Sentence, marks: Sequence[Mark]) -> list[Entity]:
    places = [number for number, mark in enumerate(marks) if mark.kind == "finding"]
    if not places:
        return []
    named: dict[int, list[SliceReference]] = {number: [] for number in places}
    for reference in references(text, sentence.start, sentence.end):
        # In parentheses after the finding as a rule; at the head of the sentence otherwise.
        before = [number for number in places if marks[number].start < reference.at]
        named[before[-1] if before else places[0]].append(reference)
    entities = []
    for number in places:
        mark = marks[number]
        clause = _clause(marks, number)
        anatomy = _anatomy(marks, clause, number)
        code = anatomy.value if anatomy else usual_place()[mark.value]
        entities.append(
            Entity(
                finding=mark.value,
                anatomy=code,
                named=anatomy is not None,
                side=_side(marks, clause, number, anatomy),
                status=_status(text, sentence, marks, clause, number),
                span=(mark.start, mark.end),
                anatomy_span=(anatomy.start, anatomy.end) if anatomy else None,
                slices=tuple(named[number]),
                levels=tuple(
                    each.value for each in marks[clause] if each.kind == "anatomy" and anatomies()[each.value].level
                ),
            )
        )
    return entities


def _clause(marks: Sequence[Mark], number: int) -> slice:
    """The marks between the commas (or words like `but`) around mark `number`."""
    first, last = number, number + 1
    while first and marks[first - 1].kind not in {"comma", "break"}:
        first -= 1
    while last < len(marks) and marks[last].kind not in {"comma", "break"}:
        last += 1
    return slice(first, last)


def _anatomy(marks: Sequence[Mark], clause: slice, number: int) -> Mark | None:
    """The place of a finding: the nearest in its clause, else, if it has no usual one, the last named before."""
    finding = marks[number]
    inside = [mark for mark in marks[clause] if mark.kind == "anatomy"]
    if not inside:
        if usual_place()[finding.value]:
            return None
        inside = [mark for mark in marks[: clause.start] if mark.kind == "anatomy"][-1:]
    if not inside:
        return None
    nearest = min(inside, key=lambda mark: max(finding.start - mark.end, mark.start - finding.end))
    # `right lung, upper lobe` and 右肺上叶: of places that touch, the narrower one is meant.
    touching = [mark for mark in inside if abs(mark.start - nearest.end) <= 1 or abs(nearest.start - mark.end) <= 1]
    return min([nearest, *touching], key=lambda mark: _width(mark.value))


def _width(code: str) -> float:
    low, high = anatomies()[code].extent
    return high - low


def _side(marks: Sequence[Mark], clause: slice, number: int, anatomy: Mark | None) -> Side:
    """The side said of the place: the last before it, else the first after it in the clause."""
    if anatomy is not None and anatomy.side:
        return _as_side(anatomy.side)
    target = anatomy or marks[number]
    area = list(marks[clause])
    if anatomy is not None and anatomy not in area:
        area = [mark for mark in marks[: clause.start] if mark.start <= anatomy.start]
    sides = [mark for mark in area if mark.kind == "side"]
    before = [mark for mark in sides if mark.end <= target.start]
    if not before:
        # `effusion on the right`
        before = [mark for mark in sides if mark.start >= target.end][:1] or sides[-1:]
    if not before:
        return ""
    last = before[-1]
    if len(before) > 1 and before[-2].value != last.value and _joined(area, before[-2], last):
        return "both"
    return _as_side(last.value)


def _joined(area: Sequence[Mark], one: Mark, other: Mark) -> bool:
    """`left and right`, 左、右: nothing but a joining word between them."""
    between = [mark for mark in area if one.end <= mark.start and mark.end <= other.start]
    return other.start - one.end <= len(" and ") and all(mark.kind == "and" for mark in between)


def _as_side(value: str) -> Side:
    return "left" if value == "left" else "right" if value == "right" else "both"


def _status(text: str, sentence: Sentence, marks: Sequence[Mark], clause: slice, number: int) -> Status:
    if _is_negated(text, sentence, marks, clause, number):
        return "absent"
    around = {mark.kind for mark in marks[clause]}
    if sentence.past or any(mark.kind == "past" for mark in marks[clause.start : number]):
        return "past"
    if sentence.asked or "doubt" in around:
        return "uncertain"
    # 考虑肺炎，或结核: a doubt reaches over a comma when nothing new is stated.
    if any(mark.kind == "doubt" for mark in marks[: clause.start]) and not _is_fresh(marks, clause, number):
        return "uncertain"
    return "present"


def _is_negated(text: str, sentence: Sentence, marks: Sequence[Mark], clause: slice, number: int) -> bool:
    if any(mark.kind == "gone" for mark in marks[number + 1 : clause.stop]):
        return True
    after = marks[number + 1 : clause.stop]
    if after and after[-1].kind == "no":
        # 胸腔积液未见: the negation ends the clause, and there is nothing after it that it could be about.
        stop = marks[clause.stop].start if clause.stop < len(marks) else sentence.end
        if not text[after[-1].end : stop].strip():
            return True
    for place in range(number - 1, -1, -1):
        mark = marks[place]
        if mark.kind == "break":
            return False
        if mark.kind == "comma" and _is_fresh(marks, _clause(marks, place + 1), number):
            return False
        if mark.kind == "no" or (mark.kind == "gone" and place >= clause.start):
            return True
    return False


def _is_fresh(marks: Sequence[Mark], clause: slice, number: int) -> bool:
    """Whether the clause after a comma states something new, so that a negation before the comma does not reach it.

    It does when, before its finding, it has a verb, a side or a place, and no `or` comes later: `no nodule, mass, or
    effusion` is one list.
    """
    before = {mark.kind for mark in marks[clause.start : min(clause.stop, number)]}
    listed = any(mark.kind == "or" for mark in marks[clause.start :])
    return not listed and bool({"verb", "side", "anatomy"} & before)

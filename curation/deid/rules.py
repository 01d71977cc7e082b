"""What a rule of one pattern is: RE2, linear time whatever the input, on a note's view.

There `\\d` and `\\b` are ASCII, so a number is found right beside Chinese characters. RE2 has no look-around; `border`
names what may not touch the match.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from curation.deid.kinds import Kind, Note, Span
from curation.deid.patterns import compiled

Border = Literal["digit", "word", "none"]


@dataclass(frozen=True, slots=True)
class Rule:
    """Group 1 of `pattern` is the identifier; `accept` has the last word on it."""

    kind: Kind
    pattern: Any
    border: Border = "word"
    accept: Callable[[str], bool] | None = None

    def find(self, note: Note) -> Iterator[Span]:
        """All matches; after a refused one the search goes on one character further, not behind it."""
        view, place = note.view, 0
        while match := self.pattern.search(view, place):
            start, end = match.span(1)
            if self._free(view, start, end) and (self.accept is None or self.accept(match.group(1))):
                yield Span(start, end, self.kind)
                place = max(end, place + 1)
            else:
                place = start + 1

    def _free(self, view: str, start: int, end: int) -> bool:
        before, after = view[start - 1 : start], view[end : end + 1]
        return not (_touches(before, self.border) or _touches(after, self.border))


def _touches(character: str, border: Border) -> bool:
    if not character.isascii() or border == "none":
        return False
    return character.isdigit() if border == "digit" else character.isalnum()


def rule(kind: Kind, pattern: str, *, border: Border = "word", accept: Callable[[str], bool] | None = None) -> Rule:
    """A rule from the text of its pattern."""
    return Rule(kind, compiled(pattern), border, accept)

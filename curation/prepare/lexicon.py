"""The words that the extractor knows, and one pass over a text that finds them all, longest first.

Terms of anatomy and findings are in `data/lexicon.toml`, words that negate, doubt, date back or name a side in
`data/cues.toml`; their heads say what the fields mean.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any


@dataclass(frozen=True, slots=True)
class Anatomy:
    """A place of the body: see the head of `data/lexicon.toml`."""

    code: str
    region: str
    extent: tuple[float, float]
    sided: bool
    level: bool


@dataclass(frozen=True, slots=True)
class Mark:
    """A known word at [start, end): its kind, and the code or the side that it stands for."""

    start: int
    end: int
    kind: str
    value: str
    side: str = ""


_FILES = ("lexicon", "cues")
_SIDES = ("left", "right", "both")


class Matcher:
    """Finds the longest known term at each place of a text, in one pass and linear time."""

    def __init__(self, terms: list[tuple[str, Mark]]) -> None:
        self._by_head: dict[str, list[tuple[str, Mark]]] = {}
        for term, mark in sorted(terms, key=lambda pair: -len(pair[0])):
            self._by_head.setdefault(term[:2], []).append((term, mark))

    def find(self, text: str) -> Iterator[Mark]:
        """The marks in `text`, from left to right, none overlapping."""
        # One character for one, so that places in it are places in the text.
        lower = "".join(each.lower() if len(each.lower()) == 1 else each for each in text)
        at = 0
        while at < len(lower):
            found = self._at(lower, at)
            if found is None:
                at += 1
            else:
                yield found
                at = found.end

    def _at(self, lower: str, at: int) -> Mark | None:
        if _is_word(lower[at]) and at and _is_word(lower[at - 1]):
            return None
        for head in (lower[at : at + 2], lower[at]):
            for term, mark in self._by_head.get(head, ()):
                if not lower.startswith(term, at):
                    continue
                end = at + len(term)
                if _is_word(term[-1]):
                    # A plural s is part of the word; anything more is another word.
                    end += lower[end : end + 1] == "s" and mark.kind in {"finding", "anatomy"}
                    if end < len(lower) and _is_word(lower[end]):
                        continue
                return Mark(at, end, mark.kind, mark.value, mark.side)
        return None


def _is_word(character: str) -> bool:
    return character.isascii() and character.isalnum()


@cache
def _data() -> dict[str, Any]:
    texts = (files("curation.prepare").joinpath(f"data/{name}.toml").read_text(encoding="utf-8") for name in _FILES)
    return {key: value for text in texts for key, value in tomllib.loads(text).items()}


@cache
def anatomies() -> dict[str, Anatomy]:
    """Each place by its code."""
    return {
        code: Anatomy(
            code, entry["region"], (entry["extent"][0], entry["extent"][1]), entry["sided"], entry.get("level", False)
        )
        for code, entry in _data()["anatomy"].items()
    }


@cache
def usual_place() -> dict[str, str]:
    """Where a finding is when nothing is said: its code → the code of the place, or empty."""
    return {code: entry.get("at", "") for code, entry in _data()["finding"].items()}


@cache
def matcher() -> Matcher:
    """Over all terms and cues. A term of the lexicon wins over a cue that is as long."""
    terms: list[tuple[str, Mark]] = []
    for kind in ("finding", "anatomy"):
        for code, entry in _data()[kind].items():
            terms += [(term.lower(), Mark(0, 0, kind, code)) for term in (*entry["en"], *entry["zh"])]
    for term, entry in _data()["short"].items():
        terms.append((term.lower(), Mark(0, 0, "anatomy", entry["anatomy"], entry["side"])))
    for kind, words in _data()["cue"].items():
        shown = ("side", kind) if kind in _SIDES else (kind, kind)
        terms += [(word, Mark(0, 0, *shown)) for word in words]
    return Matcher(terms)

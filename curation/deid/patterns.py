"""Compiling patterns: RE2, so that no input can make a search slow; its messages stay silent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import re2

# Latin letters with their accents. Small ranges keep RE2's automata small, the Unicode classes do not.
UPPER = "A-ZÀ-ÖØ-ÞĀ-ſ"
LETTER = "A-Za-zÀ-ÖØ-öø-ɏ"


def compiled(pattern: str) -> Any:
    """An RE2 pattern; `{U}` and `{L}` stand for the ranges of Latin capitals and letters inside brackets."""
    options = re2.Options()
    options.max_mem = 256 << 20
    options.log_errors = False
    return re2.compile(pattern.replace("{U}", UPPER).replace("{L}", LETTER), options)


class Family:
    """Patterns of which most match nowhere in a note: one walk through the note tells which ones do."""

    def __init__(self, patterns: Iterable[Any]) -> None:
        options = re2.Options()
        options.max_mem = 512 << 20
        options.log_errors = False
        self._set = re2.Set.SearchSet(options)
        self._count = 0
        for pattern in patterns:
            self._set.Add(pattern.pattern)
            self._count += 1
        # Matches always: without it "none matches" could not be told from an automaton that outgrew its memory.
        self._set.Add("")
        self._set.Compile()

    def matching(self, text: str) -> Iterable[int]:
        """Numbers of the patterns that match somewhere in `text`, in order."""
        found = self._set.Match(text)
        # Nothing is said when the automaton outgrows its memory: then each pattern has to look for itself.
        return range(self._count) if found is None else sorted(found)[:-1]

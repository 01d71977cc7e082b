# ruff: noqa: E501  (a pattern reads best on one line)
"""Given name and surname side by side, whatever their case; a given name that is an everyday word needs more around it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from curation.deid.kinds import Kind, Note, Span
from curation.deid.names_en import TERM, is_eponym, is_surname, is_unknown, ordinary
from curation.deid.patterns import compiled
from curation.deid.words import words

_FAMILY = r"[{L}][{L}'-]*[{L}]"
_SUFFIX = r"(?:,?[ \n](?:jr|sr|iii|ii|iv)\b\.?)?"
_CUE = compiled(
    r"(?i:(?:\b(?:driver|passenger|patients?|pt|name|saw|rn|md|dr|drs|mr|mrs|ms|miss|regards|sincerely|dear|wife|husband|son|daughter|mother|father|sister|brother|spouse|partner|family|nok|pcp|user|call|"
    r"called|attending|surgeon|provider|nurse|physician|signed|by|insured|billing|visit|this[ ]is|dictating[ ]on|records[ ]of|from|to|with|for|contact|subject|re|cc)|[\p{Han}])[ \n]*[:.,;|(]?[ \n]*)$"
)
_BEFORE = 28


@cache
def _patterns() -> tuple[Any, Any]:
    given = "|".join(sorted(map(re.escape, words("given_names_en") | words("word_names_en")), key=len, reverse=True))
    forward = (
        rf"(?i:(?:^|[^{{L}}'-])((?P<g>{given})[ \n]{{1,2}}(?:[a-z]\b\.?[ \n])?(?P<f>{_FAMILY}){_SUFFIX}))(?:[^{{L}}]|$)"
    )
    reverse = rf"(?i:(?:^|[^{{L}}'-])((?P<f>{_FAMILY}),[ \n]{{0,2}}(?P<g>{given})\b(?:[ \n][a-z]\b\.?)?{_SUFFIX}))(?:[^{{L}}]|$)"
    return compiled(forward), compiled(reverse)


def names_pairs(note: Note) -> Iterator[Span]:
    """Pairs of a listed given name and a surname, and each further occurrence of such a pair."""
    view = note.view
    seen: set[str] = set()
    for pattern in _patterns():
        place = 0
        while match := pattern.search(view, place):
            start, end = match.span(1)
            place = start + 1
            given, family = match.group("g", "f")
            if _is_pair(view, start, end, given, family.removesuffix("'s")):
                yield Span(start, end, Kind.NAME)
                seen.add(view[start:end])
                place = end
    for name in seen:
        place = view.find(name)
        while place >= 0:
            yield Span(place, place + len(name), Kind.NAME)
            place = view.find(name, place + len(name))


def _is_pair(view: str, start: int, end: int, given: str, family: str) -> bool:
    eponym = is_eponym(family)
    if (given.islower() != family.islower()) or (eponym and TERM.search(view[end : end + 40])):
        return False
    # In lower case a surname that is a word is rather that word.
    listed = (is_surname(family) and not (given.islower() and ordinary(family))) or eponym
    if not (listed or is_unknown(family)):
        return False
    common = ordinary(family.lower())
    if given.capitalize() not in words("word_names_en"):
        return listed or not common
    if listed and not given.islower() and not given.isupper():
        return True
    return (not common and not given.islower()) or (
        listed and _CUE.search(view[max(0, start - _BEFORE) : start]) is not None
    )

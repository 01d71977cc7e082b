# ruff: noqa: E501  (a pattern reads best on one line)
"""Towns, streets without a number, and what else is smaller than a state, in English text."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from curation.deid.kinds import Kind, Note, Span
from curation.deid.names_en import TERM, capitalised, is_eponym, is_surname, is_unknown, ordinary
from curation.deid.patterns import Family, compiled
from curation.deid.words import lexicon, words

_CAPITAL = r"[{U}][{L}'.-]*[{L}]"
_WORDS = compiled(r"[{L}][{L}'.-]*")
_LONGEST = 4  # words of a town: "Newport-on-Tay" is one, "Bury St Edmunds" three
_PREPOSITION = compiled(
    r"(?i:\b(?:from|in|near|outside|around|to|of|via|at|through|towards?|leaving|visiting|reached|outside of|back|for|left|in rural|downtown|north|south|east|west|upper|lower|greater)[ \n])(?i:(?:the|rural|downtown|north|south|east|west|old|new)[ ])?$"
)
_STREET = r"(?:Street|Road|Avenue|Ave|Rd|Boulevard|Blvd|Lane|Crescent|Terrace|Parkway|Pkwy|Highway|Hwy|Close|Drive|Mews|Quay|Alley|Crossing|Turnpike|Esplanade|Promenade|Strasse|Stra(?:ss|ß)e|Boreen|Brae|Wynd|Loan)"
_AREA = r"(?:County|Township|Parish|Borough|Village|Estates?|Reservation|Pueblo|Falls|Springs|Heights|Hills|Island|Valley|Harbou?r|Ridge|Junction|Gardens|Farm|Ranch|Apartments|Apts|Towers|Manor|Mills|Ferry|Projects|Trailer[ ]Park|Beach|Station|Campground|Marina|Quarry|Docks|Barracks|Shelter)"
_RULES = tuple(
    compiled(pattern)
    for pattern in (
        rf"(?:^|[^{{L}}])((?:{_CAPITAL}[ ]){{1,3}}{_STREET})(?:[^{{L}}]|$)",
        rf"(?:^|[^{{L}}])((?:{_CAPITAL}[ ]){{1,3}}{_AREA})(?:[^{{L}}]|$)",
        rf"(?i:\b(?:corner|intersection|junction|crossing)[ ]of[ ])((?:\d+(?:st|nd|rd|th)|{_CAPITAL})(?:[ ]{_CAPITAL})?[ ](?:and|&|/)[ ](?:\d+(?:st|nd|rd|th)|{_CAPITAL})(?:[ ]{_STREET})?)",
        r"(?i:\b((?:route|rte|hwy|highway|interstate|county[ ]road|state[ ]road|mile[ ]marker|exit)[ -]?\d+[A-Z]?))\b",
        r"(?i:\b(?:on|off|along|down|up)[ ](?:the[ ])?)((?:I|M|A|US|SR)-?\d{1,3})\b",
        rf"(?i:\b(?:in|near|outside|around|from|leaving|visiting)[ ])((?:{_CAPITAL}[ ]?){{1,2}})(?:[^{{L}}]|$)",
    )
)
_NO_PLACE = compiled(
    r"^(?:No|None|Not|All|Any|Patient|Left|Right|Both|Bilateral|Normal|Mild|Acute|Chronic|History|Follow|Status|Plan)\b"
)


_FAMILY = Family(_RULES)


def towns_en(note: Note) -> Iterator[Span]:
    """Spans of the rules and of the listed towns."""
    view, uniform = capitalised(note.view)
    last = len(_RULES) - 1
    for number in _FAMILY.matching(view):
        pattern, place = _RULES[number], 0
        while match := pattern.search(view, place):
            start, end = match.span(1)
            place = max(start + 1, end - 1)
            text = view[start:end].rstrip()
            if (number < last or _is_place(text)) and not _NO_PLACE.search(text):
                yield Span(start, start + len(text), Kind.ADDRESS)
    yield from _listed(view, uniform)


def _is_place(text: str) -> bool:
    """What stands behind "in" and is capitalised for no known reason."""
    return all(is_unknown(word) for word in text.split())


def _listed(view: str, uniform: bool) -> Iterator[Span]:
    tokens = [(match.start(), match.end()) for match in _WORDS.finditer(view)]
    skip = -1
    for number, (start, _) in enumerate(tokens):
        if start < skip or not view[start].isupper():
            continue
        for length in range(min(_LONGEST, len(tokens) - number), 0, -1):
            end = tokens[number + length - 1][1]
            name = view[start:end].rstrip(".").removesuffix("'s")
            if "\n" in name or _folded(name) not in _towns():
                continue
            if _counts(view, start, start + len(name), name, uniform):
                yield Span(start, start + len(name), Kind.ADDRESS)
                skip = end
            break


@cache
def _towns() -> frozenset[str]:
    return frozenset(_folded(name) for name in lexicon("towns"))


def _folded(name: str) -> str:
    return name.casefold().replace("-", " ").replace(".", "")


def _counts(view: str, start: int, end: int, name: str, uniform: bool) -> bool:
    """A name of several words, one that is no other word, or one behind a preposition."""
    if TERM.search(view[end : end + 40]) or name.lower() in words("not_names_en"):
        return False
    led = _PREPOSITION.search(view[max(0, start - 24) : start]) is not None
    parts = name.replace("-", " ").split()
    plain = all(ordinary(part.lower()) for part in parts)
    if plain and len(parts) == 1:
        return led and not uniform and name.capitalize() not in words("words_first_en") and len(name) > 3
    if any(is_eponym(part) for part in parts) or (len(parts) == 1 and is_surname(name)):
        return led
    return not plain or (led and not uniform)

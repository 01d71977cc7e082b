# ruff: noqa: E501  (a pattern reads best on one line)
"""Growing found spans over what evidently belongs to them: the rest of a code, an address, a ward, a name."""

from __future__ import annotations

from curation.deid.kinds import Kind, Span
from curation.deid.names_en import is_given, is_surname, is_unknown
from curation.deid.patterns import compiled

_CODES = frozenset((Kind.MRN, Kind.DEVICE, Kind.LICENSE, Kind.PASSPORT, Kind.PLATE, Kind.NUMBER, Kind.ACCOUNT))
_RIGHT = {
    "code": compiled(r"^(?:[-/._:#+]{1,2}[A-Za-z0-9]*\d[A-Za-z0-9]*|[ ][A-Z]{0,4}\d[A-Z0-9]*(?:-[A-Z0-9]+)*\b|[-/][A-Z]{1,4}\b|[ ][A-Z]{1,3}\b|\([A-Z0-9]{1,3}\))"),
    "address": compiled(r"^(?:,?[ \n]{1,2}(?:[{U}][{L}'.]*|[A-Z]{0,2}\d[A-Z0-9-]*|#[ ]?\w+)\b|,?[ ]?\d{5,6}\b)"),
    "ward": compiled(r"^[ ,/-]{1,2}(?i:(?:bed|bay|room|rm|side|cubicle|bunk|chair)[ ]?#?[ ]?[a-z]?\d{0,4}[a-z]?\b|north|south|east|west|wing|window|door|[a-z]?\d{1,3}[a-z]?\b)"),
    "han_ward": compiled(r"^[,、 -]?(?:[0-9A-Z+加一二三四五六七八九十-]{1,5}[ ]?(?:号病床|号床|病床|床位?|病室|病房|室|区|楼|层))"),
    "facility": compiled(r"^(?:[ ](?:of|for|at|the|and|&|in|NHS|[{U}][{L}'.]+))*[ ](?:NHS|Trust|Foundation|Center|Centre|Campus|Clinic|Hospital|System|Group|Unit|Department|Annex|[{U}][{L}']+)\b"),
}  # fmt: skip
_LEFT = {
    "code": compiled(r"(?:[A-Za-z0-9]+[-/._:#+]{1,2}|\b[A-Z]{2,5}[ ])$"),
    "address": compiled(r"(?:(?i:flat|apt|apartment|unit|suite|room|building|block|house)\b\.?[ ]?#?\w{1,5},?[ ]|[{U}][{L}']+[ ](?:House|Cottage|Court|Building|Lodge|Farm|Tower|Mansions?|Heights),?[ ])$"),
    "ward": compiled(r"(?:\b(?i:ward|unit|floor|wing|room|bay|icu|ccu|micu|sicu|nicu|pacu|bldg|building|level|tower)[ ,-]{1,2}(?:[A-Z]?\d{0,2}[A-Z]?[ ,-]{1,2})?|\b[{U}][{L}]+[ ](?:Ward|Unit|Wing|Tower|Pavilion)[ ,]{1,2})$"),
    "han_ward": compiled(r"(?:\p{Han}{1,6}(?:科|中心|部|院区|大楼|楼)|[0-9A-Z一二三四五六七八九十]{1,3}(?:号楼|楼|层|病区|区|病房|病室|室))[,、 -]?$"),
    "facility": compiled(r"(?:[{U}][{L}'.]+[ ])$"),
}  # fmt: skip
_NEXT_NAME = compiled(r"^(?:[ ]|-)(?:[{U}]\.[ ]?)?([{U}][{L}'-]+)")
_PREVIOUS_NAME = compiled(r"([{U}][{L}'-]*\.?)[ ]$")
_REACH = 40


def grow(view: str, span: Span) -> Span:
    """The span with what touches it and belongs to it; its own replacement is lost when it grows."""
    start, end = span.start, span.end
    if span.kind is Kind.NAME:
        start, end = _name(view, start, end)
    else:
        for what in _what(span.kind):
            for _ in range(6):
                left = _LEFT[what].search(view[max(0, start - _REACH) : start])
                right = _RIGHT[what].search(view[end : end + _REACH])
                if not left and not right:
                    break
                start -= left.end() - left.start() if left else 0
                end += right.end() if right else 0
    return span if (start, end) == (span.start, span.end) else Span(start, end, span.kind)


def _what(kind: Kind) -> tuple[str, ...]:
    if kind in _CODES:
        return ("code",)
    return {Kind.ADDRESS: ("address",), Kind.WARD: ("ward", "han_ward"), Kind.FACILITY: ("facility",)}.get(kind, ())


def _name(view: str, start: int, end: int) -> tuple[int, int]:
    """Further words of a Latin name: known ones, or such that no list knows."""
    if not view[start:end].isascii():
        return start, end
    for _ in range(3):
        match = _NEXT_NAME.search(view[end : end + _REACH])
        if not match or not _belongs(match.group(1).removesuffix("'s")):
            break
        end += match.end()
    for _ in range(3):
        match = _PREVIOUS_NAME.search(view[max(0, start - _REACH) : start])
        if not match or not (_belongs(match.group(1)) or (len(match.group(1)) == 2 and match.group(1)[1] == ".")):
            break
        start -= match.end() - match.start(1)
    return start, end


def _belongs(word: str) -> bool:
    return is_given(word) or is_surname(word) or is_unknown(word)

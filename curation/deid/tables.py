# ruff: noqa: E501  (a pattern reads best on one line)
"""Identifiers that only their column tells: HL7 version 2 segments and tables with `|` or tabs between the cells."""

from __future__ import annotations

import re
from collections.abc import Iterator

from curation.deid.kinds import Kind, Note, Span

# Segment → field number (HL7 v2.5, chapters 2, 3, 6) → kind. In MSH the separator itself is field 1.
_FIELDS: dict[str, dict[int, Kind]] = {
    "MSH": {7: Kind.DATE, 10: Kind.NUMBER},
    "PID": {
        **dict.fromkeys((2, 3, 4, 18, 21), Kind.MRN), **dict.fromkeys((5, 6, 9), Kind.NAME), 7: Kind.DATE,
        **dict.fromkeys((11, 23), Kind.ADDRESS), **dict.fromkeys((13, 14), Kind.PHONE), 19: Kind.SSN, 20: Kind.LICENSE,
        29: Kind.DATE,
    },
    "PV1": {
        **dict.fromkeys((3, 6), Kind.WARD), **dict.fromkeys((7, 8, 9, 17), Kind.NAME), **dict.fromkeys((5, 19), Kind.MRN),
        **dict.fromkeys((44, 45), Kind.DATE),
    },
    "NK1": {2: Kind.NAME, 4: Kind.ADDRESS, 5: Kind.PHONE, 6: Kind.PHONE},
    "GT1": {2: Kind.MRN, 3: Kind.NAME, 5: Kind.ADDRESS, 6: Kind.PHONE, 7: Kind.PHONE, 8: Kind.DATE, 12: Kind.SSN},
    "IN1": {16: Kind.NAME, 18: Kind.DATE, 19: Kind.ADDRESS, 36: Kind.MRN},
    "OBR": {2: Kind.NUMBER, 3: Kind.NUMBER, 7: Kind.DATE, 16: Kind.NAME},
}  # fmt: skip
# These hold one value and then what issued it.
_FIRST_ONLY = frozenset((Kind.MRN, Kind.NUMBER, Kind.SSN, Kind.LICENSE))
_HEADINGS = tuple((kind, re.compile(pattern, re.IGNORECASE)) for kind, pattern in (
    (Kind.NAME, r"(?:patient|pt)?\W*(?:full |last |first )?names?|patient|pt|姓\s*名|病人|患者|患者姓名|医生|医师|护士|签名|联系人|attending|physician|provider|nurse|surgeon|contact|nok"),
    (Kind.MRN, r"mrn|mr ?#|chart ?#?|acct ?#?|account|(?:patient |pt )?id|record(?: no\.?)?|csn|住院号码?|病案号|病历号|门诊号|就诊卡号?|登记号|医保卡?号|卡号"),
    (Kind.WARD, r"bed|room|rm|ward|loc(?:ation)?|bed ?#|room/bed|床|床号|床位|病区|病房|房号|房间"),
    (Kind.DATE, r"d\.?o\.?b\.?|date|birth ?date|date of birth|admit(?:ted)?|adm(?: date)?|admission|discharged?|seen|日期|出生日期|生日|入院日期|出院日期|就诊日期|检查日期|手术日期|入院|采集日期"),
    (Kind.PHONE, r"phone|tel|cell|mobile|fax|pager|电话|手机|联系电话|联系方式|传真"),
    (Kind.ADDRESS, r"address|addr|home address|住址|地址|家庭住址"),
    (Kind.SSN, r"ssn|ss ?#"),
    (Kind.AGE, r"age|年龄|岁"),
    (Kind.NATIONAL_ID, r"身份证号?码?|证件号码?"),
    (Kind.NUMBER, r"accession(?: ?#| no\.?)?|acc ?#|specimen(?: ?#| id)?|sample(?: id)?|case ?#|标本号|样本号|检查号|条码号?|申请单号|病理号"),
))  # fmt: skip
# Values of these kinds may be words alone.
_WORDS = frozenset((Kind.NAME, Kind.ADDRESS, Kind.WARD, Kind.DATE))
_EMPTY = frozenset(("", "-", "--", "n/a", "na", "none", "nil", "unknown", "无", "未知", "不详"))
_PIECE = re.compile(r"[^\^~&]+")


def tables(note: Note) -> Iterator[Span]:
    """Cells under a heading that names an identifier, and fields of segments."""
    # Lines of the text, not of the view: there a line end may have become a blank.
    if "|" not in note.view and "\t" not in note.view:
        return
    columns: dict[int, Kind] = {}
    place = 0
    for line in note.text.split("\n"):
        view = note.view[place : place + len(line)]
        segment = _FIELDS.get(view[:3].upper()) if view[3:4] == "|" else None
        if segment:
            yield from _segment(view, place, segment)
        elif view.count("|") >= 2 or view.count("\t") >= 2:
            cells = _cells(view)
            headings = _columns(view, cells)
            if len(headings) >= 2 or (headings and not columns):
                columns = headings
            else:
                yield from _row(view, place, cells, columns)
        elif view.strip():
            columns = {}
        place += len(line) + 1


def _segment(view: str, place: int, fields: dict[int, Kind]) -> Iterator[Span]:
    at, number = 0, 1 if view[:3].upper() == "MSH" else 0
    for field in view.split("|"):
        if kind := fields.get(number):
            for piece in _PIECE.finditer(field):
                yield from _span(piece.group(), place + at + piece.start(), kind)
                if kind in _FIRST_ONLY:
                    break
        at += len(field) + 1
        number += 1


def _cells(view: str) -> list[tuple[int, int]]:
    separator = "|" if view.count("|") >= 2 else "\t"
    cells, at = [], 0
    for cell in view.split(separator):
        cells.append((at, at + len(cell)))
        at += len(cell) + 1
    return cells


def _columns(view: str, cells: list[tuple[int, int]]) -> dict[int, Kind]:
    found: dict[int, Kind] = {}
    for number, (start, end) in enumerate(cells):
        heading = view[start:end].strip(" *:")
        if len(heading) <= 20 and (
            kind := next((kind for kind, pattern in _HEADINGS if pattern.fullmatch(heading)), None)
        ):
            found[number] = kind
    return found


def _row(view: str, place: int, cells: list[tuple[int, int]], columns: dict[int, Kind]) -> Iterator[Span]:
    for number, kind in columns.items():
        if number < len(cells):
            start, end = cells[number]
            yield from _span(view[start:end], place + start, kind)


def _span(text: str, place: int, kind: Kind) -> Iterator[Span]:
    value = text.strip(" *")
    if value.lower() in _EMPTY or not any(map(str.isalnum, value)):
        return
    if kind not in _WORDS and not any(map(str.isnumeric, value)):
        return
    if kind is Kind.AGE and not (
        (value[:3].isdigit() and int(value[:3]) > 89) or (value[:2].isdigit() and int(value[:2]) > 89)
    ):
        return
    start = place + text.index(value)
    yield Span(start, start + len(value), kind)

# ruff: noqa: E501  (a pattern reads best on one line)
"""Places of China and addresses in Chinese text, by the list of its provinces, cities, counties and towns and by form."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from curation.deid.kinds import Kind, Note, Span
from curation.deid.patterns import Family, compiled
from curation.deid.words import lexicon

_UNIT = r"(?:省|市|自治州|地区|盟|县|旗|区|镇|乡|街道|村|社区|屯|庄|组|街|路|道|巷|弄|胡同|里|园|苑|小区|花园|新村|公寓|大厦|广场|家园|号院|大院|宿舍|工地|农场|林场)"
_FLAT = r"(?:\d+[ ]?(?:号楼?|弄|栋|幢|座|单元|室|组|户|层|楼|-)?[A-Z]?[ ]?)"
_RULES = tuple(
    compiled(pattern)
    for pattern in (
        rf"((?:\p{{Han}}{{2,8}}?{_UNIT}){{2,6}}{_FLAT}{{0,6}})",
        rf"(\p{{Han}}{{2,8}}?(?:路|街|道|巷|弄|胡同|里|小区|花园|新村|公寓|大厦|家园|苑|村|庄|屯){_FLAT}{{1,6}})",
        r"(?:^|[，,。；;:：、 ])(?:现|家|暂|租|户籍|常)?住(?:于|在|址)?[：: ]?(\p{Han}[\p{Han}A-Za-z0-9-]{1,40})",
        r"(?:家住|现住|居住在|居住于|租住|借住|暂住|户籍|原籍|籍贯|祖籍|老家|来自|地点|接诊地点|地址|送至|家在)(?:在|为|是|于)?[：: ]{0,2}(\p{Han}[\p{Han}A-Za-z0-9-]{1,40})",
        r"(?:在|到|从|去|往|于|至|由|经|回)(\p{Han}{2,6}(?:路|大道|村|小区|花园|新村|公寓|家园|社区|镇|乡))(?:[^\p{Han}]|附近|旁|口|边|上|的|那|一带|租|做|打工|务工|出差|返回|转来|赶来|就诊)",
    )
)
# Words that a match may have swallowed before the place.
_LEAD = compiled(
    r"^\p{Han}*?(?:家住|住在|居住于|居住在|来自|就诊于|转至|转往|转自|曾于|曾在|位于|于|在|至|往|到|赴|由|从|自|住|经|遂|患者|系|即|回|去)"
)
# What ends a place: what somebody did there.
_TAIL = compiled(
    r"(?:附近|旁边?|一带|老家|工地|打工|务工|的|就诊|住院|因|为|患者|出院|入院|与|和|有|无|做|经营|开)\p{Han}*$"
)
_BEFORE = frozenset("在到从去往于至由经回住赴来自抵籍")
_NO_PLACE = frozenset(
    (
        "住院",
        "住院部",
        "我院",
        "本院",
        "外院",
        "门诊",
        "急诊",
        "病区",
        "院",
        "单间",
        "病房",
        "隔壁",
        "同室",
        "此处",
        "家中",
        "家里",
        "医院",
        "科室",
        "原位",
    )
)
# 头孢曲松2g: a drug that is written by its sound.
_DOSE = compiled(r"^[ ]?\d+(?:\.\d+)?[ ]?(?:m?g|ml|μg|IU|U|片|粒|支)")
_LONGEST, _SHORTEST = 8, 2


_FAMILY = Family(_RULES)


def places_zh(note: Note) -> Iterator[Span]:
    """Spans of the rules and of the listed places; they may overlap."""
    view = note.view
    if view.isascii():
        return
    for number in _FAMILY.matching(view):
        pattern, place = _RULES[number], 0
        while match := pattern.search(view, place):
            start, end = match.span(1)
            place = start + 1
            if lead := _LEAD.search(view[start:end]):
                start += lead.end()
            if tail := _TAIL.search(view[start:end]):
                end = start + tail.start()
            if end - start >= _SHORTEST and view[start:end] not in _NO_PLACE and not view[start:end].startswith("院"):
                yield Span(start, end, Kind.ADDRESS)
                place = max(place, end)
    yield from _listed(view)


def _listed(view: str) -> Iterator[Span]:
    known, words = _places(), lexicon("words_zh")
    place, end = 0, len(view)
    while place < end:
        if not "一" <= view[place] <= "鿿":
            place += 1
            continue
        for length in range(min(_LONGEST, end - place), _SHORTEST - 1, -1):
            name = view[place : place + length]
            told = name in known and (name not in words or view[place - 1 : place] in _BEFORE)
            told = told and not _DOSE.search(view[place + length : place + length + 8])
            if told and (length > 2 or not _inside_word(view, place, words)):
                yield Span(place, place + length, Kind.ADDRESS)
                place += length - 1
                break
        place += 1


@cache
def _places() -> frozenset[str]:
    return lexicon("places_zh") - _NO_PLACE


def _inside_word(view: str, place: int, words: frozenset[str]) -> bool:
    """A place of two characters whose characters belong to words on both sides of it: 未 | 安康 in 平安康复."""
    left, right = view[max(0, place - 1) : place + 1], view[place + 1 : place + 3]
    return left in words and right in words

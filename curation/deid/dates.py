# ruff: noqa: E501  (a pattern reads best on one line)
"""Dates (shifted by the patient's own number of days, so that intervals stay) and ages over 89."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date, timedelta
from typing import Any

from curation.deid.dates_partial import partial_dates
from curation.deid.kinds import Kind, Note, Span
from curation.deid.patterns import Family, compiled

_MONTHS = ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
           "december")  # fmt: skip
_SHORT = {name[:3]: number for number, name in enumerate(_MONTHS, 1)}
_MONTH_WORD = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?|Oct(?:ober)?|"
    r"Nov(?:ember)?|Dec(?:ember)?)\b"
)
_M = rf"(?P<m>{_MONTH_WORD})\.?"
_Y = r"(?P<y>(?:18|19|20)\d\d)"
_M2, _D2 = r"(?P<m>1[0-2]|0?[1-9])", r"(?P<d>3[01]|[12]\d|0?[1-9])"
_CHINESE = {character: number for number, character in enumerate("零一二三四五六七八九")} | {"〇": 0, "○": 0, "两": 2}

Build = Callable[[Any, int], str | None]


def _day(year: str, month: str, day: str, days: int) -> date | None:
    try:
        number = int(year)
        if len(year) == 2:
            number += 1900 if number > 50 else 2000
        moved = date(number, int(month), int(day)) + timedelta(days=days)
    except (ValueError, OverflowError):
        return None
    return moved if 1850 <= moved.year < 2200 else None


def _ymd(match: Any, days: int) -> str | None:
    year, separator, month, day = match.group("y", "s", "m", "d")
    moved = _day(year, month, day, days)
    return (
        None
        if moved is None
        else f"{moved.year}{separator}{moved.month:0{len(month)}d}{separator}{moved.day:0{len(day)}d}"
    )


def _mdy(match: Any, days: int) -> str | None:
    """Month first as in the US, day first where the month would be above 12."""
    first, separator, second, year = match.group("m", "s", "d", "y")
    day_first = int(first) > 12
    month, day = (second, first) if day_first else (first, second)
    moved = _day(year, month, day, days)
    if moved is None:
        return None
    parts = [f"{moved.month:0{len(month)}d}", f"{moved.day:0{len(day)}d}"]
    if day_first:
        parts.reverse()
    return str(separator).join([*parts, f"{moved.year:04d}"[-len(year) :]])


def _compact(match: Any, days: int) -> str | None:
    year, month, day = match.group("y", "m", "d")
    moved = _day(year, month, day, days)
    return None if moved is None else f"{moved:%Y%m%d}"


def _slash_month(match: Any, days: int) -> str | None:
    month, year = match.group("m", "y")
    moved = _day(year, month, "15", days)
    return None if moved is None else f"{moved.month:0{len(month)}d}/{moved.year}"


def _month_last(match: Any, days: int) -> str | None:
    year, separator, month = match.group("y", "s", "m")
    moved = _day(year, month, "15", days)
    return None if moved is None else f"{moved.year}{separator}{moved.month:0{len(month)}d}"


def _name(number: int, like: str) -> str:
    name = _MONTHS[number - 1] if len(like.rstrip(".")) > 4 or like.lower() in _MONTHS else _MONTHS[number - 1][:3]
    return name.upper() if like.isupper() else name.capitalize() if like[0].isupper() else name


def _month_first(match: Any, days: int) -> str | None:
    month, day, year = match.group("m", "d", "y")
    moved = _day(year, str(_SHORT[month[:3].lower()]), day, days)
    return None if moved is None else f"{_name(moved.month, month)} {moved.day}, {moved.year}"


def _day_first(match: Any, days: int) -> str | None:
    day, month, year = match.group("d", "m", "y")
    moved = _day(year, str(_SHORT[month[:3].lower()]), day, days)
    return None if moved is None else f"{moved.day} {_name(moved.month, month)} {moved.year}"


def _month_year(match: Any, days: int) -> str | None:
    month, year = match.group("m", "y")
    moved = _day(year, str(_SHORT[month[:3].lower()]), "15", days)
    return None if moved is None else f"{_name(moved.month, month)} {moved.year}"


def _han(match: Any, days: int) -> str | None:
    year, month, day, suffix = match.group("y", "m", "d", "s")
    moved = _day(_digits(year), _digits(month), _digits(day) if day else "15", days)
    if moved is None:
        return None
    return f"{moved.year}年{moved.month}月" + (f"{moved.day}{suffix}" if day else "")


def _year(match: Any, days: int) -> str | None:
    moved = _day(match.group("y"), "7", "1", days)
    return None if moved is None else str(moved.year)


def _han_year(match: Any, days: int) -> str | None:
    year = _year(match, days)
    return f"{year}年" if year else None


def _digits(text: str) -> str:
    """Digits of a number in Chinese or Arabic writing: 二〇二三 → 2023, 十二 → 12, 二十三 → 23."""
    if text.isascii():
        return text
    if "十" in text:
        tens, _, ones = text.partition("十")
        return str(10 * (_CHINESE[tens] if tens else 1) + (_CHINESE[ones] if ones else 0))
    return "".join(str(_CHINESE[character]) for character in text)


def _tag(_: Any, __: int) -> str | None:
    return None


_HAN_Y = r"(?P<y>(?:19|20)\d\d|[一二][〇零○一二三四五六七八九]{3})"
_HAN_M = r"(?P<m>1[0-2]|0?[1-9]|十[一二]?|[一二三四五六七八九])"
_HAN_D = r"(?P<d>3[01]|[12]\d|0?[1-9]|[一二三]?十[一二三四五六七八九]?|[一二三四五六七八九])"
# In a year-less slash date only a word before it tells 3/14 from a strength of 3/5.
_CUE = (
    r"(?:on|since|until|till|dated?|by|admitted|discharged|from|through|thru|seen|surgery|visit|cultures?|cultured|labs?|drawn|dob|birth|clinic|notes?|check|nursing|sign-out|handover|service[ ]date|mvc|started|stopped|taken|performed|"
    r"appointment|f/u|follow-up)(?:[ ]on)?[: ]+"
)
# Tried in this order; a place that one has taken is not given to the next. The group `all` is what is replaced.
_RULES: tuple[tuple[Any, Build], ...] = tuple(
    # A column may end anywhere in a date.
    (compiled(pattern.replace("[ ]", r"[ \n]").replace("[ /-]", r"[ \n/-]")), build)
    for pattern, build in (
        (rf"(?:^|\D)(?P<all>{_Y}[ ]?(?P<s>[-/.])[ ]?{_M2}[-/.][ ]?{_D2})(?:\D|$)", _ymd),
        (r"(?:^|[^\d./-])(?P<all>(?P<m>\d{1,2})(?P<s>[-/.])(?P<d>\d{1,2})[-/.](?P<y>(?:19|20)\d\d))(?:\D|$)", _mdy),
        (r"(?:^|[^\d./-])(?P<all>(?P<m>\d{1,2})(?P<s>[-/])(?P<d>\d{1,2})[-/](?P<y>\d\d))(?:[^\d/-]|$)", _mdy),
        (r"(?:^|\D)(?P<all>(?P<y>(?:19|20)\d\d)(?P<m>0[1-9]|1[0-2])(?P<d>0[1-9]|[12]\d|3[01]))(?:\D|$)", _compact),
        (rf"(?i:\b(?P<all>{_M}[ ]?(?P<d>\d{{1,2}})(?:st|nd|rd|th)?\b[ ]?,?[ ]?{_Y})\b)", _month_first),
        (rf"(?i:\b(?P<all>(?P<d>\d{{1,2}})(?:st|nd|rd|th)?[ /-]?(?:of[ ])?{_M}[ /-]?,?[ ]?{_Y})(?:[^\d]|$))", _day_first),
        (rf"(?i:\b(?P<all>{_MONTH_WORD}\.?[ ]?\d{{1,2}}(?:st|nd|rd|th)?[ ]?(?:-|to|and)[ ]?\d{{1,2}}(?:st|nd|rd|th)?,?[ ](?:19|20)\d\d)\b)", _tag),
        (rf"(?i:\b(?P<all>(?P<d>\d{{1,2}})[ /-]?{_M}[ /-]?'?(?P<y>\d\d))\b)(?:[^\d:%]|:\D|$)", _day_first),
        (r"(?:^|[^\d./-])(?P<all>(?P<m>1[0-2]|0?[1-9])(?P<s>/)(?P<y>(?:19|20)\d\d))(?:[^\d/]|$)", _slash_month),
        (r"(?:^|[^\d./-])(?P<all>(?P<y>(?:19|20)\d\d)(?P<s>[-/.])(?P<m>1[0-2]|0[1-9]))(?:[^\d./-]|$)", _month_last),
        (r"(?i:(?:^|[^\dA-Za-z])(?P<all>(?P<d>\d{1,2})(?P<m>jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)(?P<y>(?:19|20)?\d\d))(?:\D|$))", _day_first),
        (rf"(?i:(?:^|\D)(?P<all>(?:19|20)\d\d[ /-]{_MONTH_WORD}[ /-]\d{{1,2}}))(?:\D|$)", _tag),
        (rf"(?i:\b(?P<all>{_M}-(?P<d>\d{{1,2}})-{_Y})\b)", _month_first),
        (r"(?:^|[^\d./-])(?P<all>(?P<m>\d{1,2})(?P<s>\.)(?P<d>\d{1,2})\.(?P<y>\d\d))(?:[^\d./-]|$)", _mdy),
        (rf"(?i:\b(?P<all>{_M}[ -]?,?[ ]?(?:of[ ])?{_Y})\b)", _month_year),
        (rf"(?P<all>{_HAN_Y}[ ]?年[ ]?{_HAN_M}[ ]?月(?:份|[ ]?{_HAN_D}[ ]?(?P<s>[日号]))?)", _han),
        (r"(?P<all>(?P<y>(?:19|20)\d\d)[ ]?年)", _han_year),
        (r"(?i:\b(?:in|since|from|during|circa|until|before|after|of|year|early|late|mid|around|through|to)[ -])"
         rf"(?P<all>{_Y})(?:[^\d./-]|$)", _year),
        # Without a year nothing says where the shifted day lies: the tag.
        (rf"(?:^|[^\d年])(?P<all>{_HAN_M}[ ]?月[ ]?{_HAN_D}[ ]?[日号])", _tag),
        (rf"(?i:\b(?P<all>{_MONTH_WORD}\.?[ ]?\d{{1,2}}(?:st|nd|rd|th)?(?:[ ]?(?:-|to|and|&)[ ]?\d{{1,2}}(?:st|nd|rd|th)?)?)\b)(?:[^\d%/]|$)", _tag),
        (rf"(?i:\b(?P<all>(?:the[ ])?\d{{1,2}}(?:st|nd|rd|th)?[ -]?(?:of[ ])?{_MONTH_WORD}))", _tag),
        (r"(?:^|\n)[ \t]*(?P<all>(?:1[0-2]|0?[1-9])/(?:3[01]|[12]\d|0?[1-9]))(?:[ \n:]|$)", _tag),
        (r"(?P<all>(?:1[0-2]|0?[1-9])/(?:3[01]|[12]\d|0?[1-9]))(?:日|随访|复查|复诊|起|入院|出院|检查|手术|至|来)", _tag),
        (rf"(?i:(?:\b{_CUE}|[于至][ ]?|日期[:： ]{{0,2}}))(?P<all>(?:3[01]|[12]\d|0?[1-9])/(?:3[01]|[12]\d|0?[1-9]))(?:[^\d/%]|$)", _tag),
        (rf"(?i:\b(?:in|last|since|this|by|until|from|next|early|late|mid|during|of|through|to|and|for)[ -])(?P<all>{_MONTH_WORD})(?:[^\w']|$)", _tag),
        (r"(?i:(?:日期|时间|于|\bdate|\bon)[: ]{0,2})(?P<all>(?:0[1-9]|1[0-2])[-.](?:0[1-9]|[12]\d|3[01]))(?:[^\d.-]|$)", _tag),
        (r"(?:^|[^\d./-])(?P<all>(?:0?[1-9]|1[0-2])[-/.](?:3[01]|[12]\d|0?[1-9]))[ ,T]{1,2}(?:at[ ])?\d{1,2}:\d\d", _tag),
        (r"(?i:\b(?:mon|tues?|wed|thurs?|fri|sat|sun)(?:[a-z]*day)?,?[ ])(?P<all>(?:0?[1-9]|1[0-2])/(?:3[01]|[12]\d|0?[1-9]))(?:[^\d/]|$)", _tag),
        (r"(?:^|[^\d./-])(?P<all>(?:0[1-9]|1[0-2])/(?:3[01]|[12]\d|0[1-9]))(?:[^\d/%.]|$)", _tag),
        (r"(?:^|[^\d./-])(?P<all>(?:0?[1-9]|1[0-2])/(?:3[01]|[12]\d|0?[1-9])[ ]?-[ ]?(?:0?[1-9]|1[0-2])/(?:3[01]|[12]\d|0?[1-9]))(?:[^\d%]|$)", _tag),
        (r"(?P<all>[0-9一二三〇零]{2}年[ ]?(?:1[0-2]|0?[1-9]|十[一二]?|[一二三四五六七八九])月(?:[ ]?[0-9一二三四五六七八九十]{1,3}[日号])?)", _tag),
        (r"(?i:\b(?:on|by|until|since)[ ]the[ ])(?P<all>(?:3[01]|[12]\d|[1-9])(?:st|nd|rd|th))(?:[^\w]|$)", _tag),
        (r"(?P<all>(?:农历)?(?:正|冬|腊)?[一二三四五六七八九十]?月?初[一二三四五六七八九十](?:日|号))", _tag),
        (r"(?:^|[^\d])(?P<all>(?:1[0-2]|0?[1-9])[ ]?月(?:份|初|中旬|上旬|下旬|底|末))", _tag),
        (r"(?:去年|今年|前年|明年|同年|次年|本年|当年|年)(?P<all>(?:1[0-2]|0?[1-9]|十[一二]?|[一二三四五六七八九])月)", _tag),
        (r"(?:本月|上月|次月|当月|月|于|至|到|、)(?P<all>(?:3[01]|[12]\d|0?[1-9])[日号])", _tag),
        (r"(?i:\bthe[ ])(?P<all>(?:3[01]|[12]\d|[1-9])(?:st|nd|rd|th)[ ]of[ ](?:this|last|the)[ ]month)", _tag),
    )
)  # fmt: skip
# A birth date must not come back by way of an age: it is not shifted but removed.
_BIRTH = compiled(
    r"(?i:\b(?:dob|d\.o\.b\.?|date of birth|birth ?date|born(?: on)?|birthday)|出生日期|出生年月日?|生日|生于|出生于)[:：=( ]*$"
)

_AGE = r"(9\d|1[0-4]\d)"
_AGES = tuple(
    compiled(pattern)
    for pattern in (
        rf"(?i:\b{_AGE}[ \n-]*(?:years?|yrs?|y/?o|y\.o\.?|y)\b[ -]*(?:old|of[ ]age)?)",
        rf"(?i:\bage[ds]?(?:[ ]of)?[ ]*[:=]?[ ]*{_AGE}\b)",
        rf"(?i:\b{_AGE}[ -]?(?:F|M|female|male)\b)",
        rf"{_AGE}[ ]?(?:周?岁|歲)",
        rf"年龄[:：为 ]*{_AGE}",
        r"((?:一百[零一二三四五六七八九十]{0,3}|九十[一二三四五六七八九]?))(?:周?岁|多岁|高龄)",
        r"(?i:\b((?:ninety(?:[ -](?:one|two|three|four|five|six|seven|eight|nine))?|one[ -]hundred(?:[ -](?:and[ -])?\w+)?))[ -]*(?:years?|yrs?)[ -]*(?:old|of[ ]age))",
        r"(?i:\b(ninety[ -](?:one|two|three|four|five|six|seven|eight|nine))\b)",
        rf"(?i:\b(?:turn(?:s|ed|ing)|aged?|年龄|高龄|享年|虚岁|今年|寿)[ \n:：]{{0,2}}{_AGE})(?:[^\d.%/]|\.\D|$)",
        rf"(?i:\b{_AGE}(?:st|nd|rd|th)[ \n]birthday)",
        r"((?:九十|一百)有[一二三四五六七八九])",
        r"(?:今年|高龄|享年|现年|年方|寿|虚岁|实足|已经?|都|快|满)(九十[一二三四五六七八九]?|一百零?[一二三四五六七八九]?)",
        r"(九十[一二三四五六七八九]?)(?:有余|出头|来?岁|周岁|高寿|了|多|有[一二三四五六七八九])",
        rf"(?:父|母|爸|妈|爷|奶|老人|今年|都|快|满|高龄|享年|寿)[^\d\n]{{0,3}}{_AGE}(?:了|多|[，。,])",
        r"(?i:\b(nonagenarian|centenarian))\b",
    )
)


def _is_plain_word(text: str) -> bool:
    """Such as "10 may" in "a dose of 10 may suffice": where these are months they are capitalised."""
    return any(word in {"may", "march", "mar"} for word in text.split())


_FAMILY = Family(pattern for pattern, _ in _RULES)
_AGE_FAMILY = Family(_AGES)


def dates(shift_days: int) -> Callable[[Note], Iterator[Span]]:
    """A detector of dates whose replacement is the date `shift_days` later."""

    def find(note: Note) -> Iterator[Span]:
        taken: list[tuple[int, int]] = []
        for number in _FAMILY.matching(note.view):
            (pattern, build), place = _RULES[number], 0
            while match := pattern.search(note.view, place):
                start, end = match.span(pattern.groupindex["all"])
                place = max(end, place + 1)
                if any(start < other_end and other_start < end for other_start, other_end in taken):
                    continue
                if build is _tag and _is_plain_word(note.view[start:end]):
                    continue
                taken.append((start, end))
                birth = _BIRTH.search(note.view[max(0, start - 24) : start])
                yield Span(start, end, Kind.DATE, None if birth else build(match, shift_days) or None)
        for start, end in partial_dates(note):
            if not any(other_start <= start and end <= other_end for other_start, other_end in taken):
                yield Span(start, end, Kind.DATE)

    return find


def ages(note: Note) -> Iterator[Span]:
    """Ages over 89: the number alone, the words around it stay."""
    for number in _AGE_FAMILY.matching(note.view):
        for match in _AGES[number].finditer(note.view):
            start, end = match.span(1)
            if not (note.view[start - 1 : start].isdigit() or (note.view[start - 1 : start] in tuple("./") and start)):
                if match.group(1).isascii() and match.group(1).isdigit() and int(match.group(1)) < 90:
                    continue
                yield Span(start, end, Kind.AGE)

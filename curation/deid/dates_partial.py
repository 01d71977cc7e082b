# ruff: noqa: E501  (a pattern reads best on one line)
"""Dates of which a part is not said: "3/14", "the 5th", "mid-March", "Christmas Eve", 初八. Nothing says where the shifted
day would lie, so they become tags.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from curation.deid.kinds import Note
from curation.deid.patterns import Family, compiled

# "May" and "March" are words too: they need a number or a preposition.
_CERTAIN = r"(?:Jan(?:uary)?|Feb(?:ruary)?|Apr(?:il)?|June?|July?|Aug(?:ust)?|Sept?(?:ember)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)"
_ANY = rf"(?:{_CERTAIN}|Mar(?:ch)?|May)"
_DAY = r"(?:3[01]|[12]\d|0?[1-9])(?:st|nd|rd|th)?"
_SPELLED = r"(?:(?:twenty|thirty)[ -])?(?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth)|tenth|eleventh|twelfth|thirteenth|fourteenth|fifteenth|sixteenth|seventeenth|eighteenth|nineteenth|twentieth|thirtieth"
_YEAR = r"(?:,?[ \n/-]{0,2}(?:(?:19|20)\d\d|['’]?\d\d))"
_WEEKDAY = r"(?:Mon|Tues?|Wed(?:nes)?|Thu(?:rs)?|Fri|Sat(?:ur)?|Sun)(?:day)?"
_BEFORE = r"(?:in|since|until|till|of|early|late|mid|last|next|by|during|from|through|to|before|after|around|this|every|each|and|for|dated?|as[ ]of)"
# What stands before a fraction that is a score, a strength or a reading.
_SCORE = compiled(
    r"(?i:(?:gcs|mmse|moca|phq-?9?|gad-?7?|apgars?|scores?|scale|acuity|va|vision|pain|nihss|strength|power|murmur|grade|ef|mrs|sofa|cdr|audit|cage|stage|rated|rating|intensity|severity|muscle|motor|sensation|reflexes|dtrs?|pulses?|"
    r"od|os|ou|left|right|bilateral(?:ly)?|eye|ratio|odds|about|approximately|systolic|diastolic|hoehn|apache|braden|epworth|eva|vas|nrs|of|was|is|at|were|a)[ :=(]{0,3})$"
)
_NO_DATE_AFTER = compiled(
    r"^(?i:[ ]?(?:%|mg|mcg|ml|cm|mm|hpf|lpf|strength|murmur|pain|on[ ]|in[ ](?:all|both|the|left|right)|systolic|bilateral|throughout|of|pulses?|power|score|points?|patients|visits?|doses?|hours?|days?|weeks?|months?|years?|sites?|nodes?|cores?|fields?|criteria|positive|negative|intact|minutes?|min|tab|cap|ns|normal|saline|blood|dextrose)|/\d)"
)
# What an ordinal counts when it is no day.
_COUNTED = (
    r"(?:finger|toe|digit|rib|metacarpal|metatarsal|cranial|nerve|intercostal|lumbar|thoracic|cervical|sacral|percentile|ventricle|day|week|month|year|floor|visit|time|dose|cycle|grade|edition|century|generation|line|degree|trimester|"
    r"child|pregnancy|delivery|baby|attempt|opinion|stage|admission|episode|ray|interspace|space|mtp|mcp|pip|dip|level|session|round|course|molar|part|heart|sound|person|party|lumen|cousin|operation|surgery|procedure|case|one|of[ ](?:three|four|five|six|two|\d))"
)
_HOLIDAY = (
    r"Christmas(?:[ ](?:Eve|Day))?|Xmas(?:[ ](?:Eve|Day))?|New[ ]Year(?:'?s)?[ ](?:Eve|Day)|Thanksgiving(?:[ ]Day)?|Easter(?:[ ](?:Sunday|Monday))?|Boxing[ ]Day|Halloween|(?:Labou?r|Memorial|Independence|Veterans|Canada|Australia|Anzac|ANZAC|Valentine's|Mother's|"
    r"Father's|Remembrance|Columbus|Presidents'?)[ ]Day|Good[ ]Friday|Diwali|Hanukkah|Passover|St\.?[ ]Patrick's[ ]Day|Juneteenth|Cinco[ ]de[ ]Mayo"
)
_LUNAR = r"(?:闰?(?:正|冬|腊|[一二三四五六七八九十]|十[一二])月(?:初[一二三四五六七八九十]|十[一二三四五六七八九]|二十[一二三四五六七八九]?|廿[一二三四五六七八九]?|三十))"


def _always(_: str, __: int, ___: int) -> bool:
    return True


_COUNT = compiled(rf"^[ -](?i:(?:left|right|great|small)[ ])?(?i:{_COUNTED})")


def _no_count(view: str, _: int, end: int) -> bool:
    return not _COUNT.search(view[end : end + 24])


def _has_digits(view: str, start: int, end: int) -> bool:
    return sum(map(str.isdigit, view[start:end])) >= 3


def _has_number(view: str, start: int, end: int) -> bool:
    """ "去年" alone says no more than a year does."""
    return any(character.isdigit() or character in "一二三四五六七八九十" for character in view[start:end])


def _no_score(view: str, start: int, end: int) -> bool:
    return not _SCORE.search(view[max(0, start - 24) : start]) and not _NO_DATE_AFTER.search(view[end : end + 16])


def _is_fraction_date(view: str, start: int, end: int) -> bool:
    """Month and day, in either order, one of them over 12: scores of more than 12 points are named before."""
    first, second = (int(part) for part in view[start:end].split("/"))
    return (first <= 12 < second <= 31 or second <= 12 < first <= 31) and _no_score(view, start, end)


_RULES: tuple[tuple[Any, Callable[[str, int, int], bool]], ...] = tuple(
    (compiled(pattern), accept)
    for pattern, accept in (
        (rf"(?:^|[^{{L}}\d])((?i:(?:{_WEEKDAY},?[ ])?(?:the[ ])?(?:{_DAY}|{_SPELLED})(?:[ ]of)?[ \n./-]{{0,2}}{_ANY}\b\.?{_YEAR}?))(?:[^{{L}}\d]|$)", _always),
        (rf"(?:^|[^{{L}}\d])((?i:{_ANY}\b\.?[ \n./-]{{0,2}}(?:the[ ])?(?:{_DAY}|{_SPELLED})\b{_YEAR}?))(?:[^{{L}}\d]|$)", _always),
        (rf"(?:^|[^{{L}}])({_CERTAIN}\b\.?{_YEAR}?)(?:[^{{L}}\d]|$)", _always),
        (rf"(?:^|[^{{L}}])((?i:{_CERTAIN}\b\.?[ ]?(?:['’]\d\d|(?:19|20)\d\d)))(?:\D|$)", _always),
        (r"(?:^|[^{L}])((?i:january|february|april|june|july|august|september|october|november|december))(?:[^{L}]|$)", _always),
        (rf"(?i:\b{_BEFORE}[ -])((?:May|March|Mar)\b\.?{_YEAR}?)(?:[^{{L}}\d]|$)", _always),
        (r"(?:^|[^{L}])((?:May|March|Mar)\b\.?[ ,]{1,2}['’]?(?:19|20)?\d\d)(?:\D|$)", _always),
        (rf"((?i:{_WEEKDAY}),?[ ](?i:the[ ])?{_DAY}(?:[/.-]\d{{1,2}})?)(?:[^\d{{L}}/:%]|$)", _always),
        (r"(?i:\b(?:on|by|since|until|till|from|before|after|of|around|for|to|and|come|back)[ ]the[ ])((?:3[01]|[12]\d|0?[1-9])(?:st|nd|rd|th))(?:[^{L}-]|$)", _no_count),
        (rf"(?i:\b(?:on|by|since|until|till)[ ](?:the[ ])?)({_SPELLED})(?:[^{{L}}-]|$)", _no_count),
        (r"(?i:\b(?:the|on)[ ])((?:3[01]|[12]\d|0?[1-9])(?:st|nd|rd|th))(?:[^{L}-]|$)", _no_count),
        (r"(?:^|[^\d./-])(\d{1,2}/\d{1,2})(?:[^\d/]|$)", _is_fraction_date),
        (r"(?i:\b(?:week[ ]of|w/c|dated?|dob|d\.o\.b\.?|exp(?:iry|ires|iration)?(?:[ ]date)?|use[ ]by|appt|due|edd|lmp|last[ ]seen|seen)[ :]{1,3})((?:3[01]|[12]\d|0?[1-9])[./-](?:3[01]|[12]\d|0?[1-9])(?:[./-]\d\d(?:\d\d)?)?)(?:[^\d/]|$)", _always),
        (rf"(?:^|[^{{L}}])((?i:{_HOLIDAY})(?:[ ]['’]?(?:19|20)?\d\d)?)(?:[^{{L}}]|$)", _always),
        (rf"(?:^|[^\d])((?:农历|阴历|旧历)?(?:去年|今年|上月|本月|前年)?{_LUNAR}[日号]?)", _always),
        (r"((?:农历|阴历|上月|本月|这月|下月|次月|当月)(?:初[一二三四五六七八九十]|十[一二三四五六七八九]|廿[一二三四五六七八九]?|二十[一二三四五六七八九]?|三十))", _always),
        (r"(?:^|[^\d月第术共约余近前后个每])((?:3[01]|[12]\d|0?[1-9])[日号])[ ]?(?:清?晨|早|晚|上午|下午|夜|凌晨|中午|午|[0-2]?\d[:：时点]|入院|出院|复查|复诊|手术|起[^床]|晚间|来院|转入|转出|急诊)", _always),
        (r"(?:^|[^\d])((?:19|20)\d\d[ ]?[./-][ ]?(?:1[0-2]|0?[1-9]))(?:[^\d./-]|$)", _always),
        (r"(?:^|[\s，。；：、→])((?:1[0-2]|[1-9])\.(?:3[01]|[12]\d|[1-9]))[ ]?(?:入|出|在|行|手术|复查|查|起|来|转|疑|再)", _always),
        (r"(?:^|[^\d一二三四五六七八九十第月./-])((?:[一二三]?十[一二三四五六七八九]?|廿[一二三四五六七八九]?|[12]\d|3[01]|[1-9])[号])(?:[^楼床线文机码房室院栋馆桌店台库病门信染尿针缝丝导气管片字方喉\d舍站椅]|$)", _always),
        (r"(?:说|于|拟|定|想|问|改到|之前|约|在)((?:[一二三四五六七八九]|廿[一二三四五六七八九]?)[号日])", _always),
        (r"(?:^|[^\d岁孕个近约余第隔每满后半年])((?:1[0-2]|[1-9]|十[一二]?|[一二三四五六七八九])月(?:[上中下]旬|[初底中末]))", _always),
        (r"(?:^|[^\d岁孕个近约余第隔每满后半年])((?:1[0-2]|[1-9]|十[一二]?|[一二三四五六七八九])月)(?:开学|复查|复诊|复评|手术|入院|出院|体检|在|于|行|曾|因|发现|[初底中])", _always),
        (r"(?:^|[^\d岁孕个])((?:1[0-2]|[1-9])月(?:3[01]|[12]\d|[1-9]))(?:[^\d.%/大龄]|$)", _always),
        (r"((?:去年|今年|前年|明年|同年|次年|本年|当年|本月|上月|下月|次月|当月|这月)(?:(?:1[0-2]|[1-9]|十[一二]?|[一二三四五六七八九])月)?(?:(?:3[01]|[12]\d|[1-9]|[一二三]?十[一二三四五六七八九]?|[一二三四五六七八九])[日号])?)(?:[^\p{Han}]|\p{Han})", _has_number),
        (rf"([甲乙丙丁戊己庚辛壬癸][子丑寅卯辰巳午未申酉戌亥]年(?:{_LUNAR})?)", _always),
        (rf"((?:国历|公历|阳历|新历|藏历|回历)(?:{_LUNAR}|(?:1[0-2]|[1-9]|十[一二]?|[一二三四五六七八九])月(?:初[一二三四五六七八九十]|3[01]|[12]\d|[1-9]|[一二三]?十[一二三四五六七八九]?)[日号]?))", _always),
        (r"(?:^|[^\dA-Za-z/])([O0-9lI]{1,2}[ ]?/[ ]?[O0-9lI]{1,2}[ ]?/[ ]?[O0-9lI]{2,4})(?:[^\dA-Za-z/]|$)", _has_digits),
        (r"(?:^|[^\d])((?:19|20)\d\d[ ·.](?:0[1-9]|1[0-2])[ ·.](?:0[1-9]|[12]\d|3[01]))(?:[^\d]|$)", _always),
        (r"(?:^|[^\d-])((?:1[0-2]|0?[1-9])-(?:3[01]|[12]\d|0?[1-9]))[ ](?:\d{4}:|\d{1,2}:\d\d|换|复)", _always),
        # As a scan shows it: letters for digits.
        (r"([12][0Oo][0-9OolI]{2}[ ]?年[ ]?[0-9OolI]{1,2}[ ]?月[ ]?[0-9OolI][ ]?[0-9OolI]?[ ]?[日曰号])", _always),
        (r"(?:交班|记录|病程|日期|查房|随访|时间|夜班|白班|手术日|主任|医师|医生|护士|周[一二三四五六日])[ :：(（|]{0,3}((?:1[0-2]|0?[1-9])[/-](?:3[01]|[12]\d|0?[1-9]))(?:[^\d/]|$)", _always),
        (r"(?:[|]|\n)[ ]?((?:1[0-2]|0?[1-9])/(?:3[01]|[12]\d|0?[1-9]))[ ]?(?:[|]|电话|面访|家访|访视|随访)", _always),
        (r"(?:(?:年|季度|拟|改到|日间记录|后天|明天|今天|昨天)[（( ]?)((?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])|(?:1[0-2]|[1-9])[/-](?:3[01]|[12]\d|[1-9])|(?:3[01]|[12]\d)日)(?:[^\d]|$)", _always),
        (r"((?:春节|除夕|元旦|元宵节|清明节?|端午节?|中秋节?|国庆节?|五一(?:节|劳动节)|重阳节|腊八节?|圣诞节?|平安夜|七夕|小年))", _always),
    )
)  # fmt: skip


_FAMILY = Family(pattern for pattern, _ in _RULES)


def partial_dates(note: Note) -> Iterator[tuple[int, int]]:
    """`[start, end)` of each; they may overlap."""
    view = note.view
    for number in _FAMILY.matching(view):
        (pattern, accept), place = _RULES[number], 0
        while match := pattern.search(view, place):
            start, end = match.span(1)
            place = max(end, place + 1)
            if accept(view, start, end):
                yield start, end

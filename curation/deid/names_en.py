# ruff: noqa: E501  (a pattern reads best on one line)
"""Persons' names in English text: titles, labels, credentials, relatives, known given names and surnames."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from curation.deid.kinds import Kind, Note, Span
from curation.deid.patterns import compiled
from curation.deid.words import words

_TOKEN = r"(?:[{U}][{L}']*(?:-[{U}][{L}']*)*)"
_PARTICLE = r"(?:(?:van|von|de|la|del|della|der|den|di|da|dos|du|el|al|bin|ibn|ter|le)[ ])*"
_NEXT = rf"(?:[ ]{{1,2}}{_PARTICLE}(?:[{{U}}]\.|{_TOKEN}))"
_NAME = rf"(?:[{{U}}]\.|{_TOKEN}){_NEXT}{{0,3}}(?:,?[ ](?:Jr|Sr)\b\.?)?"
_FULL = rf"(?:[{{U}}]\.|{_TOKEN}){_NEXT}{{1,3}}(?:,?[ ](?:Jr|Sr)\b\.?)?"
_LAST_FIRST = rf"{_TOKEN}(?:[ ]{_TOKEN})?,[ ]{{0,2}}{_NAME}"
_TITLE = (
    r"(?i:\b(?:Dr|Drs|Mr|Mrs|Ms|Miss|Mx|Prof|Professor|Doctor|Nurse|Sir|Madam|Rev|Reverend|Fr|Capt|Sgt|Officer)\b\.?)"
)
_CREDENTIAL = (
    r"(?:M\.?D\.?|D\.?O\.?|R\.?N\.?|N\.?P\.?|P\.?A\.?(?:-C)?|Ph\.?D\.?|MBBS|MBChB|FRCS|FRCP|FACC|FACS|FACP|LPN|LVN|BSN|MSN|DNP|FNP|APRN|"
    r"ARNP|CNM|PharmD|RPh|RRT|CRNA|DDS|DMD|DPM|MPH|LCSW|MSW|PT|DPT|OT|OTR|SLP|RD|CCC-SLP|RT|RDMS|RVT|EMT|CNA)\b"
)
_ROLE = (
    r"patient(?:'?s)?(?:[ ](?:full[ ]|legal[ ]|preferred[ ])?name)?|pt(?:[ ]name)?|(?:full[ ]|legal[ ]|preferred[ ]|maiden[ ]|first[ ]|last[ ]|sur|given[ ]|family[ ])?name|"
    r"attending(?:[ ](?:physician|surgeon|md|provider))?|(?:referring|ordering|consulting|admitting|primary care|treating|reporting|supervising|responsible|covering|requesting|family|discharging)"
    r"[ ](?:physician|provider|doctor|dr|md|clinician|surgeon|radiologist|consultant)|physicians?|provider|doctor|surgeons?|(?:first[ ]|assistant[ ]|co-?)?(?:surgeon|assistant)|an(?:a?)esthe(?:sia|siologist|tist)|"
    r"pcp|gp|radiologist|pathologist|cardiologist|neurologist|oncologist|consultant|resident|fellow|intern|technologist|technician|sonographer|operator|perfusionist|pharmacist|"
    r"nurse|rn|scrub(?:[ ]nurse)?|circulator|therapist|case[ ]manager|social[ ]worker|interpreter|reviewer|author|clinician|interviewer|"
    r"next[ ]of[ ]kin|nok|emergency[ ]contact|contact(?:[ ]person)?|health[ ]?care[ ](?:proxy|agent)|hcp|poa|power[ ]of[ ]attorney|guarantor|guardian|subscriber|insured|policy[ ]?holder|caregiver|witness(?:ed[ ]by)?|"
    r"(?:electronically[ ]|digitally[ ])?(?:co-?)?signed(?:[ ]by)?|signature|dictated(?:[ ]by)?|transcribed(?:[ ]by)?|reported[ ]by|reviewed[ ]by|interpreted[ ]by|verified[ ]by|approved[ ]by|performed[ ]by|prepared[ ]by|"
    r"authored[ ]by|entered[ ]by|completed[ ]by|read[ ]by|recorded[ ]by|collected[ ]by|ordered[ ]by|requested[ ]by|referred[ ]by|cc|c\.c\.|dear|sincerely|regards|attn|to|from|re|by"
)
_RELATIVE = (
    r"(?:wife|husband|son|daughter|mother|father|brother|sister|spouse|partner|friend|neighbou?r|caregiver|guardian|niece|nephew|aunt|uncle|"
    r"cousin|grand(?:son|daughter|mother|father)|fianc[eé]e?|roommate|son-in-law|daughter-in-law|landlord|pastor|attorney|boyfriend|girlfriend|mom|dad|twin)"
)
_BY = (
    r"(?:signed|dictated|transcribed|verified|reviewed|interpreted|reported|performed|authored|written|prepared|ordered|requested|referred|entered|completed|approved|"
    r"read|seen|evaluated|examined|attended|accompanied|witnessed|assisted|managed|followed|cared[ ]for|supervised|administered|collected|drawn|placed|done|given)[ ](?:by|with|for)|"
    r"(?:discussed|spoke|spoken|reviewed|conferred|consulted|meeting|met)[ ]with|(?:called|contacted|notified|informed|paged|telephoned|named|known[ ]as|name[ ]is|per|contact|cc)"
)

_STRONG = tuple(compiled(pattern) for pattern in (
    rf"{_TITLE}[ ]{{1,2}}({_NAME})",
    rf"({_FULL}|{_LAST_FIRST}),?[ ]{{1,2}}{_CREDENTIAL}",
))  # fmt: skip
# What these find counts if it looks like a whole name or one of its words is a known name.
_WEAK = tuple(compiled(pattern) for pattern in (
    rf"(?:^|[^{{L}}])(?i:{_ROLE})[ ]{{0,3}}(?:[:=|#-]|[ ]is[ ]|\()[ \t*]{{0,4}}(?:{_TITLE}[ ])?({_LAST_FIRST}|{_NAME})",
    rf"(?:^|[^{{L}}])(?i:{_ROLE})[ ]{{0,3}}[:=|]?[ \t]*\n[ \t]*(?:{_TITLE}[ ])?({_LAST_FIRST}|{_FULL})",
    rf"(?i:\b{_RELATIVE}),?[ ](?:\(|is[ ]|named[ ]|called[ ])?({_NAME})",
    rf"(?i:\b(?:{_BY})[ ])(?:{_TITLE}[ ])?({_LAST_FIRST}|{_NAME})",
    rf"(?i:\b(?:dear|hi|hello|sincerely,?|regards,?|thanks,?)\s{{1,3}})({_NAME})",
))  # fmt: skip
_ANY = compiled(rf"(?:^|[^{{L}}])({_FULL})")
_ANY_LAST_FIRST = compiled(rf"(?:^|[^{{L}}])({_TOKEN},[ ]{_TOKEN}(?:[ ][{{U}}]\b\.?)?)(?:[^{{L}}]|$)")
_SYLLABLE = r"(?:[bpmfdtnlgkhjqxzcsryw]|zh|ch|sh)?(?:iang|iong|uang|ang|eng|ing|ong|ian|iao|uan|uai|ai|ei|ao|ou|an|en|in|un|ia|ie|iu|ua|uo|ui|ue|er|a|o|e|i|u)"
_PINYIN = compiled(
    r"\b((?:Zhang|Wang|Li|Liu|Chen|Yang|Huang|Zhao|Wu|Zhou|Xu|Sun|Ma|Zhu|Hu|Guo|Lin|Gao|Luo|Zheng|Liang|Xie|Song|Tang|Han|Feng|Deng|Cao|Peng|Zeng|Xiao|Tian|Dong|Pan|"
    r"Yuan|Cai|Jiang|Yu|Du|Ye|Cheng|Wei|Su|Lu|Ding|Ren|Yao|Shen|Zhong|Cui|Tan|Fan|Liao|Shi|Jin|Jia|Xia|Fu|Fang|Zou|Xiong|Bai|Meng|Qin|Qiu|Hou|Xue|Yin|Yan|Duan|Lei|Ouyang|Situ)"
    r"[ ][A-Z][a-z]{1,5}(?:[-']?[A-Za-z]?[a-z]{1,5})?)\b"
)
_TITLED = compiled(_TITLE + r"[ ]{1,2}$")
_TERM = compiled(
    r"^(?:'s?)?(?:[ -](?:type|lymph|like|positive|negative))?[ /-](?:[{U}][{L}'-]*[ -])?(?i:disease|syndrome|sign|signs|test|score|scale|criteria|classification|class|grade|stage|catheter|drain|tube|murmur|"
    r"procedure|operation|fracture|lymphoma|maneuver|manoeuvre|monitor|phenomenon|reflex|triad|tumou?r|disorder|palsy|sarcoma|stain|ultrasound|index|lesion|esophagus|oesophagus|"
    r"hernia|point|nodes?|nodules?|node|contracture|ulcer|respirations?|pulse|arteritis|thyroiditis|stent|line|method|formula|equation|anastomosis|repair|units?|rule|risk|cells?|bodies|body|"
    r"cyst|gland|duct|ganglion|membrane|canal|ligament|encephalopathy|chorea|dementia|anemia|anomaly|malformation|teratoma|virus|aneurysm|angina|arthritis|cough|diet|law|"
    r"position|incision|approach|technique|retractor|forceps|needle|clamp|splint|collar|boot|cast|frame|pin|wire|nail|plate|block|reaction|esophagogastrectomy|fundoplication|gastrectomy|"
    r"colostomy|pouch|graft|shunt|flap|resection|exam|examination|stroke|hemorrhage|tear|web|ring|rings|lines|spots|oximetry|coma|scan|signal|study|studies|flow|velocity|waveform|ware)\b"
)


def names_en(note: Note) -> Iterator[Span]:
    """Names by any of the rules, then each further occurrence of their words."""
    found: list[tuple[int, int]] = []
    for pattern in _STRONG:
        found += _search(note.view, pattern, _any)
    for pattern in _WEAK:
        found += _search(note.view, pattern, _likely)
    for pattern in (_ANY, _ANY_LAST_FIRST):
        found += _search(note.view, pattern, _known)
    found += [match.span(1) for match in _PINYIN.finditer(note.view) if _pinyin(match.group(1))]
    yield from (Span(start, end, Kind.NAME) for start, end in found)
    yield from _again(note.view, found)


def _search(view: str, pattern: Any, accept: Any) -> Iterator[tuple[int, int]]:
    place = 0
    while match := pattern.search(view, place):
        start, end = match.span(1)
        place = start + 1
        trimmed = _trim(view, start, end)
        if trimmed is None:
            continue
        start, end = trimmed
        tokens = _tokens(view[start:end])
        if accept(tokens) and not _is_term(view, start, end, tokens):
            yield start, end
            place = end


def _trim(view: str, start: int, end: int) -> tuple[int, int] | None:
    """Cut at the first word that is no name's; None when that is the first one."""
    place, last, previous = start, start, ""
    for token in view[start:end].replace(",", " ").split(" "):
        word = token.rstrip(".").lower()
        if token:
            surname = previous in words("given_names_en") and token.capitalize() in words("surnames_en")
            if word in words("not_names_en") and len(word) > 1 and not surname:
                break
            last, previous = place + len(token), token.capitalize()
        place += len(token) + 1
    while last > start and view[last - 1] in ", ":
        last -= 1
    return (start, last) if last > start else None


def _tokens(name: str) -> list[str]:
    return [token.rstrip(".").removesuffix("'s") for token in name.replace(",", " ").split() if token[0].isupper()]


def _is_given(token: str) -> bool:
    return token in words("given_names_en") or token.capitalize() in words("given_names_en")


def _is_surname(token: str) -> bool:
    return (
        token in words("surnames_en")
        or token.capitalize() in words("surnames_en")
        or ("-" in token and all(part.capitalize() in words("surnames_en") for part in token.split("-")))
    )


def _any(tokens: list[str]) -> bool:
    return bool(tokens)


def _likely(tokens: list[str]) -> bool:
    """After a label: two words in mixed case, or one that is a known name."""
    if any(_is_given(token) or _is_surname(token) for token in tokens):
        return True
    return len(tokens) >= 2 and all(len(token) == 1 or not token.isupper() for token in tokens)


def _known(tokens: list[str]) -> bool:
    """Anywhere: a known given name before another name, or an initial or any word before a known surname."""
    for first, second in zip(tokens, tokens[1:], strict=False):
        if _is_given(first) and (len(second) > 1 or len(tokens) > 2 or second.isupper()) and not _acronym(second):
            return True
        if _is_surname(second) and (len(first) == 1 or (_is_surname(first) and not _acronym(first))):
            return True
    return len(tokens) >= 2 and _is_surname(tokens[0]) and _is_given(tokens[1])


def _acronym(token: str) -> bool:
    return token.isupper() and 1 < len(token) <= 4 and not (_is_given(token) or _is_surname(token))


def _is_term(view: str, start: int, end: int, tokens: list[str]) -> bool:
    """The words belong to a clinical term ("Austin Flint murmur") and no title makes a person of them."""
    if not any(part.capitalize() in words("eponyms") for token in tokens for part in token.split("-")):
        return False
    if _TITLED.search(view[max(0, start - 12) : start]):
        return False
    return bool(_TERM.search(view[end : end + 40])) or (
        all(part.capitalize() in words("eponyms") for token in tokens for part in token.split("-") if len(part) > 1)
        and not any(_is_given(token) for token in tokens[:1])
    )


def _pinyin(name: str) -> bool:
    surname, _, given = name.partition(" ")
    return bool(_GIVEN_PINYIN.match(given)) and given.lower() not in words("not_names_en") and bool(surname)


_GIVEN_PINYIN = compiled(rf"(?i)^{_SYLLABLE}(?:[-']?{_SYLLABLE})?$")


def _again(view: str, found: list[tuple[int, int]]) -> Iterator[Span]:
    """Other places where a word of a found name stands alone."""
    known = {token for start, end in found for token in _tokens(view[start:end])}
    for token in known:
        if len(token) < 3 or token.lower() in words("not_names_en"):
            continue
        for form in {token, token.upper(), token.capitalize()}:
            place = view.find(form)
            while place >= 0:
                end = place + len(form)
                alone = not (view[place - 1 : place].isalpha() and view[place - 1 : place].isascii() and place)
                alone = alone and not (view[end : end + 1].isalpha() and view[end : end + 1].isascii())
                if alone and not _TERM.search(view[end : end + 40]):
                    yield Span(place, end, Kind.NAME)
                place = view.find(form, end)

# ruff: noqa: E501  (a pattern reads best on one line)
"""Persons' names in English text: titles, labels, credentials, relatives, known given names and surnames."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
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
    rf"(?:^|\n)[ \t*-]*[A-Za-z][A-Za-z /'().-]{{1,32}}[:=][ \t]*(?:{_TITLE}[ ])?({_FULL}|{_LAST_FIRST})[ \t]*(?:$|\n|[,;(|/])",
    rf"({_NAME})[ ](?:will|called|agreed|says|said|reports|reported|notified|aware|stated|states|updated|advised|recommended|recommends|requests|requested|concurs|agrees|wants|asked|asks|signed|documented|performed|dictated|visits|visited|"
    r"lives|works|drove|brought|was[ ]present|was[ ]called|was[ ]paged|was[ ]notified|is[ ]aware|is[ ]the|at[ ](?:the[ ])?bedside|has[ ]been[ ]informed|understands|verbalized|prefers|answered|confirmed|phoned|telephoned)\b",
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
TERM = compiled(
    r"^(?:'s?)?(?:[ -](?:type|lymph|like|positive|negative))?[ /-](?:[{U}][{L}'-]*[ -])?(?i:disease|syndrome|sign|signs|test|score|scale|criteria|classification|class|grade|stage|catheter|drain|tube|murmur|"
    r"procedure|operation|fracture|lymphoma|maneuver|manoeuvre|monitor|phenomenon|reflex|triad|tumou?r|disorder|palsy|sarcoma|stain|ultrasound|index|lesion|esophagus|oesophagus|"
    r"hernia|point|nodes?|nodules?|node|contracture|ulcer|respirations?|pulse|arteritis|thyroiditis|stent|line|method|formula|equation|anastomosis|repair|units?|rule|risk|cells?|bodies|body|"
    r"cyst|gland|duct|ganglion|membrane|canal|ligament|encephalopathy|chorea|dementia|anemia|anomaly|malformation|teratoma|virus|aneurysm|angina|arthritis|cough|diet|law|"
    r"position|incision|approach|technique|retractor|forceps|needle|clamp|splint|collar|boot|cast|frame|pin|wire|nail|plate|block|reaction|esophagogastrectomy|fundoplication|gastrectomy|"
    r"colostomy|pouch|graft|shunt|flap|resection|exam|examination|stroke|hemorrhage|tear|web|ring|rings|lines|spots|oximetry|coma|scan|signal|study|studies|flow|velocity|waveform|ware)\b"
)


_INITIALS = compiled(
    r"(?i:\b(?:initials?|dict(?:ated)?(?:[ ]by)?|trans(?:cribed)?(?:[ ]by)?|typed(?:[ ]by)?|signed(?:[ ]by)?|reviewer|recorder|d/t|tech|rn|author|by)[ ]?[:=/-][ ]?)([A-Z]{2,3}|(?:[A-Z]\.[ ]?){2,3})(?:[^A-Za-z]|$)"
)
_TYPIST = compiled(r"(?:^|\s)([A-Z]{2,4}[/:][a-z]{2,4})(?:\s|$)")
_DOTTED_INITIALS = compiled(r"(?:^|[\s(/])([A-Z]\.[ ]?[A-Z]\.(?:[ ]?[A-Z]\.)?)(?:[\s,;:)/]|$)")
_NO_INITIALS = frozenset(("MD", "RN", "NP", "PA", "DO", "IV", "PO", "IM", "SC", "PR", "OD", "OS", "OU", "US", "UK", "ER", "OR", "AM", "PM", "CT", "MR", "BP", "HR", "RR", "EF", "QD", "BID", "TID", "QID", "QHS", "PRN",
                          "NPO", "CC", "ICU", "ED", "EMS", "ENT", "GI", "GU", "OB", "GYN", "PT", "OT", "DOB", "SSN", "MRN", "NKA", "NAD", "WNL", "CBC", "XR", "MRI", "ECG", "EKG", "PET", "LV", "RV", "AV", "SL", "IN", "HS",
                          "EG", "IE", "AD", "AS", "AU", "GB", "HTN", "DM", "CAD", "COPD", "CKD", "PE", "DVT", "MI", "TIA", "CVA", "UTI", "DC", "RT", "LT"))  # fmt: skip
# A second name after a found one: "Drs. Patel and Nguyen", "Smith/Jones".
_CHAIN = compiled(rf"^(?:,?[ ](?:and|&|or)[ ]|[ ]?/[ ]?|,[ ]|;[ ]|[ ]&[ ])(?:{_TITLE}[ ])?({_NAME})")
_SINGLE = compiled(r"(?:^|[^{L}'-])([{U}][{L}]{2,})(?:[^{L}-]|$)")
_AFTERWARDS = compiled(rf"({_NAME})[ ]?(?:[,(]|[ ]-)[ ]?(?i:(?:his|her|the|pt'?s|patient'?s)[ ])?{_RELATIVE}\b")
_QUOTED = compiled(rf"({_TOKEN}[ ][\"'(]{_TOKEN}[\"')](?:[ ]{_TOKEN})?)")
# Generic drug names end like this.
_DRUG = ("ol", "ine", "pril", "artan", "statin", "mab", "mycin", "cillin", "azole", "pam", "one", "ide", "ate", "ium", "xaban", "ib", "vir", "fen", "cin", "lin", "tide", "gliptin", "flozin", "triptan", "zosin", "cycline",
         "oxacin", "setron", "dronate", "barbital", "lukast", "tidine", "prazole", "olone", "xel", "platin", "rubicin", "cef", "phen", "zine", "zide", "mide", "lam", "done", "pine", "tine", "line", "mine")  # fmt: skip


def names_en(note: Note) -> Iterator[Span]:
    """Names by any of the rules, then each further occurrence of their words."""
    view, uniform = capitalised(note.view)
    search = _Search(view, uniform)
    for pattern in _STRONG:
        search.add(pattern, _any)
    for pattern in (*_WEAK, _AFTERWARDS, _QUOTED):
        search.add(pattern, _likely)
    for pattern in (_ANY, _ANY_LAST_FIRST):
        search.add(pattern, _known if uniform else _plausible)
    search.add(_SINGLE, _lone)
    search.chain()
    found = search.found
    found += [match.span(1) for match in _PINYIN.finditer(view) if _pinyin(match.group(1))]
    yield from (Span(start, end, Kind.NAME) for start, end in found)
    yield from _again(view, found)
    for pattern in (_INITIALS, _TYPIST, _DOTTED_INITIALS):
        for match in pattern.finditer(note.view):
            if "".join(filter(str.isupper, match.group(1))) not in _NO_INITIALS:
                start, end = match.span(1)
                yield Span(start, end, Kind.NAME)


def capitalised(view: str) -> tuple[str, bool]:
    """A note in one case alone, with each word capitalised; anything else as it is. Offsets stay."""
    letters = [character for character in view if character.isascii() and character.isalpha()]
    share = sum(map(str.isupper, letters)) / max(1, len(letters))
    if len(letters) < 40 or 0.005 < share < 0.85:
        return view, False
    word, parts = False, []
    for character in view:
        lone = character.lower() if word else character.upper()
        parts.append(lone if character.isascii() else character)
        word = character.isalpha() or (word and character == "'")
    return "".join(parts), True


class _Search:
    """Collects accepted places in one view."""

    def __init__(self, view: str, uniform: bool) -> None:
        self.view, self.uniform = view, uniform
        self.found: list[tuple[int, int]] = []

    def add(self, pattern: Any, accept: Callable[[list[str]], bool]) -> None:
        """All places of `pattern` whose words `accept` takes, cut to what can be a name."""
        place = 0
        while match := pattern.search(self.view, place):
            start, end = match.span(1)
            place = start + 1
            if span := self.judge(start, end, accept):
                self.found.append(span)
                place = span[1]

    def chain(self) -> None:
        """Names that follow a found one with "and", a comma or a slash."""
        for _, end in self.found:  # grows while it is walked
            if match := _CHAIN.search(self.view[end : end + 80]):
                start, stop = match.span(1)
                span = self.judge(end + start, end + stop, _likely)
                if span and span not in self.found:
                    self.found.append(span)

    def judge(self, start: int, end: int, accept: Callable[[list[str]], bool]) -> tuple[int, int] | None:
        trimmed = _trim(self.view, start, end, self.uniform)
        if trimmed is None:
            return None
        tokens = words_of(self.view[slice(*trimmed)])
        return trimmed if accept(tokens) and not _is_term(self.view, *trimmed, tokens) else None


def _trim(view: str, start: int, end: int, uniform: bool) -> tuple[int, int] | None:
    """Cut at the first word that is no name's; None when that is the first one."""
    place, last, previous = start, start, ""
    for token in view[start:end].replace(",", " ").replace("\n", " ").split(" "):
        bare = token.rstrip(".").strip("\"'()")
        word = bare.lower()
        if bare:
            follows = previous in words("given_names_en") and is_surname(bare)
            if len(word) > 1 and not follows and word in words("not_names_en"):
                break
            if (
                uniform
                and last > start
                and len(word) > 1
                and not (is_given(bare) or (is_surname(bare) and not ordinary(word)))
            ):
                # Where every word is written alike, only a known name goes on; one more unknown word may.
                if ordinary(word) or place != last + 1 or previous == "?":
                    break
                previous = "?"
                last = place + len(token)
                place += len(token) + 1
                continue
            last, previous = place + len(token), bare.capitalize()
        place += len(token) + 1
    while last > start and view[last - 1] in ", \n":
        last -= 1
    return (start, last) if last > start else None


def words_of(name: str) -> list[str]:
    split = (token.strip("\"'().").removesuffix("'s") for token in name.replace(",", " ").split())
    return [token for token in split if token and token[0].isupper()]


def is_given(token: str) -> bool:
    return token in words("given_names_en") or token.capitalize() in words("given_names_en")


def is_surname(token: str) -> bool:
    return (
        token in words("surnames_en")
        or token.capitalize() in words("surnames_en")
        or ("-" in token and any(part.capitalize() in words("surnames_en") for part in token.split("-")))
    )


def ordinary(word: str) -> bool:
    """Whether it is a word of everyday or clinical English, also in a bent form, or a drug."""
    known = words("ordinary_en")
    if word in known or word in words("not_names_en"):
        return True
    stems = (word.removesuffix("s"), word.removesuffix("es"), word.removesuffix("ed"), word.removesuffix("ing"), word.removesuffix("ly"),
             word.removesuffix("d"), word.removesuffix("ing") + "e", word.removesuffix("al"), word.removesuffix("ic"), word.removesuffix("ies") + "y")  # fmt: skip
    return any(stem != word and len(stem) > 2 and stem in known for stem in stems) or (
        len(word) > 5 and word.endswith(_DRUG)
    )


def is_unknown(token: str) -> bool:
    """A capitalised word that no list knows, as rare surnames are."""
    parts = token.replace("'", "-").split("-")
    return (
        len(token) > 2
        and not (token.isupper() and len(token) <= 5)
        and token.isalpha() | ("-" in token) | ("'" in token)
        and not any(ordinary(part.lower()) for part in parts if len(part) > 2)
        and token.capitalize() not in words("eponyms")
    )


def _any(tokens: list[str]) -> bool:
    return bool(tokens)


def _likely(tokens: list[str]) -> bool:
    """After a label: a known name, a word that no list knows, or an initial with such a word."""
    return any(
        is_given(token)
        or is_unknown(token)
        or (is_surname(token) and not _acronym(token) and (len(tokens) > 1 or not ordinary(token.lower())))
        for token in tokens
    )


def _lone(tokens: list[str]) -> bool:
    """One word anywhere: a name of the lists that is no other word, place or eponym."""
    (token,) = tokens
    bare = token.capitalize()
    if (
        ordinary(token.lower())
        or bare in words("eponyms")
        or bare in words("places_en")
        or _acronym(token)
        or len(token) < 4
    ):
        return False
    return is_given(token) or (is_surname(token) and "-" not in token)


def _plausible(tokens: list[str]) -> bool:
    """Anywhere: as `_known`, or two words in a row that no list knows."""
    if _known(tokens):
        return True
    return any(
        ((is_unknown(first) or len(first) == 1) and is_unknown(second))
        or (is_unknown(first) and is_surname(second) and not _acronym(second))
        for first, second in itertools.pairwise(tokens)
    )


def _known(tokens: list[str]) -> bool:
    """Anywhere: a known given name before another name, or an initial or a known name before a known surname."""
    for first, second in itertools.pairwise(tokens):
        if (
            is_given(first)
            and (len(second) > 1 or len(tokens) > 2)
            and not _acronym(second)
            and not (ordinary(second.lower()) and not is_surname(second))
        ):
            return True
        if (
            is_surname(second)
            and (len(first) == 1 or (is_surname(first) and not _acronym(first)))
            and not _acronym(second)
        ):
            return True
    return len(tokens) >= 2 and is_surname(tokens[0]) and is_given(tokens[1])


def _acronym(token: str) -> bool:
    return token.isupper() and 1 < len(token) <= 4 and not (is_given(token) or is_surname(token))


def _is_term(view: str, start: int, end: int, tokens: list[str]) -> bool:
    """The words belong to a clinical term ("Austin Flint murmur") and no title makes a person of them."""
    parts = [part.capitalize() for token in tokens for part in token.split("-")]
    if not any(part in words("eponyms") for part in parts) or _TITLED.search(view[max(0, start - 12) : start]):
        return False
    if TERM.search(view[end : end + 40]):
        return True
    return all(part in words("eponyms") for part in parts if len(part) > 1) and not is_given(tokens[0])


def _pinyin(name: str) -> bool:
    given = name.partition(" ")[2]
    return bool(_GIVEN_PINYIN.match(given)) and not ordinary(given.lower())


_GIVEN_PINYIN = compiled(rf"(?i)^{_SYLLABLE}(?:[-']?{_SYLLABLE})?$")


def repeats(token: str) -> bool:
    """Whether a word of a found name is looked for again: an ordinary word is not."""
    return (
        len(token) >= 3
        and token.lower() not in words("not_names_en")
        and (not ordinary(token.lower()) or is_surname(token) or token.capitalize() in words("eponyms"))
    )


def _again(view: str, found: list[tuple[int, int]]) -> Iterator[Span]:
    """Other places where a word of a found name stands alone."""
    known = {token for start, end in found for token in words_of(view[start:end])}
    for token in known:
        if not repeats(token):
            continue
        for form in {token, token.upper(), token.capitalize()}:
            place = view.find(form)
            while place >= 0:
                end = place + len(form)
                before, after = view[place - 1 : place] if place else "", view[end : end + 1]
                alone = not any(side.isalpha() and side.isascii() for side in (before, after) if side)
                if alone and not TERM.search(view[end : end + 40]):
                    yield Span(place, end, Kind.NAME)
                place = view.find(form, end)

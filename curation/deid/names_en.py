# ruff: noqa: E501  (a pattern reads best on one line)
"""Persons' names in English text: titles, labels, credentials, relatives, known given names and surnames."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from typing import Any

from curation.deid.kinds import Kind, Note, Span
from curation.deid.patterns import Family, compiled
from curation.deid.words import lexicon, words

_TOKEN = r"(?:[{U}][{L}']*(?:-\n?[{U}][{L}']*)*)"
_PARTICLE = r"(?:(?:van|von|de|la|del|della|der|den|di|da|dos|du|el|al|bin|ibn|ter|le)[ ])*"
_NEXT = rf"(?:[ ]{{1,2}}{_PARTICLE}(?:[{{U}}]\.|{_TOKEN}))"
_NAME = rf"{_PARTICLE}(?:[{{U}}]\.|{_TOKEN}){_NEXT}{{0,3}}(?:,?[ ](?:Jr|Sr)\b\.?)?"
_FULL = rf"(?:[{{U}}]\.|{_TOKEN}){_NEXT}{{1,3}}(?:,?[ ](?:Jr|Sr)\b\.?)?"
_LAST_FIRST = rf"{_TOKEN}(?:[ ]{_TOKEN})?,[ ]{{0,2}}{_NAME}"
_TITLE = r"(?i:\b(?:LPN|EMT|CNA|Deputy|Sergeant|Detective|Inspector|Chaplain|Pastor|Imam|Rabbi|Deacon|Coach|Lieutenant|Lt|Major|Colonel|Col|Cpl|Pvt|Señora?|Madame|Monsieur|Frau|Herr|Auntie|Aunt|Uncle|Nana|Grandma|Grandpa|Dr|Drs|Mr|Mrs|Ms|Miss|Mx|Prof|Professor|Doctor|Nurse|Sir|Madam|Rev|Reverend|Fr|Capt|Sgt|Officer)\b\.?)"
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
    r"cousin|asst|assistant|tech|escort|cellmate|sitter|anes|anesthesia|rep|surname|given|aunty|tutu|koro|charge|nan|nana|gran|granny|mum|mam|papa|mommy|daddy|stepson|stepdaughter|stepfather|stepmother|stepmum|stepdad|foster[ ](?:mother|father|son|daughter|mum|dad)|ex-(?:wife|husband)|godmother|godfather|bystander|carer|worker|caseworker|social[ ]worker|teacher|lawyer|solicitor|driver|employer|boss|coworker|colleague|owner|aide|nurse|interpreter|baby|inmate|resident|client|child|toddler|infant|boy|girl|man|woman|gentleman|lady|student|veteran|donor|recipient|officer|surgeon|physician|doctor|counsel(?:l)?or|therapist|priest|manager|supervisor|principal|sitter|babysitter|nanny|housemate|flatmate|tenant|grand(?:son|daughter|mother|father)|fianc[eé]e?|roommate|son-in-law|daughter-in-law|landlord|pastor|attorney|boyfriend|girlfriend|mom|dad|twin)"
)
_BY = (
    r"(?:signed|dictated|transcribed|verified|reviewed|interpreted|reported|performed|authored|written|prepared|ordered|requested|referred|entered|completed|approved|"
    r"read|seen|evaluated|examined|attended|accompanied|witnessed|assisted|managed|followed|cared[ ]for|supervised|administered|collected|drawn|placed|done|given)[ ](?:by|with|for)|"
    r"(?:discussed|spoke|spoken|reviewed|conferred|consulted|meeting|met)[ ]with|(?:called|calls|calling|contacted|notified|informed|told|telling|asked|asking|paged|paging|telephoned|texted|messaged|emailed|phoned|rang|saw|seeing|met|named|known[ ]as|name[ ]is|goes[ ]by|alias(?:es)?|aka|a\.k\.a\.|nick-?name[ds]?|per|contact|cc|via|thank|thanks|handover[ ]to|handed[ ]over[ ]to|report[ ](?:given[ ])?to|care[ ]to|copies[ ]to|copy[ ]to|cc[ ]to|back[ ]to|attn|under|covering|covered[ ]by|booked[ ](?:under|with)|follow-?up[ ]with|appointment[ ]with|appt[ ]with|lives[ ]with|living[ ]with|about|relationship[ ]with|married[ ]to|engaged[ ]to|partner[ ]of|care[ ]of|c/o|signed)"
)

_STRONG = tuple(compiled(pattern) for pattern in (
    rf"{_TITLE}[ ]{{1,2}}({_NAME})",
    rf"(?i:\b(?:alias(?:es)?|a\.?k\.?a\.?|nick-?name[ds]?|goes[ ]by)[ :]{{1,2}}[\"']?)({_NAME})",
    rf"({_FULL}|{_LAST_FIRST}|{_TOKEN}),?[ ]{{1,2}}{_CREDENTIAL}",
    rf"(?i:\b(?:sincerely|regards|yours(?:[ ]truly)?|thanks|cheers|best|xx|xo)[,.!]?\s{{1,3}})({_NAME})[ \t]*(?:$|[\n,.])",
))  # fmt: skip
# What these find counts if it looks like a whole name or one of its words is a known name.
_WEAK = tuple(compiled(pattern) for pattern in (
    rf"(?:^|[^{{L}}])(?i:{_ROLE})[ ]{{0,3}}(?:[:=|#-]|[ ]is[ ]|\()[ \t*]{{0,4}}(?:{_TITLE}[ ])?({_LAST_FIRST}|{_NAME})",
    rf"(?:^|[^{{L}}])(?i:{_ROLE})[ ]{{0,3}}[:=|]?[ \t]*\n[ \t]*(?:{_TITLE}[ ])?({_LAST_FIRST}|{_FULL})",
    rf"(?i:\b{_RELATIVE})[,:]?[ ](?:\(|is[ ]|named[ ]|called[ ])?({_NAME})",
    rf"(?i:\b(?:{_BY})[ ])(?:{_TITLE}[ ])?({_LAST_FIRST}|{_NAME})",
    rf"(?:^|\n)[ \t*-]*[A-Za-z][A-Za-z /'().-]{{1,32}}[:=][ \t]*(?:{_TITLE}[ ])?({_FULL}|{_LAST_FIRST})[ \t]*(?:$|\n|[,;(|/])",
    rf"({_NAME})[ ](?:was|is|has|had|were|came|went|covering|covers|arrived|left|refuses|refused|denies|denied|endorses|feels|felt|remains|remained|appears|appeared|looks|looked|seems|took|takes|got|gave|gives|gets|did|does|didn't|doesn't|isn't|wasn't|can|can't|could|would|should|must|won't|stays|stayed|sleeps|slept|ate|eats|walks|walked|fell|moved|threatens|threatened|tells|told|rang|rings|texted|helps|helped|brings|thinks|thought|knows|knew|described|describes|complains|complained|presented|presents|tolerated|declines|declined|continues|continued|returned|admits|admitted|lost|found|placed|removed|inserted|ordered|reviewed|discussed|checked|examined|assessed|saw|seen|read|wrote|cannot|happy|okay|cried|crying|tearful|laughed|smiled|nodded|usually|also|then|later|again|herself|himself|who|will|called|agreed|says|said|reports|reported|notified|aware|stated|states|updated|advised|recommended|recommends|requests|requested|concurs|agrees|wants|asked|asks|signed|documented|performed|dictated|visits|visited|"
    r"lives|works|drove|brought|was[ ]present|was[ ]called|was[ ]paged|was[ ]notified|is[ ]aware|is[ ]the|at[ ](?:the[ ])?bedside|has[ ]been[ ]informed|understands|verbalized|prefers|answered|confirmed|phoned|telephoned)\b",
    rf"(?i:\b(?:dear|hi|hello)\s{{1,3}})({_NAME})",
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
    r"^(?:'s?)?(?:[ -](?:type|lymph|like|positive|negative))?[ /-](?:[{U}][{L}'-]*[ -])?(?i:removed|placed|inserted|draining|replaced|negative|positive|absent|equivocal|neg|pos|disease|syndrome|coma|tenderness|habitus|b[ ]lines|sign|signs|test|score|scale|criteria|classification|class|grade|stage|catheter|drain|tube|murmur|"
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
# Inside a sentence these are capitalised only as names.
_MODAL = frozenset(
    (
        "Will",
        "Hope",
        "Grace",
        "Mark",
        "Bill",
        "Rose",
        "Faith",
        "Joy",
        "Art",
        "Ray",
        "Rich",
        "Chase",
        "Chance",
        "Drew",
        "Dawn",
        "Gene",
        "Young",
        "Love",
        "Pearl",
        "Ruby",
        "Amber",
        "Violet",
        "Ivy",
        "Mercy",
        "Patience",
        "Earnest",
        "Precious",
    )
)
_INSIDE = compiled(r"[{L}.][,;]?[ ][(\"']?([{U}][{L}]+)(?:'s)?(?:[ ,.;:!?)]|$)")
_NOUN_BEFORE = compiled(
    r"(?:[{U}][{L}]*|(?i:\b(?:the|a|an|his|her|no|left|right|mild|moderate|severe|acute|chronic|normal|this|that|of)))[,;]?[ ]$"
)
_CAPS_PAIR = compiled(r"(?:^|[.:;\n(])[ ]*([A-Z][A-Z'-]{2,},[ ]?[A-Z][A-Z'-]+(?:[ ][A-Z]\b)?)(?:[.;,\n)]|[ ]{2}|$)")
_KIN = compiled(
    rf"\b(?:[Ww]ife|[Hh]usband|[Ss]on|[Dd]aughter|[Dd]tr|[Mm]other|[Ff]ather|[Bb]rother|[Ss]ister|[Ss]pouse|[Pp]artner|[Nn]iece|[Nn]ephew|[Aa]unt|[Uu]ncle|[Cc]ousin|[Gg]rand(?:son|daughter|mother|father)|[Ff]ianc[eé]e?|[Rr]oommate|[Bb]oyfriend|[Gg]irlfriend|[Mm]om|[Mm]um|[Dd]ad|[Nn]ana|[Tt]win|[Dd]oula|[Cc]haplain|[Vv]olunteer:|[Ss]itter)[ ]({_TOKEN})(?:'s)?(?:[ ,.;:)]|$)"
)
_AFTER_PREPOSITION = compiled(
    rf"(?:\b(?:than|ask|call|page|text|told|from|to|for|with|and|about|under|via|by|then|later|saw|or)[ ]|(?:w/|d/w|->|→)[ ]?)({_NAME})"
)
_SPEAKER = compiled(
    r"(?:^|\n)[ \t]*[\[(<]?\d{1,2}:\d\d(?::\d\d)?(?:[ ]?[AaPp][Mm])?[\])>]?[ \t,-]*[<@]?([{L}][{L}\d._-]{1,30})>?[ ]?:"
)
_LAST_INITIAL = compiled(r"(?:^|[^{L}])([{U}][{L}'-]{2,},[ ][{U}]\.(?:[ ]?[{U}]\.)?)")
_AFTERWARDS = compiled(rf"({_NAME})[ ]?(?:[,(]|[ ]-)[ ]?(?i:(?:his|her|the|pt'?s|patient'?s)[ ])?{_RELATIVE}\b")
_QUOTED = compiled(rf"({_TOKEN}[ ][\"'(]{_TOKEN}[\"')](?:[ ]{_TOKEN})?)")


def names_en(note: Note) -> Iterator[Span]:
    """Names by any of the rules, then each further occurrence of their words."""
    view, uniform = capitalised(note.view)
    search = _Search(view, uniform)
    for number in _FAMILY.matching(view):
        pattern, mixed, alike = _SEARCHES[number]
        if accept := alike if uniform else mixed:
            search.add(pattern, accept)
    if not uniform:
        search.inside()
    search.chain()
    found = search.found
    found += [match.span(1) for match in _PINYIN.finditer(view) if _pinyin(match.group(1))]
    yield from (Span(start, end, Kind.NAME) for start, end in found)
    yield from _again(view, found)
    yield from (Span(match.start(1), match.end(1), Kind.NAME) for match in _SPEAKER.finditer(note.view))
    for match in _CAPS_PAIR.finditer(note.view):
        family, given = match.group(1).split(",")
        if is_surname(family) and not ordinary(family.lower()) and given.strip().lower() not in words("not_names_en"):
            yield Span(match.start(1), match.end(1), Kind.NAME)
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

    def inside(self) -> None:
        """Names that are words, too, where a sentence capitalises them."""
        for match in _INSIDE.finditer(self.view):
            start, end = match.span(1)
            if not _NOUN_BEFORE.search(self.view[max(0, start - 24) : start]) and _word_too([match.group(1)]):
                self.found.append((start, end))

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
        named = accept in (_any, _likely)
        return trimmed if accept(tokens) and not _is_term(self.view, *trimmed, tokens, named=named) else None


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
                and not (
                    is_given(bare) or bare in lexicon("given_names_census") or (is_surname(bare) and not ordinary(word))
                )
            ):
                if (
                    previous in words("given_names_en")
                    and bare.capitalize() in lexicon("surnames_census")
                    and bare.capitalize() not in words("words_first_en")
                ):
                    last, previous = place + len(token), "?"
                    place += len(token) + 1
                    continue
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


@lru_cache(1 << 16)
def is_given(token: str) -> bool:
    word = token.capitalize()
    return token in words("given_names_en") or word in words("given_names_en") or word in _rare_given()


@cache
def _rare_given() -> frozenset[str]:
    """The Census' given names that are no other word."""
    return frozenset(name for name in lexicon("given_names_census") if not ordinary(name.lower()))


@lru_cache(1 << 16)
def is_surname(token: str) -> bool:
    word = token.capitalize()
    return (
        token in words("surnames_en")
        or word in words("surnames_en")
        or word.replace("'", "") in lexicon("surnames_census")
        or ("-" in token and any(is_surname(part) for part in token.split("-") if len(part) > 2))
    )


@cache
def _brands() -> frozenset[str]:
    return frozenset(word.lower() for word in words("brands_en"))


# Medical words are made of words: subcarinal, nonobstructing.
_PREFIXES = (
    "sub",
    "non",
    "peri",
    "inter",
    "intra",
    "trans",
    "retro",
    "para",
    "supra",
    "infra",
    "post",
    "pre",
    "hyper",
    "hypo",
    "micro",
    "macro",
    "re",
    "un",
    "over",
    "under",
    "mid",
    "multi",
    "anti",
    "tele",
    "neuro",
    "cardio",
    "endo",
    "epi",
    "hemo",
    "haemo",
    "poly",
    "pan",
    "semi",
    "super",
    "ultra",
    "de",
    "dis",
    "co",
)


def is_brand(word: str) -> bool:
    """A brand of a drug or a device; `word` is in lower case."""
    return word in _brands()


@lru_cache(1 << 16)
def ordinary(word: str) -> bool:
    """Whether it is a word of everyday or clinical English, also in a bent form, or a drug. `word` is in lower case."""
    known = lexicon("vocabulary_en")
    if word in known or word in words("not_names_en") or word in _brands():
        return True
    if any(word.startswith(prefix) and word[len(prefix) :] in known for prefix in _PREFIXES):
        return True
    stems = (word.removesuffix("s"), word.removesuffix("es"), word.removesuffix("ed"), word.removesuffix("ing"), word.removesuffix("ly"),
             word.removesuffix("d"), word.removesuffix("ing") + "e", word.removesuffix("al"), word.removesuffix("ic"), word.removesuffix("ies") + "y")  # fmt: skip
    return any(stem != word and len(stem) > 3 and stem in known for stem in stems)


@lru_cache(1 << 16)
def is_unknown(token: str) -> bool:
    """A capitalised word that no list knows, as rare surnames are."""
    parts = token.replace("'", "-").split("-")
    return (
        len(token) > 2
        and not (token.isupper() and len(token) <= 5)
        and _SHAPE.fullmatch(token) is not None
        and not any(ordinary(part.lower()) for part in parts if len(part) > 2)
        and not is_eponym(token)
    )


# As names are written: not like HbA or MoCA.
_SHAPE = compiled(
    r"(?:(?:Mc|Mac|De|Di|La|Le|Van|Fitz|O'|D'|St)?[{U}][a-zà-öø-ɏ]*|[{U}]+)(?:['-][{U}]?[a-zà-öø-ɏ]+|['-][{U}]+)*"
)


@lru_cache(1 << 16)
def is_eponym(token: str) -> bool:
    """A person's name in clinical terms, or another word that such terms capitalise."""
    return token.lower() in _eponyms()


@cache
def _eponyms() -> frozenset[str]:
    return frozenset(word.lower() for word in words("eponyms") | lexicon("terms_capitalised"))


def _any(tokens: list[str]) -> bool:
    return bool(tokens)


def _likely(tokens: list[str]) -> bool:
    """After a label: a known name, a word that no list knows, or an initial with such a word."""
    return any(
        is_given(token)
        or is_unknown(token)
        or token.capitalize() in words("word_names_en")
        or (token.capitalize() in lexicon("given_names_census") and token.lower() not in words("not_names_en"))
        or (is_surname(token) and not _acronym(token) and (len(tokens) > 1 or not ordinary(token.lower())))
        or (token.capitalize() in lexicon("surnames_frequent") and token.lower() not in words("not_names_en"))
        for token in tokens
    )


def _rather(tokens: list[str]) -> bool:
    """After a word that stands before persons and things alike: no eponym, and no word that notes capitalise."""
    return _likely(tokens) and not any(
        is_eponym(token) or token.capitalize() in words("words_first_en") for token in tokens
    )


def _lone(tokens: list[str]) -> bool:
    """One word anywhere: a name of the lists that is no other word, place or eponym."""
    if len(tokens) != 1:  # a letter between two dots leaves none
        return False
    (token,) = tokens
    bare = token.capitalize()
    if _acronym(token) or len(token) < 3 or is_eponym(token):
        return False
    if token.isupper() and len(token) > 1:  # in a note of both cases: a heading or an acronym
        return bare in words("given_names_en") or bare in words("surnames_en")
    if ordinary(token.lower()):
        # A listed name is more often one than the rare word of its form.
        return bare in words("given_names_en") | words("surnames_en") and token.lower() not in words("not_names_en")
    return is_given(token) or is_surname(token) or is_unknown(token)


def _word_too(tokens: list[str]) -> bool:
    """One word, capitalised inside a sentence for no other reason than that it is a name."""
    (token,) = tokens
    bare = token.capitalize()
    return bare in _MODAL or (
        bare in lexicon("names_and_words") | words("word_names_en")
        and bare not in words("words_first_en")
        and token.lower() not in words("not_names_en")
        and not is_eponym(token)
        and not token.isupper()
    )


def _lone_uniform(tokens: list[str]) -> bool:
    """One word of a note that writes all words alike: there a rare name is rather another word."""
    return _lone(tokens) and (
        (bare := tokens[0].capitalize()) in words("given_names_en") or bare in lexicon("surnames_frequent")
    )


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
    if len(tokens) == 2 and len(tokens[1]) == 1 and (is_given(tokens[0]) or is_unknown(tokens[0])):
        return True
    return len(tokens) >= 2 and is_surname(tokens[0]) and (is_given(tokens[1]) or _may_be_given(tokens))


def _may_be_given(tokens: list[str]) -> bool:
    """Beside a surname that is no word, a listed given name is one even if it is a word."""
    return (
        not ordinary(tokens[0].lower())
        and not is_eponym(tokens[0])
        and tokens[1].capitalize() in lexicon("given_names_census")
    )


def _acronym(token: str) -> bool:
    return (
        token.isupper()
        and 1 < len(token) <= 5
        and not (token.capitalize() in words("given_names_en") or token.capitalize() in words("surnames_en"))
    )


def _is_term(view: str, start: int, end: int, tokens: list[str], *, named: bool) -> bool:
    """The words belong to a clinical term ("Austin Flint murmur") and no title makes a person of them.

    `named`: what stands around them is said of persons ("seen by Austin").
    """
    parts = [part for token in tokens for part in token.split("-")]
    if not any(is_eponym(part) for part in parts) or _TITLED.search(view[max(0, start - 12) : start]):
        return False
    if TERM.search(view[end : end + 40]):
        return True
    if all(
        is_eponym(part) and part.capitalize() not in lexicon("surnames_frequent") for part in parts if len(part) > 1
    ):
        return True
    alone = sum(len(part) > 1 for part in parts) == 1
    return not named and all(is_eponym(part) for part in parts if len(part) > 1) and (alone or not is_given(tokens[0]))


def _pinyin(name: str) -> bool:
    given = name.partition(" ")[2]
    return bool(_GIVEN_PINYIN.match(given)) and not ordinary(given.lower())


_GIVEN_PINYIN = compiled(rf"(?i)^{_SYLLABLE}(?:[-']?{_SYLLABLE})?$")


def repeats(token: str) -> bool:
    """Whether a word of a found name is looked for again: an ordinary word is not."""
    return (
        len(token) >= 3
        and token.lower() not in words("not_names_en")
        and (not ordinary(token.lower()) or is_surname(token) or is_eponym(token))
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


Accept = Callable[[list[str]], bool]
# What is searched, who judges what is found, and who does so where all words are written alike (None: nobody).
_SEARCHES: tuple[tuple[Any, Accept, Accept | None], ...] = (
    *((pattern, _any, _any) for pattern in _STRONG),
    *((pattern, _likely, _likely) for pattern in (*_WEAK, _AFTERWARDS, _QUOTED, _LAST_INITIAL)),
    (_AFTER_PREPOSITION, _rather, _rather),
    (_KIN, _any, None),
    *((pattern, _plausible, _known) for pattern in (_ANY, _ANY_LAST_FIRST)),
    (_SINGLE, _lone, _lone_uniform),
)
_FAMILY = Family(pattern for pattern, _, _ in _SEARCHES)

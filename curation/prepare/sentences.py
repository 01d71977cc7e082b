"""A report → its sentences, each with whether it tells of this study or of the past, and the slices that it names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

# Longer than this it is no sentence, and what a word in it acts on cannot be said: it is left out.
_LONGEST = 2000
_STOP = re.compile(r"[。！？；;!?]|\.(?=\s|$)|\n")
# A line that ends like this goes on in the next one; so does one that is followed by a small letter.
_GOES_ON = re.compile(
    r"(?:[,，、]|未见|未见明显|未发现|(?<![:：])无|\b(?:no|of|without|and|or|the|in|with|for))\s*$", re.I
)
_PAST = re.compile(
    r"\s*(?:\d+[.、)]\s*|【)?(?:clinical\s+(?:history|information|indication|data)|indications?|history|comparisons?|techniques?|"
    r"reason\s+for\s+(?:exam|examination|study)|past\s+medical\s+history|临床诊断|临床病史|临床资料|病史|现病史|既往史|家族史|"
    r"检查目的|检查方法|检查部位|检查项目|主诉|对比)\s*[:：】]",
    re.I,
)
# Any other heading (`Findings:`, 【印象】, `影像所见 / Findings:`) is of the present.
_PRESENT = re.compile(
    r"\s*(?:【[^】\n]{1,20}】|(?:\d+[.、)]\s*)?[a-z\u4e00-\u9fff][a-z\u4e00-\u9fff /]{1,30}[:：])", re.I
)


@dataclass(frozen=True, slots=True)
class Sentence:
    """The text at [start, end); `past` under a heading such as history; `asked` where it ends in a question mark."""

    start: int
    end: int
    past: bool
    asked: bool


@dataclass(frozen=True, slots=True)
class SliceReference:
    """Slices `first`..`last` by their number, of series `series` where one is named, said at `at` of the text."""

    series: int | None
    first: int
    last: int
    at: int


def sentences(text: str) -> Iterator[Sentence]:
    """The sentences in order, blank ones left out."""
    start, past = 0, False
    for stop in [*_STOP.finditer(text), None]:
        end = len(text) if stop is None else stop.start()
        if stop is not None and stop.group() == "\n" and _continues(text, start, end):
            continue
        if text[start:end].strip():
            if _PAST.match(text, start, end):
                past = True
            elif _PRESENT.match(text, start, end):
                past = False
            if end - start <= _LONGEST:
                yield Sentence(start, end, past, stop is not None and stop.group() in "?？")
        start = len(text) if stop is None else stop.end()


def _continues(text: str, start: int, end: int) -> bool:
    following = text[end + 1 : end + 2]
    if (following.isascii() and following.islower()) and not text[start:end].rstrip().endswith((":", "：")):
        return True
    return _GOES_ON.search(text, start, end) is not None


_N, _TO = r"#?(\d{1,4})", r"(?:\s*(?:-|–|~|～|to|through|至|到)\s*第?#?(\d{1,4}))?"
_REFERENCES = (
    # Series and image, in words or as `se 4 im 45`, `序列4图像45`.
    re.compile(
        rf"(?<![a-z])(?:series|ser|se|序列)\.?\s*{_N}[\s,，、/]*"
        rf"(?:image|img|im|slice|图像|图|层面|层)s?\.?\s*{_N}{_TO}",
        re.I,
    ),
    re.compile(rf"(?<![a-z])()(?:image|img|im|slice)s?\.?\s*{_N}{_TO}(?!\s*(?:mm|cm|\.\d))", re.I),
    re.compile(rf"()(?:图像|层面|图)\s*{_N}{_TO}"),
    re.compile(rf"()第\s*{_N}{_TO}\s*(?:层|张|幅|帧)"),
)  # fmt: skip


def references(text: str, start: int, end: int) -> list[SliceReference]:
    """The slices named in [start, end). A place that one pattern has read is not read by the next."""
    taken: list[tuple[int, int]] = []
    found = []
    for pattern in _REFERENCES:
        for match in pattern.finditer(text, start, end):
            if any(match.start() < stop and begin < match.end() for begin, stop in taken):
                continue
            taken.append(match.span())
            series, first, last = match.groups()
            low, high = sorted((int(first), int(last or first)))
            found.append(SliceReference(int(series) if series else None, low, high, match.start()))
    return sorted(found, key=lambda each: each.at)

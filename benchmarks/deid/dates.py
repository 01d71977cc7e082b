"""Invented dates in many spellings. None is a year alone, a day of the week or a time of day: those may stay."""

from __future__ import annotations

import calendar
import random
from datetime import date as day_of
from datetime import timedelta

_MONTHS = tuple(calendar.month_name[1:])
_TENS = "〇一二三四五六七八九"


def chinese(number: int) -> str:
    """1 to 99 in Chinese: 三, 十一, 二十三."""
    tens, ones = divmod(number, 10)
    head = "" if tens == 0 else "十" if tens == 1 else _TENS[tens] + "十"
    return head + (_TENS[ones] if ones else "")


def _ordinal(number: int) -> str:
    if 11 <= number <= 13:
        return f"{number}th"
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th') }"


def _en(rng: random.Random, day: day_of) -> str:
    d, m, y, month = day.day, day.month, day.year, _MONTHS[day.month - 1]
    return rng.choice(
        (
            f"{m:02}/{d:02}/{y}",
            f"{m}/{d}/{y % 100:02}",
            f"{m}/{d}",
            f"{m:02}-{d:02}-{y}",
            f"{y}-{m:02}-{d:02}",
            f"{d:02}.{m:02}.{y}",
            f"{d} {month[:3]} {y}",
            f"{d:02}-{month[:3].upper()}-{y}",
            f"{month} {d}, {y}",
            f"{month} {_ordinal(d)}",
            f"the {_ordinal(d)} of {month}",
            f"{month} {y}",
            f"{month[:3]}. {d}",
            f"{d} {month[:3]} '{y % 100:02}",
            f"{m}/{y}",
            f"{y}{m:02}{d:02}",
        )
    )


def _zh(rng: random.Random, day: day_of) -> str:
    d, m, y = day.day, day.month, day.year
    spelled = "".join(_TENS[int(digit)] for digit in str(y))
    return rng.choice(
        (
            f"{y}年{m}月{d}日",
            f"{y}年{m:02}月{d:02}日",
            f"{y} 年 {m} 月 {d} 日",
            f"{y}-{m:02}-{d:02}",
            f"{y}/{m}/{d}",
            f"{y}.{m:02}.{d:02}",
            f"{m}月{d}日",
            f"{m}月{d}号",
            f"{chinese(m)}月{chinese(d)}日",
            f"{spelled}年{chinese(m)}月{chinese(d)}日",
            f"{spelled.replace('〇', '零')}年{chinese(m)}月{chinese(d)}日",
            f"{y % 100:02}年{m}月{d}日",
            f"{y}年{m}月",
            f"{m}/{d}",
            f"{y}{m:02}{d:02}",
        )
    )


def date(rng: random.Random, language: str) -> str:
    """A date from 1975 on, as someone writes it in the language; in a mixed note in either."""
    day = day_of(1975, 1, 1) + timedelta(days=rng.randrange(18000))
    if language == "mix":
        language = rng.choice(("en", "zh"))
    return _en(rng, day) if language == "en" else _zh(rng, day)


def stamp(rng: random.Random) -> str:
    """A date as messages between machines write it: 20230503, sometimes with hours, minutes and seconds after it."""
    day = day_of(1930, 1, 1) + timedelta(days=rng.randrange(34000))
    return f"{day:%Y%m%d}" + rng.choice(("", f"{rng.randrange(24):02}{rng.randrange(60):02}", "142233"))

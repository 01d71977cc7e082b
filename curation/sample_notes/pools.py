"""Data files, persons, dates and numbers of the sample notes."""

from __future__ import annotations

import datetime as dt
import random
import re
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
HAN_DIGITS = "〇一二三四五六七八九十"


@dataclass
class Block:
    """One '=== id | lang | kind | options' block of a text file."""

    head: list[str]
    body: str

    def fields(self) -> dict[str, str]:
        pairs = (line.split(": ", 1) for line in self.body.splitlines() if line.strip())
        return {key.strip(): value.strip() for key, value in pairs}


def blocks(name: str) -> list[Block]:
    text = (HERE / name).read_text(encoding="utf-8")
    found = []
    for chunk in re.split(r"^=== ", text, flags=re.M)[1:]:
        head, body = chunk.split("\n", 1)
        found.append(Block([part.strip() for part in head.split("|")], body.strip("\n")))
    return found


POOLS = {key: value.split("; ") for key, value in blocks("pools.txt")[0].fields().items()}


def digits(rng: random.Random, count: int) -> str:
    return "".join(rng.choice("0123456789") for _ in range(count))


def luhn(body: str) -> str:
    """The body with its Luhn check digit."""
    total = 0
    for place, char in enumerate(reversed(body)):
        value = int(char) * (2 if place % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return body + str(-total % 10)


def cn_id(rng: random.Random, born: dt.date, sex: str) -> str:
    """An 18-digit number with a right MOD 11-2 check and an area code (…99) that no county has."""
    order = rng.randrange(100) * 10 + rng.choice((1, 3, 5, 7, 9) if sex == "M" else (0, 2, 4, 6, 8))
    body = rng.choice(("1101", "3101", "3201", "3301", "4401", "5101", "6101")) + f"99{born:%Y%m%d}{order:03d}"
    weighted = sum(int(char) * (2 ** (17 - place) % 11) for place, char in enumerate(body))
    return body + "10X98765432"[weighted % 11]


def han_number(value: int) -> str:
    if value <= 10:
        return HAN_DIGITS[value]
    tens, ones = divmod(value, 10)
    return ("" if tens == 1 else HAN_DIGITS[tens]) + "十" + (HAN_DIGITS[ones] if ones else "")


def ordinal(day: int) -> str:
    return f"{day}{'th' if 10 < day < 14 else {1: 'st', 2: 'nd', 3: 'rd'}.get(day % 10, 'th')}"


def show_date(day: dt.date, form: str) -> str:
    month = MONTHS[day.month - 1]
    forms: dict[str, str] = {
        "us": f"{day:%m/%d/%Y}", "uk": f"{day:%d/%m/%Y}", "short": f"{day.month}/{day.day}/{day:%y}",
        "iso": f"{day:%Y-%m-%d}", "compact": f"{day:%Y%m%d}", "dot": f"{day:%Y.%m.%d}",
        "eudot": f"{day:%d.%m.%Y}", "slash": f"{day.year}/{day.month}/{day.day}",
        "dmon": f"{day.day} {month[:3]} {day.year}", "mdy": f"{month[:3]} {day.day}, {day.year}",
        "long": f"{month} {day.day}, {day.year}", "ordinal": f"{ordinal(day.day)} {month} {day.year}",
        "dcaps": f"{day:%d}-{month[:3].upper()}-{day:%y}", "my": f"{month} {day.year}",
        "mony": f"{month[:3]} {day.year}", "dm": f"{day.day} {month[:3]}", "md_en": f"{month[:3]} {day.day}",
        "han": f"{day.year}年{day.month}月{day.day}日", "hans": f"{day:%y}年{day.month}月{day.day}日",
        "md": f"{day.month}月{day.day}日", "ym": f"{day.year}年{day.month}月",
        "hanzi": "".join(HAN_DIGITS[int(c)] for c in str(day.year))
        + f"年{han_number(day.month)}月{han_number(day.day)}日",
    }  # fmt: skip
    return forms[form]


@dataclass
class Person:
    given: str
    family: str
    sex: str
    han: str = ""  # the whole name in Hanzi
    han_family: str = ""

    def form(self, form: str, chinese: bool) -> str:
        if chinese:
            return {"full": self.han, "last": self.han_family, "pinyin": f"{self.family} {self.given}",
                    "pcaps": f"{self.family.upper()} {self.given}"}[form]  # fmt: skip
        initial = self.given[0]
        return {
            "full": f"{self.given} {self.family}", "last": self.family, "first": self.given,
            "comma": f"{self.family}, {self.given}", "caps": f"{self.family.upper()}, {self.given.upper()}",
            "upper": f"{self.given} {self.family}".upper(), "init": f"{initial}. {self.family}",
            "mid": f"{self.given} {'ABDEHJKLMR'[len(self.family) % 10]}. {self.family}",
            "inits": f"{initial}{self.family[0].upper()}", "lower": f"{self.given} {self.family}".lower(),
            "tail": f"{self.family} {initial}",
        }[form]  # fmt: skip


def person(rng: random.Random, chinese: bool, sex: str) -> Person:
    if chinese:
        han_family, family = rng.choice(POOLS["zh_family"]).split("=")
        han_given, given = rng.choice(POOLS["zh_given_" + sex]).split("=")
        return Person(given, family, sex, han_family + han_given, han_family)
    return Person(rng.choice(POOLS["en_given_" + sex]), rng.choice(POOLS["en_family"]), sex)

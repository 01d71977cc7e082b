"""Invented values of each kind, written in the many ways in which people write them."""

from __future__ import annotations

import random
import string
from collections.abc import Callable

from benchmarks.deid import pools
from benchmarks.deid.checks import cn_id_check, luhn_check
from benchmarks.deid.dates import date

Maker = Callable[[random.Random, str], str]
_ONES = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def shape(rng: random.Random, *patterns: str) -> str:
    """One of the patterns with `#` made a digit, `%` a digit from 1 and `@` a capital letter (no I or O)."""
    letters = string.ascii_uppercase.replace("I", "").replace("O", "")
    made = {"#": string.digits, "%": string.digits[1:], "@": letters}
    return "".join(rng.choice(made[mark]) if mark in made else mark for mark in rng.choice(patterns))


def en_name(rng: random.Random) -> str:
    """An English name in one of the orders that forms and letters use."""
    given, family, middle = rng.choice(pools.EN_GIVEN), rng.choice(pools.EN_FAMILY), rng.choice("ABCDEJLMRT")
    return rng.choice(
        (
            f"{given} {family}",
            f"{given} {family}",
            f"{given} {middle}. {family}",
            f"{family}, {given}",
            f"{family.upper()}, {given.upper()} {middle}",
            f"{given[0]}. {family}",
            f"{given.upper()} {family.upper()}",
            f"{given} {family} Jr.",
            f"{given.lower()} {family.lower()}",
        )
    )


def zh_name(rng: random.Random) -> str:
    """A Chinese name; sometimes spread out with spaces, as on forms, or with a dot, as of minorities."""
    family, given = rng.choice(pools.ZH_FAMILY), rng.choice(pools.ZH_GIVEN)
    roll = rng.random()
    if roll < 0.06:
        return " ".join(family + given)
    if roll < 0.10:
        return rng.choice(("阿依古丽·买买提", "扎西多吉", "那仁·巴图", "央金卓玛", "约翰·史密斯", "古丽娜扎尔"))
    return family + given


def name(rng: random.Random, language: str) -> str:
    """A name in the language; in a mixed note in either."""
    if language == "mix":
        language = rng.choice(("en", "zh"))
    return en_name(rng) if language == "en" else zh_name(rng)


def age(rng: random.Random, language: str) -> str:
    """An age over 89, bare: 90 to 108."""
    years = rng.randint(90, 108)
    if language == "en" and years < 100 and rng.random() < 0.25:
        return "ninety" if years == 90 else f"ninety-{_ONES[years - 91]}"
    if language == "zh" and years < 100 and rng.random() < 0.35:
        return "九十" + ("" if years == 90 else "一二三四五六七八九"[years - 91])
    return str(years)


def phone(rng: random.Random, language: str) -> str:
    """A United States number (555-01xx, kept for fiction), another country's, or a Chinese one."""
    if language == "en":
        return shape(
            rng,
            "(%##) 555-01##",
            "%##-555-01##",
            "%##.555.01##",
            "+1 %## 555 01##",
            "1-%##-555-01## ext. ##",
            "(%##)555-01##",
            "%##55501##",
            "555-01##",
            "+44 20 7946 0###",
            "07700 900###",
            "+34 655 550 1##",
        )
    middle = rng.choice(("3", "5", "7", "8"))
    return shape(
        rng,
        f"1{middle}%########",
        f"1{middle}% #### ####",
        f"1{middle}%-####-####",
        f"+86 1{middle}% #### ####",
        f"86-1{middle}%########",
        "010-6555####",
        "0571-8555####",
        "(021)5555####",
        "0755-8555####转8##",
        "0512 6555####-###",
        "400-555-0###",
        "+852 5550 ####",
    )


def fax(rng: random.Random, language: str) -> str:
    """A fax number: of the landline shapes."""
    if language == "en":
        return shape(rng, "(%##) 555-01##", "%##.555.01##", "+44 1632 960###", "1-800-555-01##")
    return shape(rng, "010-6555####", "0571-8555 ####", "(0512)6555####", "+86-21-5550####", "6555####")


def email(rng: random.Random, language: str) -> str:
    """A mail address at a host kept for examples."""
    user = shape(rng, "@###", "@@.@@@@@", "@@@_%#", "@-@@@+w", "@@@@19%#")
    made = f"{user}@{rng.choice(pools.EN_HOSTS)}"
    return made if rng.random() < 0.15 else made.lower()


def url(rng: random.Random, language: str) -> str:
    """A link with a record in it."""
    return shape(
        rng,
        "https://portal.example.org/p/%####/notes?u=@@@",
        "http://emr.example.cn/view?pid=00####",
        "www.example-clinic.com/visit/%###-####",
        "ftp://files.example.org/ward#/%####.zip",
        "meet.example.com/j/%###-####-###",
        "https://sf.example.cn/r/%@#@",
    )


def ip(rng: random.Random, language: str) -> str:
    """An address of version 4 or 6."""
    if rng.random() < 0.25:
        return shape(rng, "2001:db8:%#a3::8a2e:%70:7%34", "fe80::1c2a:%%ff:fe21:88%#", "fd00:%#::%#").lower()
    return ".".join((rng.choice(("10", "192.168", "172.16")), *(str(rng.randint(1, 254)) for _ in "ab")))


def bank_card(rng: random.Random, language: str) -> str:
    """A card with the right Luhn digit: 16 digits of the international schemes or 16 to 19 of UnionPay."""
    head = rng.choice(("4", "51", "55") if language == "en" else ("6222", "6228", "6217", "4392"))
    length = 16 if head[0] in "45" else rng.choice((16, 19))
    body = head + "".join(rng.choice(string.digits) for _ in range(length - 1 - len(head)))
    card = body + luhn_check(body)
    join = rng.choice(("", " ", " ", "-"))
    return join.join(card[at : at + 4] for at in range(0, length, 4))


def cn_id(rng: random.Random, language: str) -> str:
    """A Chinese identity number with the right check character. Counties …99 are not assigned: nobody has it."""
    area = rng.choice(("1101", "3101", "3301", "4201", "4401", "5101", "6101", "2101")) + "99"
    born = f"{rng.randint(1928, 2012)}{rng.randint(1, 12):02}{rng.randint(1, 28):02}"
    body = area + born + f"{rng.randint(1, 999):03}"
    check = cn_id_check(body)
    if check == "X" and rng.random() < 0.3:
        check = "x"
    join = rng.choice(("", "", "", " "))
    return join.join((body[:6], body[6:14], body[14:] + check))


def ssn(rng: random.Random, language: str) -> str:
    """A social security number of a shape that was given out."""
    area = rng.choice([*range(1, 666), *range(667, 900)])
    join = rng.choice(("-", "-", "-", " ", "", "."))
    return join.join((f"{area:03}", f"{rng.randint(1, 99):02}", f"{rng.randint(1, 9999):04}"))


def address(rng: random.Random, language: str) -> str:
    """A street address without post code; an English one also without state, a Chinese one from the province down."""
    if language == "en" or (language == "mix" and rng.random() < 0.3):
        street = f"{rng.randint(1, 9999)} {rng.choice(pools.EN_STREETS)}"
        unit = rng.choice(("", "", " #12", ", Apt 3F", " Ste 410", ", Unit B"))
        return f"{street}{unit}, {rng.choice(pools.EN_TOWNS)}"
    place = rng.choice(pools.ZH_CITIES) + rng.choice(pools.ZH_ROADS)
    return place + shape(
        rng, "%#号", "%##号%栋%单元%0%室", "%#号院%号楼%#0%", "% 号附 % 号", "%##号花园大厦B座%#0%", "%#弄%#号%0%室"
    )


def postcode(rng: random.Random, language: str) -> str:
    """A post code: United States, United Kingdom, Canada or China."""
    if language == "en":
        return shape(rng, "%####", "%####-####", "SO## 8EX", "OX% 7ZZ", "J8X 2A%")
    return shape(rng, "100###", "310###", "210###", "6100##", "7100##")


def plate(rng: random.Random, language: str) -> str:
    """A car's plate; a Chinese one also with six characters, as of electric cars."""
    if language == "en":
        return shape(rng, "%@@@###", "@@@ ####", "LK5% @@@", "@@ #####", "%@@-###")
    mark = rng.choice("京沪浙粤川苏皖鲁鄂渝")
    return mark + shape(rng, "@·#####", "@####@", "@D#####", "@·F####%", "@ %@###", "@%#@##学")


def _of(*en: str, zh: tuple[str, ...] = ()) -> Maker:
    """A maker that fills one of the English patterns, and in Chinese one of `zh` where given."""

    def make(rng: random.Random, language: str) -> str:
        return shape(rng, *(zh if zh and language == "zh" else en))

    return make


MAKERS: dict[str, Maker] = {
    "NAME": name,
    "DATE": date,
    "AGE": age,
    "PHONE": phone,
    "FAX": fax,
    "EMAIL": email,
    "URL": url,
    "IP": ip,
    "SSN": ssn,
    "MRN": _of(
        "%######",
        "%##-##-##",
        "M%#####",
        "H-%#####",
        "%# ## ## #",
        "00%####",
        zh=("00%####", "ZY%######", "%#####", "P%#######"),
    ),
    "ACCOUNT": _of(
        "%###-###-##",
        "GUAR-%#######",
        "%########",
        "GB%# NWBK 60## 13## 92## 1#",
        zh=("3301 0400 #### ##", "%##################"),
    ),
    "INSURANCE": _of(
        "XQH %## ## ####",
        "%@@#-@@#-@@%#",
        "W%###-#####",
        "AB%####C",
        zh=("B%########X", "33%#########", "PDAA%############"),
    ),
    "LICENCE": _of(
        "MD.%####",
        "A-%##-###",
        "B@%######",
        "%#########",
        "F%######",
        zh=("110%###########", "%##########0", "20%#33######"),
    ),
    "PLATE": plate,
    "DEVICE": _of("RNB%#####H", "SNX-%#####", "00:1A:7D:%#:71:%#", "%@@@####%#", "LY-%###-####", "35 %##### ###### #"),
    "ADDRESS": address,
    "POSTCODE": postcode,
    "CN_ID": cn_id,
    "PASSPORT": _of("E%#######", "G%#######", "EA%######", "%########", "C%######"),
    "PERMIT": _of("H%#######", "H%#########", "M%#######", "%#######", "K%#####(#)", "C%#######", "A1########"),
    "BANK_CARD": bank_card,
    "WARD": _of("%#", "%@", "%#0%B", "ICU-%", "%W-%#", zh=("%#", "%", "加%", "%A", "0%#")),
    "OTHER_ID": _of(
        "E%#######",
        "23-%##-#####",
        "S23-%####",
        "T0%##",
        "%#####",
        zh=("CT%######", "2305%######", "B2023-%###", "NB0%##-##"),
    ),
}

"""Write notes.jsonl: fictional clinical notes with planted identifiers and exact offsets.

Every note is assembled from a hand-written template (templates_*.txt), a hand-written case (cases_*.txt)
and identifiers drawn from a seeded generator, or comes whole from hard.txt. Markup, inside braces:

    {p.full}        a form of a person's name: p patient, d and e doctors, n nurse or technician, r relative
    {date-3:long}   the note's date, moved by days, in a named form; {dob} the date of birth
    {mrn} {phone}   an identifier (IDENTIFIERS), the same one each time within a note; {phone.2} is a second one
    {c.find}        a field of the case in the note's language; {z.find} the same case in Chinese
    {NAME=Jane Doe} a written-out identifier;  {!Crohn disease} clinical words that must survive
    {a|b|c}         one of several wordings; they may hold markup themselves
"""

from __future__ import annotations

import datetime as dt
import json
import random
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curation.sample_notes.pools import HERE, POOLS, Person, blocks, cn_id, digits, luhn, person, show_date

SEED = 20240229
QUOTA = {"en": 130, "zh": 66, "mixed": 24}
KINDS = (
    "NAME", "DATE", "AGE_OVER_89", "PHONE", "FAX", "EMAIL", "URL", "IP", "SSN", "MRN", "ACCOUNT", "LICENSE", "PLATE",
    "DEVICE", "ADDRESS", "CN_ID", "PASSPORT", "PERMIT", "BANK_CARD", "HOSPITAL", "WARD",
)  # fmt: skip
HAN = re.compile(r"[\u4e00-\u9fff]")
LATIN_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9'.%/+-]*")
CHOICES = {
    "en": ("us", "us", "uk", "dmon", "mdy", "long", "iso", "dcaps", "short", "ordinal"),
    "zh": ("han", "han", "iso", "dot", "slash"),
    "mixed": ("han", "iso", "slash", "dmon", "dot"),
}
TYPOS = {
    "patient": "pateint", "hemorrhage": "hemorrage", "without": "wihtout", "consistent": "consistant",
    "admitted": "admited", "received": "recieved", "pulmonary": "pulmonry", "reviewed": "reveiwed",
    "changes": "chnages", "discharge": "dischrage", "shortness": "shortnes", "artery": "artrey",
}  # fmt: skip


@dataclass
class Builder:
    """Assembles one note and records where each planted value lies."""

    rng: random.Random
    lang: str
    case: dict[str, str] = field(default_factory=dict)
    case_zh: dict[str, str] = field(default_factory=dict)
    typo: bool = False
    parts: list[str] = field(default_factory=list)
    length: int = 0
    spans: list[dict[str, Any]] = field(default_factory=list)
    keeps: list[dict[str, int]] = field(default_factory=list)
    cache: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = self.rng
        self.chinese = self.lang != "en"
        self.date = dt.date(2019, 1, 10) + dt.timedelta(days=rng.randrange(2150))
        self.age = rng.randint(90, 98) if rng.random() < 0.16 else rng.randint(24, 88)
        self.born = self.date.replace(year=self.date.year - self.age, day=min(self.date.day, 28)) - dt.timedelta(
            days=rng.randrange(1, 330)
        )
        self.form = rng.choice(CHOICES[self.lang])
        self.people: dict[str, Person] = {}
        for role in "pdenr":
            taken = {someone.family for someone in self.people.values()}
            while (someone := person(rng, self.chinese, rng.choice("FM"))).family in taken:
                pass
            self.people[role] = someone
        self.sex = self.people["p"].sex

    def emit(self, text: str) -> None:
        if self.typo:
            for right, wrong in TYPOS.items():
                text = re.sub(rf"\b{right}\b", lambda hit, wrong=wrong: self.slip(hit[0], wrong), text)  # type: ignore[misc]
        self.parts.append(text)
        self.length += len(text)

    def slip(self, right: str, wrong: str) -> str:
        return wrong if self.rng.random() < 0.4 else right

    def mark(self, value: str, kind: str) -> None:
        where: dict[str, Any] = {"start": self.length, "end": self.length + len(value)}
        self.parts.append(value)
        self.length += len(value)
        if kind:
            self.spans.append(where | {"kind": kind})
        else:
            self.keeps.append(where)

    def fill(self, text: str) -> None:
        """Expand one piece of marked-up text."""
        for token, inside in tokens(text):
            if inside:
                self.expand(token)
            else:
                self.emit(token)

    def expand(self, token: str) -> None:
        options = split_choices(token)
        if len(options) > 1:
            self.fill(self.rng.choice(options))
        elif token.startswith("!"):
            self.mark(token[1:], "")
        elif "=" in token and token.split("=", 1)[0] in KINDS:
            kind, value = token.split("=", 1)
            self.mark(value, kind)
        elif token.startswith(("c.", "z.")):
            self.fill((self.case if token[0] == "c" else self.case_zh)[token[2:]])
        elif token[:2] in ("p.", "d.", "e.", "n.", "r."):
            self.mark(self.people[token[0]].form(token[2:], self.chinese), "NAME")
        elif hit := re.fullmatch(r"date([+-]\d+)?(?::(\w+))?|dob(?::(\w+))?", token):
            day = self.born if token.startswith("dob") else self.date + dt.timedelta(days=int(hit[1] or 0))
            self.mark(show_date(day, hit[2] or hit[3] or self.form), "DATE")
        elif token == "age":
            if self.age > 89:
                self.mark(str(self.age), "AGE_OVER_89")
            else:
                self.emit(str(self.age))
        elif token in POOLS["sexed_F"][0].split():
            place = POOLS["sexed_F"][0].split().index(token)
            self.emit(POOLS["sexed_" + self.sex][0].split()[place])
        else:
            name = token.split(".")[0]
            kind, _ = IDENTIFIERS[name]
            self.mark(self.value(token), kind)

    def value(self, token: str) -> str:
        if token not in self.cache:
            while (value := IDENTIFIERS[token.split(".")[0]][1](self)) in self.cache.values():
                pass
            self.cache[token] = value
        return self.cache[token]

    def pick(self, pool: str) -> str:
        """One entry of a pool; '#' stands for a digit, '@' for a letter, '~' for a digit that is not zero."""
        rng, chosen = self.rng, self.rng.choice(POOLS[pool])
        swap: dict[str, Callable[[], str]] = {
            "#": lambda: rng.choice("0123456789"),
            "~": lambda: rng.choice("123456789"),
            "@": lambda: rng.choice("ABCDEFGHKLMNPRTWXY"),
        }
        return "".join(swap[char]() if char in swap else char for char in chosen)

    def finish(self, style: str) -> str:
        text = "".join(self.parts)
        if style == "wrap":
            text = self.wrap(text)
        changed = {"lower": text.lower, "upper": text.upper}.get(style, lambda: text)()
        if len(changed) != len(text):
            raise ValueError("a change of case moved the offsets")
        return changed

    def wrap(self, text: str) -> str:
        """Break long lines by turning spaces into line ends, which moves no offset."""
        chars, start, last = list(text), 0, -1
        inside = {place for span in self.spans + self.keeps for place in range(span["start"], span["end"])}
        for place, char in enumerate(chars):
            if char == "\n":
                start, last = place + 1, -1
            elif char == " " and place not in inside:
                last = place
            if place - start >= 76 and last > start:
                chars[last] = "\n"
                start, last = last + 1, -1
        return "".join(chars)


def tokens(text: str) -> Iterator[tuple[str, bool]]:
    """The plain and the braced pieces of a text, in order."""
    depth, begin = 0, 0
    for place, char in enumerate(text):
        if char == "{":
            if depth == 0:
                yield text[begin:place], False
                begin = place + 1
            depth += 1
        elif char == "}":
            depth -= 1
            if depth == 0:
                yield text[begin:place], True
                begin = place + 1
    if depth:
        raise ValueError(f"unbalanced braces in {text[:60]!r}")
    yield text[begin:], False


def split_choices(token: str) -> list[str]:
    found, depth = [""], 0
    for char in token:
        depth += {"{": 1, "}": -1}.get(char, 0)
        if char == "|" and depth == 0:
            found.append("")
        else:
            found[-1] += char
    return found


def by_lang(name: str) -> Callable[[Builder], str]:
    return lambda note: note.pick(f"{'zh' if note.chinese else 'en'}_{name}")


def card(note: Builder) -> str:
    number = luhn(note.pick("card"))
    return " ".join(re.findall(r"\d{1,4}", number)) if note.rng.random() < 0.5 else number


def email(note: Builder) -> str:
    someone = note.people[note.rng.choice("pdr")]
    mailbox = re.sub(r"[^a-z.]", "", f"{someone.given}.{someone.family}".lower())
    return mailbox + note.rng.choice(("", digits(note.rng, 2))) + "@" + note.pick("email")


IDENTIFIERS: dict[str, tuple[str, Callable[[Builder], str]]] = {
    "mrn": ("MRN", by_lang("mrn")),
    "phone": ("PHONE", by_lang("phone")),
    "fax": ("FAX", by_lang("fax")),
    "email": ("EMAIL", email),
    "url": ("URL", lambda note: note.pick("url")),
    "ip": ("IP", lambda note: f"{note.rng.choice(POOLS['ip'])}.{note.rng.randint(2, 250)}"),
    "ssn": ("SSN", lambda note: note.pick("ssn")),
    "acc": ("ACCOUNT", by_lang("acc")),
    "acct": ("ACCOUNT", by_lang("acct")),
    "lic": ("LICENSE", by_lang("lic")),
    "plate": ("PLATE", by_lang("plate")),
    "device": ("DEVICE", lambda note: note.pick("device")),
    "addr": ("ADDRESS", by_lang("addr")),
    "cnid": ("CN_ID", lambda note: cn_id(note.rng, note.born, note.sex)),
    "passport": ("PASSPORT", by_lang("passport")),
    "permit": ("PERMIT", by_lang("permit")),
    "card": ("BANK_CARD", card),
    "hosp": ("HOSPITAL", by_lang("hosp")),
    "ward": ("WARD", by_lang("ward")),
}


def check(text: str, spans: list[dict[str, Any]], keeps: list[dict[str, int]], values: list[str]) -> None:
    """Refuse a note whose spans are not exact or that shows a planted value without a label."""
    covered = [False] * len(text)
    end = 0
    for span, value in zip(spans, values, strict=True):
        if span["start"] < end or text[span["start"] : span["end"]] != value or value != value.strip() or not value:
            raise ValueError(f"span {span} is not {value!r}")
        end = span["end"]
    for where in spans + keeps:
        covered[where["start"] : where["end"]] = [True] * (where["end"] - where["start"])
    wanted = set()
    for span, value in zip(spans, values, strict=True):
        if span["kind"] == "AGE_OVER_89":
            continue  # a bare number; the line below looks for it where it is an age
        wanted.add(value)
        if span["kind"] == "NAME":
            wanted.update(set(re.split(r"[ ,.·]+", value)) - {"", "st", "St", "ST", "de", "la", "van", "der"})
    found = [hit for value in wanted if len(value) > 1 for hit in re.finditer(bounded(value), text)]
    found += re.finditer(r"\b9\d(?=[ -]?(?:years?|yo\b|y/o|yr|岁))", text)
    for hit in found:
        if not all(covered[hit.start() : hit.end()]):
            raise ValueError(f"{hit[0]!r} stands unlabelled in …{text[max(0, hit.start() - 40) : hit.end() + 20]!r}")


def bounded(value: str) -> str:
    left = r"(?<![A-Za-z0-9])" if re.match(r"[A-Za-z0-9]", value) else ""
    right = r"(?![A-Za-z0-9])" if re.match(r"[A-Za-z0-9]", value[-1]) else ""
    return left + re.escape(value) + right


def size(text: str) -> int:
    return len(HAN.findall(text)) + len(LATIN_WORD.findall(text))


def build(note_id: str, lang: str, kind: str, style: str, body: str, builder: Builder) -> tuple[dict[str, Any], Any]:
    builder.typo = style == "typo"
    builder.fill(body)
    text = builder.finish(style)
    planted = "".join(builder.parts)
    values = [planted[span["start"] : span["end"]] for span in builder.spans]
    values = [{"lower": value.lower(), "upper": value.upper()}.get(style, value) for value in values]
    try:
        check(text, builder.spans, builder.keeps, values)
    except ValueError as problem:
        raise ValueError(f"{note_id} ({kind}): {problem}") from None
    low, high = {"en": (60, 350), "zh": (100, 500), "mixed": (60, 500)}[lang]
    if not low <= (len(HAN.findall(text)) if lang == "zh" else size(text)) <= high:
        raise ValueError(f"{note_id} ({kind}): {size(text)} words\n{text}")
    who = builder.people["p"]
    patient = {"name": who.han or f"{who.given} {who.family}", "mrn": builder.value("mrn")}
    patient |= {"birth_date": builder.born.isoformat(), "sex": who.sex, "phone": builder.value("phone")}
    note = {"id": note_id, "lang": lang, "kind": kind, "patient": patient, "text": text, "spans": builder.spans}
    return note, builder.keeps


def make() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    rng = random.Random(SEED)
    english = {block.head[0]: (block.head[1], block.fields()) for block in blocks("cases_en.txt")}
    chinese = {block.head[0]: (block.head[1], block.fields()) for block in blocks("cases_zh.txt")}
    notes: list[dict[str, Any]] = []
    kept: list[dict[str, Any]] = []
    for lang, quota in QUOTA.items():
        templates = blocks(f"templates_{lang}.txt")
        cases = {"en": english, "zh": chinese, "mixed": {k: v for k, v in english.items() if k in chinese}}[lang]
        queues = {}
        for template in templates:
            fitting = [name for name, (mode, _) in cases.items() if mode in template.head[2].split()]
            queues[template.head[0]] = rng.sample(fitting, len(fitting))
        made = 0
        while made < quota:
            before = made
            for template in templates:
                if made < quota and queues[template.head[0]]:
                    name = queues[template.head[0]].pop()
                    pair = (cases[name][1], chinese[name][1] if lang == "mixed" else {})
                    builder = Builder(random.Random(rng.random()), lang, *pair)
                    kind = template.head[1].replace("*", cases[name][0])
                    note_id = f"note-{len(notes) + 1:04d}"
                    note, _ = build(note_id, lang, kind, "".join(template.head[3:4]), template.body, builder)
                    notes.append(note)
                    made += 1
            if made == before:
                raise ValueError(f"not enough {lang} templates and cases")
    for block in blocks("hard.txt"):
        builder = Builder(random.Random(rng.random()), block.head[1])
        who, style = (*block.head[3:], "")[:2]
        name, sex, born, mrn, phone = (part.strip() for part in who.split(";"))
        builder.people["p"] = Person("", "", sex, name, name)
        builder.born = dt.date.fromisoformat(born)
        builder.cache |= {key: value for key, value in (("mrn", mrn), ("phone", phone)) if value}
        note, keeps = build(f"note-{len(notes) + 1:04d}", block.head[1], block.head[2], style, block.body, builder)
        notes.append(note)
        kept.append({"id": note["id"], "keep": [{**k, "text": note["text"][k["start"] : k["end"]]} for k in keeps]})
    return notes, kept


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8")


def main(folder: Path = HERE) -> None:
    notes, kept = make()
    (folder / "notes.jsonl").write_bytes(lines(notes))
    (folder / "must_survive.jsonl").write_bytes(lines(kept))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)

"""Reads notes with inline labels: `⟦KIND:text⟧` becomes `text` and a span.

Labels do not nest and may run over line ends. The brackets ⟦ ⟧ (U+27E6, U+27E7) stand in no clinical text, so they
need no escape. A label covers the value alone, never the word that introduces it: `Ward ⟦WARD:7B⟧`.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from medllm.errors import UserError, user_error

OPEN, CLOSE = "⟦", "⟧"
KEEP = "KEEP"
IDENTIFIERS = (
    "NAME",
    "DATE",
    "AGE",
    "PHONE",
    "FAX",
    "EMAIL",
    "URL",
    "IP",
    "SSN",
    "MRN",
    "ACCOUNT",
    "INSURANCE",
    "LICENCE",
    "PLATE",
    "DEVICE",
    "ADDRESS",
    "POSTCODE",
    "CN_ID",
    "PASSPORT",
    "PERMIT",
    "BANK_CARD",
    "WARD",
    "OTHER_ID",
)
KINDS = (*IDENTIFIERS, KEEP)
LANGUAGES = ("en", "zh", "mix")
HARD = Path(__file__).parent / "hard"
TUNING = Path(__file__).parent / "tuning"


class Span(NamedTuple):
    """Characters `start` up to but not including `end` (code points), and what they are."""

    start: int
    end: int
    kind: str


@dataclass(frozen=True, slots=True)
class Note:
    """A note as an engine sees it, and what is in it. The spans are in order and do not overlap."""

    name: str
    language: str
    text: str
    spans: tuple[Span, ...]

    def identifiers(self) -> tuple[Span, ...]:
        """The spans that must go."""
        return tuple(span for span in self.spans if span.kind != KEEP)

    def keeps(self) -> tuple[Span, ...]:
        """The spans that must survive."""
        return tuple(span for span in self.spans if span.kind == KEEP)

    def value(self, span: Span) -> str:
        """The text of a span."""
        return self.text[span.start : span.end]


def counts(character: str) -> bool:
    """Whether a character says anything: a letter, mark or number in any script; no space, punctuation or symbol."""
    return unicodedata.category(character)[0] in "LMN"


def parse(marked: str, file: Path | None = None) -> tuple[str, tuple[Span, ...]]:
    """The text without labels, and its spans. Bad markup raises `UserError` with the line where it is."""
    text: list[str] = []
    length = 0
    spans: list[Span] = []

    def bad(at: int, rule: str, fix: str) -> UserError:
        return user_error(rule, fix, file=file, line=marked.count("\n", 0, at) + 1)

    at = 0
    while at < len(marked):
        opened = marked.find(OPEN, at)
        plain = marked[at:] if opened < 0 else marked[at:opened]
        if CLOSE in plain:
            raise bad(at + plain.index(CLOSE), f"{CLOSE} closes nothing", f"open the label with {OPEN}KIND:")
        text.append(plain)
        length += len(plain)
        if opened < 0:
            break
        closed = marked.find(CLOSE, opened)
        if closed < 0:
            raise bad(opened, f"the label is not closed: {marked[opened : opened + 12]!r}", f"close it with {CLOSE}")
        body = marked[opened + 1 : closed]
        if OPEN in body:
            raise bad(opened, "a label opens inside a label", f"close the first with {CLOSE}; labels do not nest")
        kind, colon, value = body.partition(":")
        if not colon:
            raise bad(opened, "the label has no ':'", f"write {OPEN}KIND:text{CLOSE}")
        if kind not in KINDS:
            raise bad(opened, f"unknown kind {kind!r}", f"use one of {', '.join(KINDS)}")
        if not any(map(counts, value)):
            raise bad(opened, f"the {kind} label holds no letter or digit", "label the value, or remove the label")
        if value != value.strip():
            raise bad(opened, f"the {kind} label begins or ends with a space", "put the space outside the label")
        text.append(value)
        spans.append(Span(length, length + len(value), kind))
        length += len(value)
        at = closed + 1
    return "".join(text), tuple(spans)


def note(name: str, language: str, marked: str, file: Path | None = None) -> Note:
    """A note from marked text."""
    if language not in LANGUAGES:
        raise user_error(f"unknown language {language!r}", f"use one of {', '.join(LANGUAGES)}", file=file)
    text, spans = parse(marked, file)
    return Note(name, language, text, spans)


def load(file: Path) -> Note:
    """The note in a file `LANGUAGE-NUMBER-WHAT.txt`."""
    try:
        marked = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise user_error(f"not UTF-8 at byte {error.start}", "save the file as UTF-8", file=file) from None
    return note(file.stem, file.name.partition("-")[0], marked, file)


def load_tuning(folder: Path = TUNING) -> tuple[Note, ...]:
    """The notes that rules may be tuned on, in the order of their names."""
    return load_hard(folder)


def load_hard(folder: Path = HARD) -> tuple[Note, ...]:
    """The hand-written notes, in the order of their names."""
    return tuple(load(file) for file in sorted(folder.glob("*.txt")))

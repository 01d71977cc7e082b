"""Makes labelled notes from templates: the same seed gives the same notes, byte for byte."""

from __future__ import annotations

import random
import re

from benchmarks.deid import pools, templates_en, templates_mix, templates_zh
from benchmarks.deid.dates import stamp
from benchmarks.deid.labelled import CLOSE, KEEP, OPEN, Note, note
from benchmarks.deid.values import MAKERS

TEMPLATES: tuple[tuple[str, str], ...] = (
    *(("en", text) for text in templates_en.TEMPLATES),
    *(("zh", text) for text in templates_zh.TEMPLATES),
    *(("mix", text) for text in templates_mix.TEMPLATES),
)
_SLOT = re.compile(r"\{([A-Z_]+?)(\d?)\}")
_WIDE = {code: code + 0xFEE0 for code in range(ord("0"), ord("9") + 1)}
# A mail address, link or IP address in full-width digits is none that anybody writes.
_NARROW = frozenset({"EMAIL", "URL", "IP"})


def make_notes(seed: int, number: int = 1000) -> tuple[Note, ...]:
    """`number` notes, no two with the same text, each template in turn."""
    # The seed as text: it is hashed by a fixed rule, so that no two Python versions differ.
    rng = random.Random(f"deid-{seed}")
    notes: list[Note] = []
    seen: set[str] = set()
    while len(notes) < number:
        at = len(notes)
        language, template = TEMPLATES[at % len(TEMPLATES)]
        made = _disguise(note(f"{language}-made-{at:05}", language, fill(template, language, rng)), rng)
        if made.text not in seen:
            seen.add(made.text)
            notes.append(made)
    return tuple(notes)


def fill(template: str, language: str, rng: random.Random) -> str:
    """The template as marked text, with a labelled value in each slot."""
    same: dict[str, str] = {}

    def value(kind: str) -> str:
        if kind == "STAMP":
            return stamp(rng)
        if kind != KEEP:
            return MAKERS[kind](rng, language)
        pool = {"en": pools.EN_KEEP, "zh": pools.ZH_KEEP, "mix": pools.EN_KEEP + pools.ZH_KEEP}[language]
        return rng.choice(pool)

    def slot(match: re.Match[str]) -> str:
        kind, number = match[1], match[2]
        text = same.get(match[0]) or value(kind)
        if number:
            same[match[0]] = text
        return f"{OPEN}{'DATE' if kind == 'STAMP' else kind}:{text}{CLOSE}"

    return _SLOT.sub(slot, template) + "\n"


def _disguise(made: Note, rng: random.Random) -> Note:
    """Sometimes what scanners and hurried writers do to a note; each change keeps the length, so the spans hold."""
    roll = rng.random()
    text = made.text
    if roll < 0.08 and made.language == "en":
        text = _same_length(text, text.upper())
    elif roll < 0.16 and made.language == "en":
        text = _same_length(text, text.lower())
    elif roll < 0.12 and made.language == "zh" and not _NARROW & {span.kind for span in made.spans}:
        text = text.translate(_WIDE)
    elif roll < 0.24:
        text = "".join(_break(made, at, rng) for at in range(len(text)))
    return Note(made.name, made.language, text, made.spans)


def _same_length(text: str, changed: str) -> str:
    return changed if len(changed) == len(text) else text


def _break(made: Note, at: int, rng: random.Random) -> str:
    """A space as a line end, now and then, outside of what must survive: as a narrow column breaks lines."""
    character = made.text[at]
    if character != " " or rng.random() > 0.1:
        return character
    inside = any(span.start <= at < span.end and span.kind == KEEP for span in made.spans)
    return character if inside else "\n"

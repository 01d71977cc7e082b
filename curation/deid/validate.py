"""The second pass: looks for what the first may have missed, by other means.

Nothing here is shared with the detectors: no pattern, no word list, no regular expression. It knows what the structured
records state (names, numbers, birth dates of all patients of the run) and searches the output for it, and it scans by
plain string code for what no clean note contains: long numbers, mail and web addresses, codes. A finding names a kind
and a count, never a value.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

_MONTHS = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
]
# Digits that a phone, card, record or identity number has and no laboratory value does.
LONG_NUMBER = 7
# Characters that are scanned at a time: a list of a text's characters takes eight bytes for each.
_PIECE = 1 << 18


@dataclass(frozen=True, slots=True)
class Roster:
    """What the structured records of the whole run say.

    names: full names, as written; ordinary: words that occur in lower case in some note, so no proof of a name
    """

    names: frozenset[str]
    ordinary: frozenset[str]


@dataclass(slots=True)
class Verdict:
    """The report on one file. Lengths are characters of a text, bytes of anything else."""

    original_length: int
    redacted_length: int
    phi_counts: dict[str, dict[str, int]] = field(default_factory=dict)
    findings: Counter[str] = field(default_factory=Counter)

    @property
    def passed(self) -> bool:
        """Nothing was found, nothing found before is left."""
        return not self.findings and not any(count["redacted"] for count in self.phi_counts.values())

    def as_json(self) -> dict[str, Any]:
        """The fields of the report."""
        return {
            "original_length": self.original_length,
            "redacted_length": self.redacted_length,
            "phi_counts": self.phi_counts,
            "findings": dict(sorted(self.findings.items())),
            "validation_passed": self.passed,
        }


def validate_text(
    original: str, redacted: str, found: Iterable[tuple[str, str]], patient: Mapping[str, object], roster: Roster
) -> Verdict:
    """Judge one note.

    Args:
        original, redacted: before and after
        found: (kind, text) of each identifier that the first pass replaced
        patient: the patient's structured fields; all of their string values count as known
        roster: what is known about everybody
    """
    verdict = Verdict(len(original), len(redacted))
    output = _fold(redacted)
    surfaces: Counter[str] = Counter()
    kinds: dict[str, str] = {}
    for kind, surface in found:
        verdict.phi_counts.setdefault(kind, {"original": 0, "redacted": 0})["original"] += 1
        # One Latin word is no proof: it may also be an eponym or a word. Whole names are searched by the roster.
        if kind != "name" or " " in surface or not surface.isascii():
            surfaces[surface] += 1
            kinds[surface] = kind
    for surface, count in _left(surfaces, redacted).items():
        verdict.phi_counts[kinds[surface]]["redacted"] += count * surfaces[surface]
    verdict.findings += _known(patient, redacted, output, roster)
    verdict.findings += Counter({"roster_name": sum(_contains_name(output, name) for name in roster.names)})
    verdict.findings += scan(redacted)
    return verdict


def scan(text: str) -> Counter[str]:
    """What stands in no clean text, by kind."""
    found: Counter[str] = Counter()
    for piece in _pieces(text):
        found += _scan(piece)
    return found


def _pieces(text: str) -> Iterable[str]:
    """A long text cut at line ends, at blanks where there are none, or anywhere."""
    start = 0
    while start < len(text):
        end = start + _PIECE
        if end < len(text):
            end = next((at + 1 for mark in "\n。 ," if (at := text.rfind(mark, start + _PIECE // 2, end)) >= 0), end)
        yield text[start:end]
        start = end


def _scan(text: str) -> Counter[str]:
    found: Counter[str] = Counter()
    folded = unicodedata.normalize("NFKC", text)
    for place, character in enumerate(folded):
        if character == "@" and folded[place - 1 : place].isalnum() and folded[place + 1 : place + 2].isalnum():
            found["at_sign"] += 1
    lower = folded.lower()
    found["web_address"] += lower.count("://") + lower.count("www.")
    for run in _runs(folded, "0123456789-/."):
        digits = sum(map(str.isdigit, run))
        if digits >= LONG_NUMBER and not _is_date(run.strip("-/.")):
            found["long_number"] += 1
    groups = [run for run in _runs(folded, "0123456789 ()-") if run.strip()]
    found["grouped_number"] += sum(_is_grouped(run) for run in groups)
    for token in _runs(folded, None):
        digits = sum(map(str.isdigit, token))
        letters = len(token) - digits
        if digits >= 5 and letters and not token[: len(token) - 4].rstrip().isdigit():
            found["code"] += 1
        elif len(token) >= 16 and digits >= 3 and letters >= 3:
            found["dense_token"] += 1
    return +found


def validate_known(original_length: int, output: bytes, known: Iterable[str], *, length: int | None = None) -> Verdict:
    """Judge a file by its bytes: none of the known values may be in it, in UTF-8, GB 18030 or UTF-16."""
    verdict = Verdict(original_length, length if length is not None else len(output))
    values = {
        value.strip() for value in known if len(value.strip()) >= 4 or (len(value.strip()) >= 2 and not value.isascii())
    }
    lower = output.lower()
    left = 0
    for value in values:
        forms = {value, value.lower(), value.upper(), value.replace(" ", "^"), "^".join(reversed(value.split()))}
        left += any(
            form.encode(coding).lower() in lower for form in forms for coding in ("utf-8", "gb18030", "utf-16-le")
        )
    verdict.phi_counts["known_values"] = {"original": len(values), "redacted": left}
    return verdict


def known_values(patient: Mapping[str, object]) -> list[str]:
    """The string values of structured fields that can identify, a birth date in each form that people write."""
    values: list[str] = []
    for key, value in patient.items():
        if not isinstance(value, str) or key in {"sex", "gender", "lang", "kind"}:
            continue
        values += _date_forms(value) or [value]
    return values


def _known(patient: Mapping[str, object], text: str, output: str, roster: Roster) -> Counter[str]:
    found: Counter[str] = Counter()
    # In pieces: a join first makes a list of what it joins.
    squashed = "".join("".join(filter(str.isalnum, piece)) for piece in _pieces(output))
    digits_out = "".join("".join(filter(str.isdigit, piece)) for piece in _pieces(output))
    for value in known_values(patient):
        folded = _fold(value)
        alone = "".join(filter(str.isalnum, folded))
        digits = "".join(filter(str.isdigit, folded))
        if len(digits) >= 6 and digits == alone:
            found["known_number"] += digits in digits_out
        elif len(alone) >= 6 or (len(alone) >= 2 and not alone.isascii()):
            found["known_value"] += alone in squashed
        found["known_name_part"] += sum(
            part not in roster.ordinary and _has_word(text, part.capitalize())
            for part in folded.split()
            if len(part) >= 3 and part.isalpha() and part.isascii()
        )
    return +found


def _left(surfaces: Iterable[str], redacted: str) -> Counter[str]:
    """How often each replaced text still stands in the output, in one pass; very short ones prove nothing."""
    wanted = {surface for surface in surfaces if len(surface) >= (6 if surface.isascii() else 3)}
    lengths: dict[str, set[int]] = {}
    for surface in wanted:
        lengths.setdefault(surface[:3], set()).add(len(surface))
    found: Counter[str] = Counter()
    for place in range(len(redacted) if wanted else 0):
        for length in lengths.get(redacted[place : place + 3], ()):
            part = redacted[place : place + length]
            if part not in wanted:
                continue
            around = redacted[max(0, place - 1) : place] + redacted[place + length : place + length + 1]
            found[part] += not (part.isascii() and around.isalnum())
    return +found


def _places(text: str, part: str) -> Iterable[int]:
    place = text.find(part)
    while place >= 0:
        yield place
        place = text.find(part, place + len(part))


def _contains_name(output: str, name: str) -> bool:
    folded = _fold(name)
    if not folded.isascii():
        return len(folded) >= 3 and folded in output
    parts = folded.split()
    if len(parts) < 2:
        return False
    return any(_has_word(output, form) for form in (folded, f"{parts[-1]} {parts[0]}", f"{parts[-1]}, {parts[0]}"))


def _has_word(text: str, word: str) -> bool:
    for place in _places(text, word):
        before, after = text[place - 1 : place] if place else "", text[place + len(word) : place + len(word) + 1]
        if not (before.isalpha() and before.isascii()) and not (after.isalpha() and after.isascii()):
            return True
    return False


def _runs(text: str, alphabet: str | None) -> list[str]:
    """Maximal runs of characters of the alphabet that begin with a digit or bracket; None: ASCII letters and digits."""
    runs, current = [], []
    for character in [*text, "\0"]:
        inside = character in alphabet if alphabet else character.isascii() and character.isalnum()
        if inside and character != "\0":
            current.append(character)
        elif current:
            runs.append("".join(current))
            current = []
    return runs


def _is_date(run: str) -> bool:
    parts = [part for part in run.replace("/", "-").replace(".", "-").split("-") if part]
    if len(parts) == 1 and len(run) == 8:
        parts = [run[:4], run[4:6], run[6:]]
    if len(parts) != 3:
        return False
    orders = (parts, [parts[2], parts[0], parts[1]], [parts[2], parts[1], parts[0]])
    return any(len(order[0]) == 4 and _calendar(*order) for order in orders)


def _calendar(year: str, month: str, day: str) -> bool:
    try:
        return 1800 <= date(int(year), int(month), int(day)).year < 2200
    except ValueError:
        return False


def _is_grouped(run: str) -> bool:
    """Groups of digits as phones, cards and Social Security numbers are written."""
    groups = [len(part) for part in run.replace("(", " ").replace(")", " ").replace("-", " ").split()]
    shapes = ([3, 3, 4], [3, 2, 4], [3, 4, 4], [4, 4, 4, 4], [4, 4, 4, 4, 3], [1, 3, 3, 4], [2, 3, 4, 4])
    return any(groups[place : place + len(shape)] == shape for shape in shapes for place in range(len(groups)))


def _date_forms(value: str) -> list[str]:
    """An ISO date as people write it; empty when the value is none."""
    try:
        day = date.fromisoformat(value.strip()[:10])
    except ValueError:
        return []
    name = _MONTHS[day.month - 1]
    return [
        day.isoformat(), f"{day:%Y%m%d}", f"{day:%m/%d/%Y}", f"{day.month}/{day.day}/{day.year}", f"{day:%Y.%m.%d}",
        f"{day.year}年{day.month}月{day.day}日", f"{name} {day.day}, {day.year}", f"{day.day} {name} {day.year}",
        f"{day.day} {name[:3]} {day.year}",
    ]  # fmt: skip


def _fold(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()

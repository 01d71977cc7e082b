"""De-identifying a text: rules find spans, a trained recogniser adds to them, they are merged and replaced."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from curation.deid.addresses import addresses
from curation.deid.dates import ages, dates
from curation.deid.grow import grow
from curation.deid.kinds import Detector, Kind, Note, Span, apply, merge
from curation.deid.names_en import names_en
from curation.deid.names_pairs import names_pairs
from curation.deid.names_zh import names_zh
from curation.deid.names_zh_roles import names_zh_roles
from curation.deid.places_zh import places_zh
from curation.deid.recogniser import recognised
from curation.deid.structured import structured
from curation.deid.tables import tables
from curation.deid.towns_en import towns_en
from curation.deid.words import words

# A found value of these kinds is an identifier wherever else it stands in the note.
# (Names are their detectors' own: "Parkinson" may be a person and a disease in one note.)
REPEATED = frozenset(Kind) - {Kind.DATE, Kind.AGE, Kind.NAME}


@dataclass(frozen=True, slots=True)
class Redaction:
    """`text` is safe as far as the detectors know; `spans` refer to the original and say what was found there."""

    text: str
    spans: tuple[Span, ...]


def redact(text: str, shift_days: int, known: Iterable[tuple[Kind, str]] = ()) -> Redaction:
    """Replace identifiers by their tags and full dates by dates `shift_days` later.

    Args:
        text: the original
        shift_days: the patient's own shift, the same for all that belongs to that patient
        known: identifiers that the patient's structured fields state; they are found wherever they stand
    """
    note = Note(text)
    spans = detect(note, shift_days, known)
    found = {(span.kind, note.view[span.start : span.end]) for span in spans if span.kind in REPEATED}
    spans += [span for kind, value in found if is_distinct(value) for span in occurrences(note.view, kind, value)]
    merged = tuple(merge(grow(note.view, span) for span in merge(spans)))
    return Redaction(apply(text, merged), merged)


def detect(note: Note, shift_days: int, known: Iterable[tuple[Kind, str]], *, whole: bool = True) -> list[Span]:
    """What rules and recogniser find and where the known identifiers stand, overlapping as it comes.

    Args:
        whole: False for a part of a longer text: tables are then left to who sees their headings
    """
    cells = list(tables(note)) if whole else []
    # What stands under a heading is certain: the recogniser reads it, and gives none of it up.
    spans = recognised(note, ruled(note, shift_days) + cells) + cells
    return spans + [span for kind, value in known for span in occurrences(note.view, kind, value)]


def ruled(note: Note, shift_days: int) -> list[Span]:
    """What the rules find without tables; with these it is the recogniser's input, too."""
    detectors: list[Detector] = [
        structured,
        dates(shift_days),
        ages,
        addresses,
        towns_en,
        places_zh,
        names_en,
        names_pairs,
        names_zh,
        names_zh_roles,
    ]
    return [span for find in detectors for span in find(note)]


def known_identifiers(patient: Mapping[str, object]) -> list[tuple[Kind, str]]:
    """What a patient's structured record says that must not stand in the text: field name → kind."""
    kinds = {
        "name": Kind.NAME, "mrn": Kind.MRN, "id": Kind.MRN, "patient_id": Kind.MRN, "phone": Kind.PHONE,
        "email": Kind.EMAIL, "address": Kind.ADDRESS, "ssn": Kind.SSN, "national_id": Kind.NATIONAL_ID,
        "insurance": Kind.MRN,
    }  # fmt: skip
    found: list[tuple[Kind, str]] = []
    for field, value in patient.items():
        kind = kinds.get(field)
        if kind is None or not isinstance(value, str) or not value.strip():
            continue
        found.append((kind, value.strip()))
        if kind is Kind.NAME:
            parts = value.replace(",", " ").split()
            found += [(kind, f"{parts[-1]}, {parts[0]}"), (kind, f"{parts[-1]} {parts[0]}")] if len(parts) > 1 else []
            found += [(kind, part) for part in parts if len(part) > 2 and part.lower() not in words("not_names_en")]
    return found


def occurrences(view: str, kind: Kind, value: str) -> Iterator[Span]:
    """Where `value` stands as a whole word, as written or in capitals (Chinese has no word borders)."""
    for form in {value, value.upper()}:
        place = view.find(form) if len(form) > 1 else -1
        while place >= 0:
            end = place + len(form)
            if not (_joined(view[place - 1 : place], form[0]) or _joined(form[-1], view[end : end + 1])):
                yield Span(place, end, kind)
            place = view.find(form, end)


def _joined(left: str, right: str) -> bool:
    """Two neighbours of one word or number."""
    return bool(left and right) and all(
        character.isascii() and character.isalnum() for character in (left[-1], right[0])
    )


def is_distinct(value: str) -> bool:
    """Long enough that another occurrence is no chance: six ASCII characters or three of another script."""
    return len(value) >= (6 if value.isascii() else 3)

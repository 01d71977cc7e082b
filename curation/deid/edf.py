"""De-identifying EDF and EDF+ (Kemp et al. 1992, 2003): each header field is rewritten, each annotation is redacted.

Samples are not touched. What the header does not account for is refused: bytes behind the last record are no signal.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date, timedelta
from itertools import accumulate
from typing import Final

from curation.deid.annotations import Known, Redacted
from curation.deid.signal_names import channel_name, filter_text, unit_name
from curation.deid.unsafe import UnsafeError

_MAIN: Final = 256
# Fields of the signals' headers, each for all signals in a row: name and width in bytes.
_FIELDS: Final = (
    ("label", 16), ("transducer", 80), ("unit", 8), ("physical_low", 8), ("physical_high", 8), ("digital_low", 8),
    ("digital_high", 8), ("filters", 80), ("samples", 8), ("reserved", 32),
)  # fmt: skip
_NUMBERS: Final = frozenset(("physical_low", "physical_high", "digital_low", "digital_high", "samples"))
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_WHOLE = re.compile(r"-?[0-9]{1,8}")
_TIME = re.compile(r"[0-9]{2}\.[0-9]{2}\.[0-9]{2}")
_MOST_SIGNALS: Final = 512
_ANNOTATIONS: Final = "EDF Annotations"
# `onset[\x15duration]\x14text\x14...\x14\0`, EDF+ 2.2.2.
_ONSET = re.compile(rb"[+-][0-9]{1,12}(?:\.[0-9]{0,9})?(?:\x15[0-9]{1,12}(?:\.[0-9]{0,9})?)?")
_MONTHS: Final = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")


def clean_edf(data: bytes, days: int, known: Known = ()) -> tuple[bytes, int]:
    """The file with known words in its header, its date moved, its annotations redacted; and how much changed.

    Args:
        known: identifiers of the patient's structured record, for the annotations

    Raises:
        UnsafeError: `unreadable`, `length_differs_from_header`, `unreadable_annotations`, `too_many_annotations`,
            `annotations_too_long_when_redacted`.
    """
    if len(data) < _MAIN:
        raise UnsafeError("unreadable")
    head = data[:_MAIN].decode("latin-1")
    size, records, signals = (_whole(head[at : at + width]) for at, width in ((184, 8), (236, 8), (252, 4)))
    if (
        head[:8].strip() != "0"
        or not 0 < signals <= _MOST_SIGNALS
        or size != _MAIN * (signals + 1)
        or size > len(data)
        or not _NUMBER.fullmatch(head[244:252].strip())
        or not _TIME.fullmatch(head[176:184])
    ):
        raise UnsafeError("unreadable")
    fields = _fields(data[_MAIN:size].decode("latin-1"), signals)
    samples = [_whole(value) for value in fields["samples"]]
    if min(samples) < 0 or records < 0 or size + records * 2 * sum(samples) != len(data):
        raise UnsafeError("length_differs_from_header")
    kind = next((kind for kind in ("EDF+C", "EDF+D") if head[192:].startswith(kind)), "")
    labels = [label.strip() for label in fields["label"]]
    clean = bytearray(data)
    clean[:size] = _header(head, _clean_fields(fields), kind, _date(head[168:176], days))
    changed = 4
    if _ANNOTATIONS in labels:
        redacted = Redacted(days, tuple(known))
        for begin, end in _stretches(labels, samples, size, records):
            written = b"".join(
                onset + b"".join(b"\x14" + redacted(note) for note in notes) + b"\x14\0"
                for onset, notes in _lists(bytes(clean[begin:end]))
            )
            if len(written) > end - begin:
                raise UnsafeError("annotations_too_long_when_redacted")
            clean[begin:end] = written.ljust(end - begin, b"\0")
        changed += redacted.changed
    return bytes(clean), changed


def _whole(text: str) -> int:
    if not _WHOLE.fullmatch(text.strip()):
        raise UnsafeError("unreadable")
    return int(text)


def _fields(text: str, signals: int) -> dict[str, list[str]]:
    found, place = {}, 0
    for name, width in _FIELDS:
        found[name] = [text[place + width * number : place + width * (number + 1)] for number in range(signals)]
        place += width * signals
    return found


def _clean_fields(fields: dict[str, list[str]]) -> dict[str, list[str]]:
    """Names and units of known words, numbers that are numbers; transducers and reserved fields are free text."""
    for name in _NUMBERS:
        if not all(_NUMBER.fullmatch(value.strip()) for value in fields[name]):
            raise UnsafeError("unreadable")
    return fields | {
        "label": [channel_name(value, number) for number, value in enumerate(fields["label"], 1)],
        "unit": [unit_name(value) for value in fields["unit"]],
        "filters": [filter_text(value) for value in fields["filters"]],
        **{name: [""] * len(fields[name]) for name in ("transducer", "reserved")},
    }


def _header(head: str, fields: dict[str, list[str]], kind: str, day: date) -> bytes:
    month = _MONTHS[day.month - 1]
    patient = "X X X X" if kind else "X"
    recording = f"Startdate {day.day:02d}-{month}-{day.year} X X X" if kind else "X"
    main = head[:8] + patient.ljust(80) + recording.ljust(80) + f"{day:%d.%m.%y}" + head[176:192] + kind.ljust(44)
    rest = "".join(value.ljust(width)[:width] for name, width in _FIELDS for value in fields[name])
    return (main + head[236:_MAIN] + rest).encode("latin-1")


def _date(text: str, days: int) -> date:
    """`dd.mm.yy`, years 85 to 84 of the next century."""
    try:
        day, month, year = (int(part) for part in text.split("."))
        return date(year + (1900 if year >= 85 else 2000), month, day) + timedelta(days=days)
    except (ValueError, OverflowError):
        raise UnsafeError("unreadable") from None


def annotation_texts(data: bytes) -> list[str]:
    """The texts of all annotations of a file that `clean_edf` wrote."""
    signals = int(data[252:256])
    fields = _fields(data[_MAIN : _MAIN * (signals + 1)].decode("latin-1"), signals)
    labels, samples = [label.strip() for label in fields["label"]], [int(value) for value in fields["samples"]]
    stretches = _stretches(labels, samples, _MAIN * (signals + 1), int(data[236:244]))
    return [note.decode() for begin, end in stretches for _, notes in _lists(data[begin:end]) for note in notes if note]


def _stretches(labels: list[str], samples: list[int], start: int, records: int) -> Iterator[tuple[int, int]]:
    """Where the lists of annotations lie in the file, record by record."""
    ends = list(accumulate(2 * count for count in samples))
    places = [(ends[at] - 2 * samples[at], ends[at]) for at, label in enumerate(labels) if label == _ANNOTATIONS]
    for record in range(records if places else 0):
        for first, last in places:
            yield start + record * ends[-1] + first, start + record * ends[-1] + last


def _lists(data: bytes) -> Iterator[tuple[bytes, list[bytes]]]:
    """The time-stamped lists of one record: onset with duration, texts."""
    for part in data.rstrip(b"\0").split(b"\0"):
        if not part:
            continue
        onset, *notes = part.split(b"\x14")
        if not _ONSET.fullmatch(onset) or not notes or notes[-1]:
            raise UnsafeError("unreadable_annotations")
        yield onset, notes[:-1]

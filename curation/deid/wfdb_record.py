"""De-identifying a WFDB record: its header (`.hea`) is written anew, its signal files are copied under new names.

Form: header(5) of the WFDB Applications Guide. The record's name, comments and descriptions are free text. Of
annotations, `.atr` is cleaned with the record (`wfdb_annotations`); other annotators' files are held back as of an
unknown kind.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import PurePosixPath
from typing import Final

from curation.deid.decode import decode_note
from curation.deid.signal_names import channel_name, unit_name
from curation.deid.unsafe import UnsafeError

# Storage formats of a fixed size: code and bits a sample. 212 keeps two samples in three bytes.
_BITS: Final = {"8": 8, "16": 16, "24": 24, "32": 32, "61": 16, "80": 8, "160": 16, "212": 12}
_MOST_SIGNALS: Final = 512
_WHOLE = r"-?[0-9]{1,12}"
_DECIMAL = r"[0-9]{1,9}(?:\.[0-9]{1,9})?(?:[eE][+-]?[0-9]{1,2})?"
_RECORD = re.compile(
    rf"(?P<name>[^\s/]+)(?P<segments>/[0-9]+)? (?P<signals>[0-9]{{1,4}})"
    rf"(?: (?P<rate>{_DECIMAL})(?:/{_DECIMAL}(?:\(-?{_DECIMAL}\))?)?(?: (?P<samples>[0-9]{{1,12}})"
    r"(?: (?P<time>[0-9]{1,2}(?::[0-9]{2}){0,2}(?:\.[0-9]{1,9})?)(?: (?P<day>[0-9]{2}/[0-9]{2}/[0-9]{4}))?)?)?)?"
)
_SIGNAL = re.compile(
    r"(?P<file>\S+) (?P<format>[0-9]{1,3})"
    rf"(?: (?P<gain>{_DECIMAL})(?P<baseline>\({_WHOLE}\))?(?:/(?P<unit>\S+))?"
    rf"(?: (?P<rest>{_WHOLE}(?: {_WHOLE}){{0,4}})(?: (?P<name>.*))?)?)?"
)
_BLANKS = re.compile(r"[ \t]+")


@dataclass(frozen=True, slots=True)
class Header:
    """A record's clean header, of which only the names of files are missing.

    Attributes:
        first: the record's line after its name
        lines: for each signal its file, as given, and the rest of its line
        sizes: by given file: the bytes that the header accounts for
        dropped: comments and other fields that were left out
    """

    first: str
    lines: tuple[tuple[str, str], ...]
    sizes: dict[str, int]
    dropped: int

    def written(self, stem: str) -> tuple[bytes, dict[str, str]]:
        """The header of the record `stem`, and the new name of each of its files by the given one."""
        names = {
            given: f"{stem}.dat" if not number else f"{stem}_{number}.dat" for number, given in enumerate(self.sizes)
        }
        text = "\n".join([f"{stem} {self.first}", *(f"{names[file]} {line}" for file, line in self.lines)]) + "\n"
        return text.encode(), names


def clean_header(data: bytes, days: int) -> Header:
    """The header with words of a list and numbers only, and its date moved.

    Raises:
        UnsafeError: `unreadable`, `several_segments`, `signal_format_not_known`, `unsafe_path`, or why it is no text.
    """
    lines = [_BLANKS.sub(" ", line).strip() for line in decode_note(data).splitlines()]
    comments = sum(line.startswith("#") for line in lines)
    record, *signals = [line for line in lines if line and not line.startswith("#")] or [""]
    found = _RECORD.fullmatch(record)
    if not found or not found["rate"] or not found["samples"] or len(signals) > _MOST_SIGNALS:
        raise UnsafeError("unreadable")
    if found["segments"]:
        raise UnsafeError("several_segments")
    if int(found["signals"]) != len(signals) or not signals:
        raise UnsafeError("unreadable")
    first = f"{len(signals)} {found['rate']} {found['samples']}"
    if found["time"]:
        first += f" {found['time']}" + (f" {_moved(found['day'], days)}" if found["day"] else "")
    cleaned, bits = [], {}  # type: list[tuple[str, str]], dict[str, int]
    for number, line in enumerate(signals, 1):
        file, each, text = _signal(line, number)
        cleaned.append((file, text))
        bits[file] = bits.get(file, 0) + each * int(found["samples"])
    return Header(first, tuple(cleaned), {file: (count + 7) // 8 for file, count in bits.items()}, comments + 1)


def _signal(line: str, number: int) -> tuple[str, int, str]:
    """Of a signal's line: its file, the bits of a sample, and what follows the file's name."""
    found = _SIGNAL.fullmatch(line)
    if not found:
        raise UnsafeError("unreadable")
    # Several samples a frame, skew and offset (`16x2:3+24`) do not fit the pattern; they are rare.
    if found["format"] not in _BITS:
        raise UnsafeError("signal_format_not_known")
    name = found["file"]
    if PurePosixPath(name).name != name or name in {"-", ".", ".."} or not name.lower().endswith(".dat"):
        raise UnsafeError("unsafe_path")
    text = found["format"]
    if found["gain"]:
        unit = unit_name(found["unit"] or "mV")
        text += f" {found['gain']}{found['baseline'] or ''}" + (f"/{unit}" if unit else "")
    if found["rest"]:
        text += f" {found['rest']}"
        if found["name"] and found["rest"].count(" ") == 4:
            text += f" {channel_name(found['name'], number)}"
    return name, _BITS[found["format"]], text


def _moved(text: str, days: int) -> str:
    try:
        day, month, year = (int(part) for part in text.split("/"))
        return f"{date(year, month, day) + timedelta(days=days):%d/%m/%Y}"
    except (ValueError, OverflowError):
        raise UnsafeError("unreadable") from None

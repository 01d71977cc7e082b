"""De-identifying ECG recordings in CSV: header comments, a line of lead names, numbers.

Only header fields that describe the signal are kept (an allow-list); a recording's date is shifted. An ECG can itself
identify a person to whoever holds another one: that risk stays, and the data set's documentation says so.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from io import BytesIO

from curation.deid.keys import shift_dicom_date
from curation.deid.unsafe import UnsafeError

# Header keys of a CSV that speak about the signal alone, in lower case.
_KEPT = frozenset({"sampling rate", "units", "gain", "filter", "high pass", "low pass", "notch", "resolution"})
_DATED = frozenset({"recording date", "date", "acquisition date"})
_LEAD_CHARACTERS = frozenset("IVXYZaRLFvrlf0123456789_-+ ")
# Bytes. 512 channels of 12 characters take 7 KB.
_MOST_LINE = 1 << 16


def clean_csv(data: bytes, days: int) -> tuple[bytes, int]:
    """`# key: value` lines, one line of lead names, numbers. Returns the clean file and how many fields were dropped.

    Raises:
        UnsafeError: it is not such a file, something else than numbers stands among the samples, or a line is longer
            than `_MOST_LINE` bytes.
    """
    stream = BytesIO(data.removeprefix(BOM_UTF8))
    kept, dropped = [], 0
    while (line := _line(stream)).startswith("#"):
        name, _, value = line[1:].partition(":")
        name, value = name.strip().lower(), value.strip()
        if name in _DATED and (moved := shift_dicom_date(value[:10].replace("-", ""), days)):
            kept.append(f"# {name}: {moved[:4]}-{moved[4:6]}-{moved[6:8]}")
        elif name in _KEPT and _harmless(value):
            kept.append(f"# {name}: {value}")
        else:
            dropped += 1
    leads = line.split(",")
    if not all(0 < len(lead) <= 8 and set(lead) <= _LEAD_CHARACTERS for lead in leads):
        raise UnsafeError("unexpected_columns")
    # Line by line: a file of a gigabyte never is a list of its fields.
    output = bytearray("\n".join([*kept, line, ""]).encode())
    while stream.tell() < len(stream.getbuffer()):
        line = _line(stream)
        values = line.split(",")
        try:
            if len(values) != len(leads) or not all(len(value) <= 12 for value in values):
                raise ValueError
            tuple(map(float, values))
        except ValueError:
            raise UnsafeError("not_a_number_among_samples") from None
        output += line.encode() + b"\n"
    return bytes(output), dropped


def _line(stream: BytesIO) -> str:
    """The next line without its end; empty at the end of the file."""
    line = stream.readline(_MOST_LINE + 1)
    if len(line) > _MOST_LINE:
        raise UnsafeError("line_too_long")
    try:
        return line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise UnsafeError("unreadable") from None


def _harmless(value: str) -> bool:
    """A number with a unit or so: short, few digits."""
    return len(value) <= 24 and sum(map(str.isdigit, value)) <= 6 and "@" not in value

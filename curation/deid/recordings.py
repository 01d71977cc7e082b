"""De-identifying ECG recordings: CSV with header comments, and EDF/EDF+ header fields.

Only header fields that describe the signal are kept (an allow-list); a recording's date is shifted. An ECG can itself
identify a person to whoever holds another one: that risk stays, and the data set's documentation says so.
"""

from __future__ import annotations

from datetime import date, timedelta

from curation.deid.keys import shift_dicom_date
from curation.deid.unsafe import UnsafeError

# Header keys of a CSV that speak about the signal alone, in lower case.
_KEPT = frozenset({"sampling rate", "units", "gain", "filter", "high pass", "low pass", "notch", "resolution"})
_DATED = frozenset({"recording date", "date", "acquisition date"})
_LEAD_CHARACTERS = frozenset("IVXYZaRLFvrlf0123456789_-+ ")
_EDF_HEADER, _EDF_SIGNAL = 256, 256


def clean_csv(data: bytes, days: int) -> tuple[bytes, int]:
    """`# key: value` lines, one line of lead names, numbers. Returns the clean file and how many fields were dropped.

    Raises:
        UnsafeError: it is not such a file, or something else than numbers stands among the samples.
    """
    try:
        lines = data.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise UnsafeError("unreadable") from None
    kept, dropped, place = [], 0, 0
    while place < len(lines) and lines[place].startswith("#"):
        name, _, value = lines[place][1:].partition(":")
        name, value = name.strip().lower(), value.strip()
        if name in _DATED and (moved := shift_dicom_date(value[:10].replace("-", ""), days)):
            kept.append(f"# {name}: {moved[:4]}-{moved[4:6]}-{moved[6:8]}")
        elif name in _KEPT and _harmless(value):
            kept.append(f"# {name}: {value}")
        else:
            dropped += 1
        place += 1
    if place >= len(lines) or not all(
        0 < len(lead) <= 8 and set(lead) <= _LEAD_CHARACTERS for lead in lines[place].split(",")
    ):
        raise UnsafeError("unexpected_columns")
    width = lines[place].count(",") + 1
    for line in lines[place + 1 :]:
        values = line.split(",")
        try:
            if len(values) != width or not all(len(value) <= 12 for value in values):
                raise ValueError
            tuple(map(float, values))
        except ValueError:
            raise UnsafeError("not_a_number_among_samples") from None
    return ("\n".join([*kept, *lines[place:]]) + "\n").encode(), dropped


def _harmless(value: str) -> bool:
    """A number with a unit or so: short, few digits."""
    return len(value) <= 24 and sum(map(str.isdigit, value)) <= 6 and "@" not in value


def clean_edf(data: bytes, days: int) -> tuple[bytes, int]:
    """Overwrite patient and recording fields, shift the start date, blank free text of the signals' headers.

    Field positions: Kemp et al. 1992 and the EDF+ specification 2003. Samples are not touched.

    Raises:
        UnsafeError: not an EDF file, or one with annotations, whose free text is nobody's to guess.
    """
    try:
        header = data[:_EDF_HEADER].decode("ascii")
        signals = int(header[252:256])
        size = int(header[184:192])
    except ValueError:
        raise UnsafeError("unreadable") from None
    if (
        header[:8].strip() != "0"
        or not 0 < signals <= 512
        or size != _EDF_HEADER + signals * _EDF_SIGNAL
        or size > len(data)
    ):
        raise UnsafeError("unreadable")
    labels = data[_EDF_HEADER : _EDF_HEADER + 16 * signals].decode("latin-1")
    if "Annotations" in labels:
        raise UnsafeError("free_text_annotations")
    plus = header[192:236].startswith("EDF+")
    moved = _edf_date(header[168:176], days)
    if plus:
        patient, recording = "X X X X", f"Startdate {moved:%d-%b-%Y} X X X".upper().replace("STARTDATE", "Startdate")
    else:
        patient, recording = "X", "X"
    clean = bytearray(data)
    clean[8:88] = patient.ljust(80).encode()
    clean[88:168] = recording.ljust(80).encode()
    clean[168:176] = f"{moved:%d.%m.%y}".encode()
    # Transducer (80 characters a signal, after the labels) and the reserved fields are free text.
    transducer = _EDF_HEADER + 16 * signals
    clean[transducer : transducer + 80 * signals] = b" " * (80 * signals)
    reserved = _EDF_HEADER + 224 * signals
    clean[reserved : reserved + 32 * signals] = b" " * (32 * signals)
    return bytes(clean), 4


def _edf_date(text: str, days: int) -> date:
    """`dd.mm.yy`, years 85 to 84 of the next century."""
    try:
        day, month, year = (int(part) for part in text.split("."))
        return date(year + (1900 if year >= 85 else 2000), month, day) + timedelta(days=days)
    except ValueError:
        raise UnsafeError("unreadable") from None

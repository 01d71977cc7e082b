"""De-identifying WFDB annotations (`.atr`): each text is redacted, all else stays byte for byte.

Form: annot(5) of the WFDB Applications Guide ("MIT format"): little-endian words of six bits of type and ten bits of
time; some types bring more bytes. The older AHA format is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from curation.deid.annotations import Known, Redacted
from curation.deid.unsafe import UnsafeError

_SKIP: Final = 59
_AUX: Final = 63
_END: Final = 0
# The library keeps a text's length in one byte (annot(5): "aux string").
_LONGEST: Final = 255
# What a text that is no free text says: rhythms, signal quality (PhysioNet, "Annotation Codes").
RHYTHMS: Final = frozenset(
    b"(AB (AFIB (AFL (B (BI (BII (HGEA (IVR (N (NOD (P (PREX (SAB (SBR (SVTA (T (VF (VFIB (VFL (VT (ASYS (NOISE (MIS "
    b"MISSB PSE TS M".split()
)


def clean_annotations(data: bytes, days: int, known: Known = ()) -> tuple[bytes, int]:
    """The file with its texts redacted, and how many of them changed.

    Args:
        known: identifiers of the patient's structured record

    Raises:
        UnsafeError: `unreadable_annotations`, `too_many_annotations`, `annotations_too_long_when_redacted`.
    """
    redacted = Redacted(days, known)
    written = bytearray()
    for head, text in _parts(data):
        if text is None:
            written += head
            continue
        bare = text.rstrip(b"\0")
        clean = bare if bare in RHYTHMS else redacted(bare)
        # What follows a text is as it was: most writers end it with a null byte, and some readers count on that.
        clean += text[len(bare) :]
        if len(clean) > _LONGEST:
            raise UnsafeError("annotations_too_long_when_redacted")
        written += (_AUX << 10 | len(clean)).to_bytes(2, "little") + clean + b"\0" * (len(clean) % 2)
    return bytes(written), redacted.changed


def annotation_texts(data: bytes) -> list[str]:
    """The free texts of a file that `clean_annotations` wrote."""
    bare = (text.rstrip(b"\0") for _, text in _parts(data) if text is not None)
    return [text.decode() for text in bare if text not in RHYTHMS]


def _parts(data: bytes) -> Iterator[tuple[bytes, bytes | None]]:
    """The file in pieces: (bytes, None), or (b"", text). All of it, to the end that the format has."""
    place = 0
    while True:
        word = int.from_bytes(data[place : place + 2], "little")
        kind, value = word >> 10, word & 0x3FF
        if len(data) < place + 2:
            raise UnsafeError("unreadable_annotations")
        if word == _END:
            if data[place:].strip(b"\0"):
                raise UnsafeError("unreadable_annotations")
            yield data[place : place + 2], None
            return
        size = 2 + (4 if kind == _SKIP else value + value % 2 if kind == _AUX else 0)
        if len(data) < place + size:
            raise UnsafeError("unreadable_annotations")
        yield (b"", data[place + 2 : place + 2 + value]) if kind == _AUX else (data[place : place + size], None)
        place += size

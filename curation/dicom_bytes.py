"""DICOM files that nobody vouches for, read within limits: of time, of memory, and of what a header may claim.

The library reads what it can: a file that was cut gives a data set without its end, and eight bytes of an empty item
become an object of a kilobyte. Here a cut file is refused and what makes objects is counted first.
"""

from __future__ import annotations

import warnings
import zlib
from io import BytesIO
from typing import Final

import pydicom
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

# A deflated object is a report or a picture of one slice. Bytes.
MAX_INFLATED: Final = 1 << 28
# Of one file. An enhanced CT of 2000 frames has 24000 items and 100000 elements; a structure set 1.5 million numbers.
# Each becomes an object of 0.2 to 1.5 KB.
MAX_ITEMS, MAX_ELEMENTS, MAX_VALUES = 100_000, 300_000, 2_000_000
# Sequences in sequences: structured reports have about ten.
MAX_DEPTH: Final = 32
# Bytes outside of what is kept as bytes. The enhanced CT has 4 MB of them.
MAX_HEADER: Final = 1 << 25
# Samples of a picture over all frames: 1000 slices of 1024 x 1024.
MAX_SAMPLES: Final = 1 << 30
_PREFIX: Final = slice(128, 132)
_FIRST_ELEMENT = 132
_LONG_FORM = frozenset((b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UC", b"UN", b"UR", b"UT", b"SV", b"UV"))
_ITEM = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")
# Pixels (also as floats), overlays, spectra, padding; a recording's samples lie in a sequence.
_BULK = frozenset((0x7FE00010, 0x7FE00008, 0x7FE00009, 0x56000020, 0xFFFCFFFC, 0x54000100))
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


class RefusedError(Exception):
    """The file is not read. `reason` is a fixed word, never a value from the file."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class _Counted(BytesIO):
    """Counts how often something is read, which is at least once an element, and whether the end came too early."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.reads, self.is_short = 0, False

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        # An explicit element takes up to three reads: its head, the rest of its head, its value.
        if self.reads > 3 * MAX_ELEMENTS:
            raise RefusedError("too_many_elements")
        data = super().read(size)
        # Nothing at all is the end between two elements.
        if size is not None and 0 < len(data) < size:
            self.is_short = True
        return data


def read_within_limits(data: bytes) -> FileDataset:
    """The data set in a file's bytes; one that was deflated comes as if it had been explicit little endian.

    Raises:
        RefusedError: `not_dicom`, `truncated`, `inflates_too_far`, `too_many_elements`, `nested_too_deep`,
            `header_too_large`, `transfer_syntax_not_known` or `unreadable`.
    """
    data = inflated(data, MAX_INFLATED)
    if any(data.count(mark) > MAX_ITEMS for mark in _ITEM):
        raise RefusedError("too_many_elements")
    stream = _Counted(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = pydicom.dcmread(stream)
            _check_header(data, dataset)
            _parse(dataset)
        except RefusedError:
            raise
        except RecursionError:
            raise RefusedError("nested_too_deep") from None
        except Exception:  # the library raises many kinds, with values of the file in their messages
            raise RefusedError("truncated" if stream.is_short else "unreadable") from None
    if stream.is_short:
        raise RefusedError("truncated")
    return dataset


def _parse(dataset: Dataset) -> None:
    """Parse each element, which the library does when it is first looked at.

    Its own walk takes days for a few thousand sequences in each other: on each level it puts the trace of the error
    below into the message of the next.
    """
    waiting = [(dataset, 0)]
    while waiting:
        current, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise RefusedError("nested_too_deep")
        for tag in list(current.keys()):
            element = current[tag]
            if element.VR == "SQ":
                waiting += [(item, depth + 1) for item in element.value]


def _check_header(data: bytes, dataset: Dataset) -> None:
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None or not UID(syntax).is_transfer_syntax or UID(syntax).is_private:
        raise RefusedError("transfer_syntax_not_known")
    bulk = [dataset.get_item(tag).value for tag in dataset.keys() if tag in _BULK or _is_overlay(tag)]  # noqa: SIM118
    sizes = [value for value in bulk if isinstance(value, bytes)]
    if len(data) - sum(map(len, sizes)) > MAX_HEADER:
        raise RefusedError("header_too_large")
    if data.count(b"\\") - sum(value.count(b"\\") for value in sizes) > MAX_VALUES:
        raise RefusedError("too_many_elements")


def _is_overlay(tag: int) -> bool:
    return tag >> 24 == 0x60 and tag & 0xFFFF == 0x3000


def check_declared(dataset: Dataset) -> None:
    """Compare what a header claims about its pixels with what there is, before anything is allocated for it.

    Raises:
        RefusedError: `pixels_missing`, `pixels_not_described`, `pixels_too_large`, `pixels_fewer_than_declared`,
            `pixels_more_than_declared` (text could hide there) or `wrong_transfer_syntax`.
    """
    if not any(keyword in dataset for keyword in _PIXELS):
        if "Rows" in dataset:
            raise RefusedError("pixels_missing")
        return
    if "PixelData" not in dataset:
        return  # floating point: the library reads them by their length
    try:
        rows, columns, bits = int(dataset.Rows), int(dataset.Columns), int(dataset.BitsAllocated)
        frames, samples = int(dataset.get("NumberOfFrames") or 1), int(dataset.get("SamplesPerPixel") or 1)
    except (AttributeError, TypeError, ValueError, OverflowError):
        raise RefusedError("pixels_not_described") from None
    if min(rows, columns, frames) < 1 or samples not in {1, 3, 4} or bits not in {1, 8, 16, 32, 64}:
        raise RefusedError("pixels_not_described")
    if rows * columns * frames * samples > MAX_SAMPLES:
        raise RefusedError("pixels_too_large")
    encapsulated = bool(dataset.file_meta.TransferSyntaxUID.is_encapsulated)
    if bool(dataset["PixelData"].is_undefined_length) is not encapsulated:
        raise RefusedError("wrong_transfer_syntax")
    if encapsulated:
        return
    # Two pixels share their colour in this form (PS3.3 C.7.6.3.1.2).
    shared = dataset.get("PhotometricInterpretation") == "YBR_FULL_422"
    expected = (rows * columns * frames * (2 if shared else samples) * bits + 7) // 8
    if len(dataset.PixelData) < expected:
        raise RefusedError("pixels_fewer_than_declared")
    if len(dataset.PixelData) > expected + expected % 2:
        raise RefusedError("pixels_more_than_declared")


def inflated(data: bytes, limit: int) -> bytes:
    """The file as it is, or, if it is deflated, in explicit little endian: a few kilobytes may inflate to gigabytes.

    Raises:
        RefusedError: `not_dicom`, `truncated`, `unreadable`, or `inflates_too_far` beyond `limit` bytes.
    """
    place, value = _transfer_syntax(data)
    if value is None or value.rstrip(b"\0 ") != DeflatedExplicitVRLittleEndian.encode():
        return data
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        body = inflater.decompress(memoryview(data)[place:], limit + 1)
    except zlib.error:
        raise RefusedError("unreadable") from None
    if len(body) > limit:
        raise RefusedError("inflates_too_far")
    if not inflater.eof:
        raise RefusedError("truncated")
    return data[:place].replace(value, ExplicitVRLittleEndian.encode().ljust(len(value), b"\0")) + body


def _transfer_syntax(data: bytes) -> tuple[int, bytes | None]:
    """Where the data set begins, and the transfer syntax of the file's meta information (PS3.10 7.1) before it."""
    if data[_PREFIX] != b"DICM":
        raise RefusedError("not_dicom")
    place, syntax = _FIRST_ELEMENT, None
    while data[place : place + 2] == b"\x02\0":
        is_long = data[place + 4 : place + 6] in _LONG_FORM
        length = int.from_bytes(data[place + 8 : place + 12] if is_long else data[place + 6 : place + 8], "little")
        start = place + (12 if is_long else 8)
        if start + length > len(data):
            raise RefusedError("truncated")
        if data[place + 2 : place + 4] == b"\x10\0":
            syntax = data[start : start + length]
        place = start + length
    return place, syntax

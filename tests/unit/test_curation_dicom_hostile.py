"""DICOM made to exhaust, to mislead or cut short: held back with a reason, in bounded time and memory."""

from __future__ import annotations

import struct
import subprocess
import sys
import textwrap
import time
import zlib
from pathlib import Path

import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)  # fmt: skip

from curation import dicom_bytes
from curation.deid import dicom
from curation.deid.unsafe import UnsafeError
from tests.unit.test_curation_dicom import KEY, SECRETS, as_bytes, planted

WHOLE = as_bytes(planted())
# Of the process, above what it takes for the imports and the input. Seconds are for a slow, busy core.
MOST_MEMORY_KB, MOST_SECONDS = 1_500_000, 60.0


def reason(data: bytes) -> str:
    begin = time.monotonic()
    with pytest.raises(UnsafeError) as caught:
        dicom.deidentify(dicom.read(data), KEY, "patient-1")
    assert time.monotonic() - begin < MOST_SECONDS
    return caught.value.reason


def head(syntax: str = "1.2.840.10008.1.2.1") -> bytes:
    """Preamble, prefix and meta information of a file in `syntax`."""
    value = syntax.encode() + b"\0" * (len(syntax) % 2)
    meta = struct.pack("<HH2sH", 2, 0x10, b"UI", len(value)) + value
    return b"\0" * 128 + b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(meta)) + meta


def deflated(body: bytes) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    return head(DeflatedExplicitVRLittleEndian) + packer.compress(body) + packer.flush()


def nested(depth: int, *, defined: bool) -> bytes:
    """Sequences in sequences in explicit little endian: of a defined length, or ended by a delimiter."""
    if not defined:
        begin = struct.pack("<HH2sHIHHI", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF)
        return begin * depth + struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0) * depth
    body = b""
    for _ in range(depth):
        item = struct.pack("<HHI", 0xFFFE, 0xE000, len(body)) + body
        body = struct.pack("<HH2sHI", 8, 0x1140, b"SQ", 0, len(item)) + item
    return body


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, vr, 0, len(value)) + value


@pytest.mark.parametrize("cut", [1, 2, 100, 5000, 20_000, 33_000, 36_000, 38_000, 39_000])
def test_a_file_that_was_cut_anywhere_is_refused(cut: int) -> None:
    assert reason(WHOLE[:-cut]) in {"truncated", "pixels_missing", "no_instance", "pixels_fewer_than_declared"}


def test_no_prefix_of_a_file_passes() -> None:
    """Also where the cut is just between two elements, which no reader can see."""
    passed = []
    for length in range(0, 8000, 7):
        try:
            dicom.read(WHOLE[:length])
            passed.append(length)
        except UnsafeError:
            continue
    assert not [length for length in passed if length > 132 and b"PixelData" in WHOLE[:length]]
    assert all("Rows" not in dicom.read(WHOLE[:length]) for length in passed)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"Rows": 65535, "Columns": 65535, "NumberOfFrames": "999999999"}, "pixels_too_large"),
        ({"Rows": 65535, "Columns": 65535}, "pixels_too_large"),
        ({"Rows": 4096, "Columns": 4096}, "pixels_fewer_than_declared"),
        ({"NumberOfFrames": "2"}, "pixels_fewer_than_declared"),
        ({"NumberOfFrames": "-1"}, "pixels_not_described"),
        ({"NumberOfFrames": "9" * 12}, "pixels_too_large"),
        ({"BitsAllocated": 12}, "pixels_not_described"),
        ({"SamplesPerPixel": 60000}, "pixels_not_described"),
        ({"Rows": 0}, "pixels_not_described"),
        ({"Rows": 64}, "pixels_more_than_declared"),
        ({"Rows": None}, "pixels_not_described"),
    ],
)
def test_what_the_header_claims_of_its_pixels_is_compared(changes: dict[str, object], expected: str) -> None:
    dataset = planted()
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    assert reason(as_bytes(dataset)) == expected


def test_a_compressed_picture_can_not_claim_more_than_the_limit() -> None:
    dataset = planted("MR_small_RLE.dcm")
    dataset.NumberOfFrames = "2000000"
    assert reason(as_bytes(dataset)) == "pixels_too_large"


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_plain_pixels_in_a_file_that_says_compressed_are_refused(syntax: str) -> None:
    place = WHOLE.index(b"1.2.840.10008.1.2.1\0")
    assert reason(WHOLE[:place] + b"1.2.840.10008.1.2.5\0" + WHOLE[place + 20 :]) == "wrong_transfer_syntax"


@pytest.mark.parametrize(
    "syntax", [ExplicitVRBigEndian, "1.2.3.4.5.6", "1.2.840.10008.5.1.4.1.1.2", "", DeflatedExplicitVRLittleEndian]
)
def test_a_wrong_transfer_syntax_is_refused(syntax: str) -> None:
    start = dicom_bytes._transfer_syntax(WHOLE)[0]
    assert reason(head(syntax) + WHOLE[start:]) in {
        "truncated", "unreadable", "no_instance", "transfer_syntax_not_known", "too_many_elements",
    }  # fmt: skip


def test_explicit_elements_in_a_file_that_says_implicit_are_still_cleaned() -> None:
    """The library sees through this one; what it makes of it must be as clean as any."""
    start = dicom_bytes._transfer_syntax(WHOLE)[0]
    try:
        clean, _ = dicom.deidentify(dicom.read(head(ImplicitVRLittleEndian) + WHOLE[start:]), KEY, "patient-1")
        written = dicom.write(clean)
    except UnsafeError:
        return
    assert not [secret for secret in SECRETS if secret.lower().encode() in written.lower()]


def test_a_deflated_file_is_read_and_written_inflated() -> None:
    start = dicom_bytes._transfer_syntax(WHOLE)[0]
    clean, _ = dicom.deidentify(dicom.read(deflated(WHOLE[start:])), KEY, "patient-1")
    written = dicom.write(clean)
    assert dicom.read(written).PixelData == planted().PixelData
    assert dicom_bytes._transfer_syntax(written)[1] == b"1.2.840.10008.1.2.1\0"


def test_a_deflated_file_that_was_cut_is_refused() -> None:
    start = dicom_bytes._transfer_syntax(WHOLE)[0]
    assert reason(deflated(WHOLE[start:])[:-50]) == "truncated"


def test_the_bomb_is_found_behind_a_long_meta_header(monkeypatch: pytest.MonkeyPatch) -> None:
    """The transfer syntax may stand far from the file's begin: it is read, not searched for."""
    monkeypatch.setattr(dicom_bytes, "MAX_INFLATED", 1 << 20)
    bomb = deflated(bytes(2 << 20))
    first = head(DeflatedExplicitVRLittleEndian)
    private = struct.pack("<HH2sHI", 2, 1, b"OB", 0, 4096) + bytes(4096)
    assert reason(first[:144] + private + first[144:] + bomb[len(first) :]) == "inflates_too_far"


_SMALL = "b''.join(struct.pack('<HH2sH', 0x11 + 2 * (i >> 16), i & 0xFFFF, b'LO', 0) for i in range(1 << 20))"
_EMPTY = "struct.pack('<HH2sHI', 8, 0x1140, b'SQ', 0, 80 << 20) + struct.pack('<HHI', 0xFFFE, 0xE000, 0) * (10 << 20)"
HOSTILE = {
    "bomb": ("deflated(bytes(1 << 29))", {"inflates_too_far"}),
    "nested_little": ("head() + nested(40, defined=True)", {"nested_too_deep"}),
    "nested": ("head() + nested(20_000, defined=False)", {"nested_too_deep"}),
    "nested_defined": ("head() + nested(4_000, defined=True)", {"nested_too_deep"}),
    "nested_open": ("head() + nested(5_000, defined=False)[:60_000]", {"nested_too_deep", "truncated", "unreadable"}),
    "empty_items": (f"head() + {_EMPTY}", {"too_many_elements"}),
    "small_elements": (f"head() + {_SMALL}", {"too_many_elements"}),
    "deflated_elements": (f"deflated({_SMALL})", {"too_many_elements"}),
    "many_numbers": ("head() + element(0x00186000, b'UN', b'1' + bytes([92, 49]) * (10 << 20))", {"too_many_elements"}),
    "long_text": ("head() + element(0x00204000, b'UT', b'a' * (80 << 20))", {"header_too_large"}),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_time_and_memory_are_bounded(case: str) -> None:
    """In a process of its own, whose peak of memory tells only of this file."""
    made, expected = HOSTILE[case]
    script = f"""
        import resource, struct
        from tests.unit.test_curation_dicom_hostile import deflated, element, head, nested
        from curation.deid import dicom
        from curation.deid.unsafe import UnsafeError
        data = {made}
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            dicom.read(data)
            print("passed")
        except UnsafeError as error:
            print(error.reason)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=300, check=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    found, grown = done.stdout.split()
    assert found in expected
    assert int(grown) < MOST_MEMORY_KB

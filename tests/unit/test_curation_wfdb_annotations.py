"""WFDB annotations (.atr), written and read by the wfdb package. All people here are invented."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import wfdb

from curation.deid.kinds import Kind
from curation.deid.unsafe import UnsafeError
from curation.deid.wfdb_annotations import RHYTHMS, annotation_texts, clean_annotations
from curation.prepare.waveform import load_waveform
from tests.unit.test_curation_hostile import deid, patient

TEXTS = ["(AFIB\0", "", "Pt Agnes Whitmore moved, call 555-0142\0", "", "(N\0", "artefact"]


def atr(folder: Path, texts: list[str] = TEXTS, name: str = "rec") -> bytes:
    """Beats, some with a text; the gap of 5,000 samples needs the long form of a time."""
    count = len(texts)
    samples = np.array([100, 180, 5180, 5260, 5340, 5420][:count])
    wfdb.wrann(
        name, "atr", samples, ["+", "N", '"', "V", "+", '"'][:count], np.arange(count) % 3, np.zeros(count, dtype=int),
        np.arange(count), texts, write_dir=str(folder),
    )  # fmt: skip
    return (folder / f"{name}.atr").read_bytes()


def read(folder: Path, data: bytes) -> wfdb.Annotation:
    (folder / "clean.atr").write_bytes(data)
    return wfdb.rdann(str(folder / "clean"), "atr")


def test_texts_lose_their_identifiers_and_all_else_stays(tmp_path: Path) -> None:
    given = atr(tmp_path)
    before = wfdb.rdann(str(tmp_path / "rec"), "atr")
    data, changed = clean_annotations(given, -400)
    after = read(tmp_path, data)
    assert changed == 1
    assert b"hitmore" not in data
    assert b"0142" not in data
    for field in ("sample", "subtype", "chan", "num"):
        np.testing.assert_array_equal(getattr(after, field), getattr(before, field))
    assert after.symbol == before.symbol
    kept = [text.rstrip("\0") for text in after.aux_note]
    assert (kept[0], kept[1], kept[4], kept[5]) == ("(AFIB", "", "(N", "artefact")
    assert "[NAME_REDACTED]" in kept[2]
    assert annotation_texts(data) == [kept[2], "artefact"]


def test_what_has_no_identifier_is_the_same_byte_for_byte(tmp_path: Path) -> None:
    given = atr(tmp_path, ["(AFIB\0", "", "odd", "even", "(VT\0"])
    assert clean_annotations(given, -400) == (given, 0)


def test_rhythms_and_the_structured_record_are_known(tmp_path: Path) -> None:
    for rhythm in sorted(RHYTHMS):
        given = atr(tmp_path, [rhythm.decode() + "\0"])
        assert clean_annotations(given, -400) == (given, 0)
    data, _ = clean_annotations(atr(tmp_path, ["lead off, qz-77 told"]), -400, [(Kind.MRN, "qz-77")])
    assert b"qz-77" not in data


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "unreadable_annotations"),
        (b"\x01", "unreadable_annotations"),
        (b"\x12\x04", "unreadable_annotations"),
        (b"\x12\x04\x00\x00Whitmore", "unreadable_annotations"),
        ((63 << 10 | 9).to_bytes(2, "little") + b"Whitmore", "unreadable_annotations"),
        ((59 << 10).to_bytes(2, "little") + b"\1\0", "unreadable_annotations"),
        ((63 << 10 | 4).to_bytes(2, "little") + b"\xff\xfe\xff\xfe\0\0", "unreadable_annotations"),
        (
            (63 << 10 | 252).to_bytes(2, "little") + b"Dr Li, Dr Wu, " * 18 + b"\0\0",
            "annotations_too_long_when_redacted",
        ),
    ],
)
def test_a_file_that_cannot_be_judged_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(UnsafeError) as caught:
        clean_annotations(data, -400)
    assert caught.value.reason == reason


def record(root: Path) -> Path:
    """A patient's folder with a record of two leads."""
    place = patient(root / "raw", "A", patient={"name": "Agnes Whitmore", "mrn": "448812"})
    (place / "whitmore.hea").write_text("whitmore 1 250 6000\nwhitmore.dat 16 1000/mV 16 0 0 0 0 II\n")
    (place / "whitmore.dat").write_bytes(np.round(1000 * np.sin(np.arange(6000) / 20)).astype("<i2").tobytes())
    return place


def test_annotations_go_with_their_record(tmp_path: Path) -> None:
    place = record(tmp_path)
    atr(place, name="whitmore")
    atr(place, name="alone")
    done, _ = deid(tmp_path / "raw", tmp_path / "clean")
    assert done.quarantined == {"unsupported_file": 1}, "annotations without a record"
    (header,) = (tmp_path / "clean").rglob("*.hea")
    beats = wfdb.rdann(str(header.with_suffix("")), "atr")
    assert len(beats.sample) == len(TEXTS)
    assert "hitmore" not in "".join(beats.aux_note)
    assert load_waveform(header, "ecg").rate_hz == 250


def test_a_record_whose_annotations_cannot_be_read_is_held_back(tmp_path: Path) -> None:
    place = record(tmp_path)
    (place / "whitmore.atr").write_bytes(atr(tmp_path) + b"Agnes")
    done, report = deid(tmp_path / "raw", tmp_path / "clean")
    assert done.quarantined["unreadable_annotations"] == 1
    assert "hitmore" not in str(report)
    assert not list((tmp_path / "clean").rglob("*.hea"))

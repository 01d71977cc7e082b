"""Recordings and pictures that would make `prepare` or `pack` take all memory: refused before anything is allocated."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curation.prepare import ecg
from curation.prepare.ecg import load_ecg
from curation.prepare.image import load_image
from curation.prepare.reasons import WaveformError
from curation.prepare.waveform import load_waveform
from tests.unit.test_curation_dicom import as_bytes, planted
from tests.unit.test_curation_recordings import annotated, tal

# Bytes. All inputs here are below 10 MB.
MOST = 300_000_000


def refused(action: Callable[[], object]) -> str:
    tracemalloc.start()
    try:
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the reason is what is looked at
            action()
        assert tracemalloc.get_traced_memory()[1] < MOST
    finally:
        tracemalloc.stop()
    return str(caught.value)


@pytest.mark.parametrize(
    "changes", [{"Rows": 65535, "Columns": 1}, {"Rows": 1, "Columns": 65535}, {"Rows": 65535, "Columns": 65535},
                {"NumberOfFrames": "99999999"}, {"Rows": 0}, {"BitsAllocated": 64}],
)  # fmt: skip
def test_a_picture_that_claims_too_much_is_not_unpacked(tmp_path: Path, changes: dict[str, object]) -> None:
    dataset = planted()
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    if set(changes.values()) == {65535, 1}:
        dataset.PixelData = bytes(65535 * 2)
    (tmp_path / "a.dcm").write_bytes(as_bytes(dataset))
    assert refused(lambda: load_image(tmp_path / "a.dcm", 64)) == "no readable picture"


def test_of_several_frames_the_middle_one_is_taken(tmp_path: Path) -> None:
    dataset = planted()
    stored = dataset.pixel_array
    dataset.NumberOfFrames = "3"
    dataset.PixelData = np.stack([stored * 0, stored, stored * 0]).tobytes()
    (tmp_path / "a.dcm").write_bytes(as_bytes(dataset))
    single = planted()
    (tmp_path / "b.dcm").write_bytes(as_bytes(single))
    assert np.array_equal(load_image(tmp_path / "a.dcm", 64)[0], load_image(tmp_path / "b.dcm", 64)[0])


@pytest.mark.parametrize("rate", ["999999937", "100001", "0", "-5", "1e9", "nan"])
def test_an_absurd_sampling_rate_makes_no_filter(tmp_path: Path, rate: str) -> None:
    (tmp_path / "a.csv").write_text(f"# Sampling Rate: {rate}\nI\n" + "0.1\n" * 100)
    assert refused(lambda: load_ecg(tmp_path / "a.csv", 100, 500)) == "no readable recording"


def test_a_csv_above_the_limit_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.csv").open("wb") as stream:
        stream.truncate(ecg._MAX_BYTES + 1)
    assert refused(lambda: load_ecg(tmp_path / "a.csv", 100, 500)) == "recording too large"


@pytest.mark.parametrize("field", [{"records": "99999999"}, {"samples": "99999999"}, {"signals": "9999"}])
def test_edf_with_absurd_counts_is_refused(tmp_path: Path, field: dict[str, Any]) -> None:
    (tmp_path / "a.edf").write_bytes(annotated(tal(b"", b"+0"), **field))
    with pytest.raises(WaveformError):
        load_waveform(tmp_path / "a.edf", "ecg")
    assert refused(lambda: load_waveform(tmp_path / "a.edf", "ecg"))


def test_wfdb_with_absurd_counts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.hea").write_text("a 1 250 999999999999\na.dat 16 1000/mV 16 0 0 0 0 II\n")
    (tmp_path / "a.dat").write_bytes(bytes(4000))
    assert refused(lambda: load_waveform(tmp_path / "a.hea", "ecg"))

"""Text in pixels: it is found, blanked in every frame and judged again; what is doubtful is held back."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.pixels.utils import pixel_array, set_pixel_data
from pydicom.sequence import Sequence

from curation.deid import dicom, pixels
from curation.deid.keys import PseudonymKey
from curation.deid.tree import deidentify_tree
from curation.deid.validate_dicom import validate_dicom
from curation.deid.validate_pixels import judge_pixels, rows_left
from medllm.errors import UserError
from tests.unit.test_curation_dicom import PATIENT, as_bytes, planted

pytest.importorskip("rapidocr", reason="the extra 'curate' brings the detector")
KEY = PseudonymKey(b"k" * 32)
PSEUDONYM = KEY.patient("patient-1")
LINES = ("WHITMORE, AGNES", "MRN 4488120", "04.03.1951")


def picture(rows: int = 300, columns: int = 400, text: bool = True) -> NDArray[np.uint8]:
    """A bright disc, beside it three lines."""
    image = Image.new("L", (columns, rows))
    draw = ImageDraw.Draw(image)
    draw.ellipse((columns // 2, rows // 2, columns - 40, rows - 20), fill=140)
    for number, line in enumerate(LINES if text else ()):
        draw.text((20, 20 + 30 * number), line, 255, ImageFont.load_default(18))
    return np.array(image, np.uint8)


def ultrasound(frames: NDArray[Any], form: str = "MONOCHROME2", bits: int = 8) -> Dataset:
    dataset = planted()
    dataset.Modality, dataset.SOPClassUID = "US", "1.2.840.10008.5.1.4.1.1.6.1"
    set_pixel_data(dataset, frames, form, bits, generate_instance_uid=False)
    return dataset


def blanked(dataset: Dataset) -> tuple[Dataset, bytes]:
    clean, _ = dicom.deidentify(dicom.read(as_bytes(dataset)), KEY, "patient-1", blank_pixels=True)
    written = dicom.write(clean)
    return dicom.read(written), written


@pytest.mark.parametrize("inverted", [False, True])
def test_text_is_blanked_and_the_rest_stays_as_it_was(inverted: bool) -> None:
    frame = 255 - picture() if inverted else picture()
    original = ultrasound(frame)
    output, written = blanked(original)
    after = pixel_array(output)
    assert (after[:120, :220] == (255 if inverted else 0)).all()
    assert (after[150:] == frame[150:]).all()
    assert output.BurnedInAnnotation == "NO"
    assert output.DeidentificationMethodCodeSequence[0].CodeValue == "113101"
    verdict = validate_dicom(original, 1, output, written, PATIENT, PSEUDONYM)
    assert verdict.passed, dict(verdict.findings)


def test_all_frames_are_blanked_where_one_shows_text() -> None:
    frames = np.stack([picture(text=False), picture(), picture(text=False)])
    frames[0, 25:45, 30:60] = 77
    output, _ = blanked(ultrasound(frames))
    after = pixel_array(output)
    assert after.shape == frames.shape
    assert (after[:, 20:110, 20:120] == 0).all()
    assert (after[:, 150:] == frames[:, 150:]).all()


def test_sixteen_bits_keep_their_form() -> None:
    original = ultrasound(picture().astype(np.uint16) * 12, bits=12)
    output, _ = blanked(original)
    assert (output.BitsAllocated, output.BitsStored, output.PixelRepresentation) == (16, 12, 0)
    assert not pixel_array(output)[:120, :220].any()


@pytest.mark.parametrize("name", ["examples_jpeg2k.dcm", "examples_palette.dcm"])
def test_shipped_ultrasound_with_a_hospital_and_dates_in_its_pixels(name: str) -> None:
    """Compressed colours and a palette: stored plain, and the places of the text are of one value."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        original = pydicom.dcmread(str(get_testdata_file(name, download=False)))
        original.pop("SequenceOfUltrasoundRegions", None)
        count = pixels.blank_text(original)
        after = pixel_array(original)
    assert count >= 15
    assert original.PhotometricInterpretation == "RGB"
    assert not original.file_meta.TransferSyntaxUID.is_compressed
    # The hospital and the numbers under it; the date and the time.
    place = after[30:90, 20:150] if name == "examples_jpeg2k.dcm" else after[8:22, 740:780]
    assert len(np.unique(place.reshape(-1, 3), axis=0)) == 1


def test_outside_the_declared_regions_all_is_blanked_and_the_regions_stay_declared() -> None:
    frame = picture(text=False)
    frame[2:6, 2:30] = 200  # no letters, but where scanners write
    original = ultrasound(frame)
    region = Dataset()
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 200, 150
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 399, 299
    original.SequenceOfUltrasoundRegions = Sequence([region])
    output, _ = blanked(original)
    after = pixel_array(output)
    assert not after[:150].any()
    assert (after[150:, 200:] == frame[150:, 200:]).all()
    assert output.SequenceOfUltrasoundRegions[0].RegionLocationMinX0 == 200


def test_primary_slices_are_not_touched_and_claim_nothing() -> None:
    output, _ = blanked(planted())
    assert bytes(output.PixelData) == bytes(planted().PixelData)
    assert "113101" not in [item.CodeValue for item in output.DeidentificationMethodCodeSequence]


@pytest.mark.parametrize("word", ["LOCALIZER", "CT_SOM5 PROT", "DOSE_INFO", "SCREEN SAVE"])
def test_scouts_protocols_and_dose_reports_are_held_back_by_default(word: str) -> None:
    dataset = planted()
    dataset.ImageType = ["ORIGINAL", "PRIMARY", word]
    with pytest.raises(dicom.UnsafeError, match="pixels_may_show_text"):
        dicom.deidentify(dataset, KEY, "patient-1")


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda dataset: setattr(dataset, "PixelData", b"\0\0"), "pixels_unreadable"),
        (lambda dataset: setattr(dataset, "BitsAllocated", 32), "pixels_of_unsupported_form"),
        (lambda dataset: setattr(dataset, "NumberOfFrames", 1 << 20), "pixels_too_large"),
        (lambda dataset: delattr(dataset, "PixelData"), "pixels_of_unsupported_form"),
    ],
)
def test_what_cannot_be_examined_is_held_back(harm: Any, reason: str) -> None:
    dataset = ultrasound(picture())
    harm(dataset)
    with pytest.raises(dicom.UnsafeError) as caught:
        dicom.deidentify(dataset, KEY, "patient-1", blank_pixels=True)
    assert caught.value.reason == reason


def test_the_second_pass_sees_text_that_is_left() -> None:
    assert rows_left(picture()) > 0
    assert rows_left(picture().T) > 0
    assert rows_left(picture(text=False)) == 0
    original = ultrasound(picture())
    assert judge_pixels(original, original)["text_in_pixels"] == 1


def test_the_second_pass_sees_pixels_that_were_changed_otherwise() -> None:
    frame = picture(text=False)
    original = ultrasound(frame)
    other = frame.copy()
    other[200, 200:203] = (1, 2, 3)
    assert judge_pixels(original, ultrasound(other))["pixels_changed"]
    assert judge_pixels(original, ultrasound(frame[:200]))["pixels_changed"]
    assert not +judge_pixels(original, original)


def test_a_miss_of_the_finder_is_held_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The finder is made blind; the file may not pass, and by default it is refused anyway."""
    place = tmp_path / "raw" / "patients" / "A"
    place.mkdir(parents=True)
    (place / "meta.json").write_text(json.dumps({"patient_id": "A", "patient": PATIENT}))
    (place / "note.txt").write_text("The patient is well.\n")
    (place / "us.dcm").write_bytes(as_bytes(ultrasound(picture())))
    (place / "ct.dcm").write_bytes(as_bytes(planted()))

    def reasons(out: str, blank: bool) -> list[str | None]:
        deidentify_tree(tmp_path / "raw", tmp_path / out, KEY, Ed25519PrivateKey.generate(), blank_pixels=blank)
        report = json.loads((tmp_path / out / "report.json").read_text())["files"]
        return [entry.get("reason") for entry in report if entry["file"].startswith("image")]

    assert reasons("default", False) == [None, "pixels_may_show_text"]
    assert reasons("blanked", True) == [None, None]
    monkeypatch.setattr(pixels, "text_boxes", lambda _frame: [])
    assert reasons("blind", True) == [None, "validation_found_text_in_pixels"]


def test_without_the_detector_the_run_does_not_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raw" / "patients").mkdir(parents=True)
    pixels._engine.cache_clear()
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    with pytest.raises(UserError, match="install the extra 'curate'"):
        deidentify_tree(tmp_path / "raw", tmp_path / "out", KEY, Ed25519PrivateKey.generate(), blank_pixels=True)
    assert not (tmp_path / "out").exists()


def test_the_detector_opens_no_connection() -> None:
    """In a fresh process where any socket raises, so nothing is fetched."""
    code = (
        "import socket, numpy as np\n"
        "def refuse(*_): raise OSError('no network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from curation.deid.pixels import text_boxes\n"
        "from tests.unit.test_curation_pixels import picture\n"
        "assert text_boxes(picture())\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)

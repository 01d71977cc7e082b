"""A DICOM series becomes one volume, exact to the pixel whatever the codec; what is no volume is refused."""

from __future__ import annotations

import copy
import random
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import gdcm  # type: ignore[import-untyped]
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from curation import dicom_bytes
from curation.prepare.reasons import VolumeError
from curation.prepare.views import SOFT_TISSUE, WHOLE, Window, resample, shown, thumbnail
from curation.prepare.volume import AIR_HU, Volume, load_volume

CT = str(get_testdata_file("CT_small.dcm", download=False))
_PADDING = -2000


def _ct() -> Dataset:
    return pydicom.dcmread(CT)


def _expected(stored: NDArray[Any]) -> NDArray[np.int16]:
    """CT_small: slope 1, intercept -1024, padding -2000."""
    return np.where(stored == _PADDING, AIR_HU, stored.astype(np.int32) - 1024).astype(np.int16)


def _jpeg_lossless(path: Path, process: str) -> None:
    reader = gdcm.ImageReader()
    reader.SetFileName(CT)
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, process)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless, DeflatedExplicitVRLittleEndian])
def test_each_lossless_codec_gives_every_pixel_back(tmp_path: Path, syntax: Any) -> None:
    dataset = _ct()
    stored = dataset.pixel_array.copy()
    if syntax == DeflatedExplicitVRLittleEndian:
        dataset.file_meta.TransferSyntaxUID = syntax
    else:
        dataset.compress(syntax)
    dataset.save_as(tmp_path / "a.dcm")
    volume = load_volume([tmp_path / "a.dcm"])
    assert volume.voxels.dtype == np.int16
    assert volume.unit == "HU"
    assert np.array_equal(volume.voxels[0], _expected(stored))


@pytest.mark.parametrize("process", ["JPEGLosslessProcess14_1", "JPEGLosslessProcess14"])
def test_jpeg_lossless_gives_every_pixel_back(tmp_path: Path, process: str) -> None:
    _jpeg_lossless(tmp_path / "a.dcm", process)
    assert np.array_equal(load_volume([tmp_path / "a.dcm"]).voxels[0], _expected(_ct().pixel_array))


@pytest.mark.parametrize("name", ["MR_small_implicit", "MR_small_bigendian", "MR_small_RLE", "MR_small_jp2klossless"])
def test_normalised_values_can_be_turned_back_into_the_stored_ones(name: str) -> None:
    stored = pydicom.dcmread(str(get_testdata_file("MR_small.dcm", download=False))).pixel_array
    volume = load_volume([Path(str(get_testdata_file(f"{name}.dcm", download=False)))])
    back = np.rint(volume.low + volume.voxels[0] * ((volume.high - volume.low) / 65535))
    assert volume.voxels.dtype == np.uint16
    assert (volume.voxels.min(), volume.voxels.max()) == (0, 65535)
    assert np.array_equal(back, stored)


def _series(folder: Path, count: int = 5, step: float = 2.5, **change: Any) -> list[Path]:
    """Slices of which the pixels say which place they have, numbered and stored in another order."""
    folder.mkdir(parents=True, exist_ok=True)
    base, paths = _ct(), []
    stored = base.pixel_array
    for place in range(count):
        dataset = copy.deepcopy(base)
        dataset.PixelData = np.where(stored == _PADDING, stored, place).astype(stored.dtype).tobytes()
        dataset.ImagePositionPatient = [0, change.get("shear", 0.0) * place, step * place]
        dataset.InstanceNumber = (place * 3) % count + 1
        dataset.SOPInstanceUID = f"1.2.3.{place}"
        path = folder / f"{(place * 2) % count}.dcm"
        dataset.save_as(path)
        paths.append(path)
    return sorted(paths)


def _edit(path: Path, **values: Any) -> None:
    dataset = pydicom.dcmread(path)
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)


def test_slices_are_ordered_by_place_and_not_by_number(tmp_path: Path) -> None:
    volume = load_volume(_series(tmp_path))
    assert [int(plane.max()) + 1024 for plane in volume.voxels] == [0, 1, 2, 3, 4]
    assert volume.numbers == (1, 4, 2, 5, 3)
    assert volume.spacing_mm == pytest.approx((2.5, 0.661468, 0.661468))
    assert volume.plane == "axial"
    assert not volume.tilted


def test_a_tilted_gantry_is_noted(tmp_path: Path) -> None:
    volume = load_volume(_series(tmp_path, shear=2.5 * np.tan(np.radians(15))))
    assert volume.tilt_deg == pytest.approx(15, abs=0.01)
    assert volume.tilted


def _reason(paths: list[Path], **options: Any) -> str:
    with pytest.raises(VolumeError) as caught:
        load_volume(paths, **options)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return caught.value.reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"ImagePositionPatient": [0, 0, 2.5]}, "duplicate_slice"),
        ({"ImagePositionPatient": [0, 0, 15]}, "gap"),
        ({"ImagePositionPatient": [0, 0, 10.4]}, "mixed_spacing"),
        ({"PixelSpacing": [1, 1]}, "mixed_spacing"),
        ({"PixelSpacing": [0, 1]}, "bad_geometry"),
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, "mixed_orientation"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "bad_geometry"),
        ({"SeriesInstanceUID": "1.2.9"}, "mixed_series"),
        ({"Modality": "MR"}, "mixed_series"),
        ({"RescaleSlope": 0}, "bad_geometry"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "not_greyscale"),
    ],
)
def test_what_is_not_one_regular_volume_is_refused(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    paths = _series(tmp_path)
    _edit(tmp_path / "3.dcm", **change)  # place 4, the last
    assert _reason(paths) == reason


def test_a_missing_slice_is_a_gap(tmp_path: Path) -> None:
    paths = _series(tmp_path)
    assert _reason([path for path in paths if path.name != "4.dcm"]) == "gap"


def test_several_files_without_a_place_are_refused(tmp_path: Path) -> None:
    paths = _series(tmp_path)
    for path in paths:
        dataset = pydicom.dcmread(path)
        del dataset.ImagePositionPatient
        dataset.save_as(path)
    assert _reason(paths) == "no_position"
    assert load_volume(paths[:1]).voxels.shape == (1, 128, 128)


def test_damage_and_bombs_are_refused_without_a_word_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(b"no DICOM at all")
    assert _reason([path]) == "unreadable"
    assert _reason([]) == "empty"
    dataset = _ct()
    dataset.PixelData = dataset.PixelData[:1000]
    dataset.save_as(path)
    assert _reason([path]) == "pixels_damaged"
    dataset.NumberOfFrames = 2**30
    dataset.save_as(path)
    assert _reason([path]) == "too_large"
    dataset = _ct()
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.PixelData = encapsulate([b"\xff\xd8\xff\xd9"])
    dataset["PixelData"].VR = "OB"
    dataset.save_as(path)
    assert _reason([path]) == "syntax_not_lossless"
    del dataset.PixelData
    dataset.save_as(path)
    assert _reason([path]) == "no_pixels"


def test_a_file_that_inflates_beyond_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = _ct()
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(tmp_path / "a.dcm")
    written = (tmp_path / "a.dcm").read_bytes()
    head = written[: 144 + int.from_bytes(written[140:144], "little")]
    bomb = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    (tmp_path / "a.dcm").write_bytes(head + bomb.compress(bytes(8 << 20)) + bomb.flush())
    monkeypatch.setattr(dicom_bytes, "MAX_INFLATED", 4 << 20)
    assert (tmp_path / "a.dcm").stat().st_size < 1 << 16
    assert _reason([tmp_path / "a.dcm"]) == "too_large"


@pytest.mark.parametrize(
    "name", ["CT_small", "MR_small_RLE", "MR_small_jp2klossless", "MR_small_bigendian", "image_dfl"]
)
def test_a_file_with_wrong_bytes_gives_a_volume_or_a_reason(tmp_path: Path, name: str) -> None:
    """Among what other errors escaped: unknown value representations, the panic of a decoder (no `Exception`)."""
    whole, chance = Path(str(get_testdata_file(f"{name}.dcm", download=False))).read_bytes(), random.Random(7)
    reasons = set()
    for _ in range(60):
        data = bytearray(whole)
        end = chance.choice((2500, len(data)))
        for _ in range(chance.choice((1, 3, 30))):
            data[chance.randrange(min(end, len(data)))] = chance.randrange(256)
        (tmp_path / "a.dcm").write_bytes(data)
        try:
            load_volume([tmp_path / "a.dcm"])
        except VolumeError as error:
            reasons.add(error.reason)
    assert len(reasons) > 1


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless, "gdcm"])
def test_a_codestream_that_was_cut_is_not_taken_for_a_picture(tmp_path: Path, syntax: Any) -> None:
    path = tmp_path / "a.dcm"
    if syntax == "gdcm":
        _jpeg_lossless(path, "JPEGLosslessProcess14_1")
        dataset = pydicom.dcmread(path)
    else:
        dataset = _ct()
        dataset.compress(syntax)
    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    for share in (0.3, 0.97):
        dataset.PixelData = encapsulate([frame[: int(len(frame) * share) // 2 * 2]])
        dataset["PixelData"].VR = "OB"
        dataset.save_as(path)
        assert _reason([path]) == "pixels_damaged"


def _enhanced(path: Path, syntax: Any) -> NDArray[Any]:
    """An enhanced multi-frame object: frames from head to feet, a rescale of its own for each."""
    dataset = _ct()
    stored = np.stack([np.roll(dataset.pixel_array, 7 * frame, axis=0) for frame in range(4)])
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope"):
        delattr(dataset, keyword)
    del dataset.RescaleIntercept
    shared, plane, measures = Dataset(), Dataset(), Dataset()
    plane.ImageOrientationPatient, measures.PixelSpacing = [1, 0, 0, 0, 1, 0], [0.5, 0.75]
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = Sequence([plane]), Sequence([measures])
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for frame in range(4):
        group, place, rescale = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [0, 0, -3.0 * frame]
        rescale.RescaleSlope, rescale.RescaleIntercept = 1, -1024 + frame
        group.PlanePositionSequence, group.PixelValueTransformationSequence = Sequence([place]), Sequence([rescale])
        frames.append(group)
    dataset.PerFrameFunctionalGroupsSequence = Sequence(frames)
    dataset.NumberOfFrames = 4
    dataset.PixelData = stored.tobytes()
    if syntax != ExplicitVRLittleEndian:
        dataset.compress(syntax)
    dataset.save_as(path)
    return stored


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_frames_of_an_enhanced_object_are_exact_and_ordered(tmp_path: Path, syntax: Any) -> None:
    stored = _enhanced(tmp_path / "a.dcm", syntax)
    volume = load_volume([tmp_path / "a.dcm"])
    expected = [np.where(stored[n] == _PADDING, AIR_HU, stored[n].astype(np.int32) - 1024 + n) for n in (3, 2, 1, 0)]
    assert np.array_equal(volume.voxels, np.stack(expected))
    assert volume.spacing_mm == (3.0, 0.5, 0.75)
    assert volume.numbers == (4, 3, 2, 1)


def _ramp() -> Volume:
    voxels = np.broadcast_to(np.arange(40, dtype=np.int16) * 10, (6, 20, 40)).copy()
    return Volume(
        voxels, (5.0, 1.0, 1.0), "CT", "HU", -32768.0, 32767.0, tuple(range(1, 7)), tuple(5.0 * n for n in range(6)),
        (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), 0.0, 0,
    )  # fmt: skip


@pytest.mark.parametrize("spacing", [(5.0, 2.0, 2.0), (2.5, 0.5, 0.5), (10.0, 1.0, 4.0)])
def test_resampling_keeps_the_field_and_a_linear_gradient(spacing: tuple[float, float, float]) -> None:
    volume, result = _ramp(), resample(_ramp(), spacing)
    assert result.spacing_mm == spacing
    for axis in range(3):
        field = volume.voxels.shape[axis] * volume.spacing_mm[axis]
        assert result.voxels.shape[axis] * spacing[axis] == pytest.approx(field)
    assert result.origin_mm is not None
    millimetres = result.origin_mm[0] + np.arange(result.voxels.shape[2]) * spacing[2]
    inner = slice(4, -4) if result.voxels.shape[2] > 12 else slice(3, -3)
    assert np.abs(result.voxels[0, 0, inner] - millimetres[inner] * 10).max() <= 1
    assert len(result.numbers) == len(result.voxels)


def test_resampling_without_a_spacing_is_refused() -> None:
    with pytest.raises(VolumeError, match="bad_geometry"):
        resample(_ramp(), (5.0, 0.0, 1.0))
    with pytest.raises(VolumeError, match="too_large"):
        resample(_ramp(), (5.0, 1e-5, 1e-5))


def test_a_thumbnail_declares_its_window_and_shows_what_that_says() -> None:
    png = Image.open(BytesIO(thumbnail(_ramp(), SOFT_TISSUE, side=40)))
    assert (png.mode, png.size) == ("L", (40, 20))
    assert png.text == {"WindowCenter": "40", "WindowWidth": "400", "Unit": "HU"}
    assert np.array_equal(np.asarray(png), shown(_ramp().voxels[3], SOFT_TISSUE))
    grey = shown(np.array([[-161, -160, 39, 40, 239, 240]]), SOFT_TISSUE)[0]
    assert grey[[0, 1, 4, 5]].tolist() == [0, 0, 255, 255]
    assert abs(int(grey[2]) - 127) <= 1
    assert shown(np.array([[0, 65535]]), WHOLE).tolist() == [[0, 255]]
    with pytest.raises(ValueError, match="wider"):
        shown(np.zeros((1, 1), np.int16), Window(0, 1))

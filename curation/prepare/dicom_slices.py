"""DICOM files → slices: pixels exactly as stored, the rescale that applies to them, and where they lie in the patient.

A file holds one slice or several frames; enhanced objects say for each frame what plain ones say once.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.utils import pixel_array

from curation.dicom_bytes import RefusedError, read_within_limits
from curation.prepare.reasons import VolumeError

# Lossless transfer syntaxes and the decoder of each: one, named, so that the same file gives the same pixels anywhere.
_DECODERS = {
    "1.2.840.10008.1.2": "",  # implicit VR little endian
    "1.2.840.10008.1.2.1": "",  # explicit VR little endian
    "1.2.840.10008.1.2.1.99": "",  # deflated
    "1.2.840.10008.1.2.2": "",  # explicit VR big endian
    "1.2.840.10008.1.2.5": "pylibjpeg",  # RLE
    "1.2.840.10008.1.2.4.57": "gdcm",  # JPEG lossless, process 14
    "1.2.840.10008.1.2.4.70": "gdcm",  # JPEG lossless, process 14, first-order prediction
    "1.2.840.10008.1.2.4.80": "pyjpegls",  # JPEG-LS lossless
    "1.2.840.10008.1.2.4.90": "pylibjpeg",  # JPEG 2000 lossless
    "1.2.840.10008.1.2.4.201": "pylibjpeg",  # HTJ2K lossless
    "1.2.840.10008.1.2.4.202": "pylibjpeg",  # HTJ2K lossless, RPCL
}
# May hold lossless pixels too: taken where the file says that no lossy step was ever applied (PS3.3 C.7.6.1.1.5).
_EITHER = {"1.2.840.10008.1.2.4.81": "pyjpegls", "1.2.840.10008.1.2.4.91": "pylibjpeg"}
# Terms of BodyPartExamined (PS3.16 annex L) as the lexicon's regions; free text and combined regions are none.
_REGIONS = {
    "CHEST": "chest", "LUNG": "chest", "HEART": "chest", "HEAD": "head", "BRAIN": "head", "SKULL": "head",
    "NECK": "neck", "ABDOMEN": "abdomen", "LIVER": "abdomen", "KIDNEY": "abdomen", "PELVIS": "pelvis",
    "CSPINE": "spine", "TSPINE": "spine", "LSPINE": "spine", "SPINE": "spine",
}  # fmt: skip
# A code and nothing that somebody wrote.
_MODALITY = re.compile(r"[A-Z]{2,10}")
# Anything else that is wrong with a file makes it unreadable.
_REASONS = {
    **dict.fromkeys(("inflates_too_far", "too_many_elements", "header_too_large"), "too_large"),
    "transfer_syntax_not_known": "syntax_not_lossless",
}
MAX_BYTES = 1 << 31
MAX_VOXELS = 1 << 30


@dataclass(frozen=True, slots=True)
class Slice:
    """One plane: `pixels` [height, width] as stored, and what turns them into `pixels * slope + intercept`.

    `position_mm` and `cosines` (row direction, then column direction) are None where the file has no geometry.
    `padding` is the range of stored values outside the scanned field. Lengths are millimetres. `region` is the
    lexicon's name of the examined part of the body, or empty.
    """

    pixels: NDArray[np.integer[Any]]
    slope: float
    intercept: float
    position_mm: tuple[float, float, float] | None
    cosines: tuple[float, ...] | None
    spacing_mm: tuple[float, float] | None
    thickness_mm: float | None
    padding: tuple[float, float] | None
    inverted: bool
    number: int
    modality: str
    tilt_deg: float
    group: tuple[str, str]
    series: int | None
    region: str


def read_slices(path: Path, max_voxels: int = MAX_VOXELS) -> list[Slice]:
    """The slices of one file, in the file's order; `group` is its (series, frame of reference).

    Raises:
        VolumeError: with a reason; nothing from the file is in it.
    """
    with _quiet():
        dataset = _read(path)
        try:
            decoder = _decoder(dataset)
            _check_declared(dataset, max_voxels)
        except VolumeError:
            raise
        except Exception:  # elements are parsed when they are first read, and a damaged one fails in many ways
            raise VolumeError("unreadable") from None
        try:
            if decoder == "pyjpegls":
                _check_ends(dataset)
            pixels = np.asarray(pixel_array(dataset, raw=True, decoding_plugin=decoder))
        except MemoryError:
            raise VolumeError("too_large") from None
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # the libraries' messages quote the file; the panic of a decoder in Rust is no Exception
            raise VolumeError("pixels_damaged") from None
        if pixels.ndim == 2:
            pixels = pixels[None]
        if pixels.ndim != 3:
            raise VolumeError("not_greyscale")
        try:
            return [_slice(dataset, pixels[frame], frame) for frame in range(len(pixels))]
        except Exception:  # as above
            raise VolumeError("bad_geometry") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """pydicom's warnings and log lines, and gdcm's trace, quote values of the file: none of them gets out."""
    logger = logging.getLogger("pydicom")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _read(path: Path) -> Dataset:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise VolumeError("too_large")
        return read_within_limits(path.read_bytes())
    except VolumeError:
        raise
    except MemoryError:
        raise VolumeError("too_large") from None
    except RefusedError as error:
        raise VolumeError(_REASONS.get(error.reason, "unreadable")) from None
    except Exception:
        raise VolumeError("unreadable") from None


def _decoder(dataset: Dataset) -> str:
    if "PixelData" not in dataset:
        raise VolumeError("no_pixels")
    syntax = str(getattr(dataset, "file_meta", Dataset()).get("TransferSyntaxUID", ""))
    decoder = _DECODERS.get(syntax)
    if decoder is None and dataset.get("LossyImageCompression") == "00":
        decoder = _EITHER.get(syntax)
    if decoder is None:
        raise VolumeError("syntax_not_lossless")
    if decoder == "gdcm":
        import gdcm  # type: ignore[import-untyped]

        for stream in (gdcm.Trace.SetDebug, gdcm.Trace.SetWarning, gdcm.Trace.SetError):
            stream(False)
    return decoder


def _check_declared(dataset: Dataset, max_voxels: int) -> None:
    """What the header declares, before anything is allocated for it."""
    try:
        rows, columns = int(dataset.Rows), int(dataset.Columns)
        frames, samples = int(dataset.get("NumberOfFrames") or 1), int(dataset.get("SamplesPerPixel", 1))
    except (AttributeError, TypeError, ValueError):
        raise VolumeError("no_pixels") from None
    if min(rows, columns, frames) < 1:
        raise VolumeError("no_pixels")
    if rows * columns * frames > max_voxels:
        raise VolumeError("too_large")
    if samples != 1 or dataset.get("PhotometricInterpretation") == "PALETTE COLOR":
        raise VolumeError("not_greyscale")


def _check_ends(dataset: Dataset) -> None:
    """Every frame has its end marker: the decoder of JPEG-LS works for seconds on one that was cut before it fails."""
    for frame in generate_frames(dataset.PixelData, number_of_frames=int(dataset.get("NumberOfFrames") or 1)):
        if not frame.rstrip(b"\0").endswith(b"\xff\xd9"):
            raise VolumeError("pixels_damaged")


def _slice(dataset: Dataset, pixels: NDArray[np.integer[Any]], frame: int) -> Slice:
    value = _values(dataset, frame)
    padding = dataset.get("PixelPaddingValue")
    limit = dataset.get("PixelPaddingRangeLimit", padding)
    position, cosines, spacing = value("ImagePositionPatient"), value("ImageOrientationPatient"), value("PixelSpacing")
    if spacing is None:
        spacing = dataset.get("ImagerPixelSpacing")
    modality = str(dataset.get("Modality", ""))
    slope, intercept, thickness = value("RescaleSlope"), value("RescaleIntercept"), value("SliceThickness")
    return Slice(
        pixels=pixels,
        slope=1.0 if slope is None else float(slope),
        intercept=0.0 if intercept is None else float(intercept),
        position_mm=None if not position else _three(position),
        cosines=None if not cosines else tuple(float(number) for number in cosines),
        spacing_mm=None if not spacing else (float(spacing[0]), float(spacing[1])),
        thickness_mm=None if not thickness else float(thickness),
        padding=None if padding is None else (min(float(padding), float(limit)), max(float(padding), float(limit))),
        inverted=dataset.get("PhotometricInterpretation") == "MONOCHROME1",
        number=int(dataset.get("InstanceNumber") or 0) if int(dataset.get("NumberOfFrames") or 1) == 1 else frame + 1,
        modality=modality if _MODALITY.fullmatch(modality) else "OT",
        tilt_deg=float(dataset.get("GantryDetectorTilt") or 0.0),
        group=(str(dataset.get("SeriesInstanceUID", "")), str(dataset.get("FrameOfReferenceUID", ""))),
        series=int(dataset.SeriesNumber) if dataset.get("SeriesNumber") is not None else None,
        region=_REGIONS.get(str(dataset.get("BodyPartExamined", "")), ""),
    )


def _three(values: Any) -> tuple[float, float, float]:
    x, y, z = (float(number) for number in values)
    return x, y, z


# Where enhanced objects keep what plain ones have at the top (PS3.3 C.7.6.16.2).
_MACROS = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
}


def _values(dataset: Dataset, frame: int) -> Any:
    """A look-up of an element for one frame: its own functional group, the shared one, then the top."""
    own, shared = dataset.get("PerFrameFunctionalGroupsSequence"), dataset.get("SharedFunctionalGroupsSequence")
    places = [own[frame]] if own else []
    places += [shared[0]] if shared else []

    def value(keyword: str) -> Any:
        for place in places:
            macro = place.get(_MACROS[keyword])
            if macro and macro[0].get(keyword) is not None:
                return macro[0].get(keyword)
        return dataset.get(keyword)

    return value

"""Finds text burned into DICOM pixels and blanks it (PS3.15 option Clean Pixel Data), for an operator who asks for it.

The finder is the detector of `rapidocr` (PP-OCRv6, DBNet; the model is in the package, nothing is fetched). It reads
nothing: what looks like text is blanked, measures and makers' names too. `validate_pixels` judges the result by other
means, and what it doubts is held back.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import pixel_array, set_pixel_data
from pydicom.uid import ExplicitVRBigEndian

from medllm.errors import user_error

Pixels = NDArray[Any]
"""[frames, rows, columns] or [frames, rows, columns, 3], as stored; colours as RGB."""

CLEAN_PIXELS: Final = ("113101", "Clean Pixel Data Option")
"""Code value and meaning of PS3.16 CID 7050."""
_MODEL = "PP-OCRv6_det_small.onnx"
# Below the library's 0.3 and 0.5: a box too many costs some pixels, one too few a name.
_PIXEL_SCORE, _BOX_SCORE = 0.2, 0.3
# The shorter side is scaled up to each of these (the library's own is 736): small letters are found in the large view,
# letters on speckle in the small one.
_SHORT_SIDES, _LONG_SIDE = (480, 736, 1100), 4096
# Around a found box, in parts of its shorter side: accents, soft edges; and at the ends of a line, which the detector
# often cuts in noise. Chosen on seed 7 of `benchmarks.deid.pictures`, as are the scales.
_RIM, _END, _RIM_PIXELS = 0.4, 2.0, 2
# A higher box (of its shorter side, in pixels) is a patch of noise or an organ: letters of an overlay are smaller.
_MAX_HEIGHT = 128
# More than this share of a picture is no writing: noise was taken for it, and what is left is of no use.
_MOST = 0.5
_MAX_BYTES = 1 << 31  # of decoded pixels; a longer recording is held back, not half read


class Box(NamedTuple):
    """`[top, bottom)` × `[left, right)` in pixels."""

    top: int
    left: int
    bottom: int
    right: int


class PixelsError(Exception):
    """These pixels can't be examined here. `reason` is a fixed word, never a value from the file."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


def check_installed() -> None:
    """Raise `UserError` unless the finder can be used, so that a run does not begin in vain."""
    try:
        _engine(_SHORT_SIDES[0])
    except ImportError:
        raise user_error(
            "blanking needs the text detector, which is not installed", "install the extra 'curate'", key="rapidocr"
        ) from None


def decode(dataset: Dataset) -> Pixels:
    """All frames. Raises `PixelsError` for what is no picture of 8 or 16 bits in grey, RGB, YBR or a palette."""
    if dataset.get("BitsAllocated") not in (8, 16) or "PixelData" not in dataset:
        raise PixelsError("pixels_of_unsupported_form")
    try:
        frames = int(dataset.get("NumberOfFrames") or 1)
        size = frames * dataset.Rows * dataset.Columns * dataset.SamplesPerPixel * dataset.BitsAllocated // 8
        if size > _MAX_BYTES:
            raise PixelsError("pixels_too_large")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pixels = pixel_array(dataset)
            if dataset.PhotometricInterpretation == "PALETTE COLOR":
                pixels = apply_color_lut(pixels, dataset)
    except PixelsError:
        raise
    except Exception:  # the decoders raise many kinds, with values of the file in their messages
        raise PixelsError("pixels_unreadable") from None
    return pixels if frames > 1 else pixels[np.newaxis]


def text_boxes(frame: Pixels) -> list[Box]:
    """Where text may stand in one frame, [rows, columns] or [rows, columns, 3] of any number type."""
    boxes: set[Box] = set()
    for view in _views(frame):
        for side in _SHORT_SIDES:
            found = _engine(side)(view, use_det=True, use_cls=False, use_rec=False).boxes
            for corners in () if found is None else found:
                if _height(corners) <= _MAX_HEIGHT:
                    boxes.add(_grown(corners, frame.shape))
    return sorted(boxes)


def blank_text(dataset: Dataset) -> int:
    """Blank what may be text, in place and in every frame; returns how many places.

    What lies outside the regions that an ultrasound picture declares is blanked whole: there scanners write whom they
    looked at. The pixels are stored uncompressed when anything changes, else they stay as they are.

    Raises:
        PixelsError: no picture that can be examined or written here.
    """
    pixels = decode(dataset)
    # One mask for all frames: text that blinks, or is dim in one frame, is covered in each.
    boxes = sorted({box for frame in pixels for box in text_boxes(frame)})
    text = mask_of(boxes, pixels.shape[1:3])
    if too_much(text):
        raise PixelsError("pixels_mostly_like_text")
    text |= _outside_regions(dataset, pixels.shape[1:3])
    if text.any():
        _store(dataset, blanked(pixels, text))
    dataset.BurnedInAnnotation = "NO"
    return len(boxes)


def mask_of(boxes: Iterable[Box], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """[rows, columns], true inside the boxes."""
    mask = np.zeros(shape, bool)
    for box in boxes:
        mask[box.top : box.bottom, box.left : box.right] = True
    return mask


def too_much(text: NDArray[np.bool_]) -> bool:
    """Whether blanking would leave no picture worth keeping."""
    return float(text.mean()) > _MOST


def blanked(pixels: Pixels, mask: NDArray[np.bool_]) -> Pixels:
    """A copy with the picture's most frequent value, its background, where `mask` says."""
    flat = pixels[0].reshape(-1, *pixels.shape[3:])
    values, counts = np.unique(flat, axis=0, return_counts=True)
    blank = pixels.copy()
    blank[:, mask] = values[counts.argmax()]
    return blank


@cache
def _engine(short_side: int) -> Any:
    import rapidocr

    model = Path(rapidocr.__file__).parent / "models" / _MODEL
    return rapidocr.RapidOCR(
        params={
            "Global.use_cls": False,
            "Global.use_rec": False,
            "Global.log_level": "critical",
            "Global.max_side_len": _LONG_SIDE,
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,  # more threads wait busily for each other
            "Det.model_path": str(model),  # named, so that the library never looks for another
            "Det.thresh": _PIXEL_SCORE,
            "Det.box_thresh": _BOX_SCORE,
            "Det.limit_side_len": short_side,
        }
    )


def _views(frame: Pixels) -> list[NDArray[np.uint8]]:
    """The frame as the detector wants it: blue, green, red, 0 to 255.

    More than 8 bits are shown twice: whole, where letters are the brightest or darkest values, and without the rarest
    values, where a few of them would hide the rest.
    """
    values = np.nan_to_num(frame.astype(np.float32))
    ranges = [(float(values.min()), float(values.max()))]
    if frame.dtype != np.uint8:
        low, high = (float(edge) for edge in np.percentile(values, (1, 99)))
        ranges.append((low, high))
    views = []
    for low, high in ranges:
        if high > low:
            view = (np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8)
            view = view[..., ::-1] if view.ndim == 3 else np.repeat(view[..., np.newaxis], 3, axis=2)
            views.append(np.ascontiguousarray(view))
    return views


def _height(corners: NDArray[np.float32]) -> float:
    """The shorter side of the upright box around a found quadrangle, in pixels."""
    return float((corners.max(axis=0) - corners.min(axis=0)).min())


def _grown(corners: NDArray[np.float32], shape: tuple[int, ...]) -> Box:
    """The upright box around a found quadrangle, with a rim, inside the picture."""
    left, top = (float(edge) for edge in corners.min(axis=0))
    right, bottom = (float(edge) for edge in corners.max(axis=0))
    wide, tall, height = right - left, bottom - top, _height(corners)
    across = _RIM_PIXELS + height * (_END if wide >= 2 * tall else _RIM)
    down = _RIM_PIXELS + height * (_END if tall >= 2 * wide else _RIM)
    return Box(
        max(0, int(top - down)),
        max(0, int(left - across)),
        min(shape[0], int(np.ceil(bottom + down))),
        min(shape[1], int(np.ceil(right + across))),
    )


def _outside_regions(dataset: Dataset, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """What no region of SequenceOfUltrasoundRegions covers (bounds inclusive, PS3.3 C.8.5.5); nothing without one."""
    outside = np.ones(shape, bool)
    for region in dataset.get("SequenceOfUltrasoundRegions", None) or ():
        bounds = [region.get(f"RegionLocation{edge}") for edge in ("MinX0", "MinY0", "MaxX1", "MaxY1")]
        if all(isinstance(bound, int) for bound in bounds):
            left, top, right, bottom = bounds
            outside[top : bottom + 1, left : right + 1] = False
    return outside if not outside.all() else np.zeros(shape, bool)


def _store(dataset: Dataset, pixels: Pixels) -> None:
    """Put the pixels in, uncompressed; colours as RGB."""
    if dataset.file_meta.TransferSyntaxUID == ExplicitVRBigEndian:
        raise PixelsError("pixels_of_unsupported_form")
    colour = pixels.ndim == 4
    form = "RGB" if colour else str(dataset.PhotometricInterpretation)
    bits = pixels.dtype.itemsize * 8 if colour else int(dataset.BitsStored)
    try:
        set_pixel_data(dataset, pixels if len(pixels) > 1 else pixels[0], form, bits, generate_instance_uid=False)
    except (AttributeError, ValueError, NotImplementedError):  # a message may quote the file
        raise PixelsError("pixels_of_unsupported_form") from None
    for keyword in ("Red", "Green", "Blue"):
        for part in ("PaletteColorLookupTableDescriptor", "PaletteColorLookupTableData"):
            dataset.pop(keyword + part, None)

"""DICOM → one 16-bit array of the declared size: Hounsfield units for CT, normalised intensities for anything else.

Nothing is compressed with loss: values are resampled once, in float, and stored as integers.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.pixels.utils import pixel_array

from curation.dicom_bytes import check_declared, read_within_limits

# The scale of CT: air. Padding outside the scanned circle is set to it, or it would bleed into the resampled rim.
_AIR_HU = -1024
# Percentiles of the picture that become 0 and 65535: MR intensities have no unit.
_LOW, _HIGH = 0.5, 99.5
# Pixels. The picture is padded to a square, and one of 65535 x 1 would take 17 GB; mammograms have about 6000.
_LONGEST_SIDE = 16_384


def load_image(path: Path, size: int) -> tuple[NDArray[np.integer[Any]], str]:
    """The picture (of several the middle one) as [size, size], and its modality: int16 Hounsfield units for CT, else
    uint16.

    Raises:
        ValueError: no picture in it, one in colour, or one with a side above `_LONGEST_SIDE`. The message
            holds nothing from the file.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = read_within_limits(path.read_bytes())
            check_declared(dataset)
            if max(int(dataset.Rows), int(dataset.Columns)) > _LONGEST_SIDE:
                raise ValueError
            frames = int(dataset.get("NumberOfFrames") or 1)
            pixels = np.asarray(pixel_array(dataset, index=frames // 2 if frames > 1 else None), np.float32)
        except Exception:  # the library's messages quote the file
            raise ValueError("no readable picture") from None
    if pixels.ndim != 2:
        raise ValueError("not a greyscale picture")
    modality = str(dataset.get("Modality", "OT"))
    if modality == "CT":
        padding = dataset.get("PixelPaddingValue")
        outside = pixels == float(padding) if padding is not None else None
        units = pixels * float(dataset.get("RescaleSlope", 1)) + float(dataset.get("RescaleIntercept", 0))
        if outside is not None:
            units[outside] = _AIR_HU
        limits = np.iinfo(np.int16)
        return np.clip(np.rint(square(units, size)), limits.min, limits.max).astype(np.int16), modality
    if dataset.get("PhotometricInterpretation") == "MONOCHROME1":
        pixels = pixels.max() - pixels
    resampled = square(pixels, size)
    low, high = np.percentile(resampled, [_LOW, _HIGH])
    scaled = (resampled - low) / max(float(high - low), 1e-6)
    return np.rint(np.clip(scaled, 0, 1) * 65535).astype(np.uint16), modality


def square(pixels: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """[height, width] → [size, size]: padded to a square with its darkest value, then Lanczos with antialiasing."""
    height, width = pixels.shape
    side = max(height, width)
    square = np.full((side, side), pixels.min(), np.float32)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = pixels
    resized = Image.fromarray(square).resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(resized, np.float32)

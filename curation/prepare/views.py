"""What is derived from a volume: the same stretch of body at another spacing, and thumbnails."""

from __future__ import annotations

from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from scipy.ndimage import affine_transform, gaussian_filter

from curation.prepare.reasons import VolumeError
from curation.prepare.volume import Volume


@dataclass(frozen=True, slots=True)
class Window:
    """Which values a display shows: `width` of them around `center`, in the volume's unit."""

    center: float
    width: float


# Usual CT windows; which one a thumbnail was made with is written into it.
SOFT_TISSUE, LUNG, BONE, BRAIN = Window(40, 400), Window(-600, 1500), Window(400, 1800), Window(40, 80)
# The whole range of a normalised volume.
WHOLE = Window(32768, 65536)


def resample(volume: Volume, spacing_mm: tuple[float, float, float], max_voxels: int = 1 << 30) -> Volume:
    """The volume at `spacing_mm` (slices, rows, columns): linear, the outer edges of the field stay where they are.

    Where voxels become larger a Gaussian of (ratio - 1) / 2 voxels takes out first what the new grid cannot carry.
    An axis of one slice is left as it is. `positions_mm` and `numbers` are those of the nearest original slice.

    Raises:
        VolumeError: `bad_geometry` where a spacing is unknown or not positive, `too_large` where the result would be.
    """
    source, keep = np.array(volume.spacing_mm), np.array(volume.voxels.shape) == 1
    target = np.where(keep, source, spacing_mm)
    if (source[~keep] <= 0).any() or not np.isfinite(target).all() or (target[~keep] <= 0).any():
        raise VolumeError("bad_geometry")
    ratio = np.where(keep, 1.0, target / np.where(source > 0, source, 1.0))
    shape = [max(1, round(count / each)) for count, each in zip(volume.voxels.shape, ratio, strict=True)]
    if float(np.prod(np.array(shape, np.float64))) > max_voxels:
        raise VolumeError("too_large")
    values = volume.voxels.astype(np.float32)
    if (ratio > 1).any():
        values = gaussian_filter(values, np.maximum(ratio - 1, 0) / 2, mode="nearest")
    # The new first voxel's centre lies half a new voxel inside the old edge.
    offset = (ratio - 1) / 2
    moved = affine_transform(values, ratio, offset=offset, output_shape=tuple(shape), order=1, mode="nearest")
    limits = np.iinfo(volume.voxels.dtype)
    voxels = np.clip(np.rint(moved), limits.min, limits.max).astype(volume.voxels.dtype)
    nearest = np.clip(np.rint(np.arange(shape[0]) * ratio[0] + offset[0]), 0, len(volume.numbers) - 1).astype(int)
    places = tuple(volume.positions_mm[index] for index in nearest) if volume.positions_mm else ()
    return replace(
        volume,
        voxels=voxels,
        spacing_mm=(float(target[0]), float(target[1]), float(target[2])),
        numbers=tuple(volume.numbers[index] for index in nearest),
        positions_mm=places,
        origin_mm=_moved_origin(volume, offset * source),
    )


def _moved_origin(volume: Volume, by_mm: NDArray[np.float64]) -> tuple[float, float, float] | None:
    """The centre of the new first voxel. Rows go down the column direction, columns along the row direction."""
    if volume.origin_mm is None or volume.cosines is None:
        return volume.origin_mm
    row, column = np.array(volume.cosines[:3]), np.array(volume.cosines[3:])
    x, y, z = np.array(volume.origin_mm) + by_mm[0] * np.cross(row, column) + by_mm[1] * column + by_mm[2] * row
    return float(x), float(y), float(z)


def shown(plane: NDArray[np.integer[Any]], window: Window) -> NDArray[np.uint8]:
    """[height, width] → the 8 bits that a display shows (the linear function of DICOM PS3.3 C.11.2.1.2.1)."""
    if window.width <= 1:
        raise ValueError("a window is wider than 1")
    grey = (plane.astype(np.float32) - (window.center - 0.5)) / (window.width - 1) + 0.5
    grey8: NDArray[np.uint8] = np.rint(np.clip(grey, 0, 1) * 255).astype(np.uint8)
    return grey8


def thumbnail(volume: Volume, window: Window, side: int = 128, index: int | None = None) -> bytes:
    """A PNG of one slice (the middle one), 8 bit, its longer side `side` pixels, in true proportions.

    The window is declared in the PNG's text (`WindowCenter`, `WindowWidth`, `Unit`). For looking at, not for training.
    """
    plane = volume.voxels[len(volume.voxels) // 2 if index is None else index]
    _, rows, columns = volume.spacing_mm
    height, width = plane.shape[0] * (rows or 1.0), plane.shape[1] * (columns or 1.0)
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    text = PngInfo()
    declared = {"WindowCenter": f"{window.center:g}", "WindowWidth": f"{window.width:g}", "Unit": volume.unit}
    for key, value in declared.items():
        text.add_text(key, value)
    stream = BytesIO()
    picture = Image.fromarray(shown(plane, window)).resize(size, Image.Resampling.LANCZOS)
    picture.save(stream, "PNG", pnginfo=text, compress_level=6)
    return stream.getvalue()

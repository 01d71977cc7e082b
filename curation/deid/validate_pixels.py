"""The second pass over blanked pixels: what still looks like rows of letters, and whether only text was blanked.

It shares nothing with `pixels`: letters are narrow strokes of one brightness that stand in a row on a calmer ground.
Each of these is measured: strokes by a top-hat (Meyer 1978), components by 8-connectivity, rows by overlap and gap.
"""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import pixel_array
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

Gray = NDArray[np.float32]

# Wider strokes are no letters of an overlay; the top-hat removes them.
_STROKE = 15
# Contrast of strokes against what surrounds them, of 255: from dim labels to letters that lie on bright speckle.
_LEVELS: Final = (24.0, 48.0, 90.0, 150.0)
_MIN_HEIGHT, _MAX_HEIGHT = 4, 96
# Glyphs in a row at least. Side marks (`R`, `L`) and lone numbers are no identity.
_MIN_GLYPHS, _MIN_PARTS = 4, 3
# More components than this at one level are noise, and so is any row among them; a higher level sees text over it.
_MAX_COMPONENTS = 40_000
# How much may differ, of the contrast: the glyphs' brightness, the background; of the height: the base or top lines.
_ALIKE, _CALM, _LINED = 0.1, 0.2, 0.16


def judge_pixels(original: Dataset, output: Dataset) -> Counter[str]:
    """Findings of a picture whose text was blanked.

    `text_in_pixels`: frames where rows of letters seem left; `pixels_changed`: something else than one value was
    written, or the frames differ in form.

    Raises:
        Exception: any of the decoders', whose messages may quote the file
    """
    before, after = _frames(original), _frames(output)
    if before.shape != after.shape:
        return Counter({"pixels_changed": 1})
    written = after[(before != after).any(axis=3)]
    return Counter(
        text_in_pixels=sum(rows_left(frame) > 0 for frame in after),
        pixels_changed=int(len(written) > 0 and bool((written != written[0]).any())),
    )


def _frames(dataset: Dataset) -> NDArray[np.generic]:
    """[frames, rows, columns, 1 or 3]"""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pixels = pixel_array(dataset)
        if dataset.PhotometricInterpretation == "PALETTE COLOR":
            pixels = apply_color_lut(pixels, dataset)
    shape = (int(dataset.get("NumberOfFrames") or 1), int(dataset.Rows), int(dataset.Columns), -1)
    return np.asarray(pixels.reshape(shape))


def rows_left(frame: NDArray[np.generic]) -> int:
    """How many rows of letters seem to stand in a picture, upright or turned; one row may count more than once.

    Args:
        frame: [rows, columns] or [rows, columns, 3], any number type; brightness by any monotonic scale
    """
    light, dark = _planes(frame)
    if light is None or dark is None:
        return 0
    found = 0
    for plane in (light, 255 - dark):
        strokes = plane - ndimage.grey_opening(plane, size=(_STROKE, _STROKE))
        for level in _LEVELS:
            mask = strokes > level
            found += _rows(plane, mask) + _rows(plane.T, mask.T)
    return found


def _planes(frame: NDArray[np.generic]) -> tuple[Gray | None, Gray | None]:
    """The brightest and the darkest colour of each pixel, on 0 to 255; None when the picture is of one value."""
    values = np.nan_to_num(np.asarray(frame, np.float32))
    low, high = float(values.min(initial=np.inf)), float(values.max(initial=-np.inf))
    if not high > low:
        return None, None
    values = (values - low) * np.float32(255 / (high - low))
    return (values.max(axis=2), values.min(axis=2)) if values.ndim == 3 else (values, values)


def _rows(plane: Gray, mask: NDArray[np.bool_]) -> int:
    """How many rows of glyphs are in `mask`."""
    labels, count = ndimage.label(mask, structure=np.ones((3, 3), bool))
    if not _MIN_PARTS <= count <= _MAX_COMPONENTS:
        return 0
    numbers = np.arange(1, count + 1)
    places = np.array(
        [(part[0].start, part[1].start, part[0].stop, part[1].stop) for part in ndimage.find_objects(labels)], np.int64
    )
    height, width = places[:, 2] - places[:, 0], places[:, 3] - places[:, 1]
    ink = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    peak = np.asarray(ndimage.maximum(plane, labels, numbers))
    full = ink / (height * width)
    # A bar (`l`, `1`, `|`) is full; anything wide and full is a patch, anything thin and wide a line.
    shaped = (full > 0.12) & ((full < 0.92) | (width <= height * 0.6)) & (width <= height * 14)
    good = (height >= _MIN_HEIGHT) & (height <= min(_MAX_HEIGHT, plane.shape[0] // 3)) & shaped
    glyphs, peak = places[good], peak[good]
    if not len(glyphs):
        return 0
    groups = [row for row in _groups(glyphs) if len(row) >= _MIN_PARTS]
    return sum(_is_text(plane, mask, glyphs[row], peak[row]) for row in groups)


def _groups(places: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Indices of the components that stand in one row."""
    height = (places[:, 2] - places[:, 0]).astype(np.float64)
    centre = (places[:, :2] + places[:, 2:]) / 2
    # Each joins its nearest neighbours only; more would make pairs of all with all in noise.
    _, near = cKDTree(centre).query(centre, k=min(12, len(places)))
    left = np.repeat(np.arange(len(places)), near.shape[1] if near.ndim > 1 else 1)
    right = near.ravel()
    tall, small = np.maximum(height[left], height[right]), np.minimum(height[left], height[right])
    overlap = np.minimum(places[left, 2], places[right, 2]) - np.maximum(places[left, 0], places[right, 0])
    gap = np.maximum(places[left, 1], places[right, 1]) - np.minimum(places[left, 3], places[right, 3])
    joined = (overlap >= 0.5 * small) & (tall <= 2.4 * small) & (gap <= 1.1 * tall)
    graph = coo_array((joined[joined], (left[joined], right[joined])), shape=(len(places), len(places)))
    count, member = connected_components(graph, directed=False)
    order = np.argsort(member, kind="stable")
    return np.split(order, np.cumsum(np.bincount(member, minlength=count))[:-1])


def _is_text(plane: Gray, mask: NDArray[np.bool_], places: NDArray[np.int64], peak: Gray) -> bool:
    """Whether a row of components looks like text."""
    top, left = (int(edge) for edge in places[:, :2].min(axis=0))
    bottom, right = (int(edge) for edge in places[:, 2:].max(axis=0))
    heights, widths = places[:, 2] - places[:, 0], places[:, 3] - places[:, 1]
    tall = float(np.percentile(heights, 80))
    # Small letters touch each other: a wide component counts as several.
    glyphs = int(np.maximum(1, np.rint(widths / (0.8 * tall))).sum())
    if glyphs < _MIN_GLYPHS or right - left < 1.8 * tall or bottom - top > 2.2 * tall:
        return False
    inside, ink = plane[top:bottom, left:right], mask[top:bottom, left:right]
    rest = inside[~ink]
    # Each glyph has a stroke that some line crosses; an arc of a skull is crossed once however long it is.
    strokes = int((np.diff(np.pad(ink, ((0, 0), (1, 0))).astype(np.int8), axis=1) == 1).sum(axis=1).max())
    if not rest.size or not 0.06 < ink.mean() < 0.75 or strokes < 0.8 * glyphs:
        return False
    contrast = float(np.median(peak) - np.median(rest))
    spread = float(np.subtract(*np.percentile(rest, [75, 25]))) / 1.35
    alike = float(np.median(np.abs(peak - np.median(peak))))
    lined = min(_deviation(places[:, 0], tall), _deviation(places[:, 2], tall))
    return contrast > 0 and alike <= _ALIKE * contrast and spread <= _CALM * contrast and lined <= _LINED


def _deviation(edges: NDArray[np.int64], tall: float) -> float:
    """How far the edges of most components lie from one line, in heights."""
    return float(np.median(np.abs(edges - np.median(edges)))) / tall

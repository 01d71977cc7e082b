"""A DICOM series → one study volume: int16 Hounsfield units (CT) or uint16 normalised (anything else), lossless.

Slices are ordered by where they lie (ImagePositionPatient projected on the normal of the plane), never by their number:
PS3.3 gives InstanceNumber no spatial meaning. What does not make one regular volume is refused with a reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curation.prepare.dicom_slices import MAX_VOXELS, Slice, read_slices
from curation.prepare.reasons import VolumeError

# The scale of CT: air. Padding outside the scanned circle is set to it.
AIR_HU = -1024
_WHITE = 65535
# Our own tolerances. Headers round: cosines to six digits, positions and spacings to a micrometre or so.
_COSINE = 1e-3
_SPACING_MM = 1e-3
_SAME_PLACE_MM = 1e-2
# A step may differ from the usual one by this share (the table moves unevenly); by half of it, a slice is missing.
_STEP, _MISSING = 0.05, 0.5
# A tilt that is less does not move a slice by a voxel over a usual stack.
_TILT_DEG = 0.5


@dataclass(frozen=True, slots=True)
class Volume:
    """`voxels` [slices, height, width], slices along the normal of the plane (feet to head for a usual axial series).

    Attributes:
        spacing_mm: between slices, rows, columns; the first is 0 where a single slice or cine has none
        unit: "HU", or "normalised": stored value = `low` + voxel * (`high` - `low`) / 65535
        numbers: each slice's InstanceNumber (or frame): how reports refer to it
        positions_mm: each slice's place along the normal; empty without geometry
        tilt_deg: of the gantry, from the positions or, for one slice, from the header; nothing is sheared back
        clipped: voxels outside int16, set to its limit
        series: SeriesNumber: how reports refer to the series
        region: the lexicon's name of the examined part of the body, or empty
    """

    voxels: NDArray[np.integer[Any]]
    spacing_mm: tuple[float, float, float]
    modality: str
    unit: str
    low: float
    high: float
    numbers: tuple[int, ...]
    positions_mm: tuple[float, ...]
    origin_mm: tuple[float, float, float] | None
    cosines: tuple[float, ...] | None
    tilt_deg: float
    clipped: int
    series: int | None = None
    region: str = ""

    @property
    def tilted(self) -> bool:
        return abs(self.tilt_deg) > _TILT_DEG

    @property
    def plane(self) -> str:
        """`axial`, `coronal` or `sagittal`: the nearest to the normal; empty without geometry."""
        if self.cosines is None:
            return ""
        return ("sagittal", "coronal", "axial")[int(np.argmax(np.abs(_normal(self.cosines))))]

    @property
    def ascending(self) -> bool:
        """Whether later slices lie further left (sagittal), back (coronal) or up (axial): DICOM's axes."""
        normal = _normal(self.cosines) if self.cosines is not None else np.zeros(3)
        return bool(normal[int(np.argmax(np.abs(normal)))] > 0)


def load_volume(paths: Sequence[Path], max_voxels: int = MAX_VOXELS) -> Volume:
    """The volume of a series, whatever the order of its files.

    Raises:
        VolumeError: `reason` says why the files make no volume; nothing from a file is in it.
    """
    slices: list[Slice] = []
    for path in paths:
        slices += read_slices(path, max_voxels)
        if sum(each.pixels.size for each in slices) > max_voxels:
            raise VolumeError("too_large")
    return build_volume(slices)


def build_volume(slices: Sequence[Slice]) -> Volume:
    """The volume of slices that were read.

    Raises:
        VolumeError: see `load_volume`.
    """
    if not slices:
        raise VolumeError("empty")
    _check_alike(slices)
    first = slices[0]
    if len(slices) > 1 and len({each.position_mm is None for each in slices}) > 1:
        raise VolumeError("no_position")
    has_place = first.position_mm is not None and first.cosines is not None
    if not has_place and len({id(each.pixels.base) for each in slices}) > 1:
        # Frames of one file have an order; files without a place have none.
        raise VolumeError("no_position")
    ordered, step, tilt = list(slices), first.thickness_mm or 0.0, first.tilt_deg
    places: tuple[float, ...] = ()
    if has_place:
        ordered, places = _ordered(slices)
        first = ordered[0]
        if len(ordered) > 1:
            step, tilt = _step(places), _tilt(ordered)
    rows, columns = first.spacing_mm or (0.0, 0.0)
    voxels, low, high, clipped = _voxels(ordered)
    return Volume(
        voxels=voxels,
        spacing_mm=(step, rows, columns),
        modality=first.modality,
        unit="HU" if first.modality == "CT" else "normalised",
        low=low,
        high=high,
        numbers=tuple(each.number for each in ordered),
        positions_mm=places,
        origin_mm=first.position_mm,
        cosines=first.cosines,
        tilt_deg=tilt,
        clipped=clipped,
        series=first.series,
        region=first.region,
    )


def _check_alike(slices: Sequence[Slice]) -> None:
    first = slices[0]
    for each in slices:
        if each.modality != first.modality or each.group != first.group:
            raise VolumeError("mixed_series")
        if each.pixels.shape != first.pixels.shape:
            raise VolumeError("mixed_size")
        if (each.cosines is None) != (first.cosines is None) or (each.spacing_mm is None) != (first.spacing_mm is None):
            raise VolumeError("bad_geometry")
        numbers = [*(each.cosines or ()), *(each.position_mm or ()), *(each.spacing_mm or ()), each.slope]
        if not np.isfinite([*numbers, each.intercept]).all() or each.slope == 0:
            raise VolumeError("bad_geometry")
        if each.cosines is not None:
            _check_cosines(each.cosines)
            if np.abs(np.subtract(each.cosines, first.cosines or ())).max() > _COSINE:
                raise VolumeError("mixed_orientation")
        if each.spacing_mm is not None:
            if min(each.spacing_mm) <= 0:
                raise VolumeError("bad_geometry")
            if np.abs(np.subtract(each.spacing_mm, first.spacing_mm or ())).max() > _SPACING_MM:
                raise VolumeError("mixed_spacing")


def _check_cosines(cosines: tuple[float, ...]) -> None:
    """Two unit vectors at a right angle (PS3.3 C.7.6.2.1.1)."""
    if len(cosines) != 6:
        raise VolumeError("bad_geometry")
    row, column = np.array(cosines[:3]), np.array(cosines[3:])
    if np.abs([row @ row - 1, column @ column - 1, row @ column]).max() > 10 * _COSINE:
        raise VolumeError("bad_geometry")


def _normal(cosines: tuple[float, ...]) -> NDArray[np.float64]:
    normal = np.cross(cosines[:3], cosines[3:])
    return np.asarray(normal / np.linalg.norm(normal), np.float64)


def _ordered(slices: Sequence[Slice]) -> tuple[list[Slice], tuple[float, ...]]:
    """The slices along the normal and their places on it, in mm."""
    normal = _normal(slices[0].cosines or ())
    places = [float(normal @ np.array(each.position_mm, np.float64)) for each in slices]
    order = sorted(range(len(slices)), key=places.__getitem__)
    return [slices[index] for index in order], tuple(places[index] for index in order)


def _step(places: Sequence[float]) -> float:
    """The distance between slices: the mean, after each step was found equal to the usual one within the tolerance."""
    steps = np.diff(places)
    if (steps < _SAME_PLACE_MM).any():
        raise VolumeError("duplicate_slice")
    # The lower median: one step of two is then not judged by their mean.
    usual = float(np.sort(steps)[(len(steps) - 1) // 2])
    off = steps / usual - 1
    # A stack of which most steps are alike and some are much longer misses slices; otherwise it is irregular.
    if (off > _MISSING).any():
        raise VolumeError("gap")
    if (np.abs(off) > _STEP).any():
        raise VolumeError("mixed_spacing")
    return float(steps.mean())


def _tilt(slices: Sequence[Slice]) -> float:
    """The angle in degrees between the line of the slices' corners and the normal: 0 for an upright gantry."""
    way = np.subtract(slices[-1].position_mm or (), slices[0].position_mm or ())
    along = float(way @ _normal(slices[0].cosines or ()))
    aside = float(np.sqrt(max(float(way @ way) - along * along, 0.0)))
    return float(np.degrees(np.arctan2(aside, along)))


def _voxels(slices: Sequence[Slice]) -> tuple[NDArray[np.integer[Any]], float, float, int]:
    """[slices, height, width] in 16 bits with the values that its ends stand for, and how many voxels were clipped."""
    if slices[0].modality == "CT":
        return _hounsfield(slices)
    # In double: 16 stored bits times a slope keep all their digits.
    values = np.stack([each.pixels * each.slope + each.intercept for each in slices])
    if slices[0].inverted:
        values = -values
    low, high = float(values.min()), float(values.max())
    # A linear map of at most 65536 different stored values on 65536 codes keeps them all apart: it can be undone.
    scale = _WHITE / (high - low) if high > low else 0.0
    return np.rint((values - low) * scale).astype(np.uint16), low, high, 0


def _hounsfield(slices: Sequence[Slice]) -> tuple[NDArray[np.integer[Any]], float, float, int]:
    limits = np.iinfo(np.int16)
    voxels = np.empty((len(slices), *slices[0].pixels.shape), np.int16)
    clipped = 0
    for target, each in zip(voxels, slices, strict=True):
        if each.slope == 1 and each.intercept == int(each.intercept):
            units = each.pixels.astype(np.int32) + int(each.intercept)
        else:
            units = np.rint(np.clip(each.pixels * each.slope + each.intercept, -1e9, 1e9)).astype(np.int32)
        if each.padding is not None:
            units[(each.pixels >= each.padding[0]) & (each.pixels <= each.padding[1])] = AIR_HU
        clipped += int(((units < limits.min) | (units > limits.max)).sum())
        target[...] = np.clip(units, limits.min, limits.max)
    return voxels, float(limits.min), float(limits.max), clipped

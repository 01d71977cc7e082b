"""An offline pool of variants of a picture, so that the loader picks one instead of computing it.

Which changes variant v of a sample gets follows from (seed, sample id, v) alone: neither order, nor number of workers,
nor other samples matter. The probabilities are those that were asked for; about half of the variants are then the
picture itself, and it is stored once.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

VARIANTS = 10


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How often each change is made, and how strong it is.

    `flip` is 0: reports say left and right, and a mirrored heart is another disease. Raise it only for pictures
    whose anatomy has no side and whose text names none.
    """

    rotate: float = 0.3
    rotate_deg: float = 10.0
    intensity: float = 0.2
    gain: float = 0.1
    offset: float = 0.05
    elastic: float = 0.1
    elastic_share: float = 0.02
    elastic_smooth: float = 0.06
    flip: float = 0.0

    def __post_init__(self) -> None:
        chances = (self.rotate, self.intensity, self.elastic, self.flip)
        if not all(0 <= chance <= 1 for chance in chances):
            raise ValueError("a probability is between 0 and 1")


@dataclass(frozen=True, slots=True)
class Plan:
    """The changes of one variant: radians, gain - 1, offset as a share of the range, seed of the elastic field."""

    angle: float = 0.0
    gain: float = 0.0
    offset: float = 0.0
    elastic_seed: int | None = None
    flip: bool = False

    @property
    def changes(self) -> bool:
        return self != Plan()


def plan(seed: int, sample_id: str, variant: int, settings: Augmentation) -> Plan:
    """What is done to variant `variant`; variant 0 is always the picture itself."""
    if variant == 0:
        return Plan()
    digest = hashlib.sha256(f"augment\0{seed}\0{sample_id}\0{variant}".encode()).digest()
    # Every number is drawn whether it is used or not: a changed probability moves no other draw.
    draws = np.random.Generator(np.random.Philox(int.from_bytes(digest[:16]))).random(8)
    rotate, intensity, elastic, flip, angle, gain, offset, _ = (float(draw) for draw in draws)
    changed = intensity < settings.intensity
    return Plan(
        angle=float(np.radians((2 * angle - 1) * settings.rotate_deg)) if rotate < settings.rotate else 0.0,
        gain=(2 * gain - 1) * settings.gain if changed else 0.0,
        offset=(2 * offset - 1) * settings.offset if changed else 0.0,
        elastic_seed=int.from_bytes(digest[16:24]) if elastic < settings.elastic else None,
        flip=flip < settings.flip,
    )


def apply(picture: NDArray[np.integer[Any]], changes: Plan, settings: Augmentation) -> NDArray[np.integer[Any]]:
    """[height, width] → the same shape and type, interpolated once (linear); the edge goes on outside the picture."""
    if picture.ndim != 2 or picture.dtype.kind not in "iu":
        raise ValueError("a picture is [height, width] of whole numbers")
    values = picture.astype(np.float32)
    if changes.angle or changes.elastic_seed is not None:
        values = map_coordinates(values, _coordinates(picture.shape, changes, settings), order=1, mode="nearest")
    if changes.gain or changes.offset:
        low, high = float(picture.min()), float(picture.max())
        middle = (low + high) / 2
        values = (values - middle) * (1 + changes.gain) + middle + changes.offset * (high - low)
    if changes.flip:
        values = values[:, ::-1]
    limits = np.iinfo(picture.dtype)
    return np.ascontiguousarray(np.clip(np.rint(values), limits.min, limits.max)).astype(picture.dtype)


def _coordinates(shape: tuple[int, ...], changes: Plan, settings: Augmentation) -> NDArray[np.float32]:
    """[2, height, width]: where each new pixel is taken from; around the centre, then shaken elastically."""
    height, width = shape
    rows, columns = np.meshgrid(
        np.arange(height, dtype=np.float32) - (height - 1) / 2,
        np.arange(width, dtype=np.float32) - (width - 1) / 2,
        indexing="ij",
    )
    cosine, sine = np.float32(np.cos(changes.angle)), np.float32(np.sin(changes.angle))
    places = np.stack([cosine * rows - sine * columns, sine * rows + cosine * columns])
    places[0] += (height - 1) / 2
    places[1] += (width - 1) / 2
    if changes.elastic_seed is not None:
        # Simard et al. 2003: random displacements, smoothed; here scaled so that the largest is `elastic_share`.
        draws = np.random.Generator(np.random.Philox(changes.elastic_seed)).standard_normal(
            (2, height, width), np.float32
        )
        side = max(height, width)
        field = np.stack([gaussian_filter(each, settings.elastic_smooth * side, mode="constant") for each in draws])
        places += field * (settings.elastic_share * side / max(float(np.abs(field).max()), 1e-12))
    return places.astype(np.float32)


def make_pool(
    picture: NDArray[np.integer[Any]], seed: int, sample_id: str, settings: Augmentation, variants: int = VARIANTS
) -> NDArray[np.integer[Any]]:
    """[different pictures, height, width]: the picture, then each variant that differs from it, in order."""
    plans = [plan(seed, sample_id, variant, settings) for variant in range(variants)]
    return np.stack([picture, *(apply(picture, each, settings) for each in plans if each.changes)])


def row_of(seed: int, sample_id: str, variant: int, settings: Augmentation) -> int:
    """Where `make_pool` put a variant."""
    before = sum(plan(seed, sample_id, each, settings).changes for each in range(1, variant))
    return before + 1 if plan(seed, sample_id, variant, settings).changes else 0


def to_bytes(pool: NDArray[np.integer[Any]]) -> bytes:
    """A pool as a `.npy` file."""
    stream = BytesIO()
    np.save(stream, pool, allow_pickle=False)
    return stream.getvalue()


def pick(path: Path, row: int) -> NDArray[np.integer[Any]]:
    """One picture of a pool on disk; only its pages are read.

    Raises:
        ValueError: no pool is in the file, or it has no such row.
    """
    pool = np.load(path, mmap_mode="r", allow_pickle=False)
    if pool.ndim != 3 or not 0 <= row < len(pool):
        raise ValueError("no such picture in this pool")
    return np.array(pool[row])

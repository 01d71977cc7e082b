"""The pool follows from seed, sample and variant alone, changes as often as it says, and never flips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from curation.prepare.augment import VARIANTS, Augmentation, Plan, apply, make_pool, pick, plan, row_of, to_bytes

_DEFAULT = Augmentation()
_ALWAYS = Augmentation(rotate=1, intensity=1, elastic=1)


def _picture() -> NDArray[np.int16]:
    rows, columns = np.mgrid[:48, :64]
    return (1000 * np.exp(-((rows - 20) ** 2 + (columns - 40) ** 2) / 60) - 500).astype(np.int16)


def test_a_variant_is_the_same_whatever_else_is_made() -> None:
    pool = make_pool(_picture(), 7, "p1-00", _ALWAYS)
    again = apply(_picture(), plan(7, "p1-00", 4, _ALWAYS), _ALWAYS)
    assert np.array_equal(pool[row_of(7, "p1-00", 4, _ALWAYS)], again)
    for other in ((8, "p1-00", 4), (7, "p1-01", 4), (7, "p1-00", 5)):
        assert not np.array_equal(apply(_picture(), plan(*other, _ALWAYS), _ALWAYS), again)


def test_changes_come_as_often_as_asked_and_no_picture_is_mirrored() -> None:
    plans = [plan(1, f"s{sample}", variant, _DEFAULT) for sample in range(500) for variant in range(1, VARIANTS)]
    assert np.mean([bool(each.angle) for each in plans]) == pytest.approx(0.3, abs=0.03)
    assert np.mean([bool(each.gain) for each in plans]) == pytest.approx(0.2, abs=0.03)
    assert np.mean([each.elastic_seed is not None for each in plans]) == pytest.approx(0.1, abs=0.03)
    assert max(abs(each.angle) for each in plans) <= np.radians(10)
    assert not any(each.flip for each in plans)
    assert any(plan(1, "s", variant, Augmentation(flip=0.5)).flip for variant in range(1, VARIANTS))


def test_the_picture_itself_is_first_and_stored_once() -> None:
    pool = make_pool(_picture(), 3, "s", _DEFAULT)
    rows = [row_of(3, "s", variant, _DEFAULT) for variant in range(VARIANTS)]
    assert np.array_equal(pool[0], _picture())
    assert sorted({*rows, 0}) == list(range(len(pool)))
    assert (pool.dtype, pool.shape[1:]) == (np.int16, (48, 64))


def test_each_change_does_what_it_says() -> None:
    turned = apply(_picture(), Plan(angle=np.pi / 2), _DEFAULT)[:, 8:56]
    square = _picture()[:, 8:56]
    assert np.abs(turned.astype(int) - np.rot90(square, 1)).max() <= 1 or (
        np.abs(turned.astype(int) - np.rot90(square, -1)).max() <= 1
    )
    assert np.array_equal(apply(_picture(), Plan(flip=True), _DEFAULT), _picture()[:, ::-1])
    brighter = apply(_picture(), Plan(offset=0.05), _DEFAULT).astype(int) - _picture()
    assert set(np.unique(brighter)) <= {49, 50}
    bent = apply(_picture(), Plan(elastic_seed=5), _DEFAULT)
    assert not np.array_equal(bent, _picture())
    peak = np.subtract(np.unravel_index(bent.argmax(), bent.shape), (20, 40))
    assert np.abs(peak).max() <= 0.02 * 64 + 1


def test_values_stay_in_their_type() -> None:
    full = np.where(np.mgrid[:32, :32][0] < 16, 0, 65535).astype(np.uint16)
    result = apply(full, Plan(gain=0.1, offset=0.05), _DEFAULT)
    assert (result.dtype, result.min(), result.max()) == (np.uint16, 0, 65535)


def test_a_picture_is_picked_from_disk(tmp_path: Path) -> None:
    pool = make_pool(_picture(), 3, "s", _ALWAYS)
    (tmp_path / "pool.npy").write_bytes(to_bytes(pool))
    assert np.array_equal(pick(tmp_path / "pool.npy", 5), pool[5])
    for row in (-1, len(pool)):
        with pytest.raises(ValueError, match="no such"):
            pick(tmp_path / "pool.npy", row)


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="whole numbers"):
        apply(np.zeros((4, 4)), Plan(), _DEFAULT)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="probability"):
        Augmentation(flip=1.5)

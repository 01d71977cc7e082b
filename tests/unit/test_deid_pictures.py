"""The labelled pictures: each label lies on letters that are in the picture, and the figures count what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.deid.pictures import STYLES, fonts, make
from benchmarks.deid.pixels import Outcome, summary

SYSTEM = Path("/usr/share/fonts")


@pytest.fixture(scope="module")
def faces() -> dict[str, list[Path]]:
    try:
        return fonts((SYSTEM,))
    except ValueError:
        pytest.skip("no DejaVu or Liberation font here")


def test_labels_lie_on_letters(faces: dict[str, list[Path]]) -> None:
    drawn = 0
    for picture in make(3, range(0, 16, 4), faces, text=True):  # on black, one of each style
        assert picture.background == "black"
        ground = 255 if picture.style == "inverted" else 0
        for line in picture.lines:
            distance = np.abs(picture.frame[line.glyphs].astype(int) - ground).max(axis=1)
            assert distance.min() > 30
            assert line.glyphs.sum() > 20
            drawn += 1
    assert drawn >= len(STYLES)


def test_a_seed_makes_the_same_pictures_in_any_part(faces: dict[str, list[Path]]) -> None:
    whole = list(make(3, range(6), faces, text=True))
    part = list(make(3, (5,), faces, text=True))
    assert (whole[5].frame == part[0].frame).all()
    assert not any(picture.lines for picture in make(3, range(4), faces, text=False))


def test_a_missing_font_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--fonts"):
        fonts((tmp_path,))


def test_the_summary_counts_a_miss_that_passed_both_passes() -> None:
    def outcome(hits: list[bool], *, share: float = 0.1, doubted: bool = False) -> Outcome:
        lines = tuple((("black", "latin"), hit) for hit in hits)
        return Outcome(lines, "black", share, False, doubted, 1.0, 0.5)

    found = summary([outcome([True, True]), outcome([True, False]), outcome([False], doubted=True), outcome([])])
    assert found["lines"] == 5
    assert found["line_recall"] == 0.6
    assert (found["with_a_missed_line"], found["released_with_a_missed_line"]) == (2, 1)
    assert (found["clean_pictures"], found["clean_with_anything_blanked"], found["clean_released"]) == (1, 1, 1)

"""A study always gives its full sample; a finding gives one of its own only where the report says well enough where."""

from __future__ import annotations

from dataclasses import replace

import pytest

from curation.prepare.align import THRESHOLD, SeriesFacts, StudySample, align
from curation.prepare.entities import extract

CHEST = SeriesFacts(4, "chest", "axial", True, tuple(range(100, 0, -1)))
HEAD = SeriesFacts(2, "head", "axial", True, tuple(range(1, 31)))
SAGITTAL = SeriesFacts(3, "head", "sagittal", True, tuple(range(1, 21)))


def _own(text: str, *series: SeriesFacts) -> list[StudySample]:
    full, *own = align(extract(text), series)
    assert (full.kind, full.confidence) == ("full_study", 1.0)
    assert all(each.confidence > THRESHOLD for each in own)
    return own


@pytest.mark.parametrize(
    "text", ["A nodule in the right upper lobe (series 4, image 20).", "右肺上叶结节（序列4图像20）。"]
)
def test_slices_that_are_named_in_a_named_series_suffice(text: str) -> None:
    [sample] = _own(text, HEAD, CHEST)
    assert (sample.series, sample.slices, sample.entity) == (1, (80, 81), 0)
    assert sample.confidence > 0.9


def test_a_range_of_slices_is_taken_whole() -> None:
    [sample] = _own("Consolidation in the left lower lobe, images 70-80.", CHEST)
    assert sample.slices is not None
    assert [CHEST.numbers[index] for index in range(*sample.slices)] == list(range(80, 69, -1))


def test_a_number_that_several_series_have_is_not_enough_and_one_that_none_has_neither() -> None:
    assert _own("Nodule (image 20).", CHEST, replace(CHEST, series=5)) == []
    assert _own("Nodule (image 200).", CHEST) == []
    assert _own("Nodule (series 9, image 20).", CHEST) == []


def test_a_landmark_places_a_finding_and_a_wide_organ_does_not() -> None:
    [sample] = _own("A left hilar mass.", CHEST)
    assert sample.slices == (40, 60)
    assert sample.evidence[0] == "level"
    [sample] = _own("左侧基底节区脑出血。", HEAD)
    assert sample.slices is not None
    assert 10 <= sample.slices[0] < sample.slices[1] <= 20
    assert _own("A nodule in the lung.", CHEST) == []
    assert _own("A left hilar mass.", HEAD) == []


def test_slices_from_the_head_down_are_counted_from_the_other_end() -> None:
    [sample] = _own("Lymphadenopathy at the aortic arch.", replace(CHEST, ascending=False))
    assert sample.slices == (25, 36)
    [sample] = _own("Lymphadenopathy at the aortic arch.", CHEST)
    assert sample.slices == (64, 75)


def test_a_number_against_the_anatomy_is_not_believed() -> None:
    assert _own("A nodule in the right upper lobe (series 4, image 95).", CHEST) == []


def test_a_side_alone_is_not_enough_and_picks_the_half_that_it_means() -> None:
    found = align(extract("Left temporal lobe cyst."), [SAGITTAL], threshold=0.4)[1:]
    assert [each.slices for each in found] == [(10, 20)]
    found = align(extract("Right temporal lobe cyst."), [SAGITTAL], threshold=0.4)[1:]
    assert [each.slices for each in found] == [(0, 10)]
    assert _own("Left temporal lobe cyst.", SAGITTAL) == []


@pytest.mark.parametrize(
    "text",
    [
        "No nodule in the right upper lobe (series 4, image 20).",
        "右肺上叶未见结节（序列4图像20）。",
        "The nodule has resolved (series 4, image 20).",
        "History of a left hilar mass (series 4, image 50).",
        "Possible nodule in the right upper lobe (series 4, image 20).",
        "肺门肿块不除外（序列4图像50）。",
        "Nodule (series 4, image 20) is not seen.",
    ],
)
def test_what_is_denied_doubted_or_past_gives_no_sample_of_its_own(text: str) -> None:
    assert extract(text)
    assert _own(text, CHEST) == []


def test_a_study_without_findings_or_pictures_still_gives_its_full_sample() -> None:
    assert _own("Normal study.", CHEST) == []
    assert _own("A left hilar mass.") == []

"""How many notes are read, which ones, and what the reading proves: by formulas of the books."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.review.estimate import outcome
from curation.review.sample import Sampling, draw, sample_size
from curation.review.verdicts import parse_answer

EXACT_60_OF_0 = 1 - 0.05 ** (1 / 60)  # closed form of the one-sided Clopper-Pearson bound without an event


def clean(size: int) -> dict[int, dict[str, int]]:
    """Verdicts without a miss."""
    return {number: {} for number in range(size)}


@pytest.mark.parametrize(("limit", "size"), [(0.05, 60), (0.03, 100), (0.01, 300), (0.5, 6), (0.07, 43)])
def test_the_sample_follows_the_rule_of_three(limit: float, size: int) -> None:
    assert sample_size(limit, 10**6) == size
    assert sample_size(limit, 5) == 5
    none = outcome({"population": 10**6, "limit": limit}, clean(size), 100)
    assert none["status"] == "PASS", "no miss in a sample of this size is enough"
    one = outcome({"population": 10**6, "limit": limit}, clean(size) | {0: {"name": 1}}, 100)
    assert one["status"] == "FAIL"


def test_the_bounds_are_those_of_the_books() -> None:
    part = outcome({"population": 500, "limit": 0.05}, clean(60), 0)
    assert part["notes_with_a_miss"]["upper_bound"] == pytest.approx(EXACT_60_OF_0, abs=1e-6)
    assert part["identifiers_missed"] == {"count": 0, "of": 0, "share": None, "clopper_pearson": None, "wilson": None}
    # Brown, Cai and DasGupta, Statistical Science 2001;16:101-133, have these two forms; the values by their formulas.
    ten = outcome({"population": 500, "limit": 0.05}, {n: {"name": int(n < 3)} for n in range(30)}, 17)
    shown = ten["notes_with_a_miss"]
    z = 1.959963984540054
    middle, half = 0.1 + z * z / 60, z * (0.1 * 0.9 / 30 + z * z / 3600) ** 0.5
    wilson = [(middle - half) / (1 + z * z / 30), (middle + half) / (1 + z * z / 30)]
    assert shown["wilson"] == pytest.approx(wilson, abs=1e-6)
    assert shown["clopper_pearson"] == pytest.approx([0.021117, 0.265288], abs=1e-5)
    assert (ten["identifiers_missed"]["count"], ten["identifiers_missed"]["of"]) == (3, 20)


def test_a_miss_in_a_tree_that_was_read_whole_counts_as_its_share() -> None:
    verdicts = clean(40) | {0: {"name": 3}}
    assert outcome({"population": 40, "limit": 0.05}, verdicts, 9)["status"] == "PASS"
    assert outcome({"population": 41, "limit": 0.05}, verdicts, 9)["status"] == "FAIL"
    assert outcome({"population": 40, "limit": 0.01}, verdicts, 9)["status"] == "FAIL"


def test_a_seed_draws_the_same_notes_each_time_and_each_note_alike() -> None:
    notes = [f"patients/p{number:020x}/note.txt" for number in range(600)]
    first = draw(notes, Sampling(0.05, 1))
    assert first == draw(list(reversed(notes)), Sampling(0.05, 1))
    assert len(set(first)) == 60
    assert set(first) != set(draw(notes, Sampling(0.05, 2)))
    hits = [sum(note in drawn for note in notes[:300]) for drawn in (draw(notes, Sampling(0.05, s)) for s in range(50))]
    assert 1350 < sum(hits) < 1650, "half of 50 x 60 come from the first half"


@given(st.text(alphabet="name=date0123456789 -\u0663\t", max_size=30))
def test_an_answer_is_counts_of_known_kinds_or_nothing(text: str) -> None:
    answer = parse_answer(text)
    assert answer is None or all(kind in {"name", "date"} and 0 <= count <= 9999 for kind, count in answer.items())
    if not text.strip():
        assert answer is None, "pressing Enter judges nothing"

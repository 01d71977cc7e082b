"""What the read sample says about all notes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from scipy.stats import binomtest

from curation.review.sample import CONFIDENCE, FAIL, PASS


def outcome(review: Mapping[str, Any], verdicts: Mapping[int, Mapping[str, int]], replaced: int) -> dict[str, Any]:
    """The figures and the status.

    Notes are what was drawn at random, so the status stands on the share of notes with a miss: PASS when the one-sided
    95 % Clopper-Pearson bound is not above the limit; when all notes were read, their share itself. The share of
    identifiers is told too, but several in one note are not independent, so its interval is too narrow.

    Args:
        review: the part of the report that was signed before the reading
        verdicts: what was missed, by number of the note
        replaced: identifiers that were replaced in the notes read
    """
    read, bad = len(verdicts), sum(any(missed.values()) for missed in verdicts.values())
    missed: Counter[str] = Counter()
    for found in verdicts.values():
        missed.update(found)
    everything = read == review["population"]
    bound = bad / read if everything else _upper(bad, read)
    return {
        "status": PASS if bound <= review["limit"] else FAIL,
        "all_notes_read": everything,
        "missed": {kind: count for kind, count in sorted(missed.items()) if count},
        "notes_with_a_miss": {**_share(bad, read), "upper_bound": round(bound, 6)},
        "identifiers_missed": _share(missed.total(), missed.total() + replaced),
    }


def _upper(count: int, total: int) -> float:
    """The one-sided exact bound (Clopper and Pearson, Biometrika 1934;26:404-413)."""
    return float(binomtest(count, total, alternative="less").proportion_ci(CONFIDENCE, "exact").high)


def _share(count: int, total: int) -> dict[str, Any]:
    """The share with two-sided intervals: exact, and Wilson's (JASA 1927;22:209-212), which is less cautious."""
    if not total:
        return {"count": 0, "of": 0, "share": None, "clopper_pearson": None, "wilson": None}
    test = binomtest(count, total)
    intervals = {
        name: [round(float(bound), 6) for bound in test.proportion_ci(CONFIDENCE, method)]
        for name, method in (("clopper_pearson", "exact"), ("wilson", "wilson"))
    }
    return {"count": count, "of": total, "share": round(count / total, 6), **intervals}

"""How good the detectors are on labelled notes: recall by kind, precision, clinical text that must survive."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from curation.deid.text import redact

# Any full day serves: replacing is measured, not how far a date moves.
_SHIFT_DAYS = -400


@dataclass(slots=True)
class Score:
    """Spans counted one by one. A labelled span is hit only if each of its characters is replaced."""

    labelled: Counter[str] = field(default_factory=Counter)
    hit: Counter[str] = field(default_factory=Counter)
    replaced: int = 0
    rightly: int = 0
    wrong: Counter[str] = field(default_factory=Counter)

    def recall(self, *kinds: str) -> float:
        """Share of the labelled spans of these kinds (all without one) that were replaced whole."""
        chosen = kinds or tuple(self.labelled)
        return sum(self.hit[kind] for kind in chosen) / max(1, sum(self.labelled[kind] for kind in chosen))

    @property
    def precision(self) -> float:
        """Share of the replaced spans that touch a labelled one."""
        return self.rightly / max(1, self.replaced)


def measure(notes: Iterable[dict[str, Any]]) -> Score:
    """Score the detectors alone, without the help of structured records.

    Args:
        notes: with `text` and `spans` [{start, end, kind}], offsets in characters
    """
    score = Score()
    for note in notes:
        text: str = note["text"]
        covered = bytearray(len(text))
        labels = bytearray(len(text))
        spans = redact(text, _SHIFT_DAYS).spans
        for label in note["spans"]:
            labels[label["start"] : label["end"]] = b"\1" * (label["end"] - label["start"])
        for span in spans:
            covered[span.start : span.end] = b"\1" * (span.end - span.start)
            score.replaced += 1
            right = any(labels[span.start : span.end])
            score.rightly += right
            score.wrong[span.kind.value] += not right
        for label in note["spans"]:
            kind = str(label["kind"])
            score.labelled[kind] += 1
            # Blanks and punctuation at the rim of a label carry no identity.
            inside = [place for place in range(label["start"], label["end"]) if text[place].isalnum()]
            score.hit[kind] += all(covered[place] for place in inside)
    return score

"""Which redacted notes a person reads before a tree counts as reviewed, drawn when the tree is made.

Size: when none of n independent notes has a miss, the share of notes with one is at most about 3/n with 95 % confidence
(the rule of three: Hanley and Lippman-Hand, JAMA 1983;249(13):1743-1745). So n = ceil(3 / wanted upper limit), or all
notes when there are fewer. Limit and sample are fixed and signed before anybody reads, so no result can move them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medllm.errors import user_error
from medllm.manifest import sha256_file

CONFIDENCE = 0.95
# A choice, not a norm: 5 % of notes with a miss at most, 60 notes, which one person reads in a day.
LIMIT = 0.05
_SMALLEST, _LARGEST = 0.0001, 0.5
NOT_DONE, PASS, FAIL = "NOT_DONE", "PASS", "FAIL"


@dataclass(frozen=True, slots=True)
class Sampling:
    """limit: largest share of notes with a miss that is accepted; seed: another one, another sample.

    Raises:
        UserError: a limit outside 0.0001 (30,000 notes to read) to 0.5 (6).
    """

    limit: float = LIMIT
    seed: int = 0

    def __post_init__(self) -> None:
        if not _SMALLEST <= self.limit <= _LARGEST:  # so that NaN is refused, too
            rule = f"the limit is no share from {_SMALLEST} to {_LARGEST}"
            raise user_error(rule, f"give such a number, as in {LIMIT}", key="--review-limit")


def sample_size(limit: float, population: int) -> int:
    """How many of `population` notes are read for this limit (a share above 0)."""
    # The division's own error must not add a note: 3 / 0.03 is 100.
    return min(population, math.ceil(round(3 / limit, 9)))


def draw(notes: Iterable[str], sampling: Sampling) -> list[str]:
    """The sample in reading order: the lowest hashes of seed and path. Each note has the same chance."""
    ranked = sorted(notes, key=lambda path: hashlib.sha256(f"review\0{sampling.seed}\0{path}".encode()).digest())
    return ranked[: sample_size(sampling.limit, len(ranked))]


def not_done(folder: Path, notes: Iterable[str], sampling: Sampling) -> dict[str, Any]:
    """The `review` part of a report that nobody has reviewed. `notes` are relative to `folder`."""
    population = list(notes)
    drawn = draw(population, sampling)
    return {
        "status": NOT_DONE,
        "limit": sampling.limit,
        "confidence": CONFIDENCE,
        "seed": sampling.seed,
        "population": len(population),
        "size": len(drawn),
        "notes": drawn,
        "sample_id": sample_id(folder, drawn),
    }


def sample_id(folder: Path, notes: Iterable[str]) -> str:
    """SHA-256 over paths and contents, in order: verdicts on one sample can't be recorded for another."""
    lines = (f"{path}\0{sha256_file(folder / path)}\n" for path in notes)
    return hashlib.sha256("".join(lines).encode()).hexdigest()

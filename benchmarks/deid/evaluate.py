"""Scores the text de-identifier on the labelled set. Prints sums alone, never a note or what was missed in one.

    python -m benchmarks.deid.evaluate [--made NUMBER] [--seed SEED] [--json] [--record FILE]

The engine works alone, without the structured records that help it in the pipeline.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.deid.counts import SEED
from benchmarks.deid.labelled import IDENTIFIERS, LANGUAGES, Note, Span, load_hard, load_tuning
from benchmarks.deid.score import (
    Tally,
    character_precision,
    keeps_touched,
    over_redaction,
    recall,
    span_precision,
    tally_all,
)
from benchmarks.deid.templates import make_notes
from curation.deid.kinds import Kind
from curation.deid.text import redact
from medllm.files import write_atomic

# Ours → the set's, where the names differ. Our PHONE holds fax numbers too, our MRN accounts, insurance and case
# numbers, our ADDRESS post codes: so recall is shown whatever the predicted kind, and precision by our own division.
KINDS = {
    Kind.LICENSE: "LICENCE",
    Kind.NATIONAL_ID: "CN_ID",
    Kind.ACCOUNT: "OTHER_ID",
    Kind.NUMBER: "OTHER_ID",
}
# Any full day serves: how far a date moves changes no span.
_SHIFT_DAYS = -400
_MOVED_YEAR = re.compile(r"(?:18|19|20)\d\d年?")

Engine = Callable[[str], Sequence[Span]]


@dataclass(frozen=True, slots=True)
class Result:
    """What one group of notes gave: the counts, and what it took (seconds, notes, bytes of UTF-8)."""

    total: Tally
    notes: int
    size: int
    seconds: float

    def summary(self) -> dict[str, object]:
        """The scores by name; shares rounded to 4 digits, speed in notes/s and 10^6 bytes/s."""
        labelled = [kind for kind in IDENTIFIERS if self.total.labelled[kind]]
        return {
            "notes": self.notes,
            "recall": round(recall(self.total), 4),
            "recall_by_kind": {kind: round(recall(self.total, kind), 4) for kind in labelled},
            "labelled_by_kind": {kind: self.total.labelled[kind] for kind in labelled},
            "character_precision": round(character_precision(self.total), 4),
            "span_precision": round(span_precision(self.total), 4),
            "span_precision_by_kind": {
                kind: round(span_precision(self.total, kind), 4) for kind in sorted(self.total.predicted)
            },
            "keeps_touched": round(keeps_touched(self.total), 4),
            "over_redaction": round(over_redaction(self.total), 4),
            "notes_per_second": round(self.notes / self.seconds, 1),
            "megabytes_per_second": round(self.size / self.seconds / 1e6, 3),
        }


def ours(text: str) -> list[Span]:
    """Our engine's spans, named as the set names them where it has the kind.

    A year that stands alone is left out: it moves with the patient's other dates, so that intervals stay. Nothing is
    lost by that, and the set labels no years.
    """
    spans = redact(text, _SHIFT_DAYS).spans
    return [
        Span(span.start, span.end, KINDS.get(span.kind, span.kind.name))
        for span in spans
        if not _MOVED_YEAR.fullmatch(span.replacement or "")
    ]


def evaluate(notes: Iterable[Note], engine: Engine = ours) -> Result:
    """Runs the engine on each note, one after another, and times it without the scoring."""
    notes = tuple(notes)
    started = time.perf_counter()
    predictions = [engine(note.text) for note in notes]
    seconds = time.perf_counter() - started
    size = sum(len(note.text.encode()) for note in notes)
    return Result(tally_all(zip(notes, predictions, strict=True)), len(notes), size, seconds)


def evaluate_all(made: int, seed: int, engine: Engine = ours) -> dict[str, dict[str, object]]:
    """The summaries of the tuning notes, of the hard ones, all and by language, and of the made ones."""
    for text in ("Mr. Smith called.", "患者王伟，电话13800138000。"):
        engine(text)  # what is built at first use is no part of the speed
    hard = load_hard()
    made_notes = make_notes(seed, made) if made else ()
    groups = {"tuning": load_tuning(), "hard": hard}
    groups |= {f"hard {language}": tuple(note for note in hard if note.language == language) for language in LANGUAGES}
    groups |= {
        f"made {language}": tuple(note for note in made_notes if note.language == language) for language in LANGUAGES
    }
    return {name: evaluate(notes, engine).summary() for name, notes in groups.items() if notes}


def table(results: dict[str, dict[str, object]]) -> str:
    """Recall by kind and the other scores, one column for each group of notes."""
    rows = [["", *results]]
    for kind in IDENTIFIERS:
        rows.append([kind, *(_by_kind(result, kind) for result in results.values())])
    for score in ("recall", "character_precision", "span_precision", "keeps_touched", "over_redaction"):
        rows.append([score, *(f"{result[score]:.4f}" for result in results.values())])
    for score in ("notes", "notes_per_second", "megabytes_per_second"):
        rows.append([score, *(str(result[score]) for result in results.values())])
    return "\n".join(f"{row[0]:22}" + "".join(f"{cell:>10}" for cell in row[1:]) for row in rows)


def _by_kind(result: dict[str, object], kind: str) -> str:
    scores = result["recall_by_kind"]
    assert isinstance(scores, dict)
    return f"{scores[kind]:.4f}" if kind in scores else "-"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.deid.evaluate", description=__doc__)
    parser.add_argument("--made", type=int, default=400, help="how many made notes (0: none)")
    parser.add_argument("--seed", type=int, default=SEED + 1, help="of the made notes")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--record", type=Path, help="write the JSON to this file too")
    arguments = parser.parse_args()
    results = evaluate_all(arguments.made, arguments.seed)
    written = json.dumps(results, indent=2)
    if arguments.record:
        write_atomic(arguments.record, written + "\n")
    print(written if arguments.json else table(results))


if __name__ == "__main__":
    main()

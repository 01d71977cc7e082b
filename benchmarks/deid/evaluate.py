"""Our de-identification on the labelled set, kind by kind: `python -m benchmarks.deid.evaluate [--made N]`.

The detectors alone, without a patient's structured record. It prints sums and nothing of a note: who writes rules may
run it on the hard notes without learning what was missed there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.deid.counts import SEED
from benchmarks.deid.labelled import KINDS, LANGUAGES, Note, Span, load_hard
from benchmarks.deid.score import (
    Tally,
    keeps_touched,
    over_redaction,
    recall,
    span_precision,
    tally_all,
)
from benchmarks.deid.templates import make_notes
from curation.deid.text import redact
from medllm.files import write_atomic

# Any full day serves: what is found is measured, not how far a date moves.
_SHIFT_DAYS = -400


def find(notes: Sequence[Note]) -> tuple[list[Sequence[Span]], float]:
    """What the detectors find in each note, and the seconds that took. Their kinds keep their own names."""
    begin = time.perf_counter()
    found = [redact(note.text, _SHIFT_DAYS).spans for note in notes]
    seconds = time.perf_counter() - begin
    return [[Span(span.start, span.end, span.kind.value) for span in spans] for spans in found], seconds


def scores(total: Tally) -> dict[str, Any]:
    """Shares from 0 to 1; recall by labelled kind."""
    return {
        "recall": {kind: round(recall(total, kind), 4) for kind in KINDS if total.labelled[kind]},
        "recall_all": round(recall(total), 4),
        "span_precision": round(span_precision(total), 4),
        "keeps_touched": round(keeps_touched(total), 4),
        "over_redaction": round(over_redaction(total), 4),
    }


def evaluate(notes: Iterable[Note]) -> dict[str, Any]:
    """Scores and speed on these notes; one core."""
    chosen = list(notes)
    predictions, seconds = find(chosen)
    size = sum(len(note.text.encode()) for note in chosen)
    return {
        "notes": len(chosen),
        **scores(tally_all(zip(chosen, predictions, strict=True))),
        "notes_per_s": round(len(chosen) / seconds, 1),
        "kB_per_s": round(size / seconds / 1e3, 1),
    }


def table(found: dict[str, dict[str, Any]]) -> str:
    """A line a kind, a column a set."""
    rows = ["| | " + " | ".join(found) + " |", "|---|" + "---:|" * len(found)]
    for kind in KINDS:
        cells = [part["recall"].get(kind) for part in found.values()]
        if any(cell is not None for cell in cells):
            rows.append(f"| {kind} | " + " | ".join("" if cell is None else f"{cell:.3f}" for cell in cells) + " |")
    for name in ("recall_all", "span_precision", "keeps_touched", "over_redaction", "notes_per_s"):
        rows.append(f"| *{name}* | " + " | ".join(f"{part[name]:g}" for part in found.values()) + " |")
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 when the measurement was made, whatever it says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.deid.evaluate", description=__doc__.partition("\n")[0])
    parser.add_argument("--made", type=int, default=1000, help="how many notes to make")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--record", type=Path, help="a JSON file to write")
    options = parser.parse_args(arguments)
    hard = load_hard()
    found = {f"hard {language}": evaluate(note for note in hard if note.language == language) for language in LANGUAGES}
    found["hard"] = evaluate(hard)
    if options.made:
        found["made"] = evaluate(make_notes(SEED, options.made))
    print(json.dumps(found) if options.json else table(found))
    if options.record:
        machine = {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()}
        write_atomic(options.record, json.dumps({"machine": machine, "sets": found}, indent=1, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

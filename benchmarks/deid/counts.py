"""Counts what the set holds, as the table in the README. `python -m benchmarks.deid.counts` prints it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from benchmarks.deid.labelled import KINDS, LANGUAGES, Note, load_hard
from benchmarks.deid.templates import make_notes

SEED = 20230503
"""The seed of the counts in the README."""
README_TABLE = "| Kind | hard en | hard zh | hard mix | hard | made |"


def table(hard: Iterable[Note], made: Iterable[Note]) -> str:
    """Notes and labels by kind: the hand-written by language and in all, the made in all."""
    by_language: Counter[tuple[str, str]] = Counter()
    in_made: Counter[str] = Counter()
    for note in hard:
        by_language[note.language, "notes"] += 1
        by_language.update((note.language, span.kind) for span in note.spans)
    for note in made:
        in_made["notes"] += 1
        in_made.update(span.kind for span in note.spans)
    rows = [README_TABLE, "|---|---:|---:|---:|---:|---:|"]
    for kind in ("notes", *KINDS):
        cells = [by_language[language, kind] for language in LANGUAGES]
        rows.append(f"| {kind} | " + " | ".join(map(str, [*cells, sum(cells), in_made[kind]])) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table(load_hard(), make_notes(SEED)))

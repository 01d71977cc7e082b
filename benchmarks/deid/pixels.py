"""Measures the finder of text in pixels and the pass that judges its work, on pictures made from a seed.

    python -m benchmarks.deid.pixels [--texts N] [--clean N] [--seed S] [--fonts FOLDER] [--processes N]

A line is found when 95 % of the pixels of its glyphs are blanked. Seconds are of processor time, on one core.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks.deid.pictures import Picture, fonts, make
from curation.deid.pixels import blanked, mask_of, text_boxes, too_much
from curation.deid.validate_pixels import rows_left
from medllm.files import write_atomic

COVERED = 0.95
RESULT = Path("benchmarks/results/deid-pixels.json")
_PARTS = 20
_FONTS = Path("/usr/share/fonts")


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one picture: its lines as (groups, found), the share blanked beside text, who was held back, seconds."""

    lines: tuple[tuple[tuple[str, ...], bool], ...]
    background: str
    blanked: float
    mostly: bool
    doubted: bool
    finding_s: float
    judging_s: float

    @property
    def released(self) -> bool:
        """Whether the pipeline would let the blanked picture pass."""
        return not (self.mostly or self.doubted)


def examine(picture: Picture) -> Outcome:
    """Both passes over one picture."""
    start = time.process_time()
    mask = mask_of(text_boxes(picture.frame), picture.frame.shape[:2])
    middle = time.process_time()
    doubted = rows_left(blanked(picture.frame[np.newaxis], mask)[0]) > 0
    end = time.process_time()
    lines = []
    for line in picture.lines:
        groups = (
            picture.background, picture.style, line.script, "turned" if line.turned else "upright",
            f"{line.size // 8 * 8}-{line.size // 8 * 8 + 7} px",
        )  # fmt: skip
        lines.append((groups, bool((mask & line.glyphs).sum() >= COVERED * line.glyphs.sum())))
    return Outcome(
        tuple(lines), picture.background, float(mask.mean()), too_much(mask), doubted, middle - start, end - middle
    )


def summary(outcomes: Sequence[Outcome]) -> dict[str, object]:
    """The figures of the pictures with text and of the clean ones; shares rounded to 4 digits."""
    texts = [outcome for outcome in outcomes if outcome.lines]
    clean = [outcome for outcome in outcomes if not outcome.lines]
    found = [hit for outcome in texts for _, hit in outcome.lines]
    total, hits = Counter[str](), Counter[str]()
    for outcome in texts:
        for groups, hit in outcome.lines:
            total.update(groups)
            hits.update(groups if hit else ())
    missed = [outcome for outcome in texts if not all(hit for _, hit in outcome.lines)]
    return {
        "pictures_with_text": len(texts),
        "lines": len(found),
        "line_recall": _share(sum(found), len(found)),
        "line_recall_by_group": {group: _share(hits[group], total[group]) for group in sorted(total)},
        "lines_by_group": dict(sorted(total.items())),
        "released": sum(outcome.released for outcome in texts),
        "with_a_missed_line": len(missed),
        "released_with_a_missed_line": sum(outcome.released for outcome in missed),
        "clean_pictures": len(clean),
        "clean_with_anything_blanked": sum(outcome.blanked > 0 for outcome in clean),
        "clean_mean_share_blanked": _mean(outcome.blanked for outcome in clean),
        "clean_released": sum(outcome.released for outcome in clean),
        "clean_released_mean_share_blanked": _mean(outcome.blanked for outcome in clean if outcome.released),
        "clean_held_back_by_background": dict(
            sorted(Counter(outcome.background for outcome in clean if not outcome.released).items())
        ),
        "finding_cpu_seconds_per_picture": _mean(outcome.finding_s for outcome in outcomes),
        "judging_cpu_seconds_per_picture": _mean(outcome.judging_s for outcome in outcomes),
    }


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return round(sum(found) / len(found), 4) if found else None


def _part(number: int, arguments: argparse.Namespace, faces: dict[str, list[Path]]) -> list[Outcome]:
    """One part of `_PARTS` of the pictures, from the `number`-th on."""
    outcomes = []
    for text, count in ((True, arguments.texts), (False, arguments.clean)):
        chosen = range(number, count, _PARTS)
        outcomes += [examine(picture) for picture in make(arguments.seed, chosen, faces, text=text)]
    return outcomes


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.deid.pixels", description=__doc__)
    parser.add_argument("--texts", type=int, default=304, help="pictures with text")
    parser.add_argument("--clean", type=int, default=104, help="pictures without")
    parser.add_argument("--seed", type=int, default=20261123)
    parser.add_argument("--fonts", type=Path, action="append", help="folder with fonts, besides the system's")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--record", type=Path, default=RESULT, help="where the JSON goes")
    arguments = parser.parse_args()
    arguments.fonts = [_FONTS, *(arguments.fonts or ())]
    try:
        faces = fonts(tuple(arguments.fonts))
    except ValueError as error:
        parser.error(str(error))
    with get_context("spawn").Pool(arguments.processes) as pool:
        parts = []
        for part in pool.imap(partial(_part, arguments=arguments, faces=faces), range(_PARTS)):
            parts.append(part)
            print(f"{len(parts)} of {_PARTS} parts", file=sys.stderr, flush=True)
    result = {
        "seed": arguments.seed,
        "fonts": {script: len(paths) for script, paths in faces.items()},
        **summary([outcome for part in parts for outcome in part]),
    }
    write_atomic(arguments.record, json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

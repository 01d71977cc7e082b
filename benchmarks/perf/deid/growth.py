"""Whether our engine's time and memory grow as the text does: one text of made notes, each size in a fresh process.

`python -m benchmarks.perf.deid.growth LANGUAGE MB` measures one size and prints it.
"""

from __future__ import annotations

import json
import math
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.deid.counts import SEED
from benchmarks.deid.templates import make_notes
from curation.deid.long_text import redact_any

# The sizes up to 1 MB show the growth where the larger ones do not finish.
SIZES_MB = (0.0625, 0.25, 1.0, 4.0, 16.0, 64.0)
LANGUAGES = ("en", "zh")
# Different notes in the text; it is made of them again and again, so that the making takes no time.
_NOTES = 1000
_SHIFT_DAYS = -400


def text_of(language: str, size_mb: float) -> str:
    """Made notes of one language, one after another, 10^6 bytes of UTF-8 for each MB (a last character less)."""
    notes = "\n".join(note.text for note in make_notes(SEED, _NOTES) if note.language == language).encode()
    wanted = round(size_mb * 1e6)
    return (notes * (wanted // len(notes) + 1))[:wanted].decode(errors="ignore")


def measure(language: str, size_mb: float) -> dict[str, float | int]:
    """One pass over a text of this size. The peak of memory (ru_maxrss) is the whole process's; `before` tells what was
    there before the pass: Python, word lists, the text itself."""
    redact_any("Mr. Smith called." if language == "en" else "患者王伟，电话13800138000。", _SHIFT_DAYS)
    text = text_of(language, size_mb)
    before = _peak_mb()
    wall, processor = time.perf_counter(), time.process_time()
    count = len(redact_any(text, _SHIFT_DAYS).spans)
    processor, wall = time.process_time() - processor, time.perf_counter() - wall
    return {
        "megabytes": size_mb,
        "characters": len(text),
        "spans": count,
        "processor_s": round(processor, 3),
        "wall_s": round(wall, 3),
        "characters_per_s": round(len(text) / processor),
        "peak_rss_mb": round(_peak_mb()),
        "peak_rss_mb_before": round(before),
    }


def measure_growth(sizes_mb: tuple[float, ...], limit_s: float) -> dict[str, Any]:
    """Each size in a process of its own on one core; after a size that takes longer than `limit_s`, no larger one.

    Raises:
        RuntimeError: a process failed; its own words are not shown.
    """
    return {language: _grow(language, sizes_mb, limit_s) for language in LANGUAGES}


def _grow(language: str, sizes_mb: tuple[float, ...], limit_s: float) -> dict[str, Any]:
    done: list[dict[str, Any]] = []
    late: list[float] = []
    for size in sorted(sizes_mb):
        if late:
            late.append(size)
            continue
        found = _apart(language, size, limit_s)
        if found is None:
            late.append(size)
        else:
            done.append(found)
            print(f"{language}, {size} MB: {found['characters_per_s']} characters/s", file=sys.stderr)
    return {"sizes": done, "limit_s": limit_s, "not_finished_mb": late, **growth_of(done)}


def growth_of(done: list[dict[str, Any]]) -> dict[str, float]:
    """Exponents of time and of memory between the smallest and the largest size that finished (1.0: linear); nothing
    where there are not two."""
    if len(done) < 2:
        return {}
    first, last = done[0], done[-1]
    times = math.log(last["characters"] / first["characters"])
    added = [each["peak_rss_mb"] - each["peak_rss_mb_before"] for each in (first, last)]
    answer = {"time_exponent": round(math.log(last["processor_s"] / first["processor_s"]) / times, 2)}
    if min(added) > 0:
        answer["memory_exponent"] = round(math.log(added[1] / added[0]) / times, 2)
    return answer


def _apart(language: str, size_mb: float, limit_s: float) -> dict[str, Any] | None:
    core = max(os.sched_getaffinity(0))
    command = [sys.executable, "-m", "benchmarks.perf.deid.growth", language, str(size_mb)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            ["taskset", "--cpu-list", str(core), *command],
            capture_output=True, text=True, env=environment, check=False, timeout=limit_s,
            cwd=Path(__file__).parents[3],
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:
        raise RuntimeError(f"the pass over {size_mb} MB of {language} ended with {done.returncode}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], float(sys.argv[2]))))

"""Which checkpoint would a run go on from? `python -m trainer.verify_checkpoint --run DIR [--json]`.

Hashes files and loads nothing (`trainer.verify_restore` loads), so it is quick and needs no torch. Exits 0 when a
checkpoint is good or the run has none yet (it begins at step 0), 1 when there are some and none is good, 2 when this is
no run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer.checkpoint import store
from trainer.launch_file import LAUNCH

_RUN = "run.json"


def verify(run: Path) -> dict[str, Any]:
    """`step`, `checkpoint`: of the newest one whose every file is what was written, None without one; `refused`: newer
    ones, each with its problem; `usable`: the trainer would begin or go on.
    """
    begin = time.perf_counter()
    refused: list[dict[str, Any]] = []
    good: store.Checkpoint | None = None
    for checkpoint in store.published(run):
        problem = store.problem_of(checkpoint.path)
        if problem is None:
            good = checkpoint
            break
        refused.append({"step": checkpoint.step, "checkpoint": checkpoint.path.name, "problem": problem})
    return {
        "run": run.name,
        "step": good.step if good else None,
        "checkpoint": good.path.name if good else None,
        "refused": refused,
        "usable": good is not None or not refused,
        "seconds": round(time.perf_counter() - begin, 3),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m trainer.verify_checkpoint", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="the run's directory")
    parser.add_argument("--json", action="store_true", help="one JSON object for machines")
    options = parser.parse_args(arguments)
    run: Path = options.run
    if not any((run / name).is_file() for name in (_RUN, LAUNCH)):
        print(f"error: {run}: this is no run. Fix: give <site_paths.checkpoints>/<run>", file=sys.stderr)
        return 2
    verdict = verify(run)
    if options.json:
        print(json.dumps(verdict))
    else:
        for entry in verdict["refused"]:
            print(f"{entry['checkpoint']} is refused: {entry['problem']}")
        print(f"{verdict['checkpoint']} is good" if verdict["checkpoint"] else "there is no good checkpoint")
    return 0 if verdict["usable"] else 1


if __name__ == "__main__":
    sys.exit(main())

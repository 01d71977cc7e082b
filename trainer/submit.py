"""Queue a run's job and record it in `launch.json`: `python -m trainer.submit --request FILE --script FILE`.

Runs on mgmt, where Slurm is; prints the job's number. Exits 1 when Slurm takes no job, 2 when the request is none.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from trainer.launch_file import submit


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m trainer.submit", description=__doc__)
    parser.add_argument("--request", type=Path, required=True, help="the file that `medllm train` wrote")
    parser.add_argument("--script", type=Path, required=True, help="the job script that it wrote")
    options = parser.parse_args(arguments)
    try:
        request = json.loads(options.request.read_text(encoding="utf-8"))
        run, steps = Path(request["run_directory"]), int(request["steps"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(
            f"error: {options.request}: this is no request ({error}). Fix: launch with `medllm train`", file=sys.stderr
        )
        return 2
    try:
        print(submit(run, options.request, options.script, steps).job)
    except (OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

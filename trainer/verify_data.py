"""May this data set train this model? `python -m trainer.verify_data --request FILE`: exit 0, or 2 with what to mend.

The launcher runs it where the data lies, before it submits a job; the ranks ask the same gate again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from medllm.errors import UserError
from trainer.data.gate import open_dataset
from trainer.request import Request
from trainer.run_files import check_run


def verify(request: Request) -> dict[str, object]:
    """What the data set holds, after every file was verified and, for a run that goes on, compared with its run.json.

    Raises:
        UserError: the data set, the configuration or the run don't fit.
    """
    begin = time.perf_counter()
    request.config.batch.accumulation(request.world_size)
    dataset = open_dataset(request.data_directory, request.public_key, request.config)
    known = check_run(request.run_directory, request.config, dataset.manifest_sha256, request.world_size)
    return {
        "manifest_sha256": dataset.manifest_sha256,
        "train_samples": len(dataset.train),
        "heldout_samples": len(dataset.heldout),
        "vocabulary": dataset.tokenizer.size,
        "resumes": known,
        "seconds": time.perf_counter() - begin,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; prints one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m trainer.verify_data", description=__doc__)
    parser.add_argument("--request", type=Path, required=True, help="the file that `medllm train` wrote")
    try:
        print(json.dumps(verify(Request.read(parser.parse_args(arguments).request))))
    except UserError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

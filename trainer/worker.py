"""One rank: `python -m trainer.worker --request FILE`, with its number in the environment (see `Ranks`).

Exits 0 when the asked step is reached or after SIGTERM (a checkpoint is written first), 1 when it broke, 2 when the
input is refused. That is for launchers that see all ranks; with --each-tells every rank's status is the whole run's:
also 2 where rank 0 has said why, and 143 (as of a process that SIGTERM ended) when it stopped before the asked step.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from medllm.errors import Problem, UserError
from trainer.ranks import Ranks, connect, require_accelerator
from trainer.request import REFUSED, STOPPED, Request
from trainer.run_files import RunFiles, check_run

_LAST_OUT_S = 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one rank; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m trainer.worker", description=__doc__)
    parser.add_argument("--request", type=Path, required=True, help="the file that `medllm train` wrote")
    parser.add_argument("--each-tells", action="store_true", help="exit with the status of the whole run")
    options = parser.parse_args(arguments)
    try:
        request = Request.read(options.request)
        ranks = Ranks.from_environment()
        status = _work(request, ranks)
    except UserError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr, flush=True)
        return REFUSED
    if not options.each_tells and (status == STOPPED or (status == REFUSED and ranks.rank)):
        # A bad status makes such a launcher kill the rest; rank 0 speaks for all.
        return 0
    return status


def _work(request: Request, ranks: Ranks) -> int:
    """Status of the run, the same on all ranks unless this one breaks."""
    require_accelerator(request.accelerator)
    connect(ranks, request.accelerator, request.config.engine.collective_timeout_s)

    from trainer.data.gate import Dataset, open_dataset
    from trainer.data.objects import S3Objects
    from trainer.loop import Trainer
    from trainer.metrics import TrainingMetrics
    from trainer.stop import StopRequest

    stop = StopRequest()
    files: RunFiles | None = None
    dataset: Dataset | None = None
    objects: S3Objects | None = None
    known = False
    refused: tuple[Problem, ...] = ()
    try:
        if ranks.rank == 0:
            files = RunFiles(request.run_directory)
        dataset = open_dataset(
            request.data_directory, request.public_key, request.config, rank=ranks.rank, world_size=ranks.world_size
        )
        if request.object_store:
            objects = S3Objects(request.object_store, request.data_directory.name)
        request.config.batch.accumulation(ranks.world_size)
        known = check_run(request.run_directory, request.config, dataset.manifest_sha256, ranks.world_size)
    except UserError as error:
        refused = error.problems
    # All ranks learn of every rank's problems and leave together: nobody waits for one that is gone.
    answers = ranks.gather((refused, socket.gethostname()))
    problems = tuple(dict.fromkeys(problem for part, _ in answers for problem in part))
    if problems or dataset is None:
        return _refuse(problems, ranks, files)
    metrics = None
    if files:
        if not known:
            hosts = [host for _, host in answers]
            files.begin(request.config, dataset.manifest_sha256, request.data_directory, hosts)
        metrics = TrainingMetrics(request.run, request.peak_flops)
        metrics.serve(request.metrics_port)
    trainer: Trainer | None = None
    try:
        trainer = Trainer(
            request.config,
            dataset,
            request.run_directory,
            request.cache_directory,
            ranks,
            files,
            metrics,
            stop,
            objects,
        )
        try:
            trainer.restore()
        except UserError as error:
            return _refuse(error.problems, ranks, files)
        finished = trainer.train(request.steps)
        ranks.barrier()
    except Exception as error:
        if files:
            # The kind alone: a message could quote the data.
            files.event("stop", trainer.progress.step if trainer else 0, reason=type(error).__name__)
        if isinstance(error, UserError):
            raise
        traceback.print_exc()
        return 1
    finally:
        if metrics:
            metrics.close()
        if files:
            files.close()
    return 0 if finished else STOPPED


def _refuse(problems: tuple[Problem, ...], ranks: Ranks, files: RunFiles | None) -> int:
    """Rank 0 speaks for all and leaves last: whoever starts the ranks may kill the rest when one ends badly."""
    if ranks.rank == 0:
        if files:
            files.event("refused", 0, reason=problems[0].rule)
        for problem in problems:
            print(f"error: {problem}", file=sys.stderr, flush=True)
        time.sleep(_LAST_OUT_S)
    return REFUSED


if __name__ == "__main__":
    ended = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of gloo and NCCL may outlive the interpreter and abort it ("terminate called without an active
    # exception", status 134); the status that the launcher reads has to be ours.
    os._exit(ended)

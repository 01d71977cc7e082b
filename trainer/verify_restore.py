"""Can a run be restored? `python -m trainer.verify_restore --run DIR`: exit 0 yes, 1 no, 2 no such run.

Reads the newest published checkpoint as a restore would: verifies each file's hash, loads every rank's weights and
optimizer state, recomputes the recorded digest, and fits the whole model's weights into the model of run.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medllm.errors import UserError, user_error
from trainer.checkpoint import store
from trainer.config import TrainConfig
from trainer.run_files import RUN


def verify(run: Path) -> dict[str, Any]:
    """The verdict on the newest checkpoint, as printed: step, seconds, state_sha256, match, parameters, problem.

    Raises:
        UserError: no such run, or it has no checkpoint.
    """
    begin = time.perf_counter()
    if not (run / RUN).is_file():
        raise user_error("this is no run directory", "give <site_paths.checkpoints>/<run>", file=run)
    checkpoints = store.published(run)
    if not checkpoints:
        raise user_error("the run has no checkpoint yet", "wait for the first, or train further", file=run)
    newest = checkpoints[0]
    problem = store.problem_of(newest.path)
    verdict: dict[str, Any] = {"step": newest.step, "match": False, "state_sha256": None, "parameters": None}
    if problem is None:
        config = TrainConfig.model_validate(json.loads((run / RUN).read_bytes())["config"])
        # DeepSpeed talks on stdout, which is the verdict's alone.
        with contextlib.redirect_stdout(sys.stderr):
            verdict |= _load(newest.path, config)
        problem = None if verdict["match"] else "the loaded state is not the one that was saved"
    return {**verdict, "problem": problem, "seconds": time.perf_counter() - begin}


def _load(checkpoint: Path, config: TrainConfig) -> dict[str, Any]:
    # It reads files and computes nothing: a GPU is neither needed nor taken.
    os.environ["DS_ACCELERATOR"] = "cpu"
    import torch

    from trainer.checkpoint.state import ENGINE, TrainerState, digest
    from trainer.model.decoder import MedicalDecoder

    recorded = TrainerState.read(checkpoint)
    found = []
    for rank in range(recorded.world_size):
        # Only after its hash was verified: unpickling runs what a file says.
        name = f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
        shard = torch.load(checkpoint / ENGINE / name, map_location="cpu", weights_only=False)
        found.append(digest(shard["optimizer_state_dict"]))
    restored = TrainerState(recorded.progress, recorded.world_size, tuple(found))

    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    weights = get_fp32_state_dict_from_zero_checkpoint(str(checkpoint), tag=ENGINE)
    model = MedicalDecoder(config.model)
    model.load_state_dict(weights, strict=True)
    return {
        "state_sha256": restored.state_sha256,
        "match": restored.state_sha256 == recorded.state_sha256,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; prints one JSON object on stdout."""
    parser = argparse.ArgumentParser(prog="python -m trainer.verify_restore", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="the run's directory")
    try:
        verdict = verify(parser.parse_args(arguments).run)
    except UserError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        return 2
    print(json.dumps(verdict))
    return 0 if verdict["match"] else 1


if __name__ == "__main__":
    sys.exit(main())

"""Runs in BF16 with FP32 master weights: they learn, agree with FP32 as far as BF16 can, and come back bit-exact."""

from __future__ import annotations

import os
import signal

import pytest

from tests.trainer_helpers import tiny_config
from tests.unit.test_trainer_run import Runs, evaluations, events, losses, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("bf16"))


@pytest.mark.parametrize("stage", [1, 3])
def test_a_bf16_run_learns_and_resumes_bit_exact(runs: Runs, stage: int) -> None:
    config = tiny_config("engine.precision=bf16", f"engine.zero_stage={stage}")
    whole = runs.finish(f"whole-{stage}", config=config)
    values = evaluations(whole)
    assert values[-1] < 0.7 * values[0]
    cut = runs.base / f"cut-{stage}"
    ranks = runs.start(cut.name, config=config)
    wait_for(cut / "metrics.jsonl", '"step": 6,', ranks)
    victim = ranks.processes[1]
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    ranks.wait(30)
    runs.finish(cut.name, config=config)
    assert events(cut, "resume")
    assert losses(cut) == losses(whole), "also the steps that were done twice"
    assert events(cut, "stop")[-1]["state_sha256"] == events(whole, "stop")[-1]["state_sha256"]


def test_bf16_follows_fp32(runs: Runs) -> None:
    """Eight bits of mantissa: the curves stay together to some percent over the first steps."""
    exact = losses(runs.finish("fp32", steps=8))
    rough = losses(runs.finish("bf16", steps=8, config=tiny_config("engine.precision=bf16")))
    for step, [loss] in exact.items():
        assert rough[step].pop() == pytest.approx(loss, rel=0.05)
    assert exact != rough, "it was computed in BF16"

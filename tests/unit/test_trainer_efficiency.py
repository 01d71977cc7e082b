"""MFU, goodput and checkpoints by the clock: what a run says of itself adds up."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from medllm.site import load_site
from planner.model_size import flops_per_token
from tests.trainer_helpers import tiny_config
from tests.unit.test_trainer_run import Runs, events
from trainer.checkpoint import store
from trainer.checkpoint.state import val_loss_of
from trainer.launch import peak_flops
from trainer.metrics import TrainingMetrics
from trainer.run_files import EVENTS, METRICS, RunFiles, append_line


def value(page: str, name: str) -> float:
    return next(float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(name + "{"))


def test_mfu_is_a_share_of_the_peak_and_not_there_without_one() -> None:
    known, unknown = TrainingMetrics("run", 1e15), TrainingMetrics("run")
    for metrics in (known, unknown):
        metrics.efficiency(4e14, 0.9)
        assert value(metrics.page(), "training_model_flops_per_second") == 4e14
        assert value(metrics.page(), "training_goodput") == 0.9
    assert value(known.page(), "training_mfu") == pytest.approx(0.4)
    assert "training_mfu" not in unknown.page()


def test_the_peak_is_that_of_all_gpus_of_the_site() -> None:
    assert peak_flops(load_site(Path("inventory/h200")), 32) == pytest.approx(32 * 989e12)
    assert peak_flops(load_site(Path("inventory/lab")), 4) is None, "CPUs"


def test_goodput_counts_each_step_once_and_a_restart_as_lost(tmp_path: Path) -> None:
    began = time.time() - 100
    append_line(tmp_path / EVENTS, {"event": "start", "step": 0, "time": began})
    for step, seconds in ((1, 10.0), (2, 10.0), (3, 10.0), (2, 5.0)):
        append_line(tmp_path / METRICS, {"step": step, "step_s": seconds, "loss": 1.0})
    files = RunFiles(tmp_path)
    try:
        # 10 s of step 1, 5 of step 2 (its second time), 10 of step 3, which is done again now.
        assert files.goodput(3, 10.0) == pytest.approx(0.25, abs=0.01)
        assert files.goodput(4, 1e6) == 1.0
    finally:
        files.close()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("efficiency"))


@pytest.mark.slow
def test_a_checkpoint_is_written_when_its_time_has_come_and_the_best_stay(runs: Runs) -> None:
    config = tiny_config(
        "checkpoint.every_steps=1000", "checkpoint.every_minutes=1e-9", "checkpoint.keep_last=2",
        "checkpoint.keep_best=1", "evaluation.every_steps=1",
    )  # fmt: skip
    run = runs.finish("clock", config=config, steps=6)
    assert [event["step"] for event in events(run, "checkpoint")] == [1, 2, 3, 4, 5, 6]
    found = store.published(run)
    assert {6, 5} <= {checkpoint.step for checkpoint in found}
    assert len(found) <= 3
    measured = [json.loads(line) for line in (run / "eval.jsonl").read_text().splitlines()]
    best = min((record["val_loss"], -record["step"]) for record in measured if record["step"])
    assert -best[1] in {checkpoint.step for checkpoint in found}
    assert val_loss_of(found[0].path) == measured[-1]["val_loss"]
    assert flops_per_token(config.model.shape, config.positions) > 0

"""The curves for TensorBoard, read back by TensorBoard."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.unit.test_trainer_run import Runs, evaluations, losses
from trainer.tracking import DIRECTORY, Curves


def read(run: Path, name: str) -> list[tuple[int, float]]:
    shown = EventAccumulator(str(run / DIRECTORY))
    shown.Reload()
    return [(event.step, event.value) for event in shown.Scalars(name)]


def test_what_is_done_again_takes_the_place_of_what_was(tmp_path: Path) -> None:
    first = Curves(tmp_path, 0)
    for step in range(1, 9):
        first.add(step, {"train/loss": 10.0 - step})
    first.rewound(4)
    for step in (5, 6):
        first.add(step, {"train/loss": 100.0 + step})
    first.close()
    resumed = Curves(tmp_path, 5)
    resumed.add(6, {"train/loss": 66.0})
    resumed.close()
    assert read(tmp_path, "train/loss") == [(1, 9.0), (2, 8.0), (3, 7.0), (4, 6.0), (5, 105.0), (6, 66.0)]


@pytest.mark.slow
def test_a_run_shows_each_step_once_also_after_a_restart(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    runs.finish("run", steps=6)
    run = runs.finish("run", steps=10)
    shown = read(run, "train/loss")
    assert [step for step, _ in shown] == list(range(1, 11))
    for (step, loss), [recorded] in zip(shown, (losses(run)[number] for number in range(1, 11)), strict=True):
        assert loss == pytest.approx(recorded, rel=1e-6), step
    assert [value for _, value in read(run, "validation/loss")] == pytest.approx(evaluations(run), rel=1e-6)
    for name in ("train/gradient_norm", "speed/tokens_per_s", "speed/model_tflops", "speed/goodput"):
        assert all(value > 0 for _, value in read(run, name))

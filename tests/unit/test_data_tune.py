"""`medllm data tune`: the known best of simulated pipelines is found, and a real loader is tried."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.trainer_helpers import write_dataset
from trainer.data.tune import MOST_AHEAD, Measured, Setting, Trial, app, chosen, search

TINY = [
    "model.vocabulary=300", "model.waveform_samples=400", "data.sequence_length=64", "batch.global_size=4",
]  # fmt: skip


def pipeline(work_s: float, step_s: float, *, cores: int = 16, need_ahead: int = 1, noise: float = 0.02) -> Trial:
    """Threads that share `cores`, a consumer that takes `step_s`, bursts that want `need_ahead` batches in reserve."""
    rng = random.Random(4)

    def trial(setting: Setting) -> tuple[float, float]:
        made = min(setting.threads, cores) / work_s * min(1.0, setting.ahead_batches / need_ahead)
        rate = min(made, 1 / step_s if step_s else made)
        return rate * (1 + rng.uniform(-noise, noise)), max(0.0, 1 - rate * step_s)

    return trial


@pytest.mark.parametrize(
    ("work_s", "step_s", "cores", "need_ahead"),
    [(0.010, 0.002, 16, 1), (0.010, 0.002, 16, 8), (0.030, 0.0, 4, 1), (0.001, 0.050, 16, 1), (0.040, 0.004, 12, 20)],
)
def test_the_best_of_a_known_pipeline_is_reached_within_ten_percent(
    work_s: float, step_s: float, cores: int, need_ahead: int
) -> None:
    exact = pipeline(work_s, step_s, cores=cores, need_ahead=need_ahead, noise=0)
    best = max(exact(Setting(threads, ahead))[0] for threads in range(1, 13) for ahead in range(1, MOST_AHEAD + 1))
    found = chosen(search(pipeline(work_s, step_s, cores=cores, need_ahead=need_ahead), Setting(1, 2), 12))
    assert exact(found.setting)[0] >= 0.9 * best


def test_no_more_is_taken_than_helps() -> None:
    """A pipeline that four cores can feed gets no twelve threads; one that is quick enough keeps what it has."""
    assert chosen(search(pipeline(0.03, 0.0, cores=4), Setting(1, 2), 12)).setting.threads <= 5
    assert chosen(search(pipeline(0.001, 0.05), Setting(1, 2), 12)).setting == Setting(1, 2)


def test_the_limit_of_threads_holds() -> None:
    tried = search(pipeline(1.0, 0.0), Setting(1, 2), 6)
    assert max(found.setting.threads for found in tried) == 6


def test_noise_is_no_gain() -> None:
    rng = random.Random(2)
    tried = search(lambda _: (100 + rng.uniform(-20, 20), 0.5), Setting(1, 2), 64)
    assert len(tried) < 10
    assert isinstance(chosen(tried), Measured)


def test_a_real_loader_is_tried_and_the_answer_is_a_configuration(tmp_path: Path) -> None:
    key = write_dataset(tmp_path / "notes")
    words = [str(tmp_path / "notes"), "--key", str(key), "--seconds", "0.2", "--json"]
    done = CliRunner().invoke(app, [*words, *(word for pair in TINY for word in ("--set", pair))])
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert answer["chosen"]["setting"]["threads"] >= 1
    assert all(found["batches_per_s"] > 0 for found in answer["tried"])

"""`medllm data tune`: the known best of simulated pipelines is found, and a real loader is tried."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.trainer_helpers import write_dataset
from trainer.data.tune import (
    MOST_AHEAD,
    MOST_TOKENS,
    Limits,
    Measured,
    Setting,
    Trial,
    app,
    batch_sizes,
    chosen,
    search,
)

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
    found = chosen(search(pipeline(work_s, step_s, cores=cores, need_ahead=need_ahead), Setting(1, 2), Limits(12)))
    assert exact(found.setting)[0] >= 0.9 * best


def test_no_more_is_taken_than_helps() -> None:
    """A pipeline that four cores can feed gets no twelve threads; one that is quick enough keeps what it has."""
    assert chosen(search(pipeline(0.03, 0.0, cores=4), Setting(1, 2), Limits(12))).setting.threads <= 5
    assert chosen(search(pipeline(0.001, 0.05), Setting(1, 2), Limits(12))).setting == Setting(1, 2)


def test_the_limit_of_threads_holds() -> None:
    tried = search(pipeline(1.0, 0.0), Setting(1, 2), Limits(6))
    assert max(found.setting.threads for found in tried) == 6


def test_noise_is_no_gain() -> None:
    rng = random.Random(2)
    tried = search(lambda _: (100 + rng.uniform(-20, 20), 0.5), Setting(1, 2), Limits(64))
    assert len(tried) < 10
    assert isinstance(chosen(tried), Measured)


def test_a_real_loader_is_tried_and_the_answer_is_a_configuration(tmp_path: Path) -> None:
    key = write_dataset(tmp_path / "notes")
    words = [str(tmp_path / "notes"), "--key", str(key), "--seconds", "0.2", "--json"]
    done = CliRunner().invoke(app, [*words, *(word for pair in TINY for word in ("--set", pair))])
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert answer["chosen"]["setting"]["threads"] >= 1
    assert all(found["samples_per_s"] > 0 for found in answer["tried"])


def gpu(
    fixed_s: float, per_sample_s: float, *, work_s: float = 1e-4, most_tokens: int = 10**9, noise: float = 0.02
) -> Trial:
    """A step with a part that does not grow with the batch; samples of 100 positions; threads that make them."""
    rng = random.Random(5)

    def trial(setting: Setting) -> tuple[float, float]:
        rows = setting.micro_size
        if setting.max_tokens:
            rows = max(1, min(rows, setting.max_tokens // 100))
        taken = rows / (fixed_s + per_sample_s * rows)
        rate = min(taken, setting.threads / work_s)
        return rate * (1 + rng.uniform(-noise, noise)), 1 - rate / taken

    return trial


def test_a_step_with_a_fixed_cost_gets_the_largest_batch_within_the_limits() -> None:
    limits = Limits(8, batch_sizes(64, 1, 100), MOST_TOKENS)
    tried = search(gpu(0.02, 1e-4), Setting(1, 2, 2), limits)
    assert chosen(tried).setting.micro_size == 32
    assert all(found.setting.micro_size in limits.sizes for found in tried)


def test_tokens_and_samples_grow_together_where_each_holds_the_other() -> None:
    limits = Limits(8, batch_sizes(64, 1, None), MOST_TOKENS)
    best = chosen(search(gpu(0.02, 1e-4), Setting(1, 2, 4, 400), limits)).setting
    assert (best.micro_size, best.max_tokens) == (32, 3200)
    huge = search(gpu(0.02, 1e-4), Setting(1, 2, 4, 30_000), limits)
    assert max(found.setting.max_tokens for found in huge) == MOST_TOKENS


def test_a_batch_that_gains_nothing_stays_as_it_was() -> None:
    limits = Limits(8, batch_sizes(64, 1, 100), MOST_TOKENS)
    tried = search(gpu(0.0, 1e-3), Setting(1, 2, 4), limits)
    assert chosen(tried).setting.micro_size == 4
    assert len(tried) <= 4


def test_a_larger_batch_that_the_loader_cannot_feed_gets_more_threads() -> None:
    limits = Limits(8, batch_sizes(64, 1, 100), MOST_TOKENS)
    best = chosen(search(gpu(0.02, 1e-4, work_s=2e-3), Setting(1, 2, 2), limits)).setting
    assert best.micro_size >= 16
    assert best.threads >= 3


@pytest.mark.parametrize(
    ("global_size", "ranks", "widest", "sizes"),
    [
        (64, 1, 100, (1, 2, 4, 8, 16, 32)),
        (64, 8, 100, (1, 2, 4, 8)),
        (12, 1, None, (1, 2, 3, 4, 6, 12)),
        (64, 1, 4096, (1, 2, 4, 8)),
        (64, 1, 4097, (1, 2, 4)),
        (1024, 1, None, (1, 2, 4, 8, 16, 32)),
        (10, 4, 100, ()),
    ],
)
def test_a_batch_keeps_to_the_limits_and_shares_the_global_batch_evenly(
    global_size: int, ranks: int, widest: int | None, sizes: tuple[int, ...]
) -> None:
    assert batch_sizes(global_size, ranks, widest) == sizes


def _tuned(tmp_path: Path, *words: str) -> tuple[int, str, str]:
    if not (tmp_path / "notes").exists():
        write_dataset(tmp_path / "notes")
    base = [str(tmp_path / "notes"), "--key", str(tmp_path / "notes.pub"), "--seconds", "0.3"]
    done = CliRunner().invoke(app, [*base, *(word for pair in TINY for word in ("--set", pair)), *words])
    return done.exit_code, done.stdout, str(done.exception)


def test_a_real_loader_is_tried_with_larger_batches(tmp_path: Path) -> None:
    step = ("--step-ms", "42", "--fixed-ms", "40", "--set", "batch.global_size=16", "--json")
    for more, least in (((), 8), (("--set", "batch.max_tokens=400"), 8), (("--keep-batch",), 2)):
        code, output, error = _tuned(tmp_path, *step, *more)
        assert code in {0, 1}, error
        setting = json.loads(output)["chosen"]["setting"]
        assert least <= setting["micro_size"] <= 16
        if more == ("--keep-batch",):
            assert {found["setting"]["micro_size"] for found in json.loads(output)["tried"]} == {2}


def test_a_batch_beyond_the_limits_and_an_impossible_step_are_refused(tmp_path: Path) -> None:
    big = ("--set", "batch.global_size=64", "--set", "batch.micro_size=16", "--set", "model.image_size=64")
    for words, rule in (
        ((*big, "--ranks", "16"), "does not share 64 samples out to 16 ranks"),
        (("--set", "batch.max_tokens=40000"), "beyond 32 samples or 32768 positions"),
        (("--step-ms", "1", "--fixed-ms", "2"), "more than the whole step"),
    ):
        code, _, error = _tuned(tmp_path, *words)
        assert code != 0
        assert rule in error

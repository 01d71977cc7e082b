"""A step that does not stand: told from the others, and the run goes back and passes its samples over."""

from __future__ import annotations

import math
import os
import random
import signal
from pathlib import Path

import pytest

from tests.trainer_helpers import tiny_config, write_dataset
from tests.unit.test_trainer_run import Runs, events, losses, wait_for
from trainer.data.collate import batches_of
from trainer.data.gate import open_dataset
from trainer.stability import SpikeWatch


def falling(count: int) -> list[float]:
    """A loss curve with noise, nats a token."""
    chance = random.Random(3)
    return [2 + 6 * math.exp(-step / 40) + chance.gauss(0, 0.05) for step in range(count)]


def test_a_falling_noisy_curve_has_no_spike() -> None:
    watch = SpikeWatch(64, 10.0)
    assert [loss for loss in falling(1000) if watch.judge(loss)] == []


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_never_stands(bad: float) -> None:
    assert "the loss is" in str(SpikeWatch(64, 10.0).judge(bad))


def test_a_spike_is_told_and_not_remembered() -> None:
    watch = SpikeWatch(64, 10.0)
    for loss in falling(300):
        watch.judge(loss)
    for _ in range(40):
        said = watch.judge(4.0)
        assert said is not None
        assert "the loss is 4, the median of the last 64 steps 2.0" in said
    assert watch.judge(2.1) is None


def test_a_resumed_watch_judges_as_one_that_went_on() -> None:
    curve = falling(200)
    whole, resumed = SpikeWatch(32, 5.0), SpikeWatch(32, 5.0)
    for loss in curve[:150]:
        whole.judge(loss)
    resumed.begin(curve[:150][-32:])
    for loss in [*curve[150:], 2.6, 2.3, 9.0]:
        assert whole.judge(loss) == resumed.judge(loss)


def test_nothing_is_a_spike_before_half_a_window_is_known() -> None:
    watch = SpikeWatch(64, 10.0)
    assert all(watch.judge(loss) is None for loss in (9.0, 1.0, 50.0, 2.0))


class Poisoned(Runs):
    """Runs over a data set with a sample that makes the loss of one step of the first epoch NaN."""

    def __init__(self, base: Path, step: int) -> None:
        clean = write_dataset(base / "clean")
        config = tiny_config()
        train = open_dataset(base / "clean", clean, config).train
        batches, per_step = batches_of(train, config), config.batch.per_step
        positions = batches.step((step - 1) * config.batch.global_size, per_step)
        super().__init__(base, poisoned=[positions[0][0]])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Poisoned:
    return Poisoned(tmp_path_factory.mktemp("poisoned"), 6)


@pytest.mark.slow
def test_a_run_goes_back_behind_a_bad_sample_and_comes_back_bit_exact(runs: Poisoned) -> None:
    """The steps 1 to 4 are saved, 6 does not stand: 5 is done again with the samples behind those of 6."""
    whole = runs.finish("whole", steps=6)
    [rewind] = events(whole, "rewind")
    assert (rewind["step"], rewind["to"], rewind["samples"], rewind["skipped"]) == (6, 4, 24, 8)
    assert "nan" in rewind["reason"]
    found = losses(whole)
    assert sorted(found) == [1, 2, 3, 4, 5, 6]
    assert len(found[5]) == 2, "of other samples"
    assert all(math.isfinite(loss) for step in found.values() for loss in step)
    assert events(whole, "stop")[-1]["reason"] == "finished"

    cut = runs.base / "cut"
    ranks = runs.start("cut", steps=6)
    wait_for(cut / "events.jsonl", '"rewind"', ranks)
    victim = ranks.processes[1]
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    ranks.wait(30)
    runs.finish("cut", steps=6)
    assert losses(cut)[6] == found[6]
    assert len(events(cut, "rewind")) == 1, "it did not meet the sample again"
    assert events(cut, "stop")[-1]["state_sha256"] == events(whole, "stop")[-1]["state_sha256"]


@pytest.mark.slow
def test_a_run_that_never_gets_on_ends_and_says_why(runs: Poisoned) -> None:
    ranks = runs.start("none", steps=6, config=tiny_config("stability.rewinds=0"))
    assert ranks.wait() == [1, 1]
    assert "step 6 does not stand, 1 times in a row: the loss is nan" in ranks.output()
    first = runs.start("early", steps=6, config=tiny_config("checkpoint.every_steps=100"))
    assert first.wait() == [1, 1]
    assert "there is no checkpoint to go back to" in first.output()

"""Whole runs of two ranks on this machine: they learn, die, come back bit-exact, and refuse what they must."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.trainer_helpers import LocalRanks, request_for, tiny_config, write_dataset
from trainer.checkpoint import store
from trainer.config import TrainConfig
from trainer.run_files import read_lines
from trainer.verify_restore import main as verify_restore
from trainer.verify_restore import verify

pytestmark = pytest.mark.slow

STEPS = 14


class Runs:
    """One data set, many runs."""

    def __init__(self, base: Path, **more: Any) -> None:
        self.base = base
        self.data = base / "notes"
        self.key = write_dataset(self.data, **more)
        self._launched = 0

    def start(
        self,
        name: str,
        *,
        steps: int = STEPS,
        config: TrainConfig | None = None,
        data: Path | None = None,
        world_size: int = 2,
        **more: Any,
    ) -> LocalRanks:
        request = request_for(
            self.base / name, data or self.data, self.key, steps, config=config, world_size=world_size
        ).model_copy(update=more)
        self._launched += 1
        return LocalRanks(request, self.base / f"logs-{name}-{self._launched}")

    def finish(self, name: str, **more: Any) -> Path:
        """Run to the end; the run's directory."""
        ranks = self.start(name, **more)
        codes = ranks.wait()
        assert codes == [0] * len(codes), ranks.output()
        return self.base / name


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def uninterrupted(runs: Runs) -> Path:
    return runs.finish("uninterrupted")


def losses(run: Path) -> dict[int, set[float]]:
    """All losses that were recorded for each step: more than one value means that a replay differed."""
    found: dict[int, set[float]] = {}
    for record in read_lines(run / "metrics.jsonl"):
        found.setdefault(record["step"], set()).add(record["loss"])
    return found


def evaluations(run: Path) -> list[float]:
    return [record["val_loss"] for record in read_lines(run / "eval.jsonl")]


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    return [record for record in read_lines(run / "events.jsonl") if record["event"] == kind]


def wait_for(path: Path, pattern: str, ranks: LocalRanks) -> None:
    end = time.monotonic() + 60
    while not (path.is_file() and re.search(pattern, path.read_text())):
        assert time.monotonic() < end, f"no {pattern} in {path}: {ranks.output()}"
        time.sleep(0.02)


def copy_run(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def test_held_out_loss_falls(uninterrupted: Path) -> None:
    values = evaluations(uninterrupted)
    assert len(values) == 5, "at 0, 4, 8, 12 and the end"
    assert values[-1] < 0.6 * values[0]
    assert sorted(losses(uninterrupted)) == list(range(1, STEPS + 1))


def test_nothing_is_learned_at_rate_zero(runs: Runs) -> None:
    config = tiny_config("optimizer.learning_rate=0.0", "optimizer.weight_decay=0.0")
    values = evaluations(runs.finish("rate-zero", config=config, steps=8))
    assert len(values) == 3
    assert len(set(values)) == 1


def test_zero_stages_agree(runs: Runs, uninterrupted: Path) -> None:
    other = runs.finish("stage-one", config=tiny_config("engine.zero_stage=1"))
    for step, [loss] in losses(uninterrupted).items():
        assert losses(other)[step].pop() == pytest.approx(loss, abs=1e-5)


def test_a_killed_rank_ends_the_run_and_it_resumes_bit_exact(runs: Runs, uninterrupted: Path) -> None:
    run = runs.base / "killed"
    ranks = runs.start("killed")
    wait_for(run / "metrics.jsonl", '"step": 6,', ranks)
    victim = ranks.processes[1]
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    killed = time.monotonic()
    codes = ranks.wait(30)
    assert codes == [1, -signal.SIGKILL], "the other rank must not wait for the dead one"
    assert time.monotonic() - killed < 20
    assert max(losses(run)) < STEPS
    runs.finish("killed")
    assert events(run, "resume")[0]["step"] in {4, 8, 12}
    assert losses(run) == losses(uninterrupted), "also the steps that were done twice"
    assert evaluations(run)[-1] == evaluations(uninterrupted)[-1]
    assert events(run, "stop")[-1]["state_sha256"] == events(uninterrupted, "stop")[-1]["state_sha256"]


def test_sigterm_writes_a_checkpoint_first_and_the_run_goes_on(runs: Runs, uninterrupted: Path) -> None:
    run = runs.base / "stopped"
    ranks = runs.start("stopped")
    wait_for(run / "metrics.jsonl", '"step": 5,', ranks)
    first = ranks.processes[1]
    assert first.pid is not None
    os.kill(first.pid, signal.SIGTERM)
    assert ranks.wait() == [0, 0], ranks.output()
    [stop] = events(run, "stop")
    assert stop["reason"] == "SIGTERM"
    assert store.published(run)[0].step == stop["step"] < STEPS
    runs.finish("stopped")
    assert losses(run) == losses(uninterrupted)
    assert events(run, "stop")[-1]["state_sha256"] == events(uninterrupted, "stop")[-1]["state_sha256"]


@pytest.mark.parametrize(("how", "reason"), [("flipped", "has another sha256"), ("truncated", "has another size")])
def test_a_spoiled_checkpoint_is_passed_over_and_named(runs: Runs, uninterrupted: Path, how: str, reason: str) -> None:
    run = copy_run(uninterrupted, runs.base / how)
    newest = store.published(run)[0]
    file = newest.path / "engine/zero_pp_rank_1_mp_rank_00_optim_states.pt"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data if how == "flipped" else data[: len(data) // 2])
    ranks = runs.start(how)
    assert ranks.wait() == [0, 0], ranks.output()
    [refused] = events(run, "refused")
    assert (refused["checkpoint"], refused["reason"]) == (
        newest.path.name,
        f"{file.relative_to(newest.path)} {reason}",
    )
    assert f"{newest.path.name} is refused" in ranks.output()
    assert events(run, "resume")[-1]["step"] == 12
    assert verify(run) | {"seconds": 0} == verify(uninterrupted) | {"seconds": 0}, "replaced by a good one"


def test_a_run_without_a_good_checkpoint_is_not_begun_anew(runs: Runs, uninterrupted: Path) -> None:
    run = copy_run(uninterrupted, runs.base / "lost")
    for checkpoint in store.published(run):
        (checkpoint.path / store.MARKER).unlink()
    ranks = runs.start("lost")
    assert ranks.wait() == [2, 0]
    assert "none of the 3 checkpoints is good" in ranks.output()
    assert len(store.published(run)) == 3


def test_restore_is_proved_and_a_flipped_bit_disproves_it(
    runs: Runs, uninterrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verdict = verify(uninterrupted)
    assert (verdict["step"], verdict["match"], verdict["problem"]) == (STEPS, True, None)
    assert verdict["state_sha256"] == events(uninterrupted, "stop")[-1]["state_sha256"]
    run = copy_run(uninterrupted, runs.base / "disproved")
    file = store.published(run)[0].path / "trainer_state.json"
    file.write_text(file.read_text().replace(verdict["state_sha256"], "0" * 64))
    assert verify_restore(["--run", str(run)]) == 1
    assert verify_restore(["--run", str(runs.base)]) == 2
    assert "no run directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "config", "key"),
    [
        ("other-width", tiny_config("model.feed_forward=32"), "model.feed_forward"),
        ("other-seed", tiny_config("data.seed=5"), "data.seed"),
    ],
)
def test_a_run_is_not_resumed_with_another_configuration(
    runs: Runs, uninterrupted: Path, name: str, config: TrainConfig, key: str
) -> None:
    run = copy_run(uninterrupted, runs.base / name)
    ranks = runs.start(name, config=config)
    assert ranks.wait() == [2, 0]
    assert f"--set {key}=" in ranks.output()
    assert events(run, "refused")


def test_a_run_is_not_resumed_by_another_number_of_ranks(runs: Runs, uninterrupted: Path) -> None:
    copy_run(uninterrupted, runs.base / "one-rank")
    ranks = runs.start("one-rank", world_size=1)
    assert ranks.wait() == [2]
    assert "trained by 2 ranks, now there are 1" in ranks.output()


def test_altered_data_is_refused_by_the_ranks(runs: Runs) -> None:
    data = runs.base / "altered-notes"
    shutil.copytree(runs.data, data)
    shard = data / "shards/heldout-000000.tar"
    spoiled = bytearray(shard.read_bytes())
    spoiled[700] ^= 1
    shard.write_bytes(spoiled)
    ranks = runs.start("altered", data=data)
    assert ranks.wait() == [2, 0]
    assert "heldout-000000.tar: the file was altered" in ranks.output()
    assert not losses(runs.base / "altered")


def test_a_declared_accelerator_that_is_absent_is_refused(runs: Runs) -> None:
    import torch

    assert not torch.cuda.is_available(), "this test needs a machine without a GPU"
    ranks = runs.start("accelerator", world_size=1, accelerator="npu")
    assert ranks.wait() == [2]
    assert "declares trainer_accelerator npu, and torch_npu can't be imported here" in ranks.output()


def test_two_jobs_cannot_train_one_run(runs: Runs) -> None:
    run = runs.base / "twice"
    first = runs.start("twice", steps=100_000)
    wait_for(run / "metrics.jsonl", '"step": 2,', first)
    second = runs.start("twice")
    assert second.wait() == [2, 0]
    assert "another job trains run 'twice'" in second.output()
    for process in first.processes:
        process.terminate()
    assert first.wait() == [0, 0]


def test_metrics_are_served_while_it_trains_and_go_on_after_a_resume(runs: Runs, uninterrupted: Path) -> None:
    run = copy_run(uninterrupted, runs.base / "served")
    ranks = runs.start("served", steps=100_000, metrics_port=18085)
    wait_for(run / "metrics.jsonl", f'"step": {STEPS + 2},', ranks)
    with urllib.request.urlopen("http://127.0.0.1:18085/metrics", timeout=5) as answer:
        text = answer.read().decode()
    for process in ranks.processes:
        process.terminate()
    assert ranks.wait() == [0, 0]
    values = dict(re.findall(r'^(training_\w+)\{run="served"\} (\S+)$', text, re.MULTILINE))
    before = max(record["tokens"] for record in read_lines(uninterrupted / "metrics.jsonl"))
    assert float(values["training_tokens_processed_total"]) > before
    assert float(values["training_step"]) > STEPS
    assert float(values["training_restarts_total"]) == 1
    assert {"training_loss", "training_learning_rate", "training_step_seconds"} <= values.keys()

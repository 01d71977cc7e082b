"""The configuration: what it accepts, and how it refuses the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from medllm.errors import UserError
from trainer.config import CONFIG_DIRECTORY, load_config
from trainer.engine import learning_rate


@pytest.mark.parametrize("path", sorted(CONFIG_DIRECTORY.glob("*.yml")), ids=lambda path: path.stem)
def test_shipped_configurations_are_good(path: Path) -> None:
    assert load_config(path.stem) == load_config(str(path))


@pytest.mark.parametrize(
    ("override", "rule"),
    [
        ("model.widht=64", "unknown key 'model.widht'"),
        ("modle.width=64", "unknown key 'modle'"),
        ("model.width=wide", "valid integer"),
        ("model.width=64.0", "valid integer"),
        ("model.width=true", "valid integer"),
        ("model.width=100", "multiple of twice the heads"),
        ("model.image_patch=24", "multiple of image_patch"),
        ("model.waveform_patch=33", "multiple of waveform_patch"),
        ("optimizer.learning_rate=-1", "greater than or equal to 0"),
        ("optimizer.learning_rate=NaN", ""),
        ("optimizer.warmup_steps=200", "below decay_steps"),
        ("optimizer.betas=[0.9]", "at least 2 items"),
        ("optimizer.betas=[2, 0.9]", "less than 1"),
        ("data.seed=" + "[" * 100_000, "valid integer"),
        ("engine.zero_stage=2", "1 or 3"),
        ("checkpoint.keep_last=0", "greater than or equal to 1"),
        ("width=64", "not SECTION.KEY=VALUE"),
        ("model.width", "not SECTION.KEY=VALUE"),
        ("", "not SECTION.KEY=VALUE"),
    ],
)
def test_bad_overrides_are_refused_by_name(override: str, rule: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config("medllm-tiny", [override])
    assert rule in str(caught.value)
    assert "--set" in str(caught.value)


def test_unknown_configuration_lists_those_that_exist() -> None:
    with pytest.raises(UserError, match=r"use one of: .*medllm-tiny"):
        load_config("medllm-huge")


def test_a_bad_file_is_refused_with_its_line(tmp_path: Path) -> None:
    text = (CONFIG_DIRECTORY / "medllm-tiny.yml").read_text()
    file = tmp_path / "mine.yml"
    file.write_text(text.replace("  layers: 4", "  layers: four"))
    with pytest.raises(UserError) as caught:
        load_config(str(file))
    [problem] = caught.value.problems
    assert (problem.file, problem.key) == (file, "model.layers")
    assert problem.line == 1 + text.splitlines().index("  layers: 4")


def test_a_batch_that_ranks_cannot_share_names_one_that_they_can() -> None:
    batch = load_config("medllm-tiny").batch
    assert batch.accumulation(4) == 1
    assert batch.accumulation(2) == 2
    with pytest.raises(UserError, match=r"--set batch\.global_size=6"):
        batch.accumulation(3)


def test_the_rate_rises_falls_and_stays() -> None:
    config = load_config("medllm-tiny").optimizer
    peak = config.learning_rate
    assert learning_rate(config, 1) == pytest.approx(peak / config.warmup_steps)
    assert learning_rate(config, config.warmup_steps) == pytest.approx(peak)
    middle = (config.warmup_steps + config.decay_steps) // 2
    assert learning_rate(config, middle) == pytest.approx(peak * (1 + config.minimum_ratio) / 2, rel=0.02)
    for step in (config.decay_steps, 10 * config.decay_steps):
        assert learning_rate(config, step) == pytest.approx(peak * config.minimum_ratio)


def test_a_sequence_longer_than_the_model_s_positions_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"16 positions of an image, 10 of a waveform and 256 of a note; model.positions"
    ):
        load_config("medllm-tiny", ["model.positions=200"])


@pytest.mark.parametrize(
    ("override", "rule"),
    [
        ("model.architecture=llama", "'rotary' or 'gpt2'"),
        ("engine.precision=fp16", "'fp32' or 'bf16'"),
        ("model.waveform_tower_width=12", "multiple of 8"),
    ],
)
def test_what_the_model_can_not_be_is_refused(override: str, rule: str) -> None:
    with pytest.raises(UserError, match=rule):
        load_config("medllm-tiny", [override])

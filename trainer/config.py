"""What a training run is told: `trainer/configs/<name>.yml`, checked, with overrides from the command line."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from medllm.errors import Problem, UserError, user_error
from medllm.site.source import dotted, plain, read_document
from planner.model_size import ModelShape

CONFIG_DIRECTORY = Path(__file__).parent / "configs"
# What may change between two starts of one run without changing what it computes.
_FREE_SECTIONS = ("checkpoint", "evaluation", "launch", "loader", "stability")

Count = Annotated[int, Field(ge=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ModelConfig(_Strict):
    """Widths in features, sizes in pixels or samples.

    `waveform_tower_width`: where it is not the image tower's. `positions`: the longest sequence, image and waveform
    included; `gpt2` learns a vector for each.
    """

    architecture: Literal["rotary", "gpt2"] = "rotary"
    vocabulary: Annotated[int, Field(ge=16, le=1_000_000)]
    positions: Annotated[int, Field(ge=16, le=1_000_000)] = 8192
    width: Annotated[int, Field(ge=8, le=65536)]
    layers: Annotated[int, Field(ge=1, le=512)]
    heads: Annotated[int, Field(ge=1, le=512)]
    feed_forward: Annotated[int, Field(ge=8, le=1_000_000)]
    tower_width: Annotated[int, Field(ge=8, le=65536)]
    waveform_tower_width: Annotated[int, Field(ge=8, le=65536)] | None = None
    image_size: Annotated[int, Field(ge=8, le=4096)]
    image_patch: Annotated[int, Field(ge=2, le=512)]
    waveform_leads: Annotated[int, Field(ge=1, le=64)]
    waveform_samples: Annotated[int, Field(ge=8, le=1_000_000)]
    waveform_patch: Annotated[int, Field(ge=2, le=100_000)]

    @property
    def image_tokens(self) -> int:
        """Positions that one image takes in the decoder's sequence."""
        return (self.image_size // self.image_patch) ** 2

    @property
    def waveform_tokens(self) -> int:
        """Positions that one waveform takes in the decoder's sequence."""
        return self.waveform_samples // self.waveform_patch

    @property
    def shape(self) -> ModelShape:
        """What the planner calculates with."""
        return ModelShape(
            self.architecture, self.vocabulary, self.width, self.layers, self.heads, self.feed_forward, self.positions,
            self.tower_width, self.waveform_tower_width or self.tower_width, self.image_patch, self.waveform_leads,
            self.waveform_patch,
        )  # fmt: skip

    @model_validator(mode="after")
    def _divisible(self) -> ModelConfig:
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} must be a multiple of twice the heads ({2 * self.heads})")
        if self.tower_width % 8:
            raise ValueError(f"tower_width {self.tower_width} must be a multiple of 8")
        if (self.waveform_tower_width or 8) % 8:
            raise ValueError(f"waveform_tower_width {self.waveform_tower_width} must be a multiple of 8")
        if self.image_size % self.image_patch:
            raise ValueError(f"image_size {self.image_size} must be a multiple of image_patch {self.image_patch}")
        if self.waveform_samples % self.waveform_patch:
            raise ValueError(
                f"waveform_samples {self.waveform_samples} must be a multiple of waveform_patch {self.waveform_patch}"
            )
        return self


class DataConfig(_Strict):
    sequence_length: Annotated[int, Field(ge=8, le=1_000_000)]
    seed: Annotated[int, Field(ge=0, lt=2**32)]


class BatchConfig(_Strict):
    """With `max_tokens`, `micro_size` is the most that a forward pass takes; samples of like length go together."""

    global_size: Count
    micro_size: Count
    max_tokens: Annotated[int, Field(ge=8)] | None = None

    @property
    def per_step(self) -> int:
        """Forward passes of all ranks together in a step."""
        return self.global_size // self.micro_size

    def accumulation(self, world_size: int) -> int:
        """Forward passes of one rank in a step.

        Raises:
            UserError: the global batch can't be shared out evenly.
        """
        together = self.micro_size * world_size
        if self.global_size % together:
            raise user_error(
                f"a global batch of {self.global_size} can't be shared by {world_size} ranks with {self.micro_size} "
                "samples each",
                f"set batch.global_size to a multiple of {together} (--set batch.global_size={together})",
                key="batch.global_size",
            )
        return self.global_size // together


class OptimizerConfig(_Strict):
    """AdamW with a linear warm-up and a cosine down to `minimum_ratio` of the peak."""

    learning_rate: Annotated[float, Field(ge=0, le=1)]
    betas: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)]
    weight_decay: Annotated[float, Field(ge=0, le=1)]
    warmup_steps: Annotated[int, Field(ge=0)]
    decay_steps: Count
    minimum_ratio: Annotated[float, Field(ge=0, le=1)]
    clip_norm: Annotated[float, Field(gt=0)]

    @model_validator(mode="after")
    def _ordered(self) -> OptimizerConfig:
        if self.warmup_steps >= self.decay_steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} must be below decay_steps {self.decay_steps}")
        return self


class EngineConfig(_Strict):
    zero_stage: Literal[1, 3]
    precision: Literal["fp32", "bf16"] = "fp32"
    activation_checkpoint_layers: Annotated[int, Field(ge=0)]
    collective_timeout_s: Annotated[int, Field(ge=5, le=7200)]
    threads_per_rank: Annotated[int, Field(ge=1, le=256)]


class CheckpointConfig(_Strict):
    """Saved after so many steps or minutes, whichever is first; kept are the newest and the best by held-out loss."""

    every_steps: Count
    every_minutes: Annotated[float, Field(gt=0, le=10_080)] | None = None
    keep_last: Count
    keep_best: Annotated[int, Field(ge=0, le=100)] = 0


class LoaderConfig(_Strict):
    """How samples reach the GPUs; without any effect on what is computed."""

    threads: Annotated[int, Field(ge=1, le=64)]
    ahead_batches: Annotated[int, Field(ge=1, le=1000)]
    memory_mib: Annotated[int, Field(ge=0)]
    nvme_gib: Annotated[int, Field(ge=0)]


class EvaluationConfig(_Strict):
    every_steps: Count
    samples: Count


class BalanceConfig(_Strict):
    """The gradient norms of image, waveform and text; `limit`: their largest ratio, null measures only."""

    limit: Annotated[float, Field(ge=1, le=1000)] | None = 2.0
    memory: Annotated[float, Field(ge=0, lt=1)] = 0.9


class StabilityConfig(_Strict):
    """When a step does not stand: the run goes back to its newest checkpoint and passes the samples since then over.

    A loss that is not finite never stands. `spike_factor`: robust standard deviations above the median of the last
    `window` losses. `rewinds`: how often in a row, without a checkpoint between; then the run ends.
    """

    window: Annotated[int, Field(ge=8, le=10_000)] = 64
    spike_factor: Annotated[float, Field(ge=3, le=1000)] = 10.0
    rewinds: Annotated[int, Field(ge=0, le=100)] = 3


class LaunchConfig(_Strict):
    max_restarts: Annotated[int, Field(ge=0, le=1000)]
    time_limit_minutes: Annotated[int, Field(ge=1, le=525_600)]


class TrainConfig(_Strict):
    """One file of `trainer/configs/`."""

    model: ModelConfig
    data: DataConfig
    batch: BatchConfig
    optimizer: OptimizerConfig
    engine: EngineConfig
    checkpoint: CheckpointConfig
    evaluation: EvaluationConfig
    loader: LoaderConfig
    launch: LaunchConfig
    stability: StabilityConfig = StabilityConfig()
    balance: BalanceConfig = BalanceConfig()

    @property
    def positions(self) -> int:
        """Of a whole sequence: an image's, a waveform's and a note's."""
        return self.model.image_tokens + self.model.waveform_tokens + self.data.sequence_length

    @model_validator(mode="after")
    def _long_enough(self) -> TrainConfig:
        if self.positions > self.model.positions:
            raise ValueError(
                f"a sequence has {self.model.image_tokens} positions of an image, {self.model.waveform_tokens} of a "
                f"waveform and {self.data.sequence_length} of a note; model.positions allows {self.model.positions}"
            )
        return self

    def fixed_part(self) -> dict[str, Any]:
        """What must not change when a run is resumed: all but how often it saves, evaluates and restarts."""
        return self.model_dump(mode="json", exclude=set(_FREE_SECTIONS))

    def sha256(self) -> str:
        """Hash of the whole configuration in canonical JSON."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


def load_config(name_or_path: str, overrides: Iterable[str] = ()) -> TrainConfig:
    """Read a configuration by the name of a shipped one or by path, with `section.key=value` overrides.

    Raises:
        UserError: unknown configuration or key, a wrong type, an impossible combination.
    """
    path = Path(name_or_path)
    if path.suffix not in {".yml", ".yaml"}:
        path = CONFIG_DIRECTORY / f"{name_or_path}.yml"
        if not path.is_file():
            names = ", ".join(sorted(file.stem for file in CONFIG_DIRECTORY.glob("*.yml")))
            raise user_error(
                f"there is no configuration {name_or_path!r}", f"use one of: {names}, or the path of a .yml file",
                key="--config",
            )  # fmt: skip
    document = read_document(path)
    values = plain(document.data)
    origin = dict(_apply(values, override) for override in overrides)
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        problems = []
        for detail in error.errors():
            keys = tuple(detail["loc"])
            key = dotted(keys)
            rule = detail["msg"].removeprefix("Value error, ")
            fix = "correct the value"
            if detail["type"] == "extra_forbidden":
                rule, fix = f"unknown key {key!r}", _suggestion(keys)
            elif detail["type"] == "missing":
                rule, fix = f"the key {key!r} is missing", "add it, as in trainer/configs/medllm-tiny.yml"
            # A rule between keys is reported on their section: blame the override that is in it, or around it.
            overridden = next(
                (name for name in origin if f"{name}.".startswith(f"{key}.") or key.startswith(f"{name}.")), None
            )
            problems.append(
                Problem(
                    rule=f"{rule} (given {detail['input']!r})"
                    if isinstance(detail["input"], int | float | str)
                    else rule,
                    fix=fix,
                    file=None if overridden else path,
                    line=None if overridden else document.line_of(keys),
                    key=f"--set {overridden}" if overridden else key,
                )
            )
        raise UserError(*problems) from None


def _apply(values: dict[str, Any], override: str) -> tuple[str, str]:
    key, separator, text = override.partition("=")
    section, dot, name = key.strip().partition(".")
    if not (separator and dot and name and section):
        raise user_error(f"{override!r} is not SECTION.KEY=VALUE", "write for example --set data.seed=7", key="--set")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    target = values.setdefault(section, {})
    if not isinstance(target, dict):
        raise user_error(f"{section!r} is not a section", "write for example --set data.seed=7", key="--set")
    target[name] = value
    return f"{section}.{name}", override


def _suggestion(keys: tuple[int | str, ...]) -> str:
    model: type[BaseModel] = TrainConfig
    if len(keys) > 1 and keys[0] in TrainConfig.model_fields:
        annotation = TrainConfig.model_fields[str(keys[0])].annotation
        assert isinstance(annotation, type)
        model = annotation
    known = sorted(model.model_fields)
    near = difflib.get_close_matches(str(keys[-1]), known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"use one of: {', '.join(known)}"

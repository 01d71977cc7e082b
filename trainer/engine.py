"""Model, optimizer and DeepSpeed engine for one configuration."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import torch

from trainer.config import OptimizerConfig, TrainConfig
from trainer.model.decoder import MedicalDecoder
from trainer.ranks import Ranks

_BUCKET_ELEMENTS = 1 << 23


def seed_everything(seed: int, rank: int) -> None:
    """Seed torch, NumPy and Python; each global rank gets a stream of its own."""
    torch.manual_seed(seed + rank)
    np.random.seed((seed + rank) % 2**32)
    random.seed(seed + rank)


def learning_rate(config: OptimizerConfig, step: int) -> float:
    """The rate for optimizer step `step` (from 1): linear warm-up, then a cosine to `minimum_ratio` of the peak.

    A function of the step alone, so a resumed run needs no scheduler state.
    """
    if step <= config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    done = min(1.0, (step - config.warmup_steps) / (config.decay_steps - config.warmup_steps))
    cosine = 0.5 * (1 + math.cos(math.pi * done))
    return config.learning_rate * (config.minimum_ratio + (1 - config.minimum_ratio) * cosine)


def build_engine(config: TrainConfig, ranks: Ranks) -> Any:
    """A DeepSpeed engine around a freshly initialised `MedicalDecoder`: ZeRO-1 or ZeRO-3, FP32 or BF16.

    BF16 has FP32 master weights, moments and sums of gradients. Every rank builds the same weights from the seed; its
    random generators then go their own way.
    """
    import deepspeed

    torch.set_num_threads(config.engine.threads_per_rank)
    torch.use_deterministic_algorithms(True)
    seed_everything(config.data.seed, 0)
    model = MedicalDecoder(config.model, config.engine.activation_checkpoint_layers)
    parameters = list(model.parameters())
    # Norms and biases are not decayed. Grouped before DeepSpeed takes the weights apart and their shapes away.
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.optimizer.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    first, second = config.optimizer.betas
    optimizer = torch.optim.AdamW(groups, lr=config.optimizer.learning_rate, betas=(first, second))
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        config={
            "train_batch_size": config.batch.global_size,
            "train_micro_batch_size_per_gpu": config.batch.micro_size,
            "gradient_accumulation_steps": config.batch.accumulation(ranks.world_size),
            "gradient_clipping": config.optimizer.clip_norm,
            # The default bucket of 5e8 elements is 2 GB in FP32, cleared each step.
            "zero_optimization": {"stage": config.engine.zero_stage, "reduce_bucket_size": _BUCKET_ELEMENTS},
            "bf16": {"enabled": config.engine.precision == "bf16"},
            "steps_per_print": 2**31,
        },
    )
    seed_everything(config.data.seed, ranks.rank)
    return engine


def set_learning_rate(engine: Any, rate: float) -> None:
    """For the next optimizer step."""
    for group in engine.optimizer.param_groups:
        group["lr"] = rate

"""What a run would need and reach, calculated before it holds a GPU."""

from __future__ import annotations

from typing import Any

from medllm.site import Site
from medllm.thresholds import PEAK_BF16_TFLOPS
from planner.layout import Layout
from planner.memory import memory
from planner.model_size import parameters
from planner.rate import rate
from trainer.config import TrainConfig

_GIB = 1 << 30


def estimate(config: TrainConfig, site: Site, world_size: int) -> dict[str, Any]:
    """Layout, parameters, memory of the fullest rank in GiB, expected tokens/s; None for what a CPU has not.

    Raises:
        UserError: the global batch can't be shared out.
    """
    accumulation = config.batch.accumulation(world_size)
    layout = Layout(1, 1, world_size, config.engine.zero_stage, config.batch.micro_size, accumulation)
    shape = config.model.shape
    needed = memory(
        shape, layout, config.engine.precision, config.positions, config.data.sequence_length,
        config.engine.activation_checkpoint_layers,
    )  # fmt: skip
    gpu = site.trainer_accelerator == "cuda"
    found: dict[str, Any] = {
        "layout": str(layout),
        "parameters": parameters(shape),
        "memory_gib": round(needed.total / _GIB, 1) if gpu else None,
        "memory_there_gib": round(site.gpu.memory_mib / 1024, 1) if gpu else None,
        "tokens_per_s": None,
        "tokens_per_s_limit": None,
        "step_seconds": None,
    }
    if gpu and config.engine.precision == "bf16" and site.gpu.model in PEAK_BF16_TFLOPS:
        expected = rate(shape, layout, config.positions, PEAK_BF16_TFLOPS[site.gpu.model])
        found |= {
            "tokens_per_s": [round(value) for value in (expected.low, expected.middle, expected.high)],
            "tokens_per_s_limit": round(expected.limit),
            "step_seconds": round(expected.step_seconds, 1),
        }
    return found

"""How fast a run can go: tokens a second at a share of the GPUs' peak, time for a number of tokens."""

from __future__ import annotations

from dataclasses import dataclass

from planner.layout import Layout
from planner.model_size import ModelShape, flops_per_token

# What others reached with models of this size on 8 to 32 H100s at 4096 to 8192 positions (llm-foundry's table: MPT-30B
# 44 % at 2048 positions, 36 % at 4096; NVIDIA's DGX Cloud benchmarks: 55 to 62 %): low, middle, high.
MFU = (0.30, 0.40, 0.50)


@dataclass(frozen=True, slots=True)
class Rate:
    """Tokens a second of all GPUs, at MFU 30, 40, 50 %; `limit` at 100 %, which nothing reaches."""

    low: float
    middle: float
    high: float
    limit: float
    step_seconds: float


def rate(shape: ModelShape, layout: Layout, positions: int, peak_tflops: float) -> Rate:
    """What to expect of `layout` on GPUs of `peak_tflops` each.

    Args:
        positions: of a sequence, with those of image and waveform; each is a token that is computed
    """
    limit = peak_tflops * 1e12 * layout.world / flops_per_token(shape, positions)
    # A pipeline idles for (stages - 1) of (micro-batches + stages - 1) slots (Narayanan et al. 2021, section 2.2.1).
    busy = layout.accumulation / (layout.accumulation + layout.pipeline - 1)
    low, middle, high = (share * limit * busy for share in MFU)
    return Rate(low, middle, high, limit, layout.global_batch * positions / middle)

"""What a rank's GPU has to hold: states by ZeRO stage, activations, the logits. In bytes; a GiB is 2^30."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from planner.layout import Layout
from planner.model_size import (
    ModelShape,
    block_parameters,
    embedding_parameters,
    head_parameters,
    parameters,
    tower_parameters,
)

Precision = Literal["fp32", "bf16"]

# CUDA's context, NCCL's buffers and what the allocator can't use again: a round figure for one rank, not a measurement.
RESERVE = 6 << 30
# Of weights, gradients, master weights, both moments (Rajbhandari et al. 2020, ZeRO, section 3.1). FP32 needs no master
# copy. DeepSpeed's BF16 optimizer sums gradients in FP32 and keeps the BF16 ones: 2 + 2 + 4 + 4 + 8.
_BYTES = {"fp32": (4, 4, 0, 8), "bf16": (2, 2 + 4, 4, 8)}


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one rank, of the stage that needs most."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    reserve: int

    @property
    def total(self) -> int:
        """All together."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits + self.reserve


def memory(
    shape: ModelShape, layout: Layout, precision: Precision, positions: int, text: int, checkpoint_layers: int
) -> Memory:
    """What the fullest rank needs for one step.

    Args:
        positions: of a sequence, with those of image and waveform
        text: of them, those of the note, for which there are logits
        checkpoint_layers: blocks that are recomputed together in backward; 0 keeps every activation
    """
    weight, gradient, master, moments = _BYTES[precision]
    own, share = _weights(shape, layout), layout.data
    zero3 = layout.zero == 3
    # Under ZeRO-3 the weights of what is computed right now are gathered: two groups of layers, one fetched ahead.
    gathered = 2 * max(1, checkpoint_layers) * block_parameters(shape) * weight if zero3 else 0
    blocks = -(-shape.layers // layout.pipeline)
    # One forward one backward: the first stage holds as many micro-batches as there are stages (Narayanan et al. 2021).
    in_flight = min(layout.pipeline, layout.accumulation)
    size = 4 if precision == "fp32" else 2
    return Memory(
        weights=(own * weight) // (share if zero3 else 1) + gathered,
        gradients=(own * gradient) // (share if zero3 else 1),
        optimizer=own * (master + moments) // share,
        activations=in_flight * _activations(shape, layout, size, positions, blocks, checkpoint_layers),
        # Logits and their gradient, in the precision of the head and once more in FP32 for the cross entropy.
        logits=layout.micro * text * shape.vocabulary // layout.tensor * (2 * size + 4),
        reserve=RESERVE,
    )


def _weights(shape: ModelShape, layout: Layout) -> int:
    """Weights of the largest stage on one tensor-parallel rank: embedding and towers, or the head, with its blocks."""
    if layout.pipeline == layout.tensor == 1:
        return parameters(shape)
    blocks = -(-shape.layers // layout.pipeline) * block_parameters(shape)
    first, last = embedding_parameters(shape), head_parameters(shape)
    ends = first + last if layout.pipeline == 1 else max(first, last)
    # The towers are small and whole on each rank of the first stage.
    return (blocks + ends) // layout.tensor + tower_parameters(shape)


def _activations(
    shape: ModelShape, layout: Layout, size: int, positions: int, blocks: int, checkpoint_layers: int
) -> int:
    """Of one micro-batch in one stage: what is kept between groups of blocks, and one group's own in backward.

    A block keeps about s·b·w·(10 + 24/t) bytes at two bytes a number (Korthikanti et al. 2022, section 4, with an
    attention that does not keep its square: FlashAttention), which is what is counted here.
    """
    tokens = layout.micro * positions
    block = tokens * shape.width * (10 + 24 / layout.tensor) * size / 2
    if not checkpoint_layers:
        return round(blocks * block)
    groups = -(-blocks // checkpoint_layers)
    return round(groups * tokens * shape.width * size + checkpoint_layers * block)

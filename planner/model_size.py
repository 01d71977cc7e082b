"""How large a model is and what a token costs: the arithmetic of `trainer.model`, without building it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Architecture = Literal["rotary", "gpt2"]


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What of a model its size depends on; widths in features. `positions` counts for `gpt2` only: it learns them."""

    architecture: Architecture
    vocabulary: int
    width: int
    layers: int
    heads: int
    feed_forward: int
    positions: int
    tower_width: int
    waveform_tower_width: int
    image_patch: int
    waveform_leads: int
    waveform_patch: int


def padded_vocabulary(vocabulary: int, tensor: int) -> int:
    """The rows of embedding and head: a multiple of 128, which matrix units like, and of `tensor`, which share them.

    50257 becomes 50304 for 1, 2, 4 and 8 ranks. (Megatron-LM pads to 128 for each of the ranks: 50688 for four.)
    """
    unit = math.lcm(128, tensor)
    return -(-vocabulary // unit) * unit


def block_parameters(shape: ModelShape) -> int:
    """Weights of one of the decoder's blocks.

    `rotary`: attention 4·w², gated feed-forward 3·w·f, two norms. `gpt2`: attention 4·w² + 4·w, feed-forward
    2·w·f + f + w, two norms with offsets (Radford et al. 2019).
    """
    w, f = shape.width, shape.feed_forward
    if shape.architecture == "gpt2":
        return 4 * w * w + 4 * w + 2 * w * f + f + w + 4 * w
    return 4 * w * w + 3 * w * f + 2 * w


def embedding_parameters(shape: ModelShape) -> int:
    """The table of the vocabulary's vectors, and of the learned positions."""
    return shape.vocabulary * shape.width + (shape.positions * shape.width if shape.architecture == "gpt2" else 0)


def head_parameters(shape: ModelShape) -> int:
    """The last norm and the head, which is not tied to the embedding."""
    return shape.vocabulary * shape.width + (2 if shape.architecture == "gpt2" else 1) * shape.width


def tower_parameters(shape: ModelShape) -> int:
    """Both towers with their projectors: embedding, one gated block of twice the tower's width, norm, two layers."""
    w = shape.width
    towers = (
        (shape.image_patch**2, shape.tower_width),
        (shape.waveform_leads * shape.waveform_patch, shape.waveform_tower_width),
    )
    total = 0
    for patch, t in towers:
        block = 4 * t * t + 3 * t * (2 * t) + 2 * t
        total += patch * t + t + block + t + t * w + w + w * w + w
    return total


def parameters(shape: ModelShape) -> int:
    """All weights of the model."""
    return (
        embedding_parameters(shape)
        + shape.layers * block_parameters(shape)
        + head_parameters(shape)
        + tower_parameters(shape)
    )


def flops_per_token(shape: ModelShape, length: int) -> float:
    """Floating-point operations of forward and backward for one token of a sequence of `length` positions.

    6·N + 12·layers·width·length (Chowdhery et al. 2022, PaLM, appendix B): N without the tables that are only looked
    up. It counts all of attention's square though the upper half is masked, and no recomputation: the usual "model"
    FLOPs of MFU.
    """
    looked_up = embedding_parameters(shape)
    return 6.0 * (parameters(shape) - looked_up) + 12.0 * shape.layers * shape.width * length

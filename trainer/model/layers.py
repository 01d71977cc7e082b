"""Building blocks: attention with rotary positions, gated feed-forward, towers from patches to decoder tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor, nn

ROTARY_BASE = 10_000.0
_TOWER_HEAD = 8  # channels a head in a tower; towers are narrow


def rotary_angles(length: int, head_width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary embedding (Su et al. 2021, arXiv:2104.09864).

    Returns:
        two float32 tensors [length, head_width / 2].
    """
    exponent = torch.arange(0, head_width, 2, device=device, dtype=torch.float32) / head_width
    positions = torch.arange(length, device=device, dtype=torch.float32)
    angles = torch.outer(positions, ROTARY_BASE**-exponent)
    return angles.cos(), angles.sin()


def rotate(values: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn each pair of channels by its position's angle.

    Args:
        values: float [batch, heads, length, head_width].
        cosines, sines: float32 [length, head_width / 2].

    Returns:
        same shape and dtype as `values`.
    """
    first, second = values.float().chunk(2, dim=-1)
    turned = torch.cat((first * cosines - second * sines, second * cosines + first * sines), dim=-1)
    return turned.to(values.dtype)


class Attention(nn.Module):
    """Multi-head self-attention; QKV is laid out head-major, [heads, 3, head width].

    With rotary positions and no offsets, or with offsets where the positions are learned (`rotary` False).
    """

    def __init__(self, width: int, heads: int, *, rotary: bool = True) -> None:
        super().__init__()
        self.heads, self.head_width, self.rotary = heads, width // heads, rotary
        self.qkv = nn.Linear(width, 3 * width, bias=not rotary)
        self.out = nn.Linear(width, width, bias=not rotary)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """`x` float [batch, length, width]; `mask` bool [batch, 1, length, length], True = may look. Same shape out."""
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, self.heads, 3, self.head_width)
        query, key, value = (part.transpose(1, 2) for part in qkv.unbind(dim=3))
        if self.rotary:
            cosines, sines = rotary_angles(length, self.head_width, x.device)
            query, key = rotate(query, cosines, sines), rotate(key, cosines, sines)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Pre-norm transformer block: RMSNorm, attention, RMSNorm, SwiGLU."""

    def __init__(self, width: int, heads: int, feed_forward: int) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(width)
        self.attention = Attention(width, heads)
        self.feed_forward_norm = nn.RMSNorm(width)
        self.gate_up = nn.Linear(width, 2 * feed_forward, bias=False)
        self.down = nn.Linear(feed_forward, width, bias=False)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """`x` float [batch, length, width]; `mask` as in `Attention`. Same shape out."""
        x = x + self.attention(self.attention_norm(x), mask)
        gate, up = self.gate_up(self.feed_forward_norm(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)  # type: ignore[no-any-return]


class LiteralBlock(nn.Module):
    """GPT-2's block (Radford et al. 2019): LayerNorm, attention, LayerNorm, two layers with GELU; all with offsets."""

    def __init__(self, width: int, heads: int, feed_forward: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads, rotary=False)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, feed_forward)
        self.down = nn.Linear(feed_forward, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """`x` float [batch, length, width]; `mask` as in `Attention`. Same shape out."""
        x = x + self.attention(self.attention_norm(x), mask)
        hidden = F.gelu(self.up(self.feed_forward_norm(x)), approximate="tanh")
        return x + self.down(hidden)  # type: ignore[no-any-return]


class Tower(nn.Module):
    """Patches of one modality → tokens of the decoder's width: embedding, one block, projector (norm, MLP)."""

    def __init__(self, patch_features: int, tower_width: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Linear(patch_features, tower_width)
        self.block = Block(tower_width, tower_width // _TOWER_HEAD, 2 * tower_width)
        self.projector = nn.Sequential(
            nn.RMSNorm(tower_width), nn.Linear(tower_width, width), nn.GELU(), nn.Linear(width, width)
        )

    def forward(self, patches: Tensor) -> Tensor:
        """`patches` float [batch, patches, patch features] → float [batch, patches, width]."""
        return self.projector(self.block(self.embed(patches), None))  # type: ignore[no-any-return]


def image_patches(image: Tensor, patch: int) -> Tensor:
    """Cut an image into squares.

    Args:
        image: float [batch, height, width], both multiples of `patch`.

    Returns:
        float [batch, (height / patch) * (width / patch), patch * patch], row by row.
    """
    batch, height, width = image.shape
    squares = image.view(batch, height // patch, patch, width // patch, patch)
    return squares.transpose(2, 3).reshape(batch, -1, patch * patch)


def waveform_patches(waveform: Tensor, patch: int) -> Tensor:
    """Cut a recording into stretches of time that hold all leads.

    Args:
        waveform: float [batch, leads, samples], samples a multiple of `patch`.

    Returns:
        float [batch, samples / patch, leads * patch].
    """
    batch, leads, samples = waveform.shape
    stretches = waveform.view(batch, leads, samples // patch, patch)
    return stretches.transpose(1, 2).reshape(batch, samples // patch, leads * patch)

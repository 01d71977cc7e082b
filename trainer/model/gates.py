"""Where a modality enters the decoder: how much the loss depends on it is measured there, and its gradient scaled."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

MODALITIES = ("image", "waveform", "text")


class _Gate(torch.autograd.Function):
    """The identity forwards; backwards it adds to `squares` and scales the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, squares: Tensor, scale: float) -> Tensor:
        ctx.squares, ctx.scale = squares, scale
        # [batch, positions]: how large the vectors are that enter.
        ctx.sizes = x.detach().float().square().sum(-1)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        ctx.squares.add_((gradient.detach().float().square().sum(-1) * ctx.sizes).sum())
        return (gradient * ctx.scale if ctx.scale != 1.0 else gradient), None, None


class Gates:
    """One gate a modality. `scales` are applied from the next backward pass on.

    What is measured: over all positions p the sum of (|gradient at p| · |vector at p|)². The plain norm of a gradient
    depends on how large the vectors happen to be: a tower whose outputs are fifty times as large as the embeddings gets
    a fiftieth of their gradient for the same effect. The product does not: it bounds the change of the loss when the
    vectors change by a small share of themselves (Cauchy and Schwarz).
    """

    def __init__(self) -> None:
        self.scales = dict.fromkeys(MODALITIES, 1.0)
        self._squares: dict[str, Tensor] = {}

    def __call__(self, modality: str, x: Tensor) -> Tensor:
        """`x` float [batch, positions, width], unchanged."""
        if modality not in self._squares:
            self._squares[modality] = torch.zeros((), dtype=torch.float32, device=x.device)
        gated: Tensor = _Gate.apply(x, self._squares[modality], self.scales[modality])  # type: ignore[no-untyped-call]
        return gated

    def take(self) -> list[float]:
        """The sums since the last call, before scaling; by `MODALITIES`."""
        found = [float(self._squares[name]) if name in self._squares else 0.0 for name in MODALITIES]
        for squares in self._squares.values():
            squares.zero_()
        return found

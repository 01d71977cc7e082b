"""The multimodal decoder: [image tokens | waveform tokens | text tokens] in one causal sequence."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainer.config import ModelConfig
from trainer.model.gates import Gates
from trainer.model.layers import Block, LiteralBlock, Tower, image_patches, waveform_patches

_INIT_STD = 0.02


class MedicalDecoder(nn.Module):
    """Predicts a note's next token from its image, its waveform and the text so far.

    Each call runs both towers, also for samples without an image or a waveform (their input is zeros and no position
    may look at their tokens): every rank then has the same graph, without which ZeRO-3 hangs (DeepSpeed #7170).
    """

    def __init__(self, config: ModelConfig, activation_checkpoint_layers: int = 0) -> None:
        """`activation_checkpoint_layers`: recompute in backward what lies between every so many blocks; 0 keeps all."""
        super().__init__()
        self.config = config
        self.segment = activation_checkpoint_layers
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        self.image_tower = Tower(config.image_patch**2, config.tower_width, config.width)
        recording = config.waveform_leads * config.waveform_patch
        self.waveform_tower = Tower(recording, config.waveform_tower_width or config.tower_width, config.width)
        literal = config.architecture == "gpt2"
        block = LiteralBlock if literal else Block
        self.positions = nn.Embedding(config.positions, config.width) if literal else None
        self.blocks = nn.ModuleList(
            block(config.width, config.heads, config.feed_forward) for _ in range(config.layers)
        )
        self.norm: nn.Module = nn.LayerNorm(config.width) if literal else nn.RMSNorm(config.width)
        # Not tied to the embedding: a weight used in two modules needs special care under ZeRO-3.
        self.head = nn.Linear(config.width, config.vocabulary, bias=False)
        # No module: it holds no weights, and DeepSpeed needs not know of it.
        self.gates = Gates()
        self._initialise()

    def _initialise(self) -> None:
        deep = _INIT_STD / math.sqrt(2 * self.config.layers)
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:
                if name.startswith("blocks.") and name.endswith("bias"):
                    nn.init.zeros_(parameter)
                continue
            std = deep if name.endswith(("attention.out.weight", "down.weight")) else _INIT_STD
            # Towers are shallow and narrow: the usual 1/sqrt(fan in), else their tokens would start as noise of 1e-3.
            if "_tower." in name:
                std = 1 / math.sqrt(parameter.shape[1])
            nn.init.normal_(parameter, std=std)

    def forward(
        self,
        tokens: Tensor,
        image: Tensor,
        image_present: Tensor,
        waveform: Tensor,
        waveform_present: Tensor,
    ) -> Tensor:
        """Logits for the token after each given one.

        Args:
            tokens: int64 [batch, length], padded at the end.
            image: float32 [batch, size, size].
            image_present: bool [batch].
            waveform: float32 [batch, leads, samples].
            waveform_present: bool [batch].

        Returns:
            float [batch, length, vocabulary].
        """
        precision = self.embedding.weight.dtype
        prefix = torch.cat(
            (
                self.gates("image", self.image_tower(image_patches(image, self.config.image_patch).to(precision))),
                self.gates(
                    "waveform",
                    self.waveform_tower(waveform_patches(waveform, self.config.waveform_patch).to(precision)),
                ),
            ),
            dim=1,
        )
        x = torch.cat((prefix, self.gates("text", self.embedding(tokens))), dim=1)
        if self.positions is not None:
            x = x + self.positions(torch.arange(x.shape[1], device=x.device))
        mask = self._mask(image_present, waveform_present, tokens.shape[1])
        for start in range(0, len(self.blocks), self.segment or len(self.blocks)):
            stop = start + (self.segment or len(self.blocks))
            if self.segment and self.training:
                x = checkpoint(self._run, x, mask, start, stop, use_reentrant=False)
            else:
                x = self._run(x, mask, start, stop)
        return self.head(self.norm(x[:, prefix.shape[1] :]))  # type: ignore[no-any-return]

    def _run(self, x: Tensor, mask: Tensor, start: int, stop: int) -> Tensor:
        for block in self.blocks[start:stop]:
            x = block(x, mask)
        return x

    def _mask(self, image_present: Tensor, waveform_present: Tensor, length: int) -> Tensor:
        """Who may look at whom: bool [batch, 1, total, total]; itself always, what came before if it is there."""
        batch = image_present.shape[0]
        visible = torch.cat(
            (
                image_present[:, None].expand(batch, self.config.image_tokens),
                waveform_present[:, None].expand(batch, self.config.waveform_tokens),
                # Padding stands at the end, so the causal order hides it from the text already.
                torch.ones(batch, length, dtype=torch.bool, device=image_present.device),
            ),
            dim=1,
        )
        total = visible.shape[1]
        causal = torch.ones(total, total, dtype=torch.bool, device=visible.device).tril()
        own = torch.eye(total, dtype=torch.bool, device=visible.device)
        return ((causal & visible[:, None, :]) | own)[:, None]

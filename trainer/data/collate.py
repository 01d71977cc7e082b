"""Samples → one padded batch of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medllm.shard_index import IndexEntry
from trainer.config import TrainConfig
from trainer.data.order import Batches, FixedBatches, TokenBatches
from trainer.data.shards import RawSample, ShardSet
from trainer.data.text import NoteTokenizer

IGNORED = -100
# Lengths are rounded up to this, so that few different shapes occur.
_LENGTH_STEP = 32


@dataclass(frozen=True, slots=True)
class Batch:
    """
    tokens: int64 [batch, length], padded at the end
    targets: int64 [batch, length], the token after each one; IGNORED where there is none
    image: float32 [batch, size, size]; image_present: bool [batch]
    waveform: float32 [batch, leads, samples]; waveform_present: bool [batch]
    target_tokens: how many targets are not IGNORED
    """

    tokens: Tensor
    targets: Tensor
    image: Tensor
    image_present: Tensor
    waveform: Tensor
    waveform_present: Tensor
    target_tokens: int

    def pin_memory(self) -> Batch:
        """The same in page-locked memory, from which copies to the device run beside its work."""
        tokens, targets, image, image_present, waveform, waveform_present = (
            part.pin_memory() for part in (self.tokens, self.targets, *self.inputs()[1:])
        )
        return Batch(tokens, targets, image, image_present, waveform, waveform_present, self.target_tokens)

    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The arguments of `MedicalDecoder.forward`."""
        return self.tokens, self.image, self.image_present, self.waveform, self.waveform_present


def positions(entry: IndexEntry, config: TrainConfig) -> int:
    """Positions of the decoder's sequence that a sample takes alone: padded text, image, waveform."""
    return _padded(min(entry.tokens, config.data.sequence_length) - 1, config) + (
        config.model.image_tokens + config.model.waveform_tokens
    )


def batches_of(shards: ShardSet, config: TrainConfig) -> Batches:
    """The stream of micro-batches that the configuration declares."""
    if config.batch.max_tokens is None:
        return FixedBatches(len(shards), config.data.seed, config.batch.micro_size)
    return TokenBatches(
        [positions(entry, config) for entry in shards.entries], config.data.seed,
        max_samples=config.batch.micro_size, max_tokens=config.batch.max_tokens,
    )  # fmt: skip


def _padded(longest: int, config: TrainConfig) -> int:
    longest = max(1, longest)
    return min(-(-longest // _LENGTH_STEP) * _LENGTH_STEP, max(longest, config.data.sequence_length - 1))


class Collator:
    """Makes batches on the CPU; equal samples always give the same bits.

    Every batch has tensors of every modality, zeros where a sample has none, so that all ranks run the same forward
    graph: ZeRO-3 hangs when they don't (DeepSpeed #7170).
    """

    def __init__(self, config: TrainConfig, tokenizer: NoteTokenizer) -> None:
        self.config, self.tokenizer = config, tokenizer

    def collate(self, samples: Sequence[RawSample | None]) -> Batch:
        """See `Batch`. Images and waveforms are standardised one by one.

        None is a row without any target: to give ranks equal numbers of rows, or in place of a sample that could not be
        read.
        """
        model = self.config.model
        notes = [
            np.zeros(0, np.int64)
            if sample is None
            else self.tokenizer.encode(sample.text, self.config.data.sequence_length)
            for sample in samples
        ]
        length = _padded(max(len(note) - 1 for note in notes), self.config)
        count = len(samples)
        tokens = np.full((count, length), self.tokenizer.pad, np.int64)
        targets = np.full((count, length), IGNORED, np.int64)
        image = np.zeros((count, model.image_size, model.image_size), np.float32)
        waveform = np.zeros((count, model.waveform_leads, model.waveform_samples), np.float32)
        image_present, waveform_present = np.zeros(count, bool), np.zeros(count, bool)
        for row, (sample, note) in enumerate(zip(samples, notes, strict=True)):
            if sample is None:
                continue
            tokens[row, : len(note) - 1], targets[row, : len(note) - 1] = note[:-1], note[1:]
            if sample.image is not None:
                image[row], image_present[row] = _standard(sample.image.astype(np.float32), axis=None), True
            if sample.waveform is not None:
                leads, width = sample.waveform.shape
                waveform[row, :leads, :width], waveform_present[row] = _standard(sample.waveform, axis=1), True
        return Batch(
            torch.from_numpy(tokens),
            torch.from_numpy(targets),
            torch.from_numpy(image),
            torch.from_numpy(image_present),
            torch.from_numpy(waveform),
            torch.from_numpy(waveform_present),
            int((targets != IGNORED).sum()),
        )


def _standard(values: NDArray[np.float32], axis: int | None) -> NDArray[np.float32]:
    """Mean 0, deviation 1; a constant (a lead that was off) becomes zeros."""
    centred = values - values.mean(axis=axis, keepdims=True)
    deviation = values.std(axis=axis, keepdims=True)
    standard: NDArray[np.float32] = (centred / np.where(deviation > 0, deviation, 1)).astype(np.float32)
    return standard

"""Which sample comes when: one seeded stream of all epochs that depends neither on ranks nor on workers.

The stream is cut into micro-batches, and a step takes a declared number of them, so a run resumes exactly from the
number of samples that it has consumed, with any number of ranks that the step's micro-batches can be shared out to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

# Samples among which those of like length are put together: enough for little padding, few enough to stay mixed.
WINDOW = 1024


def epoch_order(seed: int, epoch: int, samples: int) -> NDArray[np.int64]:
    """A permutation of 0 … samples - 1, int64 [samples]; NumPy keeps PCG64's stream stable between releases."""
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch])))
    # Not Generator.permutation: its algorithm may change (NEP 19), sorting raw 64-bit draws can't.
    return np.argsort(generator.bit_generator.random_raw(samples), kind="stable")


class SampleStream:
    """The endless stream of sample numbers."""

    def __init__(self, samples: int, seed: int) -> None:
        if samples < 1:
            raise ValueError("a stream needs at least one sample")
        self.samples, self.seed = samples, seed
        self._epoch, self._order = 0, epoch_order(seed, 0, samples)

    def __getitem__(self, position: int) -> int:
        epoch, place = divmod(position, self.samples)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, epoch_order(self.seed, epoch, self.samples)
        return int(self._order[place])


def micro_batch_positions(consumed: int, index: int, micro_size: int, rank: int, world_size: int) -> range:
    """Stream positions of one rank's micro-batch `index` (from 0) in the step that starts at `consumed` samples."""
    start = consumed + (index * world_size + rank) * micro_size
    return range(start, start + micro_size)


class Batches(Protocol):
    """A stream of micro-batches that is the same for all ranks."""

    def step(self, consumed: int, count: int) -> list[list[int]]:
        """The sample numbers of the `count` micro-batches that follow after `consumed` samples."""


class FixedBatches:
    """Micro-batches of so many samples each, whatever their length; they run on over the end of an epoch."""

    def __init__(self, samples: int, seed: int, micro_size: int) -> None:
        self.stream, self.micro_size = SampleStream(samples, seed), micro_size

    def step(self, consumed: int, count: int) -> list[list[int]]:
        """See `Batches`."""
        return [
            [self.stream[place] for place in micro_batch_positions(consumed, index, self.micro_size, 0, 1)]
            for index in range(count)
        ]


class TokenBatches:
    """Micro-batches by tokens: samples of like length together, so that little is padding.

    Each epoch's order is cut into windows, each window sorted by length and cut into batches, and the batches of a
    window drawn in a seeded order. No batch spans two epochs; the last one of a window may be small.
    """

    def __init__(
        self, lengths: Sequence[int], seed: int, *, max_samples: int, max_tokens: int, window: int = WINDOW
    ) -> None:
        """
        Args:
            lengths: positions that each sample takes in a batch
            max_tokens: positions of a whole batch, padding included; a longer sample is a batch of its own
        """
        self.lengths = np.asarray(lengths, np.int64)
        self.seed, self.max_samples, self.max_tokens, self.window = seed, max_samples, max_tokens, window
        self._epoch = -1
        self._batches: list[list[int]] = []
        self._ends: NDArray[np.int64] = np.zeros(0, np.int64)

    def step(self, consumed: int, count: int) -> list[list[int]]:
        """See `Batches`.

        Raises:
            ValueError: no micro-batch ends there: the run was made with other batches.
        """
        found: list[list[int]] = []
        while len(found) < count:
            epoch, place = divmod(consumed, len(self.lengths))
            self._prepare(epoch)
            first = int(np.searchsorted(self._ends, place, side="right"))
            if place and (first == 0 or self._ends[first - 1] != place):
                raise ValueError(f"no micro-batch ends after {consumed} samples")
            taken = self._batches[first : first + count - len(found)]
            found += taken
            consumed += sum(map(len, taken))
        return found

    def _prepare(self, epoch: int) -> None:
        if epoch == self._epoch:
            return
        order = epoch_order(self.seed, epoch, len(self.lengths))
        batches: list[list[int]] = []
        for begin in range(0, len(order), self.window):
            inside = order[begin : begin + self.window]
            # Stable: equally long samples keep the epoch's order.
            cut = self._cut(inside[np.argsort(self.lengths[inside], kind="stable")])
            draw = epoch_order(self.seed + 1 + begin, epoch, len(cut))
            batches += [cut[place] for place in draw]
        self._epoch, self._batches = epoch, batches
        self._ends = np.cumsum([len(batch) for batch in batches])

    def _cut(self, ordered: NDArray[np.int64]) -> list[list[int]]:
        """Greedily; lengths ascend, so a batch is as wide as the sample that is added last."""
        batches: list[list[int]] = []
        for number, length in zip(ordered.tolist(), self.lengths[ordered].tolist(), strict=True):
            last = batches[-1] if batches else []
            if not last or len(last) == self.max_samples or (len(last) + 1) * length > self.max_tokens:
                batches.append([number])
            else:
                last.append(number)
        return batches

"""Which sample comes when: one seeded stream of all epochs that depends neither on ranks nor on workers.

Step `s` of a run with global batch `g` uses the stream's positions `s*g … s*g + g - 1`, so a run resumes exactly from
the number of samples that it has consumed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


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

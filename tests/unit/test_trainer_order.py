"""Micro-batches: the same for any number of ranks, resumable, within their limits."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer_helpers import tiny_config
from trainer.data.loader import rank_batches
from trainer.data.order import Batches, FixedBatches, TokenBatches

LENGTHS = np.random.default_rng(5).integers(20, 3000, 700).tolist()


def token_batches() -> TokenBatches:
    return TokenBatches(LENGTHS, seed=3, max_samples=32, max_tokens=32768, window=128)


@pytest.mark.parametrize("make", [token_batches, lambda: FixedBatches(700, 3, 4)], ids=["tokens", "fixed"])
@pytest.mark.parametrize("world_size", [1, 2, 4, 8, 16])
def test_any_number_of_ranks_reads_the_same_steps(make: type[Batches], world_size: int) -> None:
    """One rank in one go, against so many ranks, and against those after a resume at each step."""
    alone = [batch for batch, _ in islice(rank_batches(make(), 0, 16, 0, 1), 16 * 6)]
    consumed = 0
    for step in range(6):
        together: list[list[int]] = []
        ranks = [rank_batches(make(), consumed, 16, rank, world_size) for rank in range(world_size)]
        for _ in range(16 // world_size):
            for rank in ranks:
                batch, after = next(rank)
                together.append(batch)
        assert together == alone[16 * step : 16 * step + 16]
        consumed = after
    assert consumed == sum(map(len, alone))


def test_every_epoch_has_every_sample_once_in_another_order() -> None:
    batches = token_batches()
    seen: list[int] = []
    while len(seen) < 3 * len(LENGTHS):
        seen += batches.step(len(seen), 1)[0]
    epochs = [seen[700 * number : 700 * number + 700] for number in range(3)]
    assert all(Counter(epoch) == Counter(range(700)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert batches.step(0, 1)[0] == seen[: len(batches.step(0, 1)[0])], "going back gives the same batches"


@given(st.lists(st.integers(1, 500), min_size=1, max_size=80), st.integers(1, 8), st.integers(1, 1000))
def test_limits_hold_for_any_lengths(lengths: list[int], most: int, tokens: int) -> None:
    batches = TokenBatches(lengths, 1, max_samples=most, max_tokens=tokens, window=16)
    seen = 0
    while seen < len(lengths):
        [batch] = batches.step(seen, 1)
        seen += len(batch)
        assert 1 <= len(batch) <= most
        assert len(batch) == 1 or len(batch) * max(lengths[number] for number in batch) <= tokens
    assert seen == len(lengths), "no batch spans two epochs"


def test_little_of_a_batch_is_padding() -> None:
    """Samples of like length together: without that, 32 of these lengths in a batch are half padding."""
    batches = TokenBatches(LENGTHS, 3, max_samples=32, max_tokens=32768)
    padded = seen = 0
    while seen < len(LENGTHS):
        [batch] = batches.step(seen, 1)
        seen += len(batch)
        padded += len(batch) * max(LENGTHS[number] for number in batch)
    assert sum(LENGTHS) / padded > 0.9


def test_a_place_between_two_batches_is_refused() -> None:
    batches = token_batches()
    first = len(batches.step(0, 1)[0])
    assert first > 1
    with pytest.raises(ValueError, match="no micro-batch ends"):
        batches.step(first - 1, 1)


def test_the_order_is_written_down() -> None:
    """Runs on disk depend on it: another NumPy must give the same."""
    batches = TokenBatches([5, 9, 1, 7, 3, 8, 2, 6], 3, max_samples=3, max_tokens=20, window=8)
    assert batches.step(0, 4) == [[1], [0, 7], [2, 6, 4], [3, 5]]


def test_the_configuration_chooses() -> None:
    assert tiny_config().batch.max_tokens is None
    assert tiny_config("batch.max_tokens=4096").batch.max_tokens == 4096
    assert tiny_config().batch.per_step == 2

"""Which layouts can work, what they are refused for, and what is nearest."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planner.layout import Layout, Machine, broken_rules, nearest, possible, shrunk
from planner.model_size import ModelShape, padded_vocabulary

# The documents' model with a vocabulary that can be shared out.
SHAPE = ModelShape("rotary", 50304, 5120, 48, 40, 20480, 8192, 1024, 256, 14, 12, 50)
H200 = Machine(8, 4)
GOOD = Layout(4, 2, 4, 1, 4, 64)


def rules(layout: Layout, shape: ModelShape = SHAPE, machine: Machine = H200, batch: int = 1024) -> str:
    return " | ".join(f"{one.rule} [{one.source}] {one.fix}" for one in broken_rules(layout, shape, machine, batch))


@pytest.mark.parametrize(
    "layout",
    [
        GOOD,
        Layout(2, 2, 8, 1, 4, 32),
        Layout(1, 1, 32, 3, 4, 8),  # ZeRO-3 over all 32 ranks accumulates 8
        Layout(1, 1, 32, 1, 1, 32),
        Layout(8, 4, 1, 1, 1, 1024),
    ],
)
def test_a_layout_that_works_breaks_no_rule(layout: Layout) -> None:
    assert rules(layout) == ""


def test_the_layout_with_more_replicas_and_four_passes_works_for_its_own_batch() -> None:
    """TP2·PP2·DP16 + accumulation 4 of the documents: 64 GPUs."""
    assert rules(Layout(2, 2, 16, 1, 4, 4), machine=Machine(8, 8), batch=256) == ""


def test_the_documents_layout_is_refused_for_each_of_its_faults() -> None:
    """TP4·PP2·DP4 with ZeRO-3, micro 4, accumulation 32 and 1024 samples a step, a vocabulary of 50257."""
    said = rules(Layout(4, 2, 4, 3, 4, 32), replace(SHAPE, vocabulary=50257))
    assert "ZeRO-3 and 2 pipeline stages exclude each other [DeepSpeed asserts it, runtime/pipe/engine.py" in said
    assert "ZeRO-3 and 4 tensor-parallel ranks" in said
    assert "can't share model.vocabulary 50257 evenly" in said
    assert "pad model.vocabulary to 50304" in said
    assert "4 replicas · 4 samples · 32 passes are 512 samples a step, not 1024" in said
    assert "accumulate 64 micro-batches" in said


@pytest.mark.parametrize(
    ("layout", "shape", "words"),
    [
        (replace(GOOD, zero=2), SHAPE, "ZeRO-2 and 2 pipeline stages"),
        (Layout(1, 1, 32, 2, 4, 8), SHAPE, "ZeRO-2 is no layout of ours"),
        (replace(GOOD, data=8, accumulation=32), SHAPE, "4·2·8 are 64 ranks, there are 32"),
        (Layout(16, 1, 2, 1, 4, 128), replace(SHAPE, heads=48), "16 tensor-parallel ranks do not fit into nodes of 8"),
        (GOOD, replace(SHAPE, heads=42), "can't share model.heads 42"),
        (GOOD, replace(SHAPE, feed_forward=20482), "can't share model.feed_forward 20482"),
        (GOOD, replace(SHAPE, layers=47), "2 stages can't share 47 layers"),
        (Layout(1, 32, 1, 1, 64, 16), replace(SHAPE, layers=64), "16 micro-batches can't fill 32 stages"),
        (replace(GOOD, micro=3), SHAPE, "take a global batch that is a multiple of 12"),
    ],
)
def test_each_rule_is_cited_with_what_to_do(layout: Layout, shape: ModelShape, words: str) -> None:
    assert words in rules(layout, shape)


def test_the_nearest_layout_keeps_the_family_and_the_factors() -> None:
    wrong = Layout(4, 2, 4, 1, 4, 32)
    found = nearest(wrong, SHAPE, H200, 1024)
    assert found == replace(wrong, accumulation=64)
    three = nearest(Layout(4, 2, 4, 3, 4, 32), SHAPE, H200, 1024)
    assert three is not None
    assert (three.family, three.tensor, three.pipeline, three.data) == ("zero3", 1, 1, 32)
    lost = nearest(GOOD, SHAPE, Machine(8, 3), 1024)
    assert lost is not None
    assert lost.pipeline == 3, "24 GPUs share 1024 samples only where a factor of 3 goes to the stages"
    assert nearest(GOOD, replace(SHAPE, layers=47), Machine(8, 3), 1024) is None


def test_every_layout_that_is_called_possible_breaks_no_rule() -> None:
    for machine, batch in ((H200, 1024), (Machine(1, 4), 8), (Machine(8, 1), 64)):
        found = possible(SHAPE, machine, batch, (1, 2, 4))
        assert found
        assert len(set(found)) == len(found)
        for layout in found:
            assert not broken_rules(layout, SHAPE, machine, batch)
            assert layout.global_batch == batch
            assert layout.world == machine.gpus


def test_a_run_shrinks_to_the_largest_number_of_replicas_that_divides_the_batch() -> None:
    assert shrunk(Layout(1, 1, 32, 3, 4, 8), 24) == Layout(1, 1, 16, 3, 4, 16)
    assert shrunk(Layout(1, 1, 4, 3, 2, 3), 3) == Layout(1, 1, 3, 3, 2, 4)
    assert shrunk(GOOD, 24) == replace(GOOD, data=2, accumulation=128)
    assert shrunk(GOOD, 7) is None, "not one replica is left"


@pytest.mark.parametrize(("tensor", "padded"), [(1, 50304), (4, 50304), (8, 50304), (3, 50304), (5, 50560)])
def test_the_vocabulary_is_padded_for_matrix_units_and_ranks(tensor: int, padded: int) -> None:
    assert padded_vocabulary(50257, tensor) == padded
    assert padded % tensor == padded % 128 == 0

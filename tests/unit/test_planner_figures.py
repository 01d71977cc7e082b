"""Sizes, memory and rates against what others have published."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planner.layout import Layout
from planner.memory import memory
from planner.model_size import ModelShape, embedding_parameters, flops_per_token, parameters, tower_parameters
from planner.rate import rate

# Without towers to speak of, so that published figures can be compared.
_NO_TOWERS = (8, 8, 2, 1, 2)
LLAMA_7B = ModelShape("rotary", 32000, 4096, 32, 32, 11008, 2048, *_NO_TOWERS)
GPT2_XL = ModelShape("gpt2", 50257, 1600, 48, 25, 6400, 1024, *_NO_TOWERS)


def test_published_models_have_their_published_sizes() -> None:
    """Llama 7B: 6,738,415,616 (Touvron et al. 2023); GPT-2 XL: 1,557,611,200 with its head tied to the embedding."""
    assert parameters(LLAMA_7B) - tower_parameters(LLAMA_7B) == 6_738_415_616
    tied = parameters(GPT2_XL) - tower_parameters(GPT2_XL) - GPT2_XL.vocabulary * GPT2_XL.width
    assert tied == 1_557_611_200


def test_a_token_of_a_7b_model_costs_what_palm_s_formula_says() -> None:
    """6 · 6.6 G weights that are multiplied, and 12 · 32 · 4096 · 4096 for attention at 4096 positions."""
    by_hand = 6 * (parameters(LLAMA_7B) - embedding_parameters(LLAMA_7B)) + 12 * 32 * 4096 * 4096
    assert flops_per_token(LLAMA_7B, 4096) == by_hand
    assert 45e9 < by_hand < 47e9


def test_mpt_30b_s_published_rate_lies_in_the_range() -> None:
    """llm-foundry: MPT-30B on 32 H100s at 2048 positions, 2308 tokens/s a GPU (43.9 % of 989 TFLOPS)."""
    mpt = ModelShape("gpt2", 50432, 7168, 48, 64, 28672, 2048, *_NO_TOWERS)
    found = rate(mpt, Layout(1, 1, 32, 3, 1, 1), 2048, 989.0)
    assert found.low / 32 < 2308 < found.high / 32


def test_the_documents_rate_is_above_the_physical_limit() -> None:
    """2.3 M tokens/s of a 32 B model on 32 H200s: at 100 % of the peak they give some 150 to 165 thousand."""
    true_32b = ModelShape("rotary", 50304, 5120, 60, 40, 27648, 8192, 1024, 256, 14, 12, 50)
    found = rate(true_32b, Layout(1, 1, 32, 3, 4, 8), 4096, 989.0)
    assert 140_000 < found.limit < 165_000
    assert found.high < found.limit


def test_a_pipeline_s_bubble_costs_its_share() -> None:
    flat = rate(LLAMA_7B, Layout(1, 1, 8, 1, 1, 8), 2048, 989.0)
    piped = rate(LLAMA_7B, Layout(1, 4, 2, 1, 1, 8), 2048, 989.0)
    assert piped.middle / flat.middle == pytest.approx(8 / 11)
    assert flat.step_seconds == pytest.approx(64 * 2048 / flat.middle)


def test_zero_shares_out_what_it_says() -> None:
    """ZeRO's own table: 16 bytes a weight in mixed precision, here 20 with FP32 sums of gradients."""
    n = parameters(LLAMA_7B)
    alone = memory(LLAMA_7B, Layout(1, 1, 1, 1, 1, 1), "bf16", 2048, 2048, 1)
    assert alone.weights + alone.gradients + alone.optimizer == 20 * n
    one = memory(LLAMA_7B, Layout(1, 1, 8, 1, 1, 1), "bf16", 2048, 2048, 1)
    assert (one.weights, one.gradients, one.optimizer) == (2 * n, 6 * n, 12 * n // 8)
    three = memory(LLAMA_7B, Layout(1, 1, 8, 3, 1, 1), "bf16", 2048, 2048, 1)
    assert three.optimizer == one.optimizer
    assert three.gradients == 6 * n // 8
    assert 2 * n // 8 < three.weights < n
    full = memory(LLAMA_7B, Layout(1, 1, 1, 1, 1, 1), "fp32", 2048, 2048, 1)
    assert full.weights + full.gradients + full.optimizer == 16 * n


def test_tensor_and_pipeline_ranks_divide_the_weights() -> None:
    whole = memory(LLAMA_7B, Layout(1, 1, 1, 1, 1, 8), "bf16", 2048, 2048, 1)
    for tensor, pipeline in ((2, 1), (1, 2), (2, 2), (4, 2)):
        part = memory(LLAMA_7B, Layout(tensor, pipeline, 1, 1, 1, 8), "bf16", 2048, 2048, 1)
        share = part.weights / whole.weights * tensor * pipeline
        assert 0.95 < share < 1.15, "the towers are whole, and the ends are not in the middle"


def test_recomputation_costs_less_memory_and_a_larger_micro_batch_more() -> None:
    layout = Layout(1, 1, 8, 3, 2, 1)
    kept = memory(LLAMA_7B, layout, "bf16", 4096, 4096, 0).activations
    each = memory(LLAMA_7B, layout, "bf16", 4096, 4096, 1).activations
    pairs = memory(LLAMA_7B, layout, "bf16", 4096, 4096, 2).activations
    assert each < pairs < kept
    assert memory(LLAMA_7B, replace(layout, micro=4), "bf16", 4096, 4096, 2).activations == 2 * pairs
    assert memory(LLAMA_7B, replace(layout, micro=4), "bf16", 4096, 4096, 2).total > 0


def test_the_32b_model_fits_an_h200_with_zero_3_and_not_alone() -> None:
    shape = ModelShape("rotary", 50304, 5120, 60, 40, 27648, 8192, 1024, 256, 14, 12, 50)
    gib = 1 << 30
    spread = memory(shape, Layout(1, 1, 32, 3, 1, 32), "bf16", 5565, 4096, 2)
    assert 20 * gib < spread.total < 80 * gib
    assert memory(shape, Layout(1, 1, 32, 1, 1, 32), "bf16", 5565, 4096, 2).total > 141 * gib
    cut = memory(shape, Layout(4, 2, 4, 1, 1, 256), "bf16", 5565, 4096, 2)
    assert cut.total < 141 * gib

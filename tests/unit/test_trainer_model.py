"""The decoder: what it sees, and that it sees it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from planner.model_size import parameters
from tests.trainer_helpers import tiny_config
from trainer.config import load_config
from trainer.model.decoder import MedicalDecoder
from trainer.model.layers import image_patches, waveform_patches

CONFIG = tiny_config().model


@pytest.fixture(scope="module")
def model() -> MedicalDecoder:
    torch.manual_seed(0)
    return MedicalDecoder(CONFIG).eval()


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {
        "tokens": torch.randint(3, CONFIG.vocabulary, (2, 20)),
        "image": torch.randn(2, CONFIG.image_size, CONFIG.image_size),
        "image_present": torch.tensor([True, True]),
        "waveform": torch.randn(2, CONFIG.waveform_leads, CONFIG.waveform_samples),
        "waveform_present": torch.tensor([True, True]),
    }


@pytest.mark.parametrize("modality", ["tokens", "image", "waveform"])
@torch.no_grad()
def test_zeroing_a_modality_changes_the_output(model: MedicalDecoder, inputs: dict[str, Tensor], modality: str) -> None:
    before = model(**inputs)
    after = model(**{**inputs, modality: torch.zeros_like(inputs[modality])})
    # Beyond rounding, and for the last position, which has to look far back for it.
    assert (before[:, -1] - after[:, -1]).abs().max() > 1e-3


@pytest.mark.parametrize("modality", ["image", "waveform"])
@torch.no_grad()
def test_an_absent_modality_is_not_looked_at(model: MedicalDecoder, inputs: dict[str, Tensor], modality: str) -> None:
    inputs[f"{modality}_present"] = torch.tensor([True, False])
    before = model(**inputs)
    after = model(**{**inputs, modality: inputs[modality] * 5})
    assert not torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])


@torch.no_grad()
def test_no_position_sees_later_text(model: MedicalDecoder, inputs: dict[str, Tensor]) -> None:
    before = model(**inputs)
    changed = inputs["tokens"].clone()
    changed[:, 12:] = 3
    after = model(**{**inputs, "tokens": changed})
    assert torch.equal(before[:, :12], after[:, :12])
    assert not torch.equal(before[:, 12:], after[:, 12:])


def test_every_weight_gets_a_gradient_with_and_without_recomputation(inputs: dict[str, Tensor]) -> None:
    """Also where a modality is absent everywhere: an unused tower would make ZeRO-3 hang."""
    inputs["image_present"] = torch.tensor([False, False])
    gradients = []
    for segment in (0, 1):
        torch.manual_seed(0)
        model = MedicalDecoder(CONFIG, activation_checkpoint_layers=segment)
        model(**inputs).logsumexp(-1).mean().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(first, second) for first, second in zip(*gradients, strict=True))


def test_patches_hold_what_they_should() -> None:
    image = torch.arange(16.0).view(1, 4, 4)
    assert image_patches(image, 2)[0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    waveform = torch.arange(8.0).view(1, 2, 4)
    assert waveform_patches(waveform, 2)[0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]


# Counted on models without memory, so that a change of model or formula is seen.
SIZES = {
    "medllm-tiny": 1_564_288,
    "medllm-7b": 6_938_676_224,
    "medllm-15b-literal": 15_730_258_944,
    "medllm-32b": 32_358_088_704,
}


@pytest.mark.parametrize("name", SIZES)
def test_a_shipped_model_has_its_stated_size_and_the_planner_knows_it(name: str) -> None:
    config = load_config(name).model
    with torch.device("meta"):
        built = MedicalDecoder(config)
    assert sum(parameter.numel() for parameter in built.parameters()) == SIZES[name] == parameters(config.shape)


def test_every_shipped_configuration_has_its_size_asserted() -> None:
    from trainer.config import CONFIG_DIRECTORY

    assert {path.stem for path in CONFIG_DIRECTORY.glob("*.yml")} == set(SIZES)


@pytest.fixture(scope="module")
def literal() -> MedicalDecoder:
    torch.manual_seed(0)
    return MedicalDecoder(tiny_config("model.architecture=gpt2", "model.positions=128").model).eval()


@pytest.mark.parametrize("modality", ["tokens", "image", "waveform"])
@torch.no_grad()
def test_the_literal_variant_reads_every_modality(
    literal: MedicalDecoder, inputs: dict[str, Tensor], modality: str
) -> None:
    before = literal(**inputs)
    after = literal(**{**inputs, modality: torch.zeros_like(inputs[modality])})
    assert (before[:, -1] - after[:, -1]).abs().max() > 1e-4


@torch.no_grad()
def test_the_literal_variant_learns_its_positions_and_sees_no_later_text(
    literal: MedicalDecoder, inputs: dict[str, Tensor]
) -> None:
    before = literal(**inputs)
    changed = inputs["tokens"].clone()
    changed[:, 12:] = 3
    assert torch.equal(before[:, :12], literal(**{**inputs, "tokens": changed})[:, :12])
    same = torch.full_like(inputs["tokens"], 5)
    answers = literal(**{**inputs, "tokens": same})
    assert not torch.allclose(answers[:, 3], answers[:, 9], atol=1e-4), "the same token at two places"
    names = {name for name, _ in literal.named_parameters()}
    assert "positions.weight" in names
    assert "blocks.0.attention.qkv.bias" in names


@pytest.mark.parametrize("architecture", ["rotary", "gpt2"])
def test_both_variants_learn_in_bf16(inputs: dict[str, Tensor], architecture: str) -> None:
    torch.manual_seed(0)
    config = tiny_config(f"model.architecture={architecture}", "model.positions=128").model
    model = MedicalDecoder(config).to(torch.bfloat16)
    answer = model(**inputs)
    assert answer.dtype == torch.bfloat16
    answer.float().logsumexp(-1).sum().backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert not without

"""The modalities' gradient norms: measured where they enter, and kept within their ratio."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from statistics import median

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.trainer_helpers import tiny_config
from tests.unit.test_trainer_run import Runs, losses
from trainer.balance import Balance
from trainer.checkpoint import store
from trainer.checkpoint.state import TrainerState
from trainer.model.decoder import MedicalDecoder
from trainer.model.gates import MODALITIES, Gates
from trainer.tracking import DIRECTORY


def test_a_gate_measures_and_scales_and_changes_nothing_forwards() -> None:
    gates = Gates()
    x = torch.randn(2, 3, 4, requires_grad=True)
    out = gates("image", x)
    assert torch.equal(out, x)
    out.square().sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    whole = x.grad.clone()
    measured = float((whole.square().sum(-1) * x.detach().square().sum(-1)).sum())
    assert gates.take() == [pytest.approx(measured), 0.0, 0.0]
    assert gates.take() == [0.0, 0.0, 0.0]
    gates.scales["image"], x.grad = 0.25, None
    gates("image", x).square().sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert torch.allclose(x.grad, whole / 4)
    assert gates.take()[0] == pytest.approx(measured), "before scaling"


def test_the_measure_does_not_depend_on_how_large_the_vectors_are() -> None:
    """The same function of vectors fifty times as large."""
    found = []
    for size in (1.0, 50.0):
        torch.manual_seed(2)
        gates, x = Gates(), (torch.randn(2, 3, 4) * size).requires_grad_()
        (gates("text", x) / size).tanh().sum().backward()  # type: ignore[no-untyped-call]
        found.append(gates.take()[2])
    assert found[1] == pytest.approx(found[0], rel=1e-5)


@pytest.mark.parametrize("factor", [0.001, 0.3, 1.0, 3.0, 8.0])
def test_after_a_while_all_means_lie_within_the_ratio(factor: float) -> None:
    balance = Balance(2.0, 0.9)
    for _ in range(200):
        applied = balance.update([factor**2, 4.0, 1.0])
    means = balance.balanced()
    assert applied == pytest.approx(means), "steps that are all alike are as their means"
    pairs = [max(a, b) / min(a, b) for a, b in itertools.combinations(means.values(), 2)]
    # A tower that gets next to nothing is raised tenfold and no more.
    assert max(pairs) <= 2.0 + 1e-9 or factor == 0.001
    assert means["text"] == pytest.approx(1.0)
    assert Balance(None, 0.9).scales() == dict.fromkeys(MODALITIES, 1.0)


def test_a_modality_that_was_not_there_changes_nothing() -> None:
    balance = Balance(2.0, 0.5)
    balance.update([16.0, 1.0, 1.0])
    before = dict(balance.means)
    assert set(balance.update([0.0, 1.0, 1.0])) == {"waveform", "text"}
    assert balance.means["image"] == before["image"]
    balance.update([math.inf, 1.0, 1.0])
    assert balance.means["image"] == before["image"]
    assert Balance(2.0, 0.5).update([4.0, 4.0, 0.0]) == {"image": 2.0, "waveform": 2.0}, "nothing to measure by"


def test_an_absent_modality_gets_no_gradient() -> None:
    torch.manual_seed(0)
    config = tiny_config().model
    model = MedicalDecoder(config)
    here = torch.tensor([True])
    model(
        torch.randint(3, config.vocabulary, (1, 12)), torch.zeros(1, 64, 64), ~here, torch.randn(1, 12, 400), here
    ).logsumexp(-1).sum().backward()
    image, waveform, text = model.gates.take()
    assert image == 0
    assert waveform > 0
    assert text > 0


@pytest.mark.slow
def test_a_run_keeps_its_modalities_within_one_to_two_and_resumes_bit_exact(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    config = tiny_config("evaluation.every_steps=16", "checkpoint.every_steps=16")
    free = runs.finish("free", steps=32, config=tiny_config("balance.limit=null", "evaluation.every_steps=16"))
    held = runs.finish("held", steps=32, config=config)
    assert losses(free) != losses(held)

    def ratios(run: Path) -> list[float]:
        shown = EventAccumulator(str(run / DIRECTORY))
        shown.Reload()
        curves = [[event.value for event in shown.Scalars(f"gradient/{name}")] for name in MODALITIES]
        return [max(norms) / min(norms) for norms in zip(*curves, strict=True)]

    assert median(ratios(held)[16:]) < 0.75 * median(ratios(free)[16:])
    state = TrainerState.read(store.published(held)[0].path)
    balance = Balance(2.0, 0.9)
    balance.begin(state.balance)
    means = balance.balanced()
    assert set(means) == set(MODALITIES)
    assert max(means.values()) / min(means.values()) <= 2 + 1e-9
    runs.finish("cut", steps=17, config=config)
    assert losses(runs.finish("cut", steps=32, config=config)) == losses(held)

"""Trains the recogniser (`curation.deid.recogniser`) on labelled notes that were invented for it.

    python -m benchmarks.deid.train [--epochs N] [--guises N] [--networks N] [--to FILE]

It learns from `benchmarks/deid/tuning` and the lab's sample notes, each note in several guises (`guises.py`), with a
part of what the rules found in it held back, so that it finds what they miss. The hard notes are never read.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.resources import files
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.deid.guises import guise
from benchmarks.deid.labelled import KEEP, Note, Span, load_tuning
from curation.deid import kinds
from curation.deid.kinds import Note as View
from curation.deid.recogniser import DILATIONS, LABELS, ROWS, features, row, tokens
from curation.deid.tables import tables
from curation.deid.text import ruled
from medllm.files import write_atomic

DATA = Path(__file__).parents[2] / "curation" / "deid" / "data" / "recogniser.npz"
WIDTH = 64
_CONTACT = ("PHONE", "FAX", "EMAIL", "URL", "IP")
_LABEL = {
    "NAME": "NAME",
    "DATE": "DATE",
    "AGE": "AGE",
    "ADDRESS": "ADDRESS",
    "POSTCODE": "ADDRESS",
    "WARD": "WARD",
} | dict.fromkeys(_CONTACT, "CONTACT")


class Recogniser(nn.Module):
    """The network of `curation.deid.recogniser.scores` in torch."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.EmbeddingBag(ROWS, WIDTH, mode="sum")
        nn.init.normal_(self.table.weight, std=0.3)
        self.convolutions = nn.ModuleList(nn.Linear(3 * WIDTH, WIDTH) for _ in DILATIONS)
        self.out = nn.Linear(WIDTH, len(LABELS))
        self.dropout = nn.Dropout(0.25)

    def forward(self, flat: torch.Tensor, offsets: torch.Tensor, pads: torch.Tensor) -> torch.Tensor:
        """(n, k) logits of n tokens.

        Args:
            flat: rows of all features, one token's after another's
            offsets: (n,) where each token's begin
            pads: (n,) True for what stands between two notes
        """
        keep = (~pads).to(torch.float32).unsqueeze(1)
        state = self.dropout(_normal(self.table(flat, offsets))) * keep
        for dilation, layer in zip(DILATIONS, self.convolutions, strict=True):
            padded = nn.functional.pad(state, (0, 0, dilation, dilation))
            near = torch.cat((padded[: len(state)], state, padded[2 * dilation :]), dim=1)
            state = _normal(state + self.dropout(torch.relu(layer(near)))) * keep
        answers: torch.Tensor = self.out(state)
        return answers


def _normal(state: torch.Tensor) -> torch.Tensor:
    return nn.functional.layer_norm(state, state.shape[-1:])


# Any full day serves: how far a date moves changes no span.
_ANY_SHIFT = -400
Example = tuple[list[list[int]], list[int], list[float]]
_KEEP_WEIGHT = 4.0
_UNLABELLED = "HOSPITAL"
_SAMPLE_KIND = {"AGE_OVER_89": "AGE", "LICENSE": "LICENCE"}
# Share of features left out at random, so that the network does not lean on single words.
_DROPPED = 0.2


def sample_notes() -> list[Note]:
    """The lab's sample notes with their labels. The tuning notes label no hospitals: these are left to the rules."""
    folder = files("curation.sample_notes")
    read = [json.loads(line) for line in folder.joinpath("notes.jsonl").read_text(encoding="utf-8").splitlines()]
    kept = [json.loads(line) for line in folder.joinpath("must_survive.jsonl").read_text(encoding="utf-8").splitlines()]
    keeps = {entry["id"]: [Span(each["start"], each["end"], KEEP) for each in entry["keep"]] for entry in kept}
    notes = []
    for note in read:
        spans = [
            Span(each["start"], each["end"], _SAMPLE_KIND.get(each["kind"], each["kind"])) for each in note["spans"]
        ]
        notes.append(Note(note["id"], note["lang"], note["text"], tuple(_apart([*spans, *keeps.get(note["id"], [])]))))
    return notes


def _apart(spans: list[Span]) -> Iterable[Span]:
    """In order, less those that overlap an earlier one."""
    end = 0
    for span in sorted(spans):
        if span.start >= end:
            yield span
            end = span.end


def example(text: str, spans: Sequence[Span], by_rule: Sequence[kinds.Span]) -> Example:
    """Rows of the features, number of the label and weight for each token: what must survive weighs more."""
    view = View(text).view
    found = tokens(view)
    labels = np.zeros(len(text) + 1, dtype=np.int64)
    weights = np.ones(len(text) + 1)
    for span in spans:
        if span.kind == KEEP:
            weights[span.start : span.end] = _KEEP_WEIGHT
        elif span.kind == _UNLABELLED:
            weights[span.start : span.end] = 0.0
        else:
            labels[span.start : span.end] = LABELS.index(_LABEL.get(span.kind, "CODE"))
    rows = [[row(feature) for feature in many] for many in features(view, found, by_rule)]
    # A token of which any character is an identifier's is one.
    return (
        rows,
        [int(labels[token.start : token.end].max()) for token in found],
        [float(weights[token.start : token.end].max()) for token in found],
    )


def examples(notes: Iterable[Note], guises: int, chance: random.Random) -> list[Example]:
    """All notes, as they are and in `guises` others; in a part of them some of the rules' findings are held back."""
    made = []
    for note in notes:
        for number in range(guises + 1):
            text, spans = guise(note, chance) if number else (note.text, list(note.spans))
            view = View(text)
            by_rule = [*ruled(view, _ANY_SHIFT), *tables(view)]
            held = chance.choice((0.3, 1.0)) if number else 0.0
            made.append(example(text, spans, [span for span in by_rule if chance.random() >= held]))
    return [one for one in made if one[1]]


def fit(data: Sequence[Example], epochs: int, seed: int = 1, *, tell: bool = True) -> Recogniser:
    """A network fitted to the examples (AdamW, one cycle of the learning rate)."""
    torch.manual_seed(seed)
    chance = random.Random(seed)
    model = Recogniser()
    batches = max(1, sum(len(labels) for _, labels, _ in data) // 3000)
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=epochs * (batches + 1) + 1)
    # The mean of the weights over the last steps errs less on unseen notes than the last ones (Izmailov et al. 2018).
    average = torch.optim.swa_utils.get_ema_multi_avg_fn(0.995)  # type: ignore[no-untyped-call]
    mean = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=average)
    reach = max(DILATIONS)
    for epoch in range(epochs):
        order = list(range(len(data)))
        chance.shuffle(order)
        total, steps, started = 0.0, 0, time.monotonic()
        for part in np.array_split(order, batches):
            flat: list[int] = []
            offsets: list[int] = []
            labels: list[int] = []
            weights: list[float] = []
            for number in part:
                rows, own, heavy = data[number]
                for many in rows:
                    offsets.append(len(flat))
                    flat += [one for one in many if chance.random() > _DROPPED]
                labels += own
                weights += heavy + [0.0] * reach
                offsets += [len(flat)] * reach
                labels += [-100] * reach
            target = torch.tensor(labels)
            answer = model(torch.tensor(flat), torch.tensor(offsets), target == -100)
            each = nn.functional.cross_entropy(answer, target, label_smoothing=0.02, reduction="none")
            loss = (each * torch.tensor(weights)).sum() / sum(weights)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            mean.update_parameters(model)
            total, steps = total + float(loss.detach()), steps + 1
        if tell:
            spent = time.monotonic() - started
            print(f"network {seed}, epoch {epoch + 1}/{epochs}: loss {total / steps:.4f}, {spent:.1f} s", flush=True)
    averaged = mean.module.eval()
    assert isinstance(averaged, Recogniser)
    return averaged


def save(models: Sequence[Recogniser], file: Path) -> None:
    """The weights as `recogniser.networks` reads them: the tables in 8 bits a number, the rest in 16.

    Each array has the networks as its first dimension.
    """
    stacked: dict[str, list[NDArray[np.generic]]] = {}
    for model in models:
        table = model.table.weight.detach().numpy()
        scale = np.abs(table).max(axis=1, keepdims=True) / 127.0 + 1e-12
        arrays = {"table": np.round(table / scale).astype(np.int8), "scale": scale.astype(np.float16)}
        for number, layer in enumerate(model.convolutions):
            assert isinstance(layer, nn.Linear)
            arrays[f"kernel{number}"] = layer.weight.detach().numpy().T.astype(np.float16)
            arrays[f"bias{number}"] = layer.bias.detach().numpy().astype(np.float16)
        arrays["out"] = model.out.weight.detach().numpy().T.astype(np.float16)
        arrays["out_bias"] = model.out.bias.detach().numpy().astype(np.float16)
        for name, array in arrays.items():
            stacked.setdefault(name, []).append(array)
    packed = io.BytesIO()
    together: dict[str, Any] = {name: np.stack(each) for name, each in stacked.items()}
    np.savez_compressed(packed, **together)
    write_atomic(file, packed.getvalue())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Train the recogniser of identifiers on the labelled tuning notes.")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--guises", type=int, default=6, help="how many changed copies of each note (default 6)")
    parser.add_argument("--networks", type=int, default=3, help="how many are trained, of which the mean counts")
    parser.add_argument("--to", type=Path, default=DATA, help="the file of weights")
    chosen = parser.parse_args(arguments)
    # One core each: they take turns at nothing, and the sums come out the same on every machine.
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        seeds = range(1, chosen.networks + 1)
        models = list(pool.map(_trained, seeds, repeat(chosen.guises), repeat(chosen.epochs)))
    save(models, chosen.to)
    return 0


def _trained(seed: int, guises: int, epochs: int) -> Recogniser:
    torch.set_num_threads(1)
    notes = [*load_tuning(), *sample_notes()]
    print(f"network {seed}: {len(notes)} notes, {guises} guises of each", flush=True)
    return fit(examples(notes, guises, random.Random(seed)), epochs, seed)


if __name__ == "__main__":
    raise SystemExit(main())

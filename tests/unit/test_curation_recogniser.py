"""The trained recogniser: its tokens, its arithmetic against torch's, what it may overrule, and how it is trained."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.deid import train
from benchmarks.deid.guises import guise
from benchmarks.deid.labelled import KEEP, load_tuning
from curation.deid import recogniser
from curation.deid.kinds import Kind, Note, Span
from curation.deid.recogniser import LABELS, Token, Weights, recognised, scores, tokens
from curation.deid.text import redact

TEXT = "Seen by O'Neil-Ka 王小明, 3/14\n床７ BP 120/80 Ångström"


def test_tokens_cover_all_that_is_no_blank_once_and_in_order() -> None:
    view = Note(TEXT).view
    found = tokens(view)
    assert all(token.text == view[token.start : token.end] for token in found)
    assert all(before.end <= after.start for before, after in itertools.pairwise(found))
    covered = {place for token in found for place in range(token.start, token.end)}
    assert {place for place, character in enumerate(view) if character not in " "} <= covered


def of(model: train.Recogniser) -> Weights:
    return Weights(
        model.table.weight.detach().numpy(),
        tuple((layer.weight.detach().numpy().T, layer.bias.detach().numpy()) for layer in model.convolutions),  # type: ignore[operator]
        (model.out.weight.detach().numpy().T, model.out.bias.detach().numpy()),
    )


def test_the_network_says_what_the_trained_one_says() -> None:
    torch.manual_seed(3)
    model = train.Recogniser().eval()
    chance = random.Random(3)
    rows = [[chance.randrange(recogniser.ROWS) for _ in range(chance.randrange(1, 9))] for _ in range(40)]
    flat, offsets = torch.tensor(list(itertools.chain(*rows))), torch.tensor(np.cumsum([0, *map(len, rows[:-1])]))
    with torch.no_grad():
        logits = model(flat, offsets, torch.zeros(40, dtype=torch.bool))
    expected = torch.softmax(logits, dim=1).numpy()
    assert np.abs(scores(rows, [of(model)]) - expected).max() < 1e-4


def test_saved_networks_say_the_same_and_their_mean_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(4)
    models = [train.Recogniser().eval(), train.Recogniser().eval()]
    file = tmp_path / "data" / "recogniser.npz"
    file.parent.mkdir()
    train.save(models, file)
    monkeypatch.setattr(recogniser, "files", lambda _: tmp_path)
    read = recogniser.networks.__wrapped__()
    rows = [[number, 7 * number + 1] for number in range(30)]
    one, other = (scores(rows, [of(model)]) for model in models)
    assert np.abs(scores(rows, read[:1]) - one).max() < 0.05
    assert np.abs(scores(rows, read[1:]) - other).max() < 0.05
    assert np.abs(scores(rows, read) - (one + other) / 2).max() < 0.05


def chances(monkeypatch: pytest.MonkeyPatch, outside: float, label: str) -> None:
    """Makes the network give each token `outside` for harmless and the rest for `label`."""

    def fixed(view: str, _: object) -> tuple[list[Token], np.ndarray]:
        found = tokens(view)
        answer = np.zeros((len(found), len(LABELS)), dtype=np.float32)
        answer[:, 0], answer[:, LABELS.index(label)] = outside, 1 - outside
        return found, answer

    monkeypatch.setattr(recogniser, "probabilities", fixed)


@pytest.mark.parametrize("kind", [Kind.SSN, Kind.MRN, Kind.PHONE, Kind.DATE, Kind.AGE, Kind.FACILITY, Kind.EMAIL])
def test_what_a_rule_found_by_its_form_is_never_given_up(monkeypatch: pytest.MonkeyPatch, kind: Kind) -> None:
    chances(monkeypatch, 1.0, "NAME")
    assert recognised(Note("the 123-45-6789 here"), [Span(4, 15, kind)]) == [Span(4, 15, kind)]


@pytest.mark.parametrize(("outside", "kept"), [(0.99, False), (recogniser.DOUBTED - 0.01, True)])
def test_a_listed_name_is_given_up_only_when_the_network_is_sure(
    monkeypatch: pytest.MonkeyPatch, outside: float, kept: bool
) -> None:
    chances(monkeypatch, outside, "NAME")
    assert bool(recognised(Note("a Mark on the skin"), [Span(2, 6, Kind.NAME)])) is kept


def test_what_both_find_keeps_the_kind_of_the_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    chances(monkeypatch, 0.0, "ADDRESS")
    found = recognised(Note("Mercy General"), [Span(0, 5, Kind.FACILITY)])
    assert {span.kind for span in found} == {Kind.FACILITY}
    assert max(span.end for span in found) == 13


@pytest.mark.parametrize("text", ["", "\n", " \n \n", "...", "\u200b", "。", "a"])
def test_texts_of_nothing_are_no_trouble(text: str) -> None:
    assert recognised(Note(text), []) == [] or text == "a"


# Names and clinical sentences that stand in no training note.
@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("Discussed overnight with Brzezicki, who agrees to hold apixaban.", "Brzezicki"),
        ("d/w Okonedo re: potassium, replace and recheck in 4 h.", "Okonedo"),
        ("夜班小戴报：患者血压下降，已通知家属。", "戴"),
    ],
)
def test_a_lone_name_in_running_prose_goes(text: str, secret: str) -> None:
    assert secret not in redact(text, -400).text


@pytest.mark.parametrize(
    "text",
    [
        "Start levetiracetam 750 mg twice daily and recheck sodium in the morning.",
        "No wheeze, no oedema. Abdomen soft, non-tender. Power 5/5 in all limbs.",
        "双肺呼吸音清，未闻及干湿啰音，腹软，无压痛。",
    ],
)
def test_clinical_prose_stays(text: str) -> None:
    assert redact(text, -400).text == text


def test_a_guise_keeps_each_label_at_its_words() -> None:
    chance = random.Random(9)
    for note in load_tuning()[::7]:
        text, spans = guise(note, chance)
        assert [span.kind for span in spans] == [span.kind for span in note.spans]
        for before, after in zip(note.spans, spans, strict=True):
            if before.kind in (KEEP, "MRN", "PHONE"):
                assert text[after.start : after.end].lower() == note.value(before).lower()


LEARN = """
import random
from benchmarks.deid import train
from benchmarks.deid.labelled import load_tuning
import numpy, torch
data = train.examples(load_tuning()[:12], 0, random.Random(1))
model = train.fit(data, 250, tell=False)
right = total = 0
for rows, labels, _ in data:
    flat = torch.tensor([one for many in rows for one in many])
    offsets = torch.tensor(numpy.cumsum([0, *map(len, rows[:-1])]))
    found = model(flat, offsets, torch.zeros(len(rows), dtype=torch.bool)).argmax(dim=1)
    right, total = right + int((found == torch.tensor(labels)).sum()), total + len(labels)
print(right / total)
"""


def test_a_few_steps_of_training_learn_the_examples() -> None:
    # In a process of its own: torch's compiler, which its optimisers import, refuses the `sys.intern` that Ansible,
    # which other tests import, has replaced.
    answer = subprocess.run([sys.executable, "-c", LEARN], capture_output=True, text=True, check=True, timeout=300)
    assert float(answer.stdout) > 0.9

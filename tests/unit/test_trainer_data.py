"""Shards, order, collate, and the gate before them."""

from __future__ import annotations

import shutil
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from medllm.errors import UserError
from medllm.files import write_atomic
from medllm.shard_index import IMAGE, WAVEFORM
from tests.trainer_helpers import request_for, tiny_config, write_dataset
from trainer.data.collate import IGNORED, Collator
from trainer.data.gate import open_dataset
from trainer.data.order import SampleStream, epoch_order, micro_batch_positions
from trainer.verify_data import main as verify_data


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    directory = tmp_path_factory.mktemp("data") / "notes"
    return directory, write_dataset(directory)


@pytest.fixture
def dataset(original: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """A copy to spoil."""
    copy = tmp_path / "notes"
    shutil.copytree(original[0], copy)
    return copy, original[1]


def test_a_shard_is_read_as_it_was_packed(original: tuple[Path, Path]) -> None:
    data = open_dataset(*original, tiny_config())
    names: list[str] = []
    for shard in (original[0] / "shards").glob("train-*.tar"):
        with tarfile.open(shard) as archive:
            names += archive.getnames()
    assert len(data.train) == len({name.split(".")[0] for name in names}) == 32
    for number in range(len(data.train)):
        sample = data.train.read(number)
        assert (sample.image is not None) == (f"{sample.key}.{IMAGE}" in names)
        assert (sample.waveform is not None) == (f"{sample.key}.{WAVEFORM}" in names)
        assert sample.text.startswith("Adult of")


def test_every_rank_together_checks_every_file(dataset: tuple[Path, Path]) -> None:
    directory, key = dataset
    shard = directory / "shards/heldout-000000.tar"
    spoiled = bytearray(shard.read_bytes())
    spoiled[1500] ^= 1
    shard.write_bytes(spoiled)
    verdicts = []
    for rank in range(4):
        try:
            open_dataset(directory, key, tiny_config(), rank=rank, world_size=4)
            verdicts.append("good")
        except UserError as error:
            verdicts.append(str(error))
    assert sum("altered" in verdict for verdict in verdicts) == 1


def _flip(directory: Path) -> None:
    shard = directory / "shards/train-000000.tar"
    spoiled = bytearray(shard.read_bytes())
    spoiled[len(spoiled) // 2] ^= 1
    shard.write_bytes(spoiled)


def _add_shard(directory: Path) -> None:
    shutil.copy(directory / "shards/train-000000.tar", directory / "shards/train-000009.tar")


def _alter_manifest(directory: Path) -> None:
    manifest = directory / "manifest.json"
    manifest.write_text(manifest.read_text().replace("tests", "other"))


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (_flip, "altered"),
        (_add_shard, "does not name"),
        (_alter_manifest, "signature does not fit"),
        (lambda directory: (directory / "manifest.sig").unlink(), "not signed"),
        (lambda directory: (directory / "manifest.json").unlink(), "no manifest"),
        (lambda directory: (directory / "shards/train-000000.tar").unlink(), "missing"),
        (lambda directory: (directory / "tokenizer.json").write_text("{}"), "altered"),
        (shutil.rmtree, "no such data set"),
    ],
)
def test_spoiled_data_is_refused(
    dataset: tuple[Path, Path],
    spoil: Callable[[Path], None],
    rule: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """Exit 2 from the command that the launcher calls before it starts a rank."""
    directory, key = dataset
    request = tmp_path / "request.json"
    write_atomic(request, request_for(tmp_path / "run", directory, key, 1).model_dump_json())
    assert verify_data(["--request", str(request)]) == 0
    spoil(directory)
    assert verify_data(["--request", str(request)]) == 2
    message = capsys.readouterr().err
    assert rule in message
    assert "Fix: " in message


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("model.vocabulary=100", "model.vocabulary"),
        ("model.image_size=32", "model.image_size"),
        ("model.waveform_samples=200", "model.waveform_samples"),
        ("model.waveform_leads=1", "model.waveform_samples"),
    ],
)
def test_data_of_other_shapes_is_refused(original: tuple[Path, Path], override: str, key: str) -> None:
    with pytest.raises(UserError) as caught:
        open_dataset(*original, tiny_config(override))
    assert caught.value.problems[0].key == key


def test_another_key_is_refused(original: tuple[Path, Path], tmp_path: Path) -> None:
    other = write_dataset(tmp_path / "other", train=1, heldout=1)
    with pytest.raises(UserError, match="another key"):
        open_dataset(original[0], other, tiny_config())


def test_order_is_a_permutation_of_each_epoch_and_differs_between_them() -> None:
    stream = SampleStream(10, seed=3)
    epochs = [[stream[10 * epoch + place] for place in range(10)] for epoch in range(4)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert stream[7] == epochs[0][7], "going back gives the same sample"
    # Written down, so that a NumPy that draws otherwise is noticed: runs on disk depend on it.
    assert epoch_order(3, 0, 10).tolist() == epochs[0] == [0, 4, 9, 7, 1, 5, 6, 3, 8, 2]


@pytest.mark.parametrize(("world_size", "micro_size"), [(1, 8), (2, 2), (4, 2), (4, 1), (8, 1)])
def test_a_step_reads_the_same_samples_with_any_number_of_ranks(world_size: int, micro_size: int) -> None:
    accumulation = 8 // (world_size * micro_size)
    seen = Counter(
        position
        for rank in range(world_size)
        for index in range(accumulation)
        for position in micro_batch_positions(24, index, micro_size, rank, world_size)
    )
    assert seen == Counter(range(24, 32))


def test_a_batch_has_the_declared_shapes(original: tuple[Path, Path]) -> None:
    config = tiny_config()
    data = open_dataset(*original, config)
    collator = Collator(config, data.tokenizer)
    numbers = list(range(8))
    batch = collator.collate([*map(data.train.read, numbers), None])
    rows, length = batch.tokens.shape
    assert (rows, batch.tokens.dtype) == (9, torch.int64)
    assert length <= config.data.sequence_length
    assert batch.image.shape == (9, 64, 64)
    assert batch.waveform.shape == (9, 12, 400)
    assert batch.image_present.tolist() == [*(number % 5 != 4 for number in numbers), False]
    assert batch.waveform_present.tolist() == [*(number % 7 != 6 for number in numbers), False]
    assert batch.target_tokens == int((batch.targets != IGNORED).sum())
    assert not (batch.targets[8] != IGNORED).any(), "a dummy carries no target"
    inner = batch.targets[0] != IGNORED
    inner[-1] = False
    shifted = batch.tokens[0].roll(-1)[inner & inner.roll(-1)]
    assert torch.equal(shifted, batch.targets[0][inner & inner.roll(-1)])
    assert batch.image[0].mean().abs() < 1e-4
    assert np.allclose(batch.image[0].std(), 1, atol=1e-2)


def test_a_long_note_is_cut_at_the_sequence_length(original: tuple[Path, Path]) -> None:
    config = tiny_config("data.sequence_length=8")
    data = open_dataset(*original, config)
    assert Collator(config, data.tokenizer).collate([data.train.read(0), data.train.read(1)]).tokens.shape == (2, 7)

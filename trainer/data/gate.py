"""The gate: no byte of a data set is used before its manifest is verified and its shapes fit the model.

The launcher asks it before a job is submitted, and every rank again before training: each rank hashes its share of the
files, so together they have read all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medllm.errors import user_error
from medllm.manifest import load_public_key, read_manifest, verify_manifest
from trainer.config import TrainConfig
from trainer.data.shards import IMAGE, WAVEFORM, ShardSet
from trainer.data.text import NoteTokenizer

TOKENIZER = "tokenizer.json"


@dataclass(frozen=True, slots=True)
class Dataset:
    """A data set that may be used. `manifest_sha256` names its exact content."""

    directory: Path
    manifest_sha256: str
    tokenizer: NoteTokenizer
    train: ShardSet
    heldout: ShardSet


def open_dataset(
    directory: Path, public_key_file: Path, config: TrainConfig, *, rank: int = 0, world_size: int = 1
) -> Dataset:
    """Verify the manifest's signature, this rank's share of the files and of the samples' shapes, and index the rest.

    Raises:
        UserError: unsigned, altered, missing or undeclared files, or shapes and vocabulary that the model has not.
    """
    if not directory.is_dir():
        raise user_error(
            "there is no such data set", "publish it (`medllm data publish`) or correct --data", file=directory
        )
    key = load_public_key(public_key_file)
    manifest = read_manifest(directory, key)
    names = sorted(manifest.files)
    shards = [name for name in names if name.startswith("shards/") and name.endswith(".tar")]
    undeclared = {f"shards/{path.name}" for path in (directory / "shards").glob("*.tar")} - set(shards)
    if undeclared:
        raise user_error(
            f"shards that the manifest does not name: {', '.join(sorted(undeclared))}",
            "remove them, or pack and sign the data set again",
            file=directory,
        )
    if TOKENIZER not in names:
        raise user_error(f"the manifest names no {TOKENIZER}", "pack the data set again", file=directory)
    # Every rank reads the tokenizer, so every rank checks it.
    verify_manifest(directory, key, only={TOKENIZER, *names[rank::world_size]})
    splits = {
        split: ShardSet([directory / name for name in shards if name.startswith(f"shards/{split}-")])
        for split in ("train", "heldout")
    }
    for split, samples in splits.items():
        if not len(samples):
            raise user_error(f"the data set has no {split} sample", "pack the data set again", file=directory)
        for number in range(rank, len(samples), world_size):
            _check_shapes(samples, number, config)
    return Dataset(
        directory,
        manifest.sha256,
        NoteTokenizer(directory / TOKENIZER, config.model.vocabulary),
        splits["train"],
        splits["heldout"],
    )


def _check_shapes(samples: ShardSet, number: int, config: TrainConfig) -> None:
    model, entry = config.model, samples.entries[number]
    shard = samples.paths[entry.shard]
    image = samples.shape(number, IMAGE)
    if image is not None:
        shape, dtype = image
        if shape != (model.image_size, model.image_size) or not np.issubdtype(dtype, np.integer):
            raise user_error(
                f"the image of sample {entry.key!r} is {dtype} {list(shape)}, the model takes integers "
                f"[{model.image_size}, {model.image_size}]",
                "pack the data set with that image size, or train with --set model.image_size=SIZE",
                file=shard,
                key="model.image_size",
            )
    waveform = samples.shape(number, WAVEFORM)
    if waveform is not None:
        shape, dtype = waveform
        fits = len(shape) == 2 and 1 <= shape[0] <= model.waveform_leads and 1 <= shape[1] <= model.waveform_samples
        if not fits or dtype != np.float32:
            raise user_error(
                f"the waveform of sample {entry.key!r} is {dtype} {list(shape)}, the model takes float32 of up to "
                f"[{model.waveform_leads} leads, {model.waveform_samples} samples]",
                "pack the data set with shorter recordings, or train with --set model.waveform_samples=N",
                file=shard,
                key="model.waveform_samples",
            )

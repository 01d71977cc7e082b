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
from medllm.shard_index import IMAGE, INDEX, WAVEFORM, IndexEntry
from trainer.config import TrainConfig
from trainer.data.shards import ShardSet, read_index
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
    """Verify the manifest's signature and this rank's share of the files; read the index.

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
    for needed in (TOKENIZER, INDEX):
        if needed not in names:
            raise user_error(f"the manifest names no {needed}", "pack the data set again", file=directory)
    # Every rank reads these two, so every rank checks them.
    verify_manifest(directory, key, only={TOKENIZER, INDEX, *names[rank::world_size]})
    entries = read_index(directory)
    unknown = {entry.shard for entry in entries} - set(shards)
    if unknown:
        raise user_error(
            f"the index names a shard that the manifest does not: {min(unknown)}",
            "pack the data set again",
            file=directory / INDEX,
        )
    for entry in entries:
        _check_shapes(entry, directory, config)
    splits = {
        split: ShardSet(directory, [entry for entry in entries if entry.split == split])
        for split in ("train", "heldout")
    }
    for split, samples in splits.items():
        if not len(samples):
            raise user_error(f"the data set has no {split} sample", "pack the data set again", file=directory)
    return Dataset(
        directory,
        manifest.sha256,
        NoteTokenizer(directory / TOKENIZER, config.model.vocabulary),
        splits["train"],
        splits["heldout"],
    )


def _check_shapes(entry: IndexEntry, directory: Path, config: TrainConfig) -> None:
    model, shard = config.model, directory / entry.shard
    if IMAGE in entry.arrays:
        dtype, shape = entry.arrays[IMAGE]
        if shape != (model.image_size, model.image_size) or not np.issubdtype(np.dtype(dtype), np.integer):
            raise user_error(
                f"the image of sample {entry.key!r} is {np.dtype(dtype)} {list(shape)}, the model takes integers "
                f"[{model.image_size}, {model.image_size}]",
                "pack the data set with that image size, or train with --set model.image_size=SIZE",
                file=shard,
                key="model.image_size",
            )
    if WAVEFORM in entry.arrays:
        dtype, shape = entry.arrays[WAVEFORM]
        fits = len(shape) == 2 and 1 <= shape[0] <= model.waveform_leads and 1 <= shape[1] <= model.waveform_samples
        if not fits or np.dtype(dtype) != np.float32:
            raise user_error(
                f"the waveform of sample {entry.key!r} is {np.dtype(dtype)} {list(shape)}, the model takes float32 of "
                f"up to [{model.waveform_leads} leads, {model.waveform_samples} samples]",
                "pack the data set with shorter recordings, or train with --set model.waveform_samples=N",
                file=shard,
                key="model.waveform_samples",
            )

"""`medllm data pack`: a validated tree → shards, index, tokenizer and a signed manifest."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from curation.deid.tree import REPORT, STAGE, check_paths
from curation.pack.shards import Sample, write_shards
from curation.pack.tokenizer import token_counter, train_tokenizer
from curation.prepare.ecg import LEADS, load_ecg
from curation.prepare.image import load_image
from curation.prepare.note import clean_note
from curation.room import room_at
from medllm.errors import user_error
from medllm.files import staged_directory, write_atomic
from medllm.manifest import Manifest, sha256_file, sign_manifest, verify_manifest
from medllm.shard_index import write_index

TOKENIZER = "tokenizer.json"
_TOOLS = ("medllm-cluster", "numcodecs", "numpy", "pillow", "pydicom", "scipy", "tokenizers")
_MILLE = 1000


@dataclass(frozen=True, slots=True)
class Shape:
    """What every sample looks like, and how the data set is divided."""

    image_size: int = 64
    ecg_rate_hz: int = 100
    ecg_samples: int = 500
    vocabulary: int = 2048
    heldout_per_mille: int = 100
    samples_per_shard: int = 1000


@dataclass(slots=True)
class Packed:
    """What was packed."""

    counts: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    data_version: str = ""
    manifest_sha256: str = ""
    seconds: float = 0.0


def pack(
    source: Path, destination: Path, name: str, trusted: Ed25519PublicKey, signer: Ed25519PrivateKey, shape: Shape
) -> Packed:
    """Pack the de-identified tree `source` into `destination`, which appears whole or not at all.

    Args:
        trusted: the key that signs de-identified trees; nothing else is packed
        signer: signs the data set

    Raises:
        UserError: `source` is unsigned, altered, holds a file whose validation did not pass, or no patient with a
            note; or there is no room.
    """
    begin, packed = time.monotonic(), Packed()
    patients_dir = check_paths(source, destination, needs="patients")
    manifest = verify_manifest(source, trusted)
    report = _validated(source, manifest)
    with room_at(destination), staged_directory(destination) as staging:
        samples = list(_samples(patients_dir, shape, packed))
        splits = {"train": [], "heldout": []}  # type: dict[str, list[Sample]]
        for sample in samples:
            splits[split_of(str(sample.meta["patient"]), shape.heldout_per_mille)].append(sample)
        for split, members in splits.items():
            if not members:
                raise user_error(f"no patient falls into the {split} split", "pack more patients", file=source)
            packed.counts[split] = len(members)
        tokenizer = train_tokenizer((sample.text for sample in splits["train"]), shape.vocabulary)
        write_atomic(staging / TOKENIZER, tokenizer)
        count_tokens = token_counter(tokenizer)
        index = [
            entry
            for split, members in splits.items()
            for entry in write_shards(staging, split, members, shape.samples_per_shard, count_tokens)
        ]
        write_index(staging, index)
        packed.data_version = _version(staging)
        packed.manifest_sha256 = sign_manifest(staging, signer, _meta(name, shape, packed, report, manifest))
    packed.seconds = time.monotonic() - begin
    return packed


def split_of(patient: str, heldout_per_mille: int) -> str:
    """The split of a patient: by the pseudonym alone, so that no patient is ever in both, whatever else is packed."""
    number = int.from_bytes(hashlib.sha256(f"split\0{patient}".encode()).digest()[:8])
    return "heldout" if number % _MILLE < heldout_per_mille else "train"


def _validated(source: Path, manifest: Manifest) -> dict[str, Any]:
    """The summary of the de-identification, after each file of the tree has a report that it passed."""
    fix = "run `medllm data deid` on the raw tree again; nothing else may write into its output"
    if manifest.meta.get("stage") != STAGE:
        raise user_error("this tree was not made by `medllm data deid`", "name its output", file=source)
    entries = json.loads((source / REPORT).read_text(encoding="utf-8"))["files"]
    good = {f"patients/{entry['patient']}/{entry['file']}" for entry in entries if entry["validation_passed"] is True}
    for path in manifest.files:
        if path != REPORT and not path.endswith("/meta.json") and path not in good:
            raise user_error("the validation of this file did not pass", fix, file=source / path)
    summary: dict[str, Any] = manifest.meta["summary"]
    if summary.get("validation_passed") is not True:
        raise user_error("the validation of this tree did not pass", fix, file=source)
    return summary


def _samples(folder: Path, shape: Shape, packed: Packed) -> Iterator[Sample]:
    """A sample for each note; the patient's first picture and recording go with it."""
    for patient in sorted(folder.iterdir()):
        notes = sorted(patient.glob("note*.txt"))
        if not notes:
            packed.skipped["patient_without_note"] += 1
            continue
        meta = json.loads((patient / "meta.json").read_text(encoding="utf-8"))
        image = ecg = modality = None
        for path in sorted(patient.glob("image*.dcm"))[:1]:
            try:
                image, modality = load_image(path, shape.image_size)
            except ValueError:
                packed.skipped["unreadable_image"] += 1
        for path in sorted(patient.glob("ecg*.csv"))[:1]:
            try:
                ecg = load_ecg(path, shape.ecg_rate_hz, shape.ecg_samples)
            except ValueError:
                packed.skipped["unreadable_ecg"] += 1
        for number, path in enumerate(notes):
            modalities = ["text", *(["image"] if image is not None else []), *(["ecg"] if ecg is not None else [])]
            packed.counts.update(modalities)
            facts: dict[str, Any] = {
                "sample_id": f"{patient.name}-{number:02d}",
                "patient": patient.name,
                "modalities": modalities,
            }
            facts |= {key: meta[key] for key in ("lang", "kind") if key in meta}
            if image is not None:
                facts["image"] = {"modality": modality, "shape": list(image.shape), "dtype": str(image.dtype)}
            if ecg is not None:
                facts["ecg"] = {
                    "shape": list(ecg.shape),
                    "dtype": str(ecg.dtype),
                    "rate_hz": shape.ecg_rate_hz,
                    "unit": "mV",
                }
            yield Sample(facts["sample_id"], facts, clean_note(path.read_text(encoding="utf-8")), image, ecg)


def _version(directory: Path) -> str:
    """A hash over the content of all files: the version of the data, whoever signs it."""
    lines = [
        f"{sha256_file(path)}  {path.relative_to(directory).as_posix()}\n"
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _meta(name: str, shape: Shape, packed: Packed, report: dict[str, Any], deid: Manifest) -> dict[str, Any]:
    return {
        "stage": "pack",
        "name": name,
        "data_version": packed.data_version,
        "counts": dict(sorted(packed.counts.items())),
        "skipped": dict(sorted(packed.skipped.items())),
        "shapes": {
            "image": [shape.image_size, shape.image_size],
            "ecg": [len(LEADS), shape.ecg_samples],
            "ecg_rate_hz": shape.ecg_rate_hz,
        },
        "split": {"by": "patient", "heldout_per_mille": shape.heldout_per_mille},
        "tokenizer": {"kind": "byte-level BPE", "vocabulary_at_most": shape.vocabulary},
        "deidentification": {**report, "manifest_sha256": deid.sha256},
        "tools": {tool: version(tool) for tool in _TOOLS},
    }

"""`medllm data pack`: a de-identified or a prepared tree → shards, index, tokenizer and a signed manifest."""

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

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from curation.deid.tree import check_paths
from curation.pack.prepared import Sizes, study_samples
from curation.pack.shards import Sample, write_shards
from curation.pack.tokenizer import token_counter, train_tokenizer
from curation.prepare.ecg import LEADS, load_ecg
from curation.prepare.image import load_image
from curation.prepare.note import clean_note
from curation.prepare.run import RESULTS, RUN
from curation.provenance import Origin, PreparedTree, Trusted, check_review, open_prepared, validated_tree
from curation.review.sample import PASS
from curation.room import room_at
from medllm.errors import user_error
from medllm.files import staged_directory, write_atomic
from medllm.manifest import sha256_file, sign_manifest
from medllm.shard_index import write_index

TOKENIZER = "tokenizer.json"
_TOOLS = ("medllm-cluster", "numcodecs", "numpy", "pillow", "pydicom", "scipy", "tokenizers")
_MILLE = 1000


@dataclass(frozen=True, slots=True)
class Shape:
    """What every sample looks like, and how the data set is divided.

    `slices` (of a volume at most) and `eeg_samples` are of prepared trees only: a de-identified one gives neither.
    """

    image_size: int = 64
    ecg_rate_hz: int = 100
    ecg_samples: int = 500
    vocabulary: int = 2048
    heldout_per_mille: int = 100
    samples_per_shard: int = 1000
    slices: int = 16
    eeg_samples: int = 2560

    @property
    def sizes(self) -> Sizes:
        return Sizes(self.image_size, self.slices, self.ecg_rate_hz, self.ecg_samples, self.eeg_samples)


@dataclass(slots=True)
class Packed:
    """What was packed."""

    counts: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    data_version: str = ""
    manifest_sha256: str = ""
    seconds: float = 0.0


def pack(
    source: Path,
    destination: Path,
    name: str,
    trusted: Trusted,
    signer: Ed25519PrivateKey,
    shape: Shape,
    *,
    unreviewed: str | None = None,
) -> Packed:
    """Pack the de-identified or prepared tree `source` into `destination`, which appears whole or not at all.

    Args:
        trusted: the keys that sign such trees; nothing else is packed
        signer: signs the data set
        unreviewed: why nobody has to read the tree's sample first; it is signed with the data set

    Raises:
        UserError: `source` is unsigned, altered, unfinished, not reviewed, holds (or was made of) a file whose
            validation did not pass, no patient with a note, or there is no room.
    """
    begin, packed = time.monotonic(), Packed()
    prepared = None
    if (source / RUN).is_file():
        check_paths(source, destination, needs=RESULTS)
        prepared = open_prepared(source, trusted)
        origin = prepared.origin
    else:
        patients_dir = check_paths(source, destination, needs="patients")
        origin = validated_tree(source, trusted.deid)
    check_review(origin, unreviewed, source)
    with room_at(destination), staged_directory(destination) as staging:
        samples = list(_studies(prepared, shape, packed) if prepared else _samples(patients_dir, shape, packed))
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
        meta = _meta(name, shape, packed, origin, prepared, unreviewed)
        packed.manifest_sha256 = sign_manifest(staging, signer, meta)
    packed.seconds = time.monotonic() - begin
    return packed


def split_of(patient: str, heldout_per_mille: int) -> str:
    """The split of a patient: by the pseudonym alone, so that no patient is ever in both, whatever else is packed."""
    number = int.from_bytes(hashlib.sha256(f"split\0{patient}".encode()).digest()[:8])
    return "heldout" if number % _MILLE < heldout_per_mille else "train"


def _studies(prepared: PreparedTree, shape: Shape, packed: Packed) -> Iterator[Sample]:
    """The samples of all prepared studies, by patient."""
    if prepared.quarantined:
        packed.skipped["quarantined_by_prepare"] = prepared.quarantined
    for _, path in sorted(prepared.done.items()):
        for sample in study_samples(path, shape.sizes, packed.skipped):
            packed.counts.update([sample.meta["sample_kind"], *sample.meta["modalities"]])
            yield sample


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


def _meta(
    name: str, shape: Shape, packed: Packed, origin: Origin, prepared: PreparedTree | None, unreviewed: str | None
) -> dict[str, Any]:
    meta: dict[str, Any] = {
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
        "deidentification": {**origin.summary, "manifest_sha256": origin.manifest.sha256},
        "tools": {tool: version(tool) for tool in _TOOLS},
    }
    if origin.summary.get("review") != PASS:
        meta["deidentification"]["unreviewed_because"] = unreviewed
    if prepared:
        meta["preparation"] = {**prepared.manifest.meta, "manifest_sha256": prepared.manifest.sha256}
        meta["shapes"] |= {"slices_at_most": shape.slices, "eeg_samples_at_most": shape.eeg_samples}
    return meta

"""Prepared studies → shards: what the loader reads is what was prepared, and its chain of signatures holds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from curation.pack.dataset import Packed, Shape, pack, split_of
from curation.pack.prepared import _spread
from curation.prepare.patient import Parameters
from curation.prepare.run import result_path
from curation.prepare.tree import prepare_tree
from curation.prepare.workers import Executor, Outcome, Task, Work
from curation.provenance import Trusted, open_prepared
from medllm.errors import UserError
from medllm.manifest import public_key_pem, sign_manifest
from tests.curation_helpers import sign_clean
from tests.unit.test_curation_tree import SECRETS, medllm, raw_tree
from tests.unit.test_prepare_patient import _folder
from trainer.config import load_config
from trainer.data.cache import MemoryCache, SampleReader
from trainer.data.collate import Collator, batches_of
from trainer.data.gate import open_dataset
from trainer.data.loader import Loader, rank_batches
from trainer.data.shards import ShardSet, read_index

DEID, PREPARE, DATA = (Ed25519PrivateKey.generate() for _ in range(3))
TRUSTED = Trusted(DEID.public_key(), PREPARE.public_key())
PATIENTS = 6


def here(work: Work, tasks: Iterator[Task]) -> Iterator[Outcome]:
    """An executor without processes."""
    for task in tasks:
        yield work(task)


def _heldout(name: str) -> bool:
    return split_of(name, 250) == "heldout"


def _names() -> list[str]:
    """Pseudonyms of which one is held out."""
    names = (f"p{number}" for number in range(1000))
    held = next(name for name in names if _heldout(name))
    return [held, *[name for name in (f"p{number}" for number in range(1000)) if not _heldout(name)][: PATIENTS - 1]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """clean/ and ready/: six studies of four CT slices, an ECG and a note with one finding in image 1."""
    base = tmp_path_factory.mktemp("prepared")
    for name in _names():
        _folder(base / "clean", name)
    bad = base / "clean" / "patients" / "q1"
    bad.mkdir()
    (bad / "ecg.csv").write_text("# no note goes with this\n")
    sign_clean(base / "clean", DEID)
    _prepare(base / "clean", base / "ready")
    return base


def _prepare(clean: Path, ready: Path, executor: Executor = here) -> None:
    prepare_tree(clean, ready, DEID.public_key(), PREPARE, Parameters(), executor)


def _pack(source: Path, destination: Path, **changes: int) -> Packed:
    shape = Shape(**{"heldout_per_mille": 250, "vocabulary": 512, **changes})
    return pack(source, destination, "set", TRUSTED, DATA, shape, unreviewed="invented")


@pytest.fixture(scope="module")
def packed(base: Path) -> Path:
    done = _pack(base / "ready", base / "set")
    assert (done.counts["full_study"], done.counts["entity_based"]) == (PATIENTS, PATIENTS)
    assert done.skipped == {"quarantined_by_prepare": 1}
    return base / "set"


def test_the_whole_study_and_its_finding_are_samples(base: Path, packed: Path) -> None:
    entries = read_index(packed)
    shards = ShardSet(packed, entries)
    samples = {entry.key: shards.read(number) for number, entry in enumerate(entries)}
    assert len(samples) == 2 * PATIENTS
    for name in _names():
        with np.load(result_path(base / "ready", name)) as arrays:
            volume, study = arrays["volume_0"], json.loads(arrays["facts"].tobytes())
        [finding] = [each for each in study["samples"] if each["kind"] == "entity_based"]
        [whole] = samples[f"{name}-full"].volumes
        [part] = samples[f"{name}-e{finding['entity']:03d}"].volumes
        assert (whole.shape, whole.dtype, len(part)) == ((4, 64, 64), np.int16, 1)
        first, last = finding["slices"]
        assert last - first == 1
        assert np.array_equal(part[0], whole[first])
        # Halving 128 to 64 keeps the mean of a picture: these are its Hounsfield units.
        assert abs(float(whole.mean()) - float(volume.mean())) < 3
        assert samples[f"{name}-full"].text == study["text"]
        text = samples[f"{name}-e{finding['entity']:03d}"].text
        assert "nodule" in text
        assert "effusion" not in text
        image, picture = samples[f"{name}-full"].image, samples[f"{name}-e{finding['entity']:03d}"].image
        assert image is not None
        assert picture is not None
        assert np.array_equal(picture, part[0])
        assert np.array_equal(image, whole[2])
        ecg = samples[f"{name}-full"].waveform
        assert ecg is not None
        assert ecg.shape == (12, 500)
        # I, II and V1 were recorded; three seconds of five.
        assert [lead for lead in range(12) if np.abs(ecg[lead]).max() > 0] == [0, 1, 6]
        assert not ecg[:, 310:].any()


def test_the_trainers_loader_reads_them(packed: Path) -> None:
    public = packed.with_name("data.pub")
    public.write_bytes(public_key_pem(DATA.public_key()))
    config = load_config("medllm-tiny")
    dataset = open_dataset(packed, public, config)
    assert len(dataset.heldout) == 2
    with Loader(
        SampleReader(dataset.train, MemoryCache(1 << 20)), Collator(config, dataset.tokenizer),
        lambda: rank_batches(batches_of(dataset.train, config), 0, config.batch.per_step, 0, 1), threads=2, ahead=2,
    ) as loader:  # fmt: skip
        for _ in range(6):
            batch, _ = next(loader)
            assert bool(batch.image_present.all())
            assert bool(batch.waveform_present.all())
            assert batch.target_tokens > 0
        assert loader.lost == 0


def test_the_same_studies_give_the_same_bytes_and_slices_are_a_choice(base: Path, packed: Path, tmp_path: Path) -> None:
    _pack(base / "ready", tmp_path / "again")
    assert {p.name: p.read_bytes() for p in packed.rglob("*.*")} == {
        p.name: p.read_bytes() for p in (tmp_path / "again").rglob("*.*")
    }
    _pack(base / "ready", tmp_path / "none", slices=0)
    assert not any("volume-0.blosc" in entry.arrays for entry in read_index(tmp_path / "none"))
    _pack(base / "ready", tmp_path / "two", slices=2)
    assert max(entry.arrays["volume-0.blosc"][1][0] for entry in read_index(tmp_path / "two")) == 2


def test_the_manifest_tells_the_whole_chain(base: Path, packed: Path) -> None:
    meta = json.loads((packed / "manifest.json").read_text())["meta"]
    assert meta["deidentification"]["validation_passed"] is True
    origin = open_prepared(base / "ready", TRUSTED)
    assert meta["deidentification"]["manifest_sha256"] == origin.origin.manifest.sha256
    assert meta["preparation"]["manifest_sha256"] == origin.manifest.sha256
    assert meta["preparation"]["parameters"] == Parameters().as_json() | {"spacing_mm": []}


def _refused(tree: Path, match: str, trusted: Trusted = TRUSTED) -> None:
    target = tree.with_name("refused")
    with pytest.raises(UserError, match=match):
        pack(tree, target, "set", trusted, DATA, Shape(heldout_per_mille=250, vocabulary=512), unreviewed="invented")
    assert not target.exists()


def _resigned(tree: Path, key: Ed25519PrivateKey = PREPARE) -> None:
    sign_manifest(tree, key, json.loads((tree / "manifest.json").read_text())["meta"])


def test_an_altered_or_foreign_tree_is_refused(base: Path, tmp_path: Path) -> None:
    tree = shutil.copytree(base / "ready", tmp_path / "ready")
    other = Ed25519PrivateKey.generate().public_key()
    _refused(tree, "signature does not fit", Trusted(DEID.public_key(), other))
    _refused(tree, "signature does not fit", Trusted(other, PREPARE.public_key()))
    victim = result_path(tree, _names()[0])
    victim.write_bytes(victim.read_bytes()[:-1] + b"x")
    _refused(tree, "altered")
    _resigned(tree)
    _refused(tree, "the index and this sample differ")
    shutil.rmtree(tree)
    shutil.copytree(base / "ready", tree)
    (victim.parent / "smuggled").write_bytes(b"x")
    _refused(tree, "not listed")
    _resigned(tree)
    _refused(tree, "index does not name")
    shutil.rmtree(tree)
    shutil.copytree(base / "ready", tree)
    (tree / "journal.jsonl").write_text("")
    _refused(tree, "not finished")


def test_a_tree_made_of_other_files_than_were_signed_is_refused(base: Path, tmp_path: Path) -> None:
    """Even the right key does not help: the hashes of the inputs do not fit what deid signed."""
    tree = shutil.copytree(base / "ready", tmp_path / "ready")
    lines = (tree / "index.jsonl").read_text().splitlines()
    changed = [line.replace(json.loads(line).get("inputs_sha256", "-"), "0" * 64) for line in lines]
    (tree / "index.jsonl").write_text("\n".join(changed) + "\n")
    _resigned(tree)
    _refused(tree, "made of other files")
    shutil.rmtree(tree)
    shutil.copytree(base / "ready", tree)
    report = json.loads((tree / "deid" / "report.json").read_text())
    report["files"][0]["validation_passed"] = False
    (tree / "deid" / "report.json").write_text(json.dumps(report))
    _resigned(tree)
    _refused(tree, "report of the validation is missing or altered")


def test_a_file_that_changes_while_it_is_prepared_leaves_no_signed_tree(base: Path, tmp_path: Path) -> None:
    clean = shutil.copytree(base / "clean", tmp_path / "clean")

    def meddling(work: Work, tasks: Iterator[Task]) -> Iterator[Outcome]:
        for task in tasks:
            (clean / "patients" / task.id / "note.txt").write_text("Nobody has validated this.\n")
            yield work(task)

    with pytest.raises(UserError, match="made of other files"):
        _prepare(clean, tmp_path / "ready", meddling)
    assert not (tmp_path / "ready" / "manifest.json").exists()
    _refused(tmp_path / "ready", "not finished")


def test_preparing_again_changes_nothing_and_another_tree_is_refused(base: Path, tmp_path: Path) -> None:
    ready = shutil.copytree(base / "ready", tmp_path / "ready")
    before = (ready / "manifest.json").read_bytes()
    # Killed between the last sample and the signature.
    (ready / "manifest.json").unlink()
    _refused(ready, "not finished")
    (ready / ".manifest.json.x1").write_text("half")
    _prepare(base / "clean", ready)
    assert (ready / "manifest.json").read_bytes() == before
    _prepare(base / "clean", ready)
    open_prepared(ready, TRUSTED)
    clean = shutil.copytree(base / "clean", tmp_path / "clean")
    (clean / "patients" / _names()[1] / "note.txt").write_text("FINDINGS: Unremarkable.\n")
    sign_clean(clean, DEID)
    with pytest.raises(UserError, match="another version"):
        _prepare(clean, ready)


@pytest.mark.parametrize(
    ("first", "last", "most", "places"),
    [(0, 4, 16, [0, 1, 2, 3]), (3, 4, 16, [3]), (0, 9, 3, [0, 4, 8]), (10, 20, 1, [15]), (0, 5, 0, [])],
)
def test_slices_are_spread_evenly(first: int, last: int, most: int, places: list[int]) -> None:
    assert _spread(first, last, most) == places


@pytest.mark.slow
def test_from_raw_patients_to_a_verified_set_by_the_commands(tmp_path: Path) -> None:
    raw = raw_tree(tmp_path / "raw", 16)
    state = tmp_path / "state" / "medllm-cluster" / "keys"
    state.mkdir(parents=True)
    (state / "pseudonym.key").write_text("5a" * 32)
    (state / "pseudonym.key").chmod(0o600)
    for number in range(0, 16, 2):
        with (raw / "patients" / f"ID-{number:04d}" / "note.txt").open("a") as stream:
            stream.write("FINDINGS: A 9 mm nodule in the right upper lobe (image 1). No pleural effusion.\n")
    clean, ready, done = (tmp_path / name for name in ("clean", "ready", "set"))
    steps: list[list[str | Path]] = [
        ["deid", raw, clean], ["prepare", clean, ready, "--processes", "1"],
        ["pack", ready, done, "--heldout", "250", "--unreviewed", "invented"], ["verify", done],
    ]  # fmt: skip
    for step in steps:
        result = medllm(tmp_path, *step)
        assert result.returncode == 0, result.stdout + result.stderr
        assert not any(secret in result.stdout + result.stderr for secret in SECRETS)
    entries = read_index(done)
    samples = [ShardSet(done, entries).read(number) for number in range(len(entries))]
    assert {entry.key.rpartition("-")[2][0] for entry in entries} == {"f", "e"}
    assert any(sample.volumes and sample.waveform is not None for sample in samples)
    assert not any(secret in sample.text for sample in samples for secret in SECRETS)
    shard = next(done.rglob("*.tar"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    assert medllm(tmp_path, "verify", done).returncode == 2

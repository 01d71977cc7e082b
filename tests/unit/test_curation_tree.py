"""Raw tree → de-identified tree → signed data set, by the command line; with what must be held back or refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from curation.pack.dataset import split_of
from medllm.arrays import decode_array
from medllm.shard_index import INDEX, TEXT, IndexEntry, checksum

pytestmark = pytest.mark.slow

PEOPLE = [
    ("Agnes Whitmore", "MR-448812", "1951-03-04", "415-555-0143", "en"),
    ("王建国", "ZY20239911", "1960-07-21", "13812345678", "zh"),
]
NOTES = {
    "en": "Patient: {name}, MRN: {mrn}, DOB {birth_date}. Admitted 2024-01-10, home 2024-01-15. Call {phone}. BP 9/6.",
    "zh": "姓名：{name}，住院号{mrn}，出生日期：{birth_date}。2024年1月10日入院，电话{phone}。血压120/80mmHg，口服。",
}
# Of 12 patients with random pseudonyms none falls into one of the halves once in 4096 runs.
UNREVIEWED = ("--unreviewed", "the patients are invented")
OPTIONS = ("--heldout", "500", *UNREVIEWED)
SECRETS = [value for person in PEOPLE for value in (*person[0].split(), *person[1:4])]


def medllm(home: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The real command in a process of its own, with a state directory of its own."""
    return subprocess.run(
        [sys.executable, "-m", "cli.main", "data", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "XDG_STATE_HOME": str(home / "state")},
        check=False,
    )


def raw_tree(root: Path, patients: int = 24) -> Path:
    """A small raw tree made by the sample's own code for pictures and recordings, with notes of our own."""
    from curation import sample

    for number in range(patients):
        name, mrn, born, phone, lang = PEOPLE[number % 2]
        person = {"name": name, "mrn": mrn, "birth_date": born, "phone": phone, "sex": "F"}
        folder = root / "patients" / f"ID-{number:04d}"
        folder.mkdir(parents=True)
        meta = {"patient_id": f"ID-{number:04d}", "lang": lang, "kind": "discharge", "patient": person}
        (folder / "meta.json").write_text(json.dumps(meta, ensure_ascii=False))
        (folder / "note.txt").write_text(NOTES[lang].format(**person) + f"\n{number}\n")
        (folder / "image.dcm").write_bytes(sample._picture(number, f"ID-{number:04d}", person))
        if number % 3:
            (folder / "ecg.csv").write_bytes(sample._recording(number, f"ID-{number:04d}", person))
    return root


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """raw/, clean/ and set/ side by side, made once."""
    base = tmp_path_factory.mktemp("data")
    raw = raw_tree(base / "raw")
    # A key of the test's own: the pseudonyms, and with them the split, are the same in each run.
    keys = base / "state" / "medllm-cluster" / "keys"
    keys.mkdir(parents=True)
    (keys / "pseudonym.key").write_text("5a" * 32)
    (keys / "pseudonym.key").chmod(0o600)
    first = raw / "patients" / "ID-0000"
    (first / "Whitmore.pdf").write_bytes(b"scan")
    (first / "link.txt").symlink_to("/etc/hostname")
    (raw / "patients" / "ID-0001" / "note-2.txt").write_text(
        "再次就诊。编号 A1B2C3D4E5F6 复查，代码 9f86d081884c7d65。"
    )
    bad = raw / "patients" / "ID-9999"
    bad.mkdir()
    (bad / "note.txt").write_text("Whitmore without meta.json")
    for step in (("deid", base / "raw", base / "clean"), ("pack", base / "clean", base / "set", *OPTIONS)):
        result = medllm(base, *step)
        assert result.returncode == 0, result.stdout + result.stderr
        assert not any(secret in result.stdout + result.stderr for secret in SECRETS)
    return base


def _notes(done: Path) -> int:
    """How many notes passed: the 24 first ones, and the second one of a patient if its codes were all found."""
    count = len(list((done / "clean").rglob("note*.txt")))
    assert count in (24, 25)
    return count


def test_no_identity_is_left_in_any_file(done: Path) -> None:
    for tree in ("clean", "set"):
        for path in (done / tree).rglob("*"):
            data = path.read_bytes() if path.is_file() else b""
            for secret in (*SECRETS, "ID-00"):
                assert secret.encode() not in data
                assert secret not in str(path.relative_to(done))
    assert not list(done.glob("*.tmp"))
    assert not list(done.glob("*.old"))


def test_what_is_held_back_is_named_with_its_reason(done: Path) -> None:
    report = json.loads((done / "clean" / "report.json").read_text())["files"]
    held = [entry for entry in report if not entry["validation_passed"]]
    assert {"unsupported_file", "symbolic_link", "no_usable_meta"} <= {entry["reason"] for entry in held}
    for entry in held:
        assert not (done / "clean" / "patients" / entry["patient"] / entry["file"]).exists()
    passed = [entry for entry in report if entry["validation_passed"]]
    written = [path for path in (done / "clean" / "patients").rglob("*") if path.is_file() and path.name != "meta.json"]
    assert len(written) == len(passed)
    sources = [path for path in (done / "raw").rglob("*") if not path.is_dir() and path.name != "meta.json"]
    assert len(report) == len(sources), "no file is dropped without an entry"
    note = next(entry for entry in passed if entry["file"] == "note.txt")
    assert {"original_length", "redacted_length", "phi_counts", "validation_passed"} <= set(note)
    assert all(count["redacted"] == 0 for count in note["phi_counts"].values())


def test_the_same_input_gives_the_same_bytes(done: Path, tmp_path: Path) -> None:
    shutil.copytree(done / "state", tmp_path / "state")
    assert medllm(tmp_path, "deid", done / "raw", tmp_path / "clean").returncode == 0
    assert medllm(tmp_path, "pack", tmp_path / "clean", tmp_path / "set", *OPTIONS).returncode == 0
    for tree in ("clean", "set"):
        assert (tmp_path / tree / "manifest.json").read_bytes() == (done / tree / "manifest.json").read_bytes()


def test_intervals_of_a_patient_stay(done: Path) -> None:
    from datetime import date

    notes = [path.read_text() for path in sorted((done / "clean").rglob("note.txt"))]
    english = [text for text in notes if text.startswith("Patient")]
    shifts = set()
    for text in english:
        words = [word.rstrip(",.") for word in text.split()]
        admitted = date.fromisoformat(words[words.index("Admitted") + 1])
        assert (date.fromisoformat(words[words.index("home") + 1]) - admitted).days == 5
        shifts.add((admitted - date(2024, 1, 10)).days)
    assert len(shifts) > 1, "each patient has a shift of its own"
    assert max(shifts) <= -366


def test_webdataset_reads_the_shards(done: Path) -> None:
    import webdataset

    shards = sorted(str(path) for path in (done / "set" / "shards").glob("*.tar"))
    samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode())
    assert len(samples) == _notes(done)
    for sample in samples:
        facts = sample["json"]
        assert facts["sample_id"] == sample["__key__"]
        assert isinstance(sample["txt"], str)
        assert ("image.blosc" in sample) == ("image" in facts["modalities"])
        if "image.blosc" in sample:
            image = decode_array(sample["image.blosc"])
            assert (list(image.shape), str(image.dtype)) == (facts["image"]["shape"], facts["image"]["dtype"])
            assert image.dtype == (np.int16 if facts["image"]["modality"] == "CT" else np.uint16)
        if "ecg.blosc" in sample:
            ecg = decode_array(sample["ecg.blosc"])
            assert (ecg.shape, ecg.dtype) == ((12, 500), np.float32)
    assert any("ecg.blosc" in sample for sample in samples)
    assert any("ecg.blosc" not in sample for sample in samples)


def test_the_index_says_what_the_shards_hold(done: Path) -> None:
    from tokenizers import Tokenizer

    entries = [IndexEntry.parse(line) for line in (done / "set" / INDEX).read_text().splitlines()]
    assert len(entries) == _notes(done)
    tokenizer = Tokenizer.from_file(str(done / "set" / "tokenizer.json"))
    for entry in entries:
        with tarfile.open(done / "set" / entry.shard) as archive:
            named = {item.name: (item.offset_data, item.size) for item in archive}
        assert {f"{entry.key}.{kind}": place for kind, place in entry.members.items()} == {
            name: place for name, place in named.items() if name.startswith(f"{entry.key}.")
        }
        data = (done / "set" / entry.shard).read_bytes()
        assert checksum(data[entry.offset : entry.offset + entry.size]) == entry.xxh3
        content = {kind: data[begin : begin + size] for kind, (begin, size) in entry.members.items()}
        assert json.loads(content["json"])["sample_id"] == entry.key
        assert len(tokenizer.encode(content[TEXT].decode()).ids) + 2 == entry.tokens
        arrays = {kind: decode_array(content[kind]) for kind in entry.arrays}
        assert {kind: (array.dtype.str, array.shape) for kind, array in arrays.items()} == entry.arrays


def test_the_split_is_by_patient_and_stays(done: Path) -> None:
    patients: dict[str, set[str]] = {"train": set(), "heldout": set()}
    for shard in (done / "set" / "shards").glob("*.tar"):
        with tarfile.open(shard) as archive:
            patients[shard.name.partition("-")[0]] |= {name.partition("-")[0] for name in archive.getnames()}
    assert patients["train"]
    assert patients["heldout"]
    assert not patients["train"] & patients["heldout"]
    shares = [split_of(f"p{number:020x}", 100) for number in range(5000)]
    assert 400 < shares.count("heldout") < 600


def test_the_tokenizer_reads_back_any_text(done: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(done / "set" / "tokenizer.json"))
    assert tokenizer.get_vocab_size() <= 2048
    assert [tokenizer.token_to_id(mark) for mark in ("<pad>", "<bos>", "<eos>")] == [0, 1, 2]
    assert len(tokenizer.encode("[NAME_REDACTED]").ids) == 1
    text = "Unseen: ünïcode, 心电图, 120/80 🫀\n"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_the_manifest_says_what_the_data_are(done: Path) -> None:
    meta = json.loads((done / "set" / "manifest.json").read_text())["meta"]
    assert meta["name"] == "set"
    assert meta["counts"]["train"] + meta["counts"]["heldout"] == meta["counts"]["text"] == _notes(done)
    assert meta["deidentification"]["validation_passed"] is True
    assert meta["deidentification"]["files_quarantined"] >= 3
    assert meta["shapes"] == {"image": [64, 64], "ecg": [12, 500], "ecg_rate_hz": 100}
    assert len(meta["data_version"]) == 64
    assert meta["tools"]["tokenizers"]


def copy(done: Path, tree: str, target: Path) -> Path:
    shutil.copytree(done / "state", target / "state")
    return Path(shutil.copytree(done / tree, target / tree))


def test_one_flipped_byte_is_refused(done: Path, tmp_path: Path) -> None:
    copied = copy(done, "set", tmp_path)
    assert medllm(tmp_path, "verify", copied).returncode == 0
    shard = copied / "shards" / "train-000001.tar"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    result = medllm(tmp_path, "verify", copied, "--json")
    assert result.returncode == 2
    assert "train-000001.tar" in result.stderr
    assert json.loads(result.stdout)["problems"]


def test_only_a_validated_tree_is_packed(done: Path, tmp_path: Path) -> None:
    copied = copy(done, "clean", tmp_path)
    note = next(copied.rglob("note.txt"))
    good = note.read_text()
    note.write_text("Agnes Whitmore")
    altered = medllm(tmp_path, "pack", copied, tmp_path / "set", *UNREVIEWED)
    assert (altered.returncode, (tmp_path / "set").exists()) == (2, False)
    note.write_text(good)
    (note.parent / "note-9.txt").write_text("smuggled")
    assert medllm(tmp_path, "pack", copied, tmp_path / "set", *UNREVIEWED).returncode == 2
    (note.parent / "note-9.txt").unlink()
    assert medllm(tmp_path, "pack", copied, tmp_path / "set", *UNREVIEWED).returncode == 0
    shutil.rmtree(tmp_path / "state" / "medllm-cluster" / "keys")
    other = medllm(tmp_path, "pack", copied, tmp_path / "set", *UNREVIEWED)
    assert other.returncode == 2, "signed by another host's key"
    assert medllm(tmp_path, "pack", done / "raw", tmp_path / "set", *UNREVIEWED).returncode == 2


def test_a_signed_tree_with_a_failed_report_is_not_packed(done: Path, tmp_path: Path) -> None:
    """Even the right key does not help a file whose entry says that it failed."""
    from medllm.manifest import load_private_key, sign_manifest

    copied = copy(done, "clean", tmp_path)
    report = json.loads((copied / "report.json").read_text())
    next(entry for entry in report["files"] if entry["file"] == "note.txt")["validation_passed"] = False
    (copied / "report.json").write_text(json.dumps(report))
    key = load_private_key(tmp_path / "state" / "medllm-cluster" / "keys" / "deid.key")
    sign_manifest(copied, key, json.loads((copied / "manifest.json").read_text())["meta"])
    result = medllm(tmp_path, "pack", copied, tmp_path / "set", *UNREVIEWED)
    assert result.returncode == 2
    assert "did not pass" in result.stderr


@pytest.mark.parametrize("inside", ["raw/out", ".", "raw"])
def test_source_and_destination_stay_apart(tmp_path: Path, inside: str) -> None:
    (tmp_path / "raw" / "patients").mkdir(parents=True)
    result = medllm(tmp_path, "deid", tmp_path / "raw", tmp_path / inside)
    assert result.returncode == 2
    assert (tmp_path / "raw" / "patients").is_dir()


def test_a_directory_of_others_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "raw" / "patients").mkdir(parents=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    assert medllm(tmp_path, "deid", tmp_path / "raw", tmp_path / "mine").returncode == 2
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    assert medllm(tmp_path, "deid", tmp_path / "nothing", tmp_path / "new").returncode == 2
    assert medllm(tmp_path, "deid", tmp_path / "raw", tmp_path / "new").returncode == 2, "no patient, nothing passed"
    assert not (tmp_path / "new").exists()


def test_a_failure_quotes_no_patient(tmp_path: Path) -> None:
    """A broken picture, a broken recording and a binary note of a named patient: types only."""
    raw = raw_tree(tmp_path / "raw", 1)
    folder = raw / "patients" / "ID-0000"
    (folder / "image.dcm").write_bytes(b"Agnes Whitmore" * 50)
    (folder / "ecg.csv").write_bytes(b"# Patient: Agnes Whitmore\nI\nAgnes\n")
    (folder / "note-2.txt").write_bytes(b"Agnes Whitmore \xff\xff\xff")
    result = medllm(tmp_path, "deid", raw, tmp_path / "clean", "--json")
    assert result.returncode == 0
    facts = json.loads(result.stdout)
    assert facts["quarantine_reasons"] == {
        "encoding_not_known": 1,
        "not_a_number_among_samples": 1,
        "not_dicom": 1,
    }
    assert not any(secret in result.stdout + result.stderr for secret in SECRETS)
    assert (tmp_path / "state/medllm-cluster/keys/pseudonym.key").stat().st_mode & 0o777 == 0o600

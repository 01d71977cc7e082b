"""A patient's folder becomes one sample with all that is usable in it; what is not is named."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from PIL import Image
from pydicom.data import get_testdata_file

from curation.prepare.augment import Augmentation
from curation.prepare.patient import Parameters, SampleError, from_json, prepare_patient, tasks_of
from curation.prepare.tree import prepare_tree
from curation.prepare.workers import Task
from medllm.errors import UserError
from medllm.manifest import public_key_pem
from tests.curation_helpers import sign_clean

_SECRET = "Zebedee Quillfeather"
_NOTE = "FINDINGS: A 9 mm nodule in the right upper lobe (series 4, image 1). No pleural effusion.\n"


def _folder(root: Path, name: str = "p1") -> Path:
    folder = root / "patients" / name
    folder.mkdir(parents=True)
    (folder / "note.txt").write_text(_NOTE, encoding="utf-8")
    (folder / "meta.json").write_text("{}")
    dataset = pydicom.dcmread(str(get_testdata_file("CT_small.dcm", download=False)))
    dataset.SeriesNumber, dataset.BodyPartExamined = 4, "CHEST"
    for place in range(4):
        one = copy.deepcopy(dataset)
        one.ImagePositionPatient, one.InstanceNumber = [0, 0, 5 * place], 4 - place
        one.save_as(folder / f"image-{place}.dcm")
    rows = [",".join(f"{value:.3f}" for value in row) for row in np.random.default_rng(1).normal(0, 0.3, (1500, 3))]
    (folder / "ecg.csv").write_text("\n".join(["# Sampling Rate: 500", "# Units: mV", "I,II,V1", *rows]) + "\n")
    return folder


def _prepared(folder: Path, parameters: Parameters | None = None) -> tuple[dict[str, Any], Any, Any]:
    [task] = [task for task in tasks_of(folder.parent) if task.id == folder.name]
    data, rejected = prepare_patient(task, (parameters or Parameters()).as_json())
    arrays = np.load(BytesIO(data))
    return json.loads(arrays["facts"].tobytes()), arrays, rejected


def test_everything_of_a_patient_is_in_one_sample(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    (folder / "ecg-2.dcm").write_bytes(Path(str(get_testdata_file("waveform_ecg.dcm", download=False))).read_bytes())
    entry, arrays, rejected = _prepared(folder, Parameters(variants=10, seed=4))
    assert rejected == ()
    assert (arrays["volume_0"].shape, arrays["volume_0"].dtype) == ((4, 128, 128), np.int16)
    assert Image.open(BytesIO(arrays["thumbnail_0"].tobytes())).size == (128, 128)
    assert np.array_equal(arrays["pool_0"][0], arrays["volume_0"][2])
    shapes = {tuple(arrays[f"ecg_{number}"].shape) for number in (0, 1)}
    assert shapes == {(3, 750), (12, 2500)}
    assert entry["text"] == _NOTE
    assert [(each["finding"], each["status"]) for each in entry["entities"]] == [
        ("nodule", "present"), ("pleural_effusion", "absent"),
    ]  # fmt: skip
    full, own = entry["samples"]
    assert full["kind"] == "full_study"
    assert (own["kind"], own["entity"]) == ("entity_based", 0)
    assert [entry["volumes"][0]["numbers"][index] for index in range(*own["slices"])] == [1]


def test_the_same_folder_gives_the_same_bytes(tmp_path: Path) -> None:
    [task] = tasks_of(_folder(tmp_path).parent)
    settings = Parameters(variants=3, spacing_mm=(2.5, 1.0, 1.0)).as_json()
    assert prepare_patient(task, settings) == prepare_patient(task, settings)


def test_a_part_that_is_bad_is_named_and_the_rest_is_kept(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    (folder / "image-1.dcm").unlink()
    (folder / "ecg-2.csv").write_text(f"# Patient Name: {_SECRET}\n# Units: mV\nI,II\n1,2\n")
    (folder / "eeg.edf").write_bytes(b"0       " + _SECRET.encode())
    (folder / "scan.tiff").write_bytes(b"II*")
    entry, arrays, rejected = _prepared(folder)
    assert {name.rsplit("-", 1)[0] for name, reason in rejected if reason == "gap"} == {"image"}
    assert {("ecg-2.csv", "bad_rate"), ("eeg.edf", "unreadable"), ("scan.tiff", "unknown_format")} <= set(rejected)
    assert entry["volumes"] == []
    assert "ecg_0" in arrays
    assert _SECRET not in json.dumps(entry)


def _reason(task: Task) -> str:
    with pytest.raises(SampleError) as caught:
        prepare_patient(task, Parameters().as_json())
    return caught.value.reason


def test_a_folder_that_gives_no_sample_is_refused(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    note = str(folder / "note.txt")
    assert _reason(Task("p1", (str(folder / "ecg.csv"),))) == "no_note"
    (folder / "ecg.csv").write_text("")
    assert _reason(Task("p1", (note, str(folder / "ecg.csv")))) == "nothing_usable"
    (folder / "note.txt").write_bytes("未见结节".encode("gb18030"))
    assert _reason(Task("p1", (note,))) == "bad_text"


def test_parameters_come_back_from_json() -> None:
    settings = Parameters(spacing_mm=(3.0, 1.0, 1.0), augmentation=Augmentation(rotate=0.5))
    assert from_json(json.loads(json.dumps(settings.as_json()))) == settings


def test_links_are_not_followed(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    (folder / "note-2.txt").symlink_to("/etc/hostname")
    (tmp_path / "patients" / "p2").symlink_to(folder)
    [task] = tasks_of(folder.parent)
    assert not any(name.endswith("note-2.txt") for name in task.inputs)


def test_only_a_signed_deidentified_tree_is_prepared(tmp_path: Path) -> None:
    signer = Ed25519PrivateKey.generate()
    tree = tmp_path / "clean"
    _folder(tree)
    with pytest.raises(UserError):
        prepare_tree(tree, tmp_path / "out", signer.public_key(), signer, Parameters())
    sign_clean(tree, signer, stage="something")
    with pytest.raises(UserError, match="not made by"):
        prepare_tree(tree, tmp_path / "out", signer.public_key(), signer, Parameters())
    sign_clean(tree, signer, failed="patients/p1/note.txt")
    with pytest.raises(UserError, match="did not pass"):
        prepare_tree(tree, tmp_path / "out", signer.public_key(), signer, Parameters())
    with pytest.raises(UserError, match="inside each other"):
        prepare_tree(tree, tree / "out", signer.public_key(), signer, Parameters())
    with pytest.raises(UserError, match="no directory 'patients'"):
        prepare_tree(tmp_path, tmp_path / "out", signer.public_key(), signer, Parameters())
    assert not (tmp_path / "out").exists()


def test_the_command_prepares_a_tree_and_refuses_wrong_options(tmp_path: Path) -> None:
    signer = Ed25519PrivateKey.generate()
    tree = tmp_path / "clean"
    for name in ("p1", "p2", "p3"):
        _folder(tree, name)
    (tree / "patients/p3/note.txt").unlink()
    sign_clean(tree, signer)
    (tmp_path / "deid.pub").write_bytes(public_key_pem(signer.public_key()))
    command = [
        sys.executable,
        "-m",
        "cli.main",
        "data",
        "prepare",
        str(tree),
        str(tmp_path / "out"),
        "--processes",
        "2",
    ]
    command += ["--key", str(tmp_path / "deid.pub")]
    home = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
    bad = subprocess.run([*command, "--spacing", "1,2"], capture_output=True, text=True, check=False, env=home)
    assert (bad.returncode, "three numbers" in bad.stderr) == (2, True)
    good = subprocess.run(command, capture_output=True, text=True, check=False, env=home)
    assert good.returncode == 0, good.stderr
    assert "2 samples, 1 quarantined" in good.stdout
    assert "quarantined: 1 x no_note" in good.stdout
    again = subprocess.run(command, capture_output=True, text=True, check=False, env=home)
    assert again.stdout == good.stdout, again.stderr

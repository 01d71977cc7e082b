"""What a hospital's export can hold that nobody planned for: nothing is lost, nothing hangs, no patient is named."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from typer.testing import CliRunner

from curation.commands import app
from curation.deid.keys import PseudonymKey
from curation.deid.tree import Summary, deidentify_tree
from curation.sample import write_sample
from medllm.errors import UserError
from medllm.files import staged_directory
from tests.unit.test_curation_dicom import planted, run

KEY = PseudonymKey(b"k" * 32)
NAME = "Agnes Whitmore"


def patient(root: Path, folder: str, identifier: object = "X-1", note: str = "well", **more: object) -> Path:
    place = root / "patients" / folder
    place.mkdir(parents=True)
    meta = {"patient_id": identifier, "lang": "en", "kind": "discharge", "patient": {"name": NAME}, **more}
    (place / "meta.json").write_text(json.dumps(meta))
    (place / "note.txt").write_text(f"The patient is {note}.\n")
    return place


def deid(root: Path, destination: Path) -> tuple[Summary, list[dict[str, object]]]:
    done = deidentify_tree(root, destination, KEY, Ed25519PrivateKey.generate())
    return done, json.loads((destination / "report.json").read_text())["files"]


def interrupt(work: Path) -> None:
    (work / "half").touch()
    raise KeyboardInterrupt


@pytest.mark.parametrize("suffix", [".tmp", ".old"])
def test_a_directory_of_a_like_name_is_left_alone_even_when_it_is_the_source(tmp_path: Path, suffix: str) -> None:
    raw = tmp_path / f"clean{suffix}"
    patient(raw, "A")
    for _ in range(2):
        deid(raw, tmp_path / "clean")
    assert (raw / "patients" / "A" / "note.txt").is_file()
    (tmp_path / f"sample{suffix}").mkdir()
    write_sample(tmp_path / "sample", limit=1)
    assert (tmp_path / f"sample{suffix}").is_dir()
    assert not list(tmp_path.glob(".*"))


def test_a_directory_that_was_there_comes_back_when_its_successor_fails(tmp_path: Path) -> None:
    target = tmp_path / "set"
    target.mkdir()
    (target / "good").touch()
    for action, error in ((interrupt, KeyboardInterrupt), (shutil.rmtree, FileNotFoundError)):
        with pytest.raises(error), staged_directory(target) as work:
            action(work)
    assert [path.name for path in tmp_path.rglob("*")] == ["set", "good"]


def test_a_second_folder_of_the_same_patient_number_is_held_back_and_overwrites_nothing(tmp_path: Path) -> None:
    patient(tmp_path / "raw", "A", note="first")
    patient(tmp_path / "raw", "B", note="second")
    done, report = deid(tmp_path / "raw", tmp_path / "clean")
    (note,) = (tmp_path / "clean").rglob("note*.txt")
    assert "first" in note.read_text()
    assert done.quarantined == {"patient_id_stands_twice": 1}
    assert len(report) == 2


@pytest.mark.parametrize(
    "meta", ['{"patient_id": null}', '{"patient_id": " "}', '{"patient_id": ["a"]}', '{"patient_id": true}',
             '{"patient_id": "a", "patient": ["Agnes"]}', "[1]", "[" * 100_000, "", "{"],
)  # fmt: skip
def test_meta_that_does_not_say_who_it_is_holds_the_folder_back(tmp_path: Path, meta: str) -> None:
    patient(tmp_path / "raw", "A", "X-2")
    (patient(tmp_path / "raw", "B") / "meta.json").write_text(meta)
    done, _ = deid(tmp_path / "raw", tmp_path / "clean")
    assert (done.passed, done.quarantined) == (1, {"no_usable_meta": 2})


def test_a_pipe_a_strange_name_and_a_directory_called_note_stop_nothing(tmp_path: Path) -> None:
    place = patient(tmp_path / "raw", "A", "X\ud800")
    patient(tmp_path / "raw", "B", "X-2")
    os.mkfifo(place / "note-2.txt")
    (place / "note-3.txt").mkdir()
    (place / os.fsdecode(b"scan\xff.pdf")).touch()
    (place / os.fsdecode(b"note\xff.txt")).write_text("well")
    done, _ = deid(tmp_path / "raw", tmp_path / "clean")
    assert done.passed >= 1
    assert {"special_file", "unsupported_file"} <= set(done.quarantined)


def test_a_name_in_the_description_of_a_note_does_not_go_on(tmp_path: Path) -> None:
    patient(tmp_path / "raw", "A", kind="letter_Whitmore", lang="agnes")
    deid(tmp_path / "raw", tmp_path / "clean")
    (meta,) = (tmp_path / "clean").rglob("meta.json")
    assert set(json.loads(meta.read_text())) == {"patient"}


def test_a_record_number_written_as_a_json_number_is_known_too(tmp_path: Path) -> None:
    patient(tmp_path / "raw", "A", note="448812 in ward 3", patient={"name": NAME, "mrn": 448812, "more": ["wellness"]})
    patient(tmp_path / "raw", "B", "X-2")
    deid(tmp_path / "raw", tmp_path / "clean")
    assert not [path for path in (tmp_path / "clean").rglob("*.txt") if "448812" in path.read_text()]


def test_no_path_of_the_source_is_told_when_it_can_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = patient(tmp_path / "raw", NAME)

    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied", str(place / "note.txt"))

    monkeypatch.setattr(Path, "glob", refuse)
    with pytest.raises(PermissionError) as caught:
        deid(tmp_path / "raw", tmp_path / "clean")
    assert NAME not in str(caught.value)
    assert caught.value.__suppress_context__
    assert caught.value.errno == 13


def test_an_unexpected_error_is_told_without_the_data_that_it_quotes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient(tmp_path / "raw", NAME)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def fail(*_: object) -> None:
        raise KeyError(NAME)

    monkeypatch.setattr("curation.deid.tree._roster", fail)
    done = CliRunner().invoke(app, ["deid", str(tmp_path / "raw"), str(tmp_path / "clean")])
    assert done.exit_code == 1
    assert "KeyError in test_curation_hostile.py:" in done.output
    assert NAME not in done.output
    assert not (tmp_path / "clean").exists()


def test_nothing_passed_says_why(tmp_path: Path) -> None:
    (patient(tmp_path / "raw", NAME) / "meta.json").unlink()
    with pytest.raises(UserError, match="1 x no_usable_meta"):
        deid(tmp_path / "raw", tmp_path / "clean")
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("keyword", "vr"),
    [("SliceThickness", "DS"), ("InstanceNumber", "IS"), ("Modality", "CS"), ("PatientBirthTime", "TM"),
     ("PatientAge", "AS"), ("PixelSpacing", "DS"), ("SpecificCharacterSet", "CS")],
)  # fmt: skip
def test_free_text_in_a_field_of_another_form_does_not_go_on(keyword: str, vr: str) -> None:
    dataset = planted()
    tag = Tag(tag_for_keyword(keyword) or 0)
    value = b"SEENBYTALLIS" if keyword == "SpecificCharacterSet" else b"seen by Ms. Tallis"
    dataset._dict[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)
    _, written = run(dataset)
    assert b"tallis" not in written.lower()


def test_well_formed_values_stay() -> None:
    dataset = planted()
    dataset.PixelSpacing, dataset.InstanceNumber, dataset.StudyTime = ["0.5", "5e-1"], "12", "101530.25"
    clean, _ = run(dataset)
    assert (list(clean.PixelSpacing), clean.InstanceNumber, clean.Modality) == ([0.5, 0.5], 12, "CT")
    assert clean.StudyTime == "101530.25"

"""A raw tree with links, pipes, devices and misfiled pictures: only plain files of one patient are read."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from curation.deid import intake
from curation.deid.unsafe import UnsafeError
from medllm.errors import UserError
from tests.unit.test_curation_dicom import as_bytes, planted
from tests.unit.test_curation_hostile import deid, patient

SECRET = "The neighbour is Ruth Tallis."


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    patient(tmp_path / "raw", "A")
    (tmp_path / "secret.txt").write_text(SECRET)
    return tmp_path / "raw"


def quarantined(raw: Path) -> dict[str, int]:
    """Why files were held back, after it is sure that the source is as it was and no content came from outside."""
    before = {path: (path.lstat().st_mtime_ns, path.lstat().st_mode) for path in sorted(raw.rglob("*"))}
    clean = raw.parent / "clean"
    done, _ = deid(raw, clean)
    assert {path: (path.lstat().st_mtime_ns, path.lstat().st_mode) for path in sorted(raw.rglob("*"))} == before
    assert not any(path.is_symlink() for path in clean.rglob("*"))
    assert not [path for path in clean.rglob("*") if path.is_file() and b"neighbour" in path.read_bytes()]
    return dict(done.quarantined)


def test_links_are_not_followed_and_loops_end(raw: Path) -> None:
    place = raw / "patients" / "A"
    (place / "note-2.txt").symlink_to(raw.parent / "secret.txt")
    (place / "note-3.txt").symlink_to("/proc/self/environ")
    (place / "more").symlink_to(raw.parent)
    (place / "loop").symlink_to(".")
    (raw / "patients" / "B").symlink_to(place)
    assert quarantined(raw) == {"symbolic_link": 4, "not_a_patient_directory": 1}


def test_meta_behind_a_link_says_nothing(raw: Path) -> None:
    place = patient(raw, "B", "X-2")
    (place / "meta.json").rename(raw.parent / "meta.json")
    (place / "meta.json").symlink_to(raw.parent / "meta.json")
    assert quarantined(raw) == {"no_usable_meta": 2}


def test_a_folder_of_patients_behind_a_link_is_refused(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "patients").symlink_to(raw / "patients")
    with pytest.raises(UserError, match="'patients' is a symbolic link"):
        deid(tmp_path / "other", tmp_path / "clean")


def test_special_files_are_not_opened(raw: Path) -> None:
    place = raw / "patients" / "A"
    os.mkfifo(place / "note-2.txt")
    os.mkfifo(place / "image.dcm")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(place / "ecg.csv"))
        expected = 3
        try:
            os.mknod(place / "ecg.edf", 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero never ends
            expected = 4
        except PermissionError:
            pass  # only root makes devices
        assert quarantined(raw) == {"special_file": expected}


def test_a_file_with_a_second_hard_link_is_held_back(raw: Path) -> None:
    place = patient(raw, "B", "X-2")
    (place / "note-2.txt").hardlink_to(raw.parent / "secret.txt")
    (place / "note-3.txt").hardlink_to(raw / "patients" / "A" / "note.txt")
    # The other patient's name of it is no better.
    assert quarantined(raw) == {"hard_link": 3}


def test_folders_without_end_are_cut(raw: Path) -> None:
    place = raw / "patients" / "A"
    place.joinpath(*["d"] * intake.MAX_DEPTH).mkdir(parents=True)
    (place.joinpath(*["d"] * intake.MAX_DEPTH) / "note.txt").write_text("well\n")
    below = place.joinpath(*["d"] * (intake.MAX_DEPTH + 1))
    below.mkdir()
    (below / "note.txt").write_text(SECRET)
    assert quarantined(raw) == {"folder_too_deep": 1}


def test_a_larger_file_than_its_kind_may_be_is_not_read(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = raw / "patients" / "A"
    with (place / "note-2.txt").open("wb") as stream:  # sparse: it takes no room
        stream.truncate(intake.MAX_BYTES[".txt"] + 1)
    with (place / "image.dcm").open("wb") as stream:
        stream.truncate(1 << 40)
    assert quarantined(raw) == {"too_large": 2}
    with (place / "meta.json").open("ab") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(UserError, match="no_usable_meta"):
        deid(raw, raw.parent / "clean")


def test_a_file_that_becomes_a_link_before_it_is_opened_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret.txt").write_text(SECRET)
    (tmp_path / "note.txt").symlink_to(tmp_path / "secret.txt")
    monkeypatch.setattr(intake, "check_plain", lambda _path: None)
    with pytest.raises(OSError, match="symbolic links"):
        intake.read_plain(tmp_path / "note.txt")
    (tmp_path / "note.txt").unlink()
    os.mkfifo(tmp_path / "note.txt")
    with pytest.raises(UnsafeError, match="special_file"):
        intake.read_plain(tmp_path / "note.txt")


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "StudyInstanceUID"])
def test_a_study_in_two_patients_folders_is_held_back_in_both(raw: Path, keyword: str) -> None:
    other = patient(raw, "B", "X-2")
    for number, place in enumerate((raw / "patients" / "A", other)):
        for image in ("own", "shared"):
            dataset = planted()
            dataset.StudyInstanceUID, dataset.SOPInstanceUID = (
                f"1.2.{number}.{image == 'own':d}",
                f"1.3.{number}.{image == 'own':d}",
            )
            if image == "shared":
                setattr(dataset, keyword, "1.2.3.4.5")
            (place / f"{image}.dcm").write_bytes(as_bytes(dataset))
    assert quarantined(raw) == {"same_study_in_two_patients": 2}
    assert len(list((raw.parent / "clean").rglob("*.dcm"))) == 2


def test_a_patient_of_whom_only_a_shared_study_was_there_is_not_in_the_output(raw: Path) -> None:
    other = patient(raw, "B", "X-2")
    (other / "note.txt").unlink()
    for place in (raw / "patients" / "A", other):
        (place / "image.dcm").write_bytes(as_bytes(planted()))
    assert quarantined(raw) == {"same_study_in_two_patients": 2}
    assert len(list((raw.parent / "clean" / "patients").iterdir())) == 1

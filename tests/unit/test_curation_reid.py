"""Who is who, sealed: only the private key's holder reads it, each look-up is logged, nothing of it is published."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hpke, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from typer.testing import CliRunner, Result

from curation.commands import app
from curation.deid.keys import PseudonymKey
from curation.deid.reid import Identity, Table, load_reader, load_recipient, read_table
from curation.deid.reid_audit import record
from medllm.errors import UserError

KEY = PseudonymKey(b"k" * 32)
PEOPLE = [Identity(KEY.patient(f"ID-{n}"), f"ID-{n}", f"MR-77{n}", -400 - n) for n in range(3)]


def pair(folder: Path, name: str = "reid") -> tuple[Path, Path]:
    """A key pair as `openssl genpkey -algorithm X25519` writes it: (private, public)."""
    key = X25519PrivateKey.generate()
    private, public = folder / f"{name}.key", folder / f"{name}.pub"
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    private.chmod(0o600)
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


def raw_tree(root: Path, people: int) -> Path:
    for number in range(people):
        folder = root / "patients" / f"ID-{number}"
        folder.mkdir(parents=True, exist_ok=True)
        who = {"name": "Agnes Whitmore", "mrn": f"MR-77{number}"}
        (folder / "meta.json").write_text(json.dumps({"patient_id": f"ID-{number}", "patient": who}))
        (folder / "note.txt").write_text(f"The patient, MRN MR-77{number}, is well.\n")
    return root


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path


def data(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def log(home: Path) -> Path:
    return home / "state" / "medllm-cluster" / "audit" / "reid.jsonl"


def test_the_published_patients_are_found_again_and_each_look_up_is_logged(home: Path) -> None:
    private, public = pair(home)
    table, clean = home / "who.jsonl", home / "clean"
    done = data("deid", raw_tree(home / "raw", 2), clean, "--reid-table", table, "--reid-key", public)
    assert done.exit_code == 0, done.output
    assert table.stat().st_mode & 0o777 == 0o600
    pseudonyms = sorted(path.name for path in (clean / "patients").iterdir())
    shown = data("reid", table, "--key", private, "--reason", "recall of a device", "--json", *pseudonyms)
    assert shown.exit_code == 0, shown.output
    rows = json.loads(shown.stdout)["patients"]
    assert {(row["patient_id"], row["mrn"]) for row in rows} == {("ID-0", "MR-770"), ("ID-1", "MR-771")}
    assert all(row["shift_days"] <= -366 for row in rows)
    lines = log(home).read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    assert [entry["pseudonym"] for entry in entries] == pseudonyms
    assert all(entry["reason"] == "recall of a device" and entry["user"] and entry["time"] for entry in entries)
    assert entries[1]["previous"] == hashlib.sha256(lines[0].encode()).hexdigest(), "a changed line would show"
    assert not re.search(r"ID-\d|MR-77", log(home).read_text())
    assert log(home).stat().st_mode & 0o777 == 0o600


def test_the_table_shows_no_identity_to_who_lacks_the_key(tmp_path: Path) -> None:
    _, public = pair(tmp_path)
    other, _ = pair(tmp_path, "other")
    table = Table(tmp_path / "who.jsonl", load_recipient(public))
    table.extend(KEY, PEOPLE)
    content = table.file.read_text()
    for person in PEOPLE:
        for value in (person.patient_id, person.mrn, person.pseudonym, str(person.shift_days)):
            assert value not in content
    with pytest.raises(UserError, match="for another key"):
        read_table(table.file, load_reader(other))
    assert not re.search("ID-|MR-", repr(PEOPLE))


def test_a_run_again_changes_no_byte_and_a_grown_source_adds_only_who_is_new(tmp_path: Path) -> None:
    private, public = pair(tmp_path)
    table = Table(tmp_path / "who.jsonl", load_recipient(public))
    assert table.extend(KEY, PEOPLE[:2]) == 2
    first = table.file.read_bytes()
    assert table.extend(KEY, PEOPLE[:2]) == 0
    assert table.file.read_bytes() == first
    assert table.extend(KEY, PEOPLE) == 1
    assert table.file.read_bytes().startswith(first), "what was there stays"
    assert read_table(table.file, load_reader(private)) == {person.pseudonym: person for person in PEOPLE}


@pytest.mark.parametrize("where", ["clean/who.jsonl", "clean/patients/who.jsonl", "raw/who.jsonl", "link/who.jsonl"])
def test_a_table_inside_a_tree_is_refused_before_any_work(home: Path, where: str) -> None:
    _, public = pair(home)
    raw = raw_tree(home / "raw", 1)
    (home / "link").symlink_to(home / "clean")
    done = data("deid", raw, home / "clean", "--reid-table", home / where, "--reid-key", public)
    assert isinstance(done.exception, UserError)
    assert "would lie inside" in str(done.exception)
    assert not (home / "clean").exists()
    assert not list(home.rglob("who.jsonl"))


def test_bad_tables_and_keys_stop_the_run_before_anything_is_written(home: Path) -> None:
    private, public = pair(home)
    _, other = pair(home, "other")
    raw, clean = raw_tree(home / "raw", 1), home / "clean"
    (home / "text").write_text("mine\n")
    (home / "foreign").write_text("")
    Table(home / "old", load_recipient(other)).extend(KEY, PEOPLE)
    (home / "open").write_bytes((home / "old").read_bytes())
    (home / "link").symlink_to(home / "old")
    ed = Ed25519PrivateKey.generate().public_key()
    (home / "ed.pub").write_bytes(
        ed.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    for file, key, rule in (
        (home / "text", public, "not a medllm-reid-1 table"),
        (home / "foreign", public, "not a medllm-reid-1 table"),
        (home / "old", public, "for another key"),
        (home / "open", other, "others can read the table"),
        (home / "link", other, "no plain file"),
        (home, other, "no plain file"),
        (home / "none" / "who", public, "no such directory"),
        (home / "new", private, "not an X25519 public key"),
        (home / "new", home / "ed.pub", "not an X25519 public key"),
        (home / "new", home / "nothing", "there is no key"),
    ):
        done = data("deid", raw, clean, "--reid-table", file, "--reid-key", key)
        assert isinstance(done.exception, UserError), (file, done.output)
        assert rule in str(done.exception)
        assert not clean.exists()
    assert (home / "text").read_text() == "mine\n"
    assert not (home / "new").exists()
    alone = data("deid", raw, clean, "--reid-table", home / "new")
    assert "go together" in str(alone.exception)


def test_a_tree_that_fails_leaves_the_table_alone(home: Path) -> None:
    _, public = pair(home)
    raw = raw_tree(home / "raw", 1)
    (raw / "patients" / "ID-0" / "note.txt").unlink()
    done = data("deid", raw, home / "clean", "--reid-table", home / "who", "--reid-key", public)
    assert "no file passed" in str(done.exception)
    assert not (home / "who").exists()


def test_nobody_is_published_when_the_table_can_not_be_written(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Table, *_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(self.file))

    _, public = pair(home)
    monkeypatch.setattr(Table, "extend", full)
    done = data("deid", raw_tree(home / "raw", 1), home / "clean", "--reid-table", home / "who", "--reid-key", public)
    assert isinstance(done.exception, OSError)
    assert done.exception.filename == str(home / "who"), "it names the table, not the tree"
    assert not (home / "clean").exists()
    assert not list(home.glob(".clean*"))


def test_runs_at_the_same_time_lose_nobody(tmp_path: Path) -> None:
    private, public = pair(tmp_path)
    table = Table(tmp_path / "who", load_recipient(public))
    people = [Identity(KEY.patient(f"ID-{n}"), f"ID-{n}", "", -400) for n in range(24)]
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(lambda person: table.extend(KEY, [person]), people)) == 24
    assert set(read_table(table.file, load_reader(private))) == {person.pseudonym for person in people}


def test_an_altered_table_is_refused_and_nobody_is_told(tmp_path: Path) -> None:
    private, public = pair(tmp_path)
    table = Table(tmp_path / "who", load_recipient(public))
    table.extend(KEY, PEOPLE[:1])
    table.extend(KEY, PEOPLE[1:])
    head, first, second = table.file.read_text().splitlines()
    swapped = json.dumps({"marks": json.loads(first)["marks"], "sealed": json.loads(second)["sealed"]})
    flipped = first.replace('"sealed": "', '"sealed": "AAAA')
    for lines in ([head, first, swapped], [head, flipped], [head, first, '{"marks": 1}'], [head, first, "[" * 9999]):
        table.file.write_text("\n".join(lines) + "\n")
        with pytest.raises(UserError, match="altered or not sealed"):
            read_table(table.file, load_reader(private))


def test_two_patients_of_one_pseudonym_are_refused_not_chosen_from(tmp_path: Path) -> None:
    private, public = pair(tmp_path)
    table = Table(tmp_path / "who", load_recipient(public))
    table.extend(KEY, PEOPLE[:1])
    table.extend(KEY, [Identity(PEOPLE[0].pseudonym, "ID-666", "MR-666", -400)])
    with pytest.raises(UserError, match="two patients") as caught:
        read_table(table.file, load_reader(private))
    assert "ID-" not in str(caught.value)


def test_a_new_record_number_of_a_patient_takes_the_old_ones_place(tmp_path: Path) -> None:
    private, public = pair(tmp_path)
    table = Table(tmp_path / "who", load_recipient(public))
    table.extend(KEY, PEOPLE[:1])
    newer = Identity(PEOPLE[0].pseudonym, PEOPLE[0].patient_id, "MR-NEW", PEOPLE[0].shift_days)
    table.extend(KEY, [newer])
    assert read_table(table.file, load_reader(private)) == {newer.pseudonym: newer}


def test_what_must_not_be_looked_up_is_refused_without_naming_anybody(home: Path) -> None:
    private, public = pair(home)
    table = Table(home / "who", load_recipient(public))
    table.extend(KEY, PEOPLE)
    name = PEOPLE[0].pseudonym
    for reason, asked, rule in (
        (" ", name, "no printable line"),
        ("two\nlines", name, "no printable line"),
        ("x" * 201, name, "no printable line"),
        ("because of mr-771", name, "the reason names a patient"),
        ("audit", "MR-770", "this is no pseudonym"),
    ):
        done = data("reid", table.file, "--key", private, "--reason", reason, asked)
        assert isinstance(done.exception, UserError), done.output
        assert rule in str(done.exception)
        assert "MR-77" not in done.output + str(done.exception)
        assert not log(home).exists()
    assert data("reid", table.file, "--key", private, name).exit_code == 2, "--reason is required"
    private.chmod(0o644)
    assert "others can read" in str(data("reid", table.file, "--key", private, "--reason", "audit", name).exception)


def test_an_unknown_pseudonym_is_logged_as_refused_and_nobody_is_told(home: Path) -> None:
    private, public = pair(home)
    table = Table(home / "who", load_recipient(public))
    table.extend(KEY, PEOPLE)
    done = data("reid", table.file, "--key", private, "--reason", "audit", PEOPLE[0].pseudonym, "p" + "0" * 20)
    assert "no such pseudonym" in str(done.exception)
    assert done.stdout == ""
    assert {json.loads(line)["outcome"] for line in log(home).read_text().splitlines()} == {"refused"}


def test_without_a_log_nobody_is_told(home: Path) -> None:
    private, public = pair(home)
    table = Table(home / "who", load_recipient(public))
    table.extend(KEY, PEOPLE)
    log(home).parent.parent.mkdir(parents=True)
    log(home).parent.write_text("a file is in the way")
    done = data("reid", table.file, "--key", private, "--reason", "audit", PEOPLE[0].pseudonym)
    assert isinstance(done.exception, OSError)
    assert done.stdout == ""
    log(home).parent.unlink()
    record(log(home), [PEOPLE[0].pseudonym], "audit", "0" * 64, "shown")
    log(home).write_bytes(log(home).read_bytes()[:-5])
    broken = data("reid", table.file, "--key", private, "--reason", "audit", PEOPLE[0].pseudonym)
    assert "half a line" in str(broken.exception)
    assert broken.stdout == ""


@pytest.mark.parametrize("kept", [[0, 2, 3], [1, 2, 3], [0, 1, 1, 2], [0, 2, 1, 3]])
def test_a_line_taken_out_of_the_log_or_moved_stops_the_next_look_up(home: Path, kept: list[int]) -> None:
    private, public = pair(home)
    table = Table(home / "who", load_recipient(public))
    table.extend(KEY, PEOPLE)
    ask = ("reid", table.file, "--key", private, "--reason", "audit", PEOPLE[0].pseudonym)
    for _ in range(4):
        assert data(*ask).exit_code == 0
    lines = log(home).read_text().splitlines(keepends=True)
    log(home).write_text("".join(lines[number] for number in kept))
    done = data(*ask)
    assert "was altered" in str(done.exception)
    assert done.stdout == ""
    log(home).write_text("".join(lines).replace('"reason": "audit"', '"reason": "other"', 1))
    assert "was altered" in str(data(*ask).exception)


def test_the_seal_is_plain_rfc_9180_so_that_other_tools_can_open_it(tmp_path: Path) -> None:
    private, public = pair(tmp_path)
    table = Table(tmp_path / "who", load_recipient(public))
    table.extend(KEY, PEOPLE[:1])
    head, line = (json.loads(text) for text in table.file.read_text().splitlines())
    suite = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)
    info = "\0".join([head["format"], head["recipient"], *line["marks"]]).encode()
    body = json.loads(suite.decrypt(base64.b64decode(line["sealed"]), load_reader(private), info=info))
    assert body[0]["patient_id"] == "ID-0"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_the_keys_that_the_error_tells_to_make_are_taken(tmp_path: Path) -> None:
    private, public = tmp_path / "reid.key", tmp_path / "reid.pub"
    subprocess.run(["openssl", "genpkey", "-algorithm", "X25519", "-out", private], check=True, capture_output=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True, capture_output=True)
    assert load_reader(private).public_key().public_bytes_raw() == load_recipient(public).public_bytes_raw()

"""A repository's key is trusted only as it was declared: the declaration, the reading of keys, the Ansible action."""

from __future__ import annotations

import base64
import shutil
import subprocess
from pathlib import Path

import pytest

from medllm.errors import UserError
from medllm.parsers.openpgp import fingerprints, trusted_keys
from medllm.site import load_site
from tests.unit.acceptance_inputs import KEYRING, VENDOR
from tests.unit.test_bringup_plugins import play

REPOSITORY = Path(__file__).parents[2]
OTHER = "EB693B3035CD5710E231E123A4B469963BF863CC"
CUDA = "    key_url: http://10.20.0.10:8081/cuda/cuda-archive-keyring.asc\n"
PRINTS = f"    key_fingerprints: [{OTHER}]\n"
DOCA = "    key_file: /etc/medllm/keys/doca.asc\n"
APT_HELPER = Path("/usr/lib/apt/apt-helper")


def block(data: bytes, kind: str = "PUBLIC KEY") -> bytes:
    head, tail = f"-----BEGIN PGP {kind} BLOCK-----\n\n", f"-----END PGP {kind} BLOCK-----\n"
    return head.encode() + base64.encodebytes(data) + tail.encode()


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (PRINTS, "", ["trusted unseen", "cuda-archive-keyring.asc", "add key_fingerprints"]),
        (PRINTS, "    key_fingerprints: []\n", ["trusted unseen"]),
        (PRINTS, PRINTS.replace(OTHER, OTHER.lower()), ["40 hex digits in capitals"]),
        (PRINTS, PRINTS.replace(OTHER, OTHER[-8:]), ["40 hex digits in capitals"]),
        (PRINTS, PRINTS.replace(OTHER, f"'{OTHER[:20]} {OTHER[20:]}'"), ["without spaces"]),
        (PRINTS, PRINTS.replace(OTHER, f"'{OTHER}\\n'"), ["40 hex digits in capitals"]),
        (PRINTS, PRINTS.replace(f"[{OTHER}]", OTHER), ["valid list"]),
        (CUDA, "", ["'cuda' has no signing key", "key_file"]),
        (DOCA, "", ["'doca' has no signing key"]),
        (DOCA, DOCA + CUDA, ["'doca' has two signing keys"]),
        (DOCA, DOCA + PRINTS, ["key_file is trusted as it is"]),
        (DOCA, "    key_file: keys/doca.asc\n", ["should match pattern"]),
    ],
)
def test_a_key_that_nobody_vouches_for_is_refused(old: str, new: str, told: list[str], tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "inventory", tmp_path / "inventory")
    file = tmp_path / "inventory/h200/group_vars/all/site_repositories.yml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError) as caught:
        load_site(tmp_path / "inventory/h200")
    (problem,) = caught.value.problems
    assert problem.file == file
    assert problem.line
    for part in told:
        assert part in str(problem)


@pytest.mark.parametrize("keyring", [KEYRING, block(KEYRING), KEYRING + KEYRING], ids=["binary", "armored", "twice"])
def test_a_declared_key_comes_back_and_gpg_reads_it(keyring: bytes, tmp_path: Path) -> None:
    text = trusted_keys(keyring, [OTHER, VENDOR])
    assert set(fingerprints(text.encode())) == {VENDOR}
    assert trusted_keys(text.encode(), None) == text
    if gpg := shutil.which("gpg"):
        (tmp_path / "key.asc").write_text(text)
        show = [gpg, "--homedir", str(tmp_path), "--batch", "--show-keys", "--with-colons", str(tmp_path / "key.asc")]
        shown = subprocess.run(show, capture_output=True, text=True, check=True).stdout
        assert f"fpr:::::::::{VENDOR}:" in shown


@pytest.mark.parametrize(
    "keyring", [KEYRING, block(KEYRING) + block(KEYRING)], ids=["another key", "another key, twice"]
)
def test_a_key_that_is_not_declared_is_named_beside_the_declared(keyring: bytes) -> None:
    with pytest.raises(ValueError, match=f"the key is {VENDOR}.* declared is {OTHER}"):
        trusted_keys(keyring, [OTHER])


def test_what_another_reader_could_take_for_a_key_is_left_out() -> None:
    """apt's own way to read an .asc file (apt-key of 2.6) takes a block for keys whatever its head says."""
    hidden = block(KEYRING) + block(b"\x99\x01\x0d\x04 a key of somebody else", "MESSAGE") + b"and more text\n"
    assert trusted_keys(hidden, [VENDOR]) == trusted_keys(KEYRING, [VENDOR])


@pytest.mark.parametrize(
    ("keyring", "told"),
    [
        (b"<html>404 Not Found</html>", "no OpenPGP packet"),
        (b"", "no public key"),
        (KEYRING[:-5], "cut off"),
        (KEYRING + b"\xc5\x02\x04\x00", "packet of type 5"),
        (KEYRING + b"\xc8\x02\x01\x00", "packet of type 8"),
        (b"\xcd\x01a" + KEYRING, "packet of type 13"),
    ],
    ids=["a page", "nothing", "cut off", "a secret key", "compressed", "no key first"],
)
def test_anything_else_than_public_keys_is_refused(keyring: bytes, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        trusted_keys(keyring, [VENDOR])


def test_gpgs_own_notes_about_trust_are_left_out() -> None:
    assert trusted_keys(KEYRING + b"\xcc\x02\x00\x03", [VENDOR]) == trusted_keys(KEYRING, [VENDOR])


def judged(tmp_path: Path, repository: dict[str, object]) -> dict[str, object]:
    """What the action would do on this machine, which it does not change."""
    task = {"name": "Trust", "signing_keys": {"repositories": [{"name": "medllm-unit-test", **repository}]}}
    return play(tmp_path, [task], "--check", "--diff")


def test_a_checked_file_of_the_controller_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "key.gpg").write_bytes(KEYRING)
    result = judged(tmp_path, {"key_file": str(tmp_path / "key.gpg")})
    assert result["changed_files"] == ["/etc/apt/keyrings/medllm-unit-test.asc"]
    assert result["diff"][0]["after"] == trusted_keys(KEYRING, None)  # type: ignore[index]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    result = judged(tmp_path, {"key_file": f"{tmp_path}/absent.asc"})
    assert result["failed"]
    assert "absent.asc can't be read on this controller (No such file" in str(result["msg"])


def test_an_address_without_fingerprints_is_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    result = judged(tmp_path, {"key_url": f"file://{tmp_path}/absent"})
    assert result["failed"]
    assert "no trusted key. Fix: declare" in str(result["msg"])


@pytest.mark.skipif(not APT_HELPER.exists(), reason="apt is missing")
def test_what_is_fetched_must_be_what_is_declared(tmp_path: Path) -> None:
    (tmp_path / "key.gpg").write_bytes(KEYRING)
    url = f"file://{tmp_path}/key.gpg"
    good = judged(tmp_path, {"key_url": url, "key_fingerprints": [VENDOR]})
    assert good["diff"][0]["after"] == trusted_keys(KEYRING, None)  # type: ignore[index]
    bad = judged(tmp_path, {"key_url": url, "key_fingerprints": [OTHER]})
    assert bad["failed"]
    assert "diff" not in bad
    for part in ("No signing key was written", "medllm-unit-test", url, VENDOR, OTHER):
        assert part in str(bad["msg"])
    gone = judged(tmp_path, {"key_url": f"file://{tmp_path}/absent", "key_fingerprints": [VENDOR]})
    assert gone["failed"]
    assert "can't be fetched" in str(gone["msg"])

"""A signed manifest notices one flipped byte, a missing, extra or linked file, another key, an altered list."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medllm.errors import UserError
from medllm.manifest import (
    load_or_create_private_key,
    load_private_key,
    load_public_key,
    public_key_pem,
    sign_manifest,
    verify_manifest,
)


@pytest.fixture
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@pytest.fixture
def dataset(tmp_path: Path, key: Ed25519PrivateKey) -> Path:
    root = tmp_path / "set"
    (root / "shards").mkdir(parents=True)
    (root / "shards" / "train-000000.tar").write_bytes(bytes(range(256)) * 20)
    (root / "shards" / "heldout-000000.tar").write_bytes(b"x" * 700)
    (root / "tokenizer.json").write_text("{}")
    sign_manifest(root, key, {"name": "test", "counts": {"train": 2}})
    return root


def test_what_was_signed_verifies(dataset: Path, key: Ed25519PrivateKey) -> None:
    manifest = verify_manifest(dataset, key.public_key())
    assert list(manifest.files) == [
        "shards/heldout-000000.tar", "shards/train-000000.tar", "tokenizer.json",
    ]  # fmt: skip
    assert manifest.meta["name"] == "test"
    assert manifest.files["tokenizer.json"].size == 2


def test_the_manifest_depends_on_the_data_alone(dataset: Path, key: Ed25519PrivateKey) -> None:
    first = (dataset / "manifest.json").read_bytes()
    os.utime(dataset / "tokenizer.json", (1, 1))
    assert (
        sign_manifest(dataset, key, {"counts": {"train": 2}, "name": "test"})
        == verify_manifest(dataset, key.public_key()).sha256
    )
    assert (dataset / "manifest.json").read_bytes() == first


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_each_flipped_bit_is_noticed(dataset: Path, key: Ed25519PrivateKey, data: st.DataObject) -> None:
    victim = data.draw(st.sampled_from(sorted(path for path in dataset.rglob("*") if path.is_file())))
    good = victim.read_bytes()
    # The last byte of the signature file is its newline.
    length = len(good) - (victim.name == "manifest.sig")
    place, bit = data.draw(st.integers(0, length - 1)), data.draw(st.integers(0, 7))
    bad = bytearray(good)
    bad[place] ^= 1 << bit
    try:
        victim.write_bytes(bytes(bad))
        if victim.name == "manifest.sig" and _decodes_alike(good, bytes(bad)):
            return
        with pytest.raises(UserError) as caught:
            verify_manifest(dataset, key.public_key())
        named = "manifest.json" if victim.name == "manifest.sig" else victim.name
        assert named in str(caught.value)
        assert "Fix:" in str(caught.value)
    finally:
        victim.write_bytes(good)


def _decodes_alike(good: bytes, bad: bytes) -> bool:
    """Base64 has unused bits in its last character and blanks at the ends are stripped: same signature then."""
    try:
        return base64.b64decode(good.strip()) == base64.b64decode(bad.strip(), validate=True)
    except ValueError:
        return False


def _truncate(root: Path) -> None:
    (root / "tokenizer.json").write_bytes(b"{")


def _remove(root: Path) -> None:
    (root / "shards" / "train-000000.tar").unlink()


def _add(root: Path) -> None:
    (root / "shards" / "train-000001.tar").write_bytes(b"extra")


def _link(root: Path) -> None:
    path = root / "tokenizer.json"
    path.rename(root.parent / "elsewhere")
    path.symlink_to(root.parent / "elsewhere")


def _unsign(root: Path) -> None:
    (root / "manifest.sig").unlink()


def _no_manifest(root: Path) -> None:
    (root / "manifest.json").unlink()


@pytest.mark.parametrize(
    ("harm", "text"),
    [
        (_truncate, "1 bytes, 2 were signed"),
        (_remove, "missing"),
        (_add, "not listed"),
        (_link, "plain file"),
        (_unsign, "not signed"),
        (_no_manifest, "no manifest"),
    ],
)
def test_harm_is_named(dataset: Path, key: Ed25519PrivateKey, harm, text: str) -> None:  # type: ignore[no-untyped-def]
    harm(dataset)
    with pytest.raises(UserError, match=text):
        verify_manifest(dataset, key.public_key())


def test_another_key_does_not_verify(dataset: Path) -> None:
    with pytest.raises(UserError, match="another key"):
        verify_manifest(dataset, Ed25519PrivateKey.generate().public_key())


def test_only_checks_what_is_asked(dataset: Path, key: Ed25519PrivateKey) -> None:
    (dataset / "shards" / "train-000000.tar").write_bytes(b"altered")
    verify_manifest(dataset, key.public_key(), only=["shards/heldout-000000.tar"])
    with pytest.raises(UserError, match="altered"):
        verify_manifest(dataset, key.public_key(), only=["shards/train-000000.tar"])
    with pytest.raises(UserError, match="not listed"):
        verify_manifest(dataset, key.public_key(), only=["shards/other.tar"])


@pytest.mark.parametrize("path", ["../outside", "/etc/hostname", "shards/../../outside", "./tokenizer.json"])
def test_a_signed_path_still_stays_inside(dataset: Path, key: Ed25519PrivateKey, path: str) -> None:
    body = json.loads((dataset / "manifest.json").read_text())
    body["files"][path] = {"size": 1, "sha256": "0" * 64}
    payload = json.dumps(body).encode()
    (dataset / "manifest.json").write_bytes(payload)
    (dataset / "manifest.sig").write_bytes(base64.b64encode(key.sign(payload)))
    with pytest.raises(UserError, match="leaves the data set"):
        verify_manifest(dataset, key.public_key())


def test_an_empty_directory_cannot_be_signed(tmp_path: Path, key: Ed25519PrivateKey) -> None:
    with pytest.raises(UserError, match="no file"):
        sign_manifest(tmp_path, key, {})


def test_keys_are_made_once_and_kept_private(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "data.key"
    made = load_or_create_private_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    again = load_or_create_private_key(path)
    assert again.private_bytes_raw() == made.private_bytes_raw()
    public = tmp_path / "data.pub"
    public.write_bytes(public_key_pem(made.public_key()))
    assert load_public_key(public).public_bytes_raw() == made.public_key().public_bytes_raw()
    path.chmod(0o640)
    with pytest.raises(UserError, match="others can read"):
        load_private_key(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_bad_key_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.pem"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(UserError):
        load_private_key(path)
    with pytest.raises(UserError):
        load_public_key(path)

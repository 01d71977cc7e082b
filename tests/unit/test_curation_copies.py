"""Copies of a data set in an object store: a real S3 server, each byte read back, nothing of the credentials told."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import obstore
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from obstore.store import S3Store
from typer.testing import CliRunner

from curation.commands import app
from curation.copies import Copied, StoreError, copy
from medllm.errors import UserError
from medllm.manifest import sha256_file, sign_manifest
from medllm.object_store import open_store
from medllm.site import Site, load_site
from medllm.site.model import ObjectStore
from tests.s3_server import CREDENTIALS, SECRET

OTHER = "another/file"
KEY = Ed25519PrivateKey.generate()
pytestmark = pytest.mark.slow


@pytest.fixture
def site(endpoint: str, tmp_path: Path) -> Site:
    """The lab's site with a prefix of this test's own."""
    (tmp_path / "credentials").write_text(CREDENTIALS)
    place = f"sets/{os.urandom(4).hex()}"
    address = ObjectStore(url=f"s3://copies/{place}", endpoint=endpoint, credentials_file=str(tmp_path / "credentials"))
    obstore.put(open_store(address), OTHER, b"x")  # a bucket is made by its first object
    return load_site(Path("inventory/lab")).model_copy(update={"object_store": address})


def packed(directory: Path, shards: int = 3) -> Path:
    (directory / "shards").mkdir(parents=True)
    for number in range(shards):
        (directory / "shards" / f"train-{number:06d}.tar").write_bytes(os.urandom(300_000))
    sign_manifest(directory, KEY, {"stage": "pack", "name": "set"})
    return directory


def names(store: S3Store) -> list[str]:
    return [str(found["path"]) for found in obstore.list(store).collect()]


def run(site: Site, data: Path, *, dry_run: bool = False) -> Copied:
    return copy(site, data, "set", KEY.public_key(), dry_run=dry_run)


def test_all_is_sent_once_and_what_was_damaged_there_again(site: Site, tmp_path: Path) -> None:
    data, told = packed(tmp_path / "set"), []  # type: Path, list[int]
    assert site.object_store
    store = open_store(site.object_store)
    assert run(site, data, dry_run=True).sent == 5
    assert names(store) == [OTHER], "a dry run changes nothing"
    first = copy(site, data, "set", KEY.public_key(), tell=told.append)
    assert (first.sent, first.there) == (5, 0)
    assert sum(told) == first.size == sum(path.stat().st_size for path in data.rglob("*") if path.is_file())
    for path in data.rglob("*.tar"):
        there = bytes(obstore.get(store, f"set/shards/{path.name}").bytes())
        assert there == path.read_bytes()
    assert (run(site, data).sent, run(site, data).there) == (0, 5)
    obstore.put(store, "set/shards/train-000001.tar", b"x" * 300_000)
    again = run(site, data)
    assert (again.sent, again.there) == (1, 4)
    mended = bytes(obstore.get(store, "set/shards/train-000001.tar").bytes())
    assert mended == (data / "shards" / "train-000001.tar").read_bytes()


def test_nothing_unsigned_or_altered_is_sent(site: Site, tmp_path: Path) -> None:
    data = packed(tmp_path / "set")
    assert site.object_store
    damages: list[Callable[[Path], object]] = [lambda path: path.write_bytes(b"other"), Path.unlink]
    for damage in damages:
        broken = tmp_path / "broken"
        shutil.copytree(data, broken)
        damage(broken / "shards" / "train-000000.tar")
        with pytest.raises(UserError, match=r"train-000000\.tar"):
            run(site, broken)
        shutil.rmtree(broken)
    with pytest.raises(UserError):
        copy(site, data, "set", Ed25519PrivateKey.generate().public_key())
    with pytest.raises(UserError, match="a data set's name"):
        copy(site, data, "../set", KEY.public_key())
    assert names(open_store(site.object_store)) == [OTHER]


def test_a_site_without_a_store_and_a_store_that_refuses_are_told_apart(site: Site, tmp_path: Path) -> None:
    data = packed(tmp_path / "set")
    with pytest.raises(UserError, match="no object store"):
        run(site.model_copy(update={"object_store": None}), data)
    (tmp_path / "wrong").write_text(CREDENTIALS.replace(SECRET, "guessed"))
    with pytest.raises(StoreError) as caught:
        copy(site, data, "set", KEY.public_key(), tmp_path / "wrong")
    assert "guessed" not in str(caught.value)
    assert site.object_store
    silent = site.object_store.model_copy(update={"endpoint": "http://127.0.0.1:9"})
    with pytest.raises(StoreError, match="does not give"):
        run(site.model_copy(update={"object_store": silent}), data)


def test_the_command_says_what_it_did(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, key = packed(tmp_path / "set"), tmp_path / "data.key"
    key.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    key.chmod(0o600)
    monkeypatch.setattr("medllm.site.load_site", lambda _: site)
    done = CliRunner().invoke(app, ["copy", str(data), "set", "--key", str(key), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {
        "url": f"{site.object_store.url if site.object_store else ''}/set", "sent": 5, "there": 0,
        "size": sum(path.stat().st_size for path in data.rglob("*") if path.is_file()),
        "manifest_sha256": sha256_file(data / "manifest.json"),
    }  # fmt: skip
    silent = site.object_store.model_copy(update={"endpoint": "http://127.0.0.1:9"}) if site.object_store else None
    monkeypatch.setattr("medllm.site.load_site", lambda _: site.model_copy(update={"object_store": silent}))
    refused = CliRunner().invoke(app, ["copy", str(data), "set", "--key", str(key)])
    assert refused.exit_code == 1
    assert refused.stderr.strip().startswith("error: the object store does not give")

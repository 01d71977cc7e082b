"""Publishing to the lab's shared storage: verified there, sent once, refused when altered or under another key."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from curation.publish import publish
from medllm.errors import UserError
from medllm.manifest import load_or_create_private_key, sign_manifest
from medllm.remote import Remote
from medllm.site import Host, Site, load_site

NAME = "publish-test"


@pytest.fixture(scope="module")
def site() -> Site:
    return load_site(Path("inventory/lab"))


@pytest.fixture
def mgmt(site: Site) -> Iterator[Host]:
    """The management host, left as found: its key is put aside and put back."""
    host = next(host for host in site.hosts if "mgmt" in host.groups)
    target, key = f"{site.paths.datasets}/{NAME}", f"{site.paths.app}/keys/data.pub"
    with Remote(host) as remote:
        aside = remote.run(f"test ! -e {key} || mv {key} {key}.aside", deadline_s=30, sudo=True)
        aside.check()
        try:
            yield host
        finally:
            remote.run(
                f"rm -rf {target} {key}; test ! -e {key}.aside || mv {key}.aside {key}", deadline_s=30, sudo=True
            ).check()


def make(directory: Path, key: Ed25519PrivateKey) -> Path:
    (directory / "shards").mkdir(parents=True)
    (directory / "shards" / "train-000000.tar").write_bytes(os.urandom(200_000))
    sign_manifest(directory, key, {"stage": "pack", "name": NAME})
    return directory


def test_unchanged_data_are_not_sent_again(site: Site, mgmt: Host, tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    data = make(tmp_path / "set", key)
    assert publish(site, data, NAME, key.public_key(), dry_run=True).sent, "a dry run says so"
    first = publish(site, data, NAME, key.public_key())
    assert (first.sent, first.key_installed) == (True, True), "and has changed nothing"
    second = publish(site, data, NAME, key.public_key())
    assert (second.sent, second.key_installed) == (False, False)
    shard = f"{site.paths.datasets}/{NAME}/shards/train-000000.tar"
    with Remote(mgmt) as remote:
        remote.run(f"printf x | dd of={shard} bs=1 seek=9 conv=notrunc", deadline_s=30, sudo=True).check()
    assert publish(site, data, NAME, key.public_key()).sent, "one byte differs there: sent again"
    with Remote(mgmt) as remote:
        remote.run(f"touch {site.paths.datasets}/{NAME}/shards/train-000001.tar", deadline_s=30, sudo=True).check()
    assert publish(site, data, NAME, key.public_key()).sent, "a file too many there: sent again"


def test_another_curators_key_is_not_replaced(site: Site, mgmt: Host, tmp_path: Path) -> None:
    first, second = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    publish(site, make(tmp_path / "one", first), NAME, first.public_key())
    with pytest.raises(UserError, match="another key"):
        publish(site, make(tmp_path / "two", second), NAME, second.public_key())


def test_the_command_refuses_altered_data(mgmt: Host, tmp_path: Path) -> None:
    """By the command itself: exit 2, named file, nothing sent."""
    key = load_or_create_private_key(tmp_path / "keys" / "data.key")
    data = make(tmp_path / "set", key)
    shard = data / "shards" / "train-000000.tar"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\0\0")
    options = ["--key", str(tmp_path / "keys" / "data.key"), "--json"]
    command = [sys.executable, "-m", "cli.main", "data", "publish", str(data), NAME, *options]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 2
    assert "train-000000.tar" in json.loads(result.stdout)["problems"][0]["file"]
    with Remote(mgmt) as remote:
        assert remote.run(f"test ! -e /mnt/lustre/datasets/{NAME}", deadline_s=30).ok
    shutil.rmtree(data)

"""The engine's content directory: complete, the same for the same checkout, with mgmt's own ways to the machines."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from medllm.errors import UserError
from medllm.site import load_site
from runbooks.engine.content import archive, content_files

ROOT = Path(__file__).parents[2]
SECRETS = "/etc/medllm/recover"


def unpack(directory: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(fileobj=BytesIO(archive(files)[1])) as tar:
        tar.extractall(directory, filter="data")
    return directory


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small checkout that a test may change."""
    root = tmp_path / "checkout"
    for name in ("playbooks", "plugins", "runbooks", "inventory"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "roles/slurm", root / "roles/slurm")
    for name in ("ansible.cfg", "site.yml"):
        shutil.copy(ROOT / name, root / name)
    return root


@pytest.mark.parametrize("name", ["lab", "h200", "a100_roce", "t8"])
def test_the_declaration_is_the_same_but_for_the_ways_to_the_machines(tmp_path: Path, name: str) -> None:
    files = content_files(ROOT, ROOT / "inventory" / name, SECRETS)
    there, here = load_site(unpack(tmp_path, files) / "inventory/site"), load_site(ROOT / "inventory" / name)
    for host in there.hosts:
        assert host.private_key_file == f"{SECRETS}/id_ed25519"
        assert host.known_hosts_file == f"{SECRETS}/known_hosts"
    assert (there.bmc.credentials_file, there.bmc.ca_file) == (f"{SECRETS}/bmc.json", f"{SECRETS}/bmc-ca.pem")
    ways = {"private_key_file": None, "known_hosts_file": None}
    same = {"bmc": here.bmc, "sha256": "", "hosts": ()}
    assert there.model_copy(update=same) == here.model_copy(update=same)
    assert [host.model_copy(update=ways) for host in there.hosts] == [
        host.model_copy(update=ways) for host in here.hosts
    ]


def test_ansible_on_mgmt_reads_it_without_being_told_where(tmp_path: Path) -> None:
    directory = unpack(tmp_path, content_files(ROOT, ROOT / "inventory/lab", SECRETS))
    command = [Path(sys.executable).with_name("ansible-inventory"), "--host", "node1"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    said = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    values = json.loads(said.stdout)
    assert values["ansible_ssh_private_key_file"] == f"{SECRETS}/id_ed25519"
    assert f"UserKnownHostsFile={SECRETS}/known_hosts" in values["ansible_ssh_common_args"]
    assert values["site_bmc"]["credentials_file"] == f"{SECRETS}/bmc.json"
    assert values["site_name"] == "lab"


def test_the_same_checkout_gives_the_same_bytes_and_a_change_another_name(checkout: Path) -> None:
    inventory = checkout / "inventory/lab"
    before = archive(content_files(checkout, inventory, SECRETS))
    for path in checkout.rglob("*"):
        os.utime(path, (1, 1), follow_symlinks=False)
    assert archive(content_files(checkout, inventory, SECRETS)) == before
    (checkout / "playbooks/base.yml").write_text("changed\n")
    assert archive(content_files(checkout, inventory, SECRETS))[0] != before[0]


def test_made_from_itself_it_is_itself(checkout: Path, tmp_path: Path) -> None:
    """Whoever runs the role on mgmt, from the content, changes nothing."""
    files = content_files(checkout, checkout / "inventory/lab", SECRETS)
    directory = unpack(tmp_path / "content", files)
    assert content_files(directory, directory / "inventory/site", SECRETS) == files


def test_what_lies_about_and_what_the_wheel_brings_stay_out(checkout: Path) -> None:
    clean = content_files(checkout, checkout / "inventory/lab", SECRETS)
    for name in (
        "roles/slurm/.swp",
        "plugins/action/__pycache__/x.pyc",
        "playbooks/base.yml~",
        "playbooks/.git/config",
    ):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text("junk")
    (checkout / "playbooks/link.yml").symlink_to("/etc/passwd")
    assert content_files(checkout, checkout / "inventory/lab", SECRETS) == clean
    assert not [path for path in clean if path.startswith("runbooks/") and path.endswith(".py")]
    assert "plugins/action/converge.py" in clean


def test_no_key_and_no_password_of_this_controller_is_in_it(tmp_path: Path) -> None:
    files = content_files(ROOT, ROOT / "inventory/lab", SECRETS)
    text = b"".join(content for path, content in files.items() if path.startswith("inventory/"))
    assert b"/ssh/id_ed25519" not in text
    assert b"redfish/credentials" not in text
    assert not [path for path in files if Path(path).suffix in {".pem", ".key", ".token"}]


def test_a_wrong_declaration_is_refused(checkout: Path) -> None:
    (checkout / "inventory/lab/group_vars/all/site_base.yml").write_text("site_surprise: 1\n")
    with pytest.raises(UserError, match="site_surprise"):
        content_files(checkout, checkout / "inventory/lab", SECRETS)
    ran = subprocess.run(
        [sys.executable, "-m", "runbooks.engine.content", checkout, checkout / "inventory/lab", SECRETS],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 2
    assert "site_surprise" in ran.stderr
    assert not ran.stdout


def test_a_directory_that_is_no_checkout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ansible\.cfg"):
        content_files(tmp_path, ROOT / "inventory/lab", SECRETS)


def test_the_command_prints_what_the_role_reads() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "runbooks.engine.content", ROOT, ROOT / "inventory/lab", SECRETS],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    answer = json.loads(said.stdout)
    with tarfile.open(fileobj=BytesIO(base64.b64decode(answer["archive"]))) as tar:
        assert {"site.yml", "inventory/site/hosts.yml"} <= set(tar.getnames())

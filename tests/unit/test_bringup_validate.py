"""site.yml refuses a wrong declaration before any node is touched, also under --limit and --tags."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# Whole processes of Ansible or of the engine.
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("file", "good", "bad", "told"),
    [
        ("site_storage.yml", "[flock, noatime, _netdev]", "[flock, rsize=1048576]", "site_storage.yml:6"),
        ("site_hardware.yml", "per_node: 8", "per_node: 7", "site_hardware.yml:5"),
        ("site_cluster.yml", "site_name: lab", "site_name: lab\nsite_nmae: lab", "site_nmae"),
        ("site_cluster.yml", "Etc/UTC", "'{{ site_name }}'", "site_cluster.yml:7"),
    ],
    ids=["mount option", "gpus", "unknown key", "template"],
)
def test_a_wrong_site_is_refused_before_any_node_is_touched(
    tmp_path: Path, file: str, good: str, bad: str, told: str
) -> None:
    inventory = tmp_path / "inventory"
    shutil.copytree(ROOT / "inventory", inventory)
    target = inventory / "lab" / "group_vars" / "all" / file
    text = target.read_text()
    assert good in text
    target.write_text(text.replace(good, bad))
    touched = tmp_path / "touched"
    ssh = tmp_path / "ssh"
    ssh.write_text(f"#!/bin/sh\ntouch {touched}\nexit 255\n")
    ssh.chmod(0o755)
    ran = subprocess.run(
        [
            str(Path(sys.executable).parent / "ansible-playbook"), "site.yml", "-i", str(inventory / "lab"),
            "--limit", "node3", "--tags", "containerd",
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "ANSIBLE_HOME": str(tmp_path / "ansible"), "ANSIBLE_SSH_EXECUTABLE": str(ssh)},
    )  # fmt: skip
    said = " ".join(ran.stdout.split())
    assert ran.returncode == 2, ran.stdout + ran.stderr
    assert told in said
    assert "Fix: " in said
    assert not touched.exists()
    assert "Container runtime" not in said

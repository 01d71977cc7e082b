"""The Ansible plugins, run by ansible-playbook on this machine: check mode predicts, a run does, a second run rests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# Whole processes of Ansible or of the engine.
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
H200 = ROOT / "tests" / "data" / "topology" / "hgx-h200-tabs.txt"


def play(folder: Path, tasks: list[dict[str, Any]], *arguments: str) -> dict[str, Any]:
    """Run tasks on localhost; the result of the last one."""
    # YAML reads JSON, so no YAML writer is needed.
    play = {"name": "Test", "hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks}
    book = folder / "book.yml"
    book.write_text(json.dumps([play]))
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_HOME": str(folder / "ansible"),
        "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
        "PATH": f"{folder}:{os.environ['PATH']}",
    }
    ran = subprocess.run(
        [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", str(book), *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    answer = json.loads(ran.stdout[ran.stdout.index("{") :])
    result: dict[str, Any] = answer["plays"][0]["tasks"][-1]["hosts"]["localhost"]
    return result


def test_converge_predicts_then_does_then_rests(tmp_path: Path) -> None:
    target = tmp_path / "value"
    task = {"name": "Set", "converge": {"probe": f"cat {target}", "expect": "10", "apply": f"echo 10 > {target}"}}
    predicted = play(tmp_path, [task], "--check", "--diff")
    assert predicted["changed"]
    assert not target.exists()
    assert "No such file" in predicted["diff"]["before"]
    assert play(tmp_path, [task])["changed"]
    assert target.read_text() == "10\n"
    assert not play(tmp_path, [task])["changed"]


@pytest.mark.parametrize(
    ("apply", "told"),
    [("true", "apply succeeded, yet the probe still differs"), ("echo broken >&2; exit 3", "apply failed: broken")],
)
def test_converge_fails_when_nothing_got_better(tmp_path: Path, apply: str, told: str) -> None:
    result = play(tmp_path, [{"name": "Set", "converge": {"probe": "echo 5", "expect": "10", "apply": apply}}])
    assert result["failed"]
    assert told in result["msg"]


def test_converge_waits_for_an_effect_that_shows_a_moment_later(tmp_path: Path) -> None:
    """As with a unit that systemd is still starting, or a setting that a kernel thread takes up."""
    target = tmp_path / "value"
    apply = f"(sleep 1; echo 10 > {target}) >/dev/null 2>&1 </dev/null &"
    task = {"name": "Set", "converge": {"probe": f"cat {target}", "expect": "10", "apply": apply}}
    result = play(tmp_path, [task])
    assert (result["changed"], result.get("failed", False)) == (True, False)


def test_packages_are_predicted_where_no_repository_has_them(tmp_path: Path) -> None:
    wanted = {"nvidia-kernel-open-dkms": "580.95.05-1", "dpkg": "0.0"}
    result = play(tmp_path, [{"name": "Install", "locked_packages": {"packages": wanted}}], "--check", "--diff")
    assert result["changed"]
    assert "nvidia-kernel-open-dkms absent\n" in result["diff"]["before"]
    assert result["diff"]["after"] == "nvidia-kernel-open-dkms 580.95.05-1 held\ndpkg 0.0 held\n"


def test_packages_at_any_version_rest(tmp_path: Path) -> None:
    task = {"name": "Install", "locked_packages": {"packages": ["dpkg"], "hold": False}}
    assert not play(tmp_path, [task])["changed"]


def stub(folder: Path, text: Path, status: int) -> None:
    command = folder / "nvidia-smi"
    command.write_text(f"#!/bin/sh\ntest \"$*\" = 'topo -m' || exit 99\ncat {text}\nexit {status}\n")
    command.chmod(0o755)


def test_topology_becomes_facts(tmp_path: Path) -> None:
    stub(tmp_path, H200, 0)
    facts = play(tmp_path, [{"name": "Read", "nvlink_topology": {}}], "--check")["ansible_facts"]["nvlink_topology"]
    assert len(facts["gpus"]) == 8
    assert facts["all_to_all"]


@pytest.mark.parametrize(
    ("text", "status", "told"), [("", 9, "failed (9)"), ("No devices were found", 0, "something else")]
)
def test_no_topology_is_a_failure_not_an_empty_fact(tmp_path: Path, text: str, status: int, told: str) -> None:
    answer = tmp_path / "answer"
    answer.write_text(text)
    stub(tmp_path, answer, status)
    result = play(tmp_path, [{"name": "Read", "nvlink_topology": {}}])
    assert result["failed"]
    assert told in result["msg"]


def test_mount_options_are_judged_by_the_cores_rules(tmp_path: Path) -> None:
    def problems(options: list[str]) -> list[str]:
        message = {"var": f"{options} | lustre_option_problems"}
        result = play(tmp_path, [{"name": "Judge", "ansible.builtin.debug": message}])
        return list(result[message["var"]])

    assert problems(["flock", "noatime", "_netdev"]) == []
    refused = problems(["rsize=1048576", "flock", "stripe_count=4"])
    assert len(refused) == 2
    assert "site_lustre.layouts" in refused[1]


def test_files_are_predicted_written_and_repaired(tmp_path: Path) -> None:
    one, other = tmp_path / "etc" / "new" / "one", tmp_path / "other"
    files = {str(one): "first line\nsecond 'line'\n", str(other): "äöü $x `y`\n"}
    task = {"name": "Write", "written_files": {"files": files, "mode": "0640"}}
    predicted = play(tmp_path, [task], "--check", "--diff")
    assert predicted["changed_files"] == list(files)
    assert not one.exists()
    assert play(tmp_path, [task])["changed_files"] == list(files)
    assert {str(one): one.read_text(), str(other): other.read_text()} == files
    assert one.stat().st_mode & 0o777 == 0o640
    assert not play(tmp_path, [task])["changed"]
    one.chmod(0o666)
    other.unlink()
    other.symlink_to(one)
    assert play(tmp_path, [task])["changed_files"] == list(files)
    assert not other.is_symlink()
    assert not play(tmp_path, [task])["changed"]

"""Kubernetes on the lab's machines: units, what is brought and when, the kubelets' configuration, the shell's lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lab import hardware
from lab.kubernetes import deploy, environment, mgmt, units
from lab.kubernetes.arguments import COMPONENTS
from lab.kubernetes.environment import Environment
from lab.kubernetes.kubelet import config
from lab.layout import BY_NAME
from medllm.errors import UserError
from medllm.site import load_site

REPOSITORY = Path(__file__).parents[2]
MEDLLM = Path(sys.executable).with_name("medllm")
PLACES = {name: deploy.program_place(f"{name}-0123456789ab") for name in COMPONENTS}


def medllm(*arguments: str, state: Path) -> subprocess.CompletedProcess[str]:
    environment_ = {**os.environ, "XDG_STATE_HOME": str(state)}
    command = [MEDLLM, "lab", "kubernetes", *arguments]
    return subprocess.run(command, env=environment_, capture_output=True, text=True, check=False, timeout=60)


def test_each_process_has_a_unit_that_starts_it_again() -> None:
    texts = units.control_plane_units(mgmt.PLANE, PLACES)
    assert list(texts) == [f"lab-{name}.service" for name in COMPONENTS]
    for component, text in zip(COMPONENTS, texts.values(), strict=True):
        lines = text.splitlines()
        (command,) = [line for line in lines if line.startswith("ExecStart=")]
        assert command.startswith(f"ExecStart=/opt/lab/kubernetes/bin/{component}-0123456789ab --")
        assert "Restart=always" in lines
        assert "StartLimitIntervalSec=0" in lines
    # Only the store says itself when it is ready, and only it is waited for when a machine boots.
    assert [name for name, text in texts.items() if "Type=notify" in text] == ["lab-etcd.service"]
    assert [name for name, text in texts.items() if "After=network.target lab-etcd" in text] == list(texts)[1:]


def test_pods_outlive_a_kubelet() -> None:
    text = units.kubelet_unit(deploy.ROOT)
    assert "KillMode=process\n" in text
    assert "PYTHONPATH=/opt/lab/kubernetes " in text


@pytest.mark.parametrize("word", ["a b", "50%", "$HOME", "a;b", "a'b", 'a"b', "a\\b", "a\nExecStartPre=/bin/false"])
def test_a_word_that_systemd_would_read_differently_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match="can't stand in a unit"):
        units.control_plane_units(mgmt.PLANE, {**PLACES, "etcd": Path(word)})


BUNDLE = deploy.Bundle({"pki/ca.crt": b"a", "x": b""}, {"a.service": "1", "b.service": "2"}, {"etcd-1": Path("etcd")})


@pytest.mark.parametrize(
    "other",
    [
        replace(BUNDLE, files={"pki/ca.crt": b"b", "x": b""}),
        replace(BUNDLE, files={"pki/ca.crt": b"a"}),
        replace(BUNDLE, files={"pki/ca.crt": b"a", "y": b""}),
        replace(BUNDLE, files={"pki/ca.cr": b"ta", "x": b""}),
        replace(BUNDLE, units={"a.service": "1", "b.service": "3"}),
        replace(BUNDLE, units={"b.service": "2", "a.service": "1"}),
        replace(BUNDLE, programs={"etcd-2": Path("etcd")}),
        replace(BUNDLE, programs={}),
    ],
)
def test_anything_that_differs_is_brought(other: deploy.Bundle) -> None:
    assert other.digest != BUNDLE.digest


def test_what_is_the_same_is_kept() -> None:
    again = replace(BUNDLE, files=dict(reversed(BUNDLE.files.items())), programs={"etcd-1": Path("/elsewhere/etcd")})
    assert again.digest == BUNDLE.digest


def test_a_programs_name_follows_its_content(tmp_path: Path) -> None:
    program = tmp_path / "etcd"
    program.write_bytes(b"one")
    first = deploy.program_name(program)
    program.write_bytes(b"two")
    assert first.startswith("etcd-")
    assert deploy.program_name(program) != first


@pytest.fixture
def kubelet_configuration() -> dict[str, object]:
    site, node = load_site(REPOSITORY / "inventory/lab"), BY_NAME["node2"]
    return mgmt.kubelet_configuration(node, hardware.healthy("node2"), site, "v1.36.1")


def test_a_kubelet_takes_its_configuration(kubelet_configuration: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "kubelet.json"
    path.write_text(json.dumps(kubelet_configuration))
    loaded = config.load(path)
    assert (loaded.node_name, loaded.address) == ("node2", "10.89.77.12")
    assert len(loaded.gpus) == 8
    assert loaded.capacity["nvidia.com/gpu"] == "8"
    assert loaded.capacity["memory"] == "4Gi"
    assert loaded.images == {"registry.internal/medllm:32b-v1.0": "host"}


def test_a_node_without_a_fabric_offers_none() -> None:
    site = load_site(REPOSITORY / "inventory/lab")
    silicon = {**hardware.healthy("node1"), "hcas": []}
    capacity = mgmt.kubelet_configuration(BY_NAME["node1"], silicon, site, "v1.36.1")["capacity"]
    assert [name for name in capacity if name.startswith("rdma/")] == []


def test_a_shell_takes_the_lines_as_they_are_meant(tmp_path: Path) -> None:
    directory = tmp_path / "a person's $(touch home)"
    made = Environment(directory, directory / "admin.kubeconfig", directory / "passphrase")
    wanted = ["PATH", *made.variables()]
    script = f'eval "$1"; for name in {" ".join(wanted)}; do printenv "$name"; done'
    done = subprocess.run(
        ["sh", "-euc", script, "sh", made.shell()], capture_output=True, text=True, check=True, cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    expected = made.over({"PATH": "/usr/bin:/bin"})
    assert done.stdout.splitlines() == [expected[name] for name in wanted]
    assert list(tmp_path.iterdir()) == []


def test_a_passphrase_is_made_once_and_is_its_owners(tmp_path: Path) -> None:
    programs = {name: tmp_path / name for name in ("pulumi", "kubectl")}
    for program in programs.values():
        program.write_bytes(b"#!/bin/sh\n")
        program.chmod(0o755)
    kubeconfig, passphrase = tmp_path / "admin.kubeconfig", tmp_path / "keys" / "passphrase"
    with pytest.raises(UserError, match="medllm lab kubernetes up"):
        environment.read(tmp_path / "home", kubeconfig, passphrase)
    made = environment.prepare(tmp_path / "home", kubeconfig, passphrase, programs)
    phrase = passphrase.read_text()
    assert len(phrase.strip()) >= 32
    assert passphrase.stat().st_mode & 0o777 == 0o600
    environment.prepare(tmp_path / "home", kubeconfig, passphrase, programs)
    assert passphrase.read_text() == phrase
    assert sorted(path.name for path in made.programs.iterdir()) == ["kubectl", "pulumi", "pulumi-language-python"]
    with pytest.raises(UserError, match="medllm lab kubernetes up"):
        environment.read(tmp_path / "home", kubeconfig, passphrase)
    kubeconfig.touch()
    assert environment.read(tmp_path / "home", kubeconfig, passphrase) == made


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["env"], 2, "the lab has no Kubernetes. Fix: medllm lab kubernetes up"),
        (["env", "--as", "root"], 2, "nobody is called 'root' here. Fix: use one of: admin, data-scientist"),
        (["up"], 2, "the lab is not up. Fix: medllm lab up"),
        (["status", "node1"], 2, "unexpected extra argument"),
    ],
)
def test_what_can_not_be_done_is_one_line_with_its_fix(
    arguments: list[str], code: int, told: str, tmp_path: Path
) -> None:
    done = medllm(*arguments, state=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_a_machine_without_a_lab_has_nothing_and_says_so(tmp_path: Path) -> None:
    done = medllm("status", "--json", state=tmp_path)
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert set(told["components"]) == set(COMPONENTS)
    assert set(told["components"].values()) == {"absent"}
    assert told["obstacle"] == "it was never made here"
    assert told["good"] is False
    # To take away what is not there is no failure.
    assert medllm("down", "--purge", state=tmp_path).returncode == 0

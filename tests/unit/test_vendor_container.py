"""nvidia-container-toolkit of the lab: containerd's drop-in, the CDI specification, the devices of a container."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.unit.vendor_node import Node

CONFIGURE = ("runtime", "configure", "--runtime=containerd", "--set-as-default")


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """A node whose driver is loaded."""
    fresh = Node(tmp_path)
    assert fresh.modprobe("nvidia").returncode == 0
    return fresh


def test_configure_writes_the_drop_in_and_imports_it_once(node: Node) -> None:
    main = node.root / "etc/containerd/config.toml"
    main.parent.mkdir(parents=True)
    main.write_text('version = 2\n[plugins."io.containerd.grpc.v1.cri".cni]\nbin_dir = "/usr/lib/cni"\n')
    for _ in range(2):
        assert node.run("nvidia-ctk", *CONFIGURE).returncode == 0
    document = tomllib.loads(main.read_text())
    assert document["imports"] == ["/etc/containerd/conf.d/*.toml"]
    assert document["plugins"]["io.containerd.grpc.v1.cri"]["cni"]["bin_dir"] == "/usr/lib/cni"
    drop_in = tomllib.loads((node.root / "etc/containerd/conf.d/99-nvidia.toml").read_text())
    containerd = drop_in["plugins"]["io.containerd.grpc.v1.cri"]["containerd"]
    assert containerd["default_runtime_name"] == "nvidia"
    assert containerd["runtimes"]["nvidia"]["options"]["BinaryName"] == "/usr/bin/nvidia-container-runtime"


def test_a_main_file_that_imports_already_is_left_alone(node: Node) -> None:
    main = node.root / "etc/containerd/config.toml"
    main.parent.mkdir(parents=True)
    text = '# ours\nversion = 2\nimports = ["/etc/containerd/conf.d/*.toml"]\n'
    main.write_text(text)
    assert node.run("nvidia-ctk", "--quiet", *CONFIGURE).stderr == ""
    assert main.read_text() == text


def test_a_broken_main_file_is_refused(node: Node) -> None:
    main = node.root / "etc/containerd/config.toml"
    main.parent.mkdir(parents=True)
    main.write_text("version = = 2\n")
    ran = node.run("nvidia-ctk", *CONFIGURE)
    assert (ran.returncode, "unable to load config" in ran.stderr) == (1, True)


def test_cdi_names_each_gpu_by_index_and_uuid_and_leaves_out_a_lost_one(node: Node) -> None:
    hardware = node.read()
    hardware["gpus"][7]["present"] = False
    node.write(hardware)
    assert node.run("nvidia-ctk", "cdi", "generate", "--output=/etc/cdi/nvidia.yaml").returncode == 0
    document = YAML(typ="safe").load((node.root / "etc/cdi/nvidia.yaml").read_text())
    names = [device["name"] for device in document["devices"]]
    assert names == [str(n) for n in range(7)] + [gpu["uuid"] for gpu in hardware["gpus"][:7]] + ["all"]
    assert document["kind"] == "nvidia.com/gpu"
    assert document["devices"][-1]["containerEdits"]["deviceNodes"][6] == {"path": "/dev/nvidia6"}
    assert document == json.loads(node.run("nvidia-ctk", "cdi", "generate", "--format=json").stdout)


def test_cdi_needs_the_driver(tmp_path: Path) -> None:
    ran = Node(tmp_path).run("nvidia-ctk", "cdi", "generate", "--output=/etc/cdi/nvidia.yaml")
    assert (ran.returncode, "failed to initialize NVML" in ran.stderr) == (1, True)
    assert not (tmp_path / "etc/cdi/nvidia.yaml").exists()


def inject(node: Node, wanted: list[str]) -> tuple[str, dict[str, object]]:
    code = (
        "import json, sys; from lab.vendor.labsim.container import inject;"
        "box = {}; missing = inject(box, sys.argv[1:]); print(json.dumps([missing, box]))"
    )
    missing, container = json.loads(node.python(code, *wanted).stdout)
    return missing, container


def test_a_container_gets_the_gpus_that_it_asked_for_and_the_control_devices(node: Node) -> None:
    missing, container = inject(node, ["1", node.read()["gpus"][4]["uuid"]])
    linux = container["linux"]
    assert isinstance(linux, dict)
    assert missing == ""
    assert [device["path"] for device in linux["devices"]] == [
        "/dev/nvidia-modeset", "/dev/nvidiactl", "/dev/nvidia1", "/dev/nvidia4",
    ]  # fmt: skip
    assert len(linux["resources"]["devices"]) == 4


def test_an_unknown_device_is_named(node: Node) -> None:
    assert inject(node, ["0", "12"])[0] == "12"

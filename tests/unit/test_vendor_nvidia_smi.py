"""nvidia-smi of the lab: formats as in public captures, and the answers of a real driver when something is wrong."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from medllm.parsers.topology import parse_topo
from tests.unit.vendor_node import Node

DATA = Path(__file__).parents[1] / "data" / "vendor"


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """A node whose driver is loaded."""
    fresh = Node(tmp_path)
    assert fresh.modprobe("nvidia").returncode == 0
    return fresh


def labels(text: str) -> list[str]:
    """Of each line its indent and label, without the value."""
    return [line.split(" : ")[0].rstrip() for line in text.splitlines() if line.strip()]


def sections(lines: list[str]) -> dict[str, list[str]]:
    """Top label to the lines below it."""
    found: dict[str, list[str]] = {}
    for line in lines:
        if not line.startswith(" "):
            found[line] = []
        else:
            found[list(found)[-1]].append(line)
    return found


def test_without_the_module_it_fails_as_the_real_one(tmp_path: Path) -> None:
    ran = Node(tmp_path).run("nvidia-smi")
    assert ran.returncode == 9
    assert "couldn't communicate with the NVIDIA driver" in ran.stdout


def test_an_upgraded_library_over_the_old_module_is_a_mismatch_until_the_next_load(node: Node) -> None:
    node.set_version("nvidia-driver-cuda", "580.82.07")
    node.set_version("nvidia-kernel-open-dkms", "580.82.07")
    ran = node.run("nvidia-smi", "-L")
    assert (ran.returncode, "Driver/library version mismatch" in ran.stdout) == (18, True)
    assert "580.95.05" in (node.root / "proc/driver/nvidia/version").read_text()
    assert node.modprobe("nvidia", "unload").returncode == 0
    assert node.modprobe("nvidia").returncode == 0
    assert node.run("nvidia-smi", "-L").returncode == 0


def test_the_query_has_the_real_fields_in_the_real_order(node: Node) -> None:
    text = node.run("nvidia-smi", "-q", "-i", "0").stdout
    body = text.split("GPU 00000000:18:00.0\n")[1]
    ours = sections([line[4:] for line in labels(body)])
    real = sections((DATA / "nvidia-smi-q.580.119.02.labels").read_text().splitlines())
    real |= sections((DATA / "nvidia-smi-q.hopper-550.127.05.labels").read_text().splitlines())
    assert list(ours) == list(real)
    assert ours == real
    # 580.95.05 prints the colon in column 42, whatever the depth.
    assert {line.index(" : ") for line in text.splitlines() if " : " in line} == {41}


def test_the_xml_is_well_formed_and_says_the_same(node: Node) -> None:
    root = ET.fromstring(node.run("nvidia-smi", "-q", "-x").stdout)
    assert root.findtext("attached_gpus") == "8"
    assert [gpu.findtext("uuid") for gpu in root.findall("gpu")] == [gpu["uuid"] for gpu in node.read()["gpus"]]
    gpu = root.find("gpu")
    assert gpu is not None
    assert gpu.findtext("fabric/state") == "In Progress"
    assert gpu.findtext("ecc_errors/aggregate/dram_uncorrectable") == "0"
    assert gpu.findtext("pci/pci_device_id") == "233510DE"


def test_the_matrix_has_the_layout_of_the_real_one(node: Node) -> None:
    ours = node.run("nvidia-smi", "topo", "-m").stdout
    real = (DATA.parent / "topology" / "hgx-h200-tabs.txt").read_text()

    def shape(text: str) -> list[str]:
        return [re.sub(r"PXB|PIX|NODE|SYS|\d+(-\d+)?(,\d+-\d+)?", "V", line) for line in text.splitlines()[:13]]

    assert shape(ours) == shape(real)
    topology = parse_topo(ours)
    assert topology.nvlinks("GPU0", "GPU7") == 18
    assert topology.nearest_nics("GPU7") == ["mlx5_3"]


def test_a_link_that_is_down_shows_in_status_and_matrix(node: Node) -> None:
    hardware = node.read()
    hardware["gpus"][2]["nvlinks"][5]["state"] = "inactive"
    node.write(hardware)
    status = node.run("nvidia-smi", "nvlink", "-s", "-i", "2").stdout.splitlines()
    assert status[1] == "\t Link 0: 26.562 GB/s"
    assert status[6] == "\t Link 5: <inactive>"
    assert parse_topo(node.run("nvidia-smi", "topo", "-m").stdout).nvlinks("GPU2", "GPU3") == 17


def test_a_lost_gpu_is_named_on_stderr_and_missing_from_the_rows(node: Node) -> None:
    hardware = node.read()
    hardware["gpus"][3].update(present=False, last_xid=79)
    node.write(hardware)
    ran = node.run("nvidia-smi", "--query-gpu=index", "--format=csv,noheader")
    assert (ran.returncode, ran.stderr) == (0, (DATA / "nvidia-smi-lost-gpu.txt").read_text())
    assert ran.stdout.split() == ["0", "1", "2", "4", "5", "6", "7"]
    assert node.run("nvidia-smi", "-i", "3", "--gpu-reset").returncode == 255
    # The next load of the driver does not find it any more.
    node.modprobe("nvidia", "unload")
    node.modprobe("nvidia")
    ran = node.run("nvidia-smi", "-L")
    assert (len(ran.stdout.splitlines()), ran.stderr) == (7, "")


def test_csv_has_units_in_header_and_cells(node: Node) -> None:
    fields = "--query-gpu=index,name,memory.total,power.limit,clocks.sm,temperature.gpu"
    rows = node.run("nvidia-smi", fields, "--format=csv", "-i", "0").stdout.splitlines()
    assert rows[0] == "index, name, memory.total [MiB], power.limit [W], clocks.current.sm [MHz], temperature.gpu"
    assert re.fullmatch(r"0, NVIDIA H200, 143771 MiB, 700\.00 W, 345 MHz, \d+", rows[1])
    bare = node.run("nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits", "-i", "0")
    assert bare.stdout == "143771\n"


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--query-gpu=nonsense", "--format=csv"], 2, 'Field "nonsense" is not a valid field to query.'),
        (["-i", "9", "-L"], 6, "No devices were found"),
        (["-pl", "701"], 2, "should be between 200.00 W and 700.00 W"),
        (["-pl", "199"], 2, "should be between 200.00 W and 700.00 W"),
    ],
)
def test_wrong_arguments_are_refused_as_by_the_real_one(
    node: Node, arguments: list[str], status: int, words: str
) -> None:
    before = node.hardware.read_text()
    ran = node.run("nvidia-smi", *arguments)
    assert (ran.returncode, words in ran.stdout) == (status, True)
    assert node.hardware.read_text() == before


def test_power_limit_is_kept_by_the_silicon(node: Node) -> None:
    ran = node.run("nvidia-smi", "-i", "2", "-pl", "650")
    assert "was set to 650.00 W from 700.00 W" in ran.stdout
    assert [gpu["power_limit_w"] for gpu in node.read()["gpus"]] == [700, 700, 650, *[700] * 5]


@pytest.mark.parametrize(("watts", "left"), [("400", ["gpu2", "gpu3"]), ("250", ["gpu3"])])
def test_a_hot_spell_ends_when_the_gpu_may_draw_little(node: Node, watts: str, left: list[str]) -> None:
    hardware = node.read()
    for gpu in (2, 3):
        hardware["faults"].append(
            {"name": "hot_spell", "target": f"gpu{gpu}", "clears_on": "power_limit", "since": "", "restore": {}}
        )
    node.write(hardware)
    node.run("nvidia-smi", "-i", "2", "-pl", watts)
    assert [fault["target"] for fault in node.read()["faults"]] == left


def test_a_reset_clears_what_a_reset_clears(node: Node) -> None:
    hardware = node.read()
    for name, clears_on, value in (("pending", "reset", "pending"), ("failure", "never", "failure")):
        path = f"gpus.1.remapped.{value}"
        hardware["gpus"][1]["remapped"][value] = True
        hardware["faults"].append(
            {"name": name, "target": "gpu1", "clears_on": clears_on, "since": "", "restore": {path: False}}
        )
    node.write(hardware)
    assert node.run("nvidia-smi", "-i", "1", "-r").returncode == 0
    assert node.read()["gpus"][1]["remapped"] == {
        "correctable": 0, "uncorrectable": 0, "pending": False, "failure": True,
    }  # fmt: skip


def test_the_module_leaves_what_the_real_one_leaves(node: Node) -> None:
    version = (node.root / "proc/driver/nvidia/version").read_text()
    assert version.startswith((DATA / "proc-driver-nvidia-version.580.95.05.txt").read_text())
    assert sorted(path.name for path in (node.root / "dev").iterdir()) == [
        *("nvidia-modeset", *(f"nvidia{n}" for n in range(8)), "nvidiactl"),
    ]
    information = (node.root / "proc/driver/nvidia/gpus/0000:18:00.0/information").read_text()
    assert f"GPU UUID: \t {node.read()['gpus'][0]['uuid']}\n" in information


def test_the_table_keeps_its_columns(node: Node) -> None:
    lines = node.run("nvidia-smi").stdout.splitlines()[1:]
    assert {len(line) for line in lines if line} == {91}
    assert "Driver Version: 580.95.05" in lines[1]

"""The daemons of the lab's driver packages: persistence, Fabric Manager, DCGM and its exporter."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.vendor_node import Node

DATA = Path(__file__).parents[1] / "data" / "vendor"
CONFIG = "/usr/share/nvidia/nvswitch/fabricmanager.cfg"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A node whose driver is loaded; daemons that a test started are ended."""
    fresh = Node(tmp_path)
    assert fresh.modprobe("nvidia").returncode == 0
    yield fresh
    for pidfile in tmp_path.glob("run/nvidia-*/*.pid"):
        os.kill(int(pidfile.read_text()), signal.SIGKILL)


def stop(pidfile: Path) -> None:
    """SIGTERM, and wait until the daemon has taken its pid file away."""
    os.kill(int(pidfile.read_text()), signal.SIGTERM)
    for _ in range(100):
        if not pidfile.exists():
            return
        time.sleep(0.02)
    raise AssertionError(f"{pidfile} is still there")


def fabric(node: Node) -> str:
    return node.run("nvidia-smi", "--query-gpu=fabric.state,fabric.status", "--format=csv,noheader", "-i", "0").stdout


def test_the_fabric_is_up_only_while_a_matching_manager_runs(node: Node) -> None:
    assert fabric(node) == "In Progress, N/A\n"
    assert node.run("nv-fabricmanager", "-c", CONFIG).returncode == 0
    assert fabric(node) == "Completed, Success\n"
    stop(node.root / "run/nvidia-fabricmanager/nv-fabricmanager.pid")
    assert fabric(node) == "In Progress, N/A\n"


def test_a_manager_of_another_version_does_not_start(node: Node) -> None:
    node.set_version("nvidia-fabricmanager", "580.82.07")
    ran = node.run("nv-fabricmanager", "-c", CONFIG)
    assert (ran.returncode, ran.stderr) == (1, (DATA / "fabricmanager-mismatch.txt").read_text())
    assert fabric(node) == "In Progress, N/A\n"


def test_a_dead_fabric_keeps_the_manager_from_starting(node: Node) -> None:
    hardware = node.read()
    hardware["faults"].append({"name": "fabric_manager_dead", "target": "node", "clears_on": "reboot", "since": ""})
    node.write(hardware)
    assert node.run("nv-fabricmanager", "-c", CONFIG).returncode == 1


def test_persistence_is_the_daemons(node: Node) -> None:
    query = ("--query-gpu=persistence_mode", "--format=csv,noheader", "-i", "0")
    pidfile = node.root / "run/nvidia-persistenced/nvidia-persistenced.pid"
    assert node.run("nvidia-persistenced", "--user", "root", "--no-persistence-mode").returncode == 0
    assert node.run("nvidia-smi", *query).stdout == "Disabled\n"
    assert "rmmod: ERROR: Module nvidia is in use" in node.modprobe("nvidia", "unload").stderr
    assert "Enabled persistence mode" in node.run("nvidia-smi", "-pm", "1").stdout
    assert node.run("nvidia-smi", *query).stdout == "Enabled\n"
    stop(pidfile)
    assert node.run("nvidia-smi", *query).stdout == "Disabled\n"
    assert node.run("nvidia-persistenced", "--persistence-mode").returncode == 0
    assert node.run("nvidia-smi", *query).stdout == "Enabled\n"


def test_persistenced_needs_the_loaded_driver(tmp_path: Path) -> None:
    ran = Node(tmp_path).run("nvidia-persistenced")
    assert (ran.returncode, "Failed to query NVIDIA devices" in ran.stderr) == (1, True)


def test_dcgmi_needs_its_engine_and_lists_as_the_real_one(node: Node) -> None:
    assert "Unable to connect to host engine" in node.run("dcgmi", "discovery", "-l").stdout
    (node.root / "run/lab/state").mkdir(parents=True, exist_ok=True)
    (node.root / "run/lab/state/hostengine.json").write_text(f'{{"pid": {os.getpid()}}}')
    lines = node.run("dcgmi", "discovery", "-l").stdout.splitlines()
    real = (DATA / "dcgmi-discovery.txt").read_text().splitlines()

    def shape(line: str) -> str:
        return re.sub(r"(Name|ID|UUID): \S.*?( *\|)$", lambda m: f"{m[1]}:", line)

    assert lines[0] == "8 GPUs found."
    assert [shape(line) for line in lines[1:8]] == [shape(line) for line in real]
    assert {len(line) for line in lines[1:30]} == {len(real[0])}
    assert "4 NvSwitches found." in lines
    health = node.run("dcgmi", "health", "-g", "0", "-c").stdout
    assert "| Overall Health            | Healthy " in health
    diagnostic = node.run("dcgmi", "diag", "-r", "1")
    assert (diagnostic.returncode, "| software                  | Pass " in diagnostic.stdout) == (0, True)


def exposition(node: Node, path: str = "etc/dcgm-exporter/default-counters.csv") -> str:
    """What the exporter would answer to /metrics."""
    code = (
        "import sys; from pathlib import Path; from lab.vendor.labsim import dcgm_exporter as e;"
        "print('\\n'.join(e.metrics(e.counters(Path(sys.argv[1]).read_text()))))"
    )
    ran = node.python(code, str(node.root / path))
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_the_exporter_writes_what_the_real_one_writes(node: Node) -> None:
    text = exposition(node)

    def shape(line: str) -> str:
        line = re.sub(r'(UUID|modelName|Hostname|DCGM_FI_DRIVER_VERSION)="[^"]*"', r'\1="V"', line)
        return re.sub(r" \d+$", " V", line)

    ours = [shape(line) for line in text.splitlines()]
    for line in (DATA / "dcgm-exporter.580.65.06.prom").read_text().splitlines():
        assert shape(line) in ours


def test_only_the_counters_of_the_file_are_exported(node: Node) -> None:
    assert "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL" not in exposition(node)
    (node.root / "etc/own.csv").write_text("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL, counter, Errors.\n")
    text = exposition(node, "etc/own.csv")
    assert text.count("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL{") == 8
    assert "DCGM_FI_DRIVER_VERSION" not in text


def test_every_counter_of_our_own_list_is_known(node: Node) -> None:
    """The role's list must start the exporter; a field that it does not know stops the real one."""
    ours = Path(__file__).parents[2] / "roles" / "dcgm_exporter" / "files" / "counters.csv"
    (node.root / "etc/own.csv").write_text(ours.read_text())
    assert exposition(node, "etc/own.csv").count("DCGM_FI_DEV_GPU_TEMP{") == 8


def test_a_lost_gpu_keeps_its_last_xid_and_has_no_readings(node: Node) -> None:
    hardware = node.read()
    hardware["gpus"][3].update(present=False, last_xid=79)
    node.write(hardware)
    text = exposition(node)
    assert text.count("DCGM_FI_DEV_GPU_TEMP{") == 7
    assert re.search(r'DCGM_FI_DEV_XID_ERRORS\{gpu="3",.*err_code="79",err_msg="[^"]+"\} 79', text)


def test_a_wrong_list_stops_the_exporter(node: Node) -> None:
    (node.root / "own.csv").write_text("DCGM_FI_DEV_NONSENSE, gauge, None.\n")
    ran = node.run("dcgm-exporter", "-f", str(node.root / "own.csv"))
    assert (ran.returncode, "DCGM_FI_DEV_NONSENSE" in ran.stderr) == (1, True)

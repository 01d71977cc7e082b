"""A node's file tree for the simulators' tests: sample hardware, installed versions, and a way to run a command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from lab.vendor.packages import LIBRARY_SOURCES, RECIPES, SIMULATORS, packages

LIBRARY = LIBRARY_SOURCES.parent
BUSES = ("18", "2a", "3a", "5d", "9a", "ab", "ba", "db")


def sample_hardware() -> dict[str, Any]:
    """Eight healthy H200 and four ConnectX-6 ports, in the schema of the lab's hardware.json."""
    gpus = [
        {
            "index": i, "uuid": f"GPU-{i:08x}-1111-2222-3333-444455556666", "serial": f"16541234560{i:02d}",
            "pci": f"00000000:{bus.upper()}:00.0", "model": "NVIDIA H200", "memory_mib": 143771, "temperature_c": 31,
            "memory_temperature_c": 34, "power_w": 78.5, "power_limit_w": 700, "power_limit_min_w": 200,
            "power_limit_max_w": 700, "utilization": 0, "clocks_sm_mhz": 345,
            "ecc": {"sbe_volatile": 0, "dbe_volatile": 0, "sbe_aggregate": 0, "dbe_aggregate": 0, "sram_uncorrectable_aggregate": 0},
            "remapped": {"correctable": 0, "uncorrectable": 0, "pending": False, "failure": False},
            "nvlinks": [{"id": n, "state": "active", "gbs": 26.562} for n in range(18)],
            "fabric": {"state": "Completed", "status": "Success"}, "present": True, "last_xid": 0,
        }
        for i, bus in enumerate(BUSES)
    ]  # fmt: skip
    port = {
        "port": 1,
        "state": "Active",
        "physical": "LinkUp",
        "rate_gbps": 200,
        "link_layer": "InfiniBand",
        "sm_lid": 1,
    }
    counters = {"symbol_error": 0, "link_downed": 0, "link_error_recovery": 0, "port_rcv_errors": 0}
    hcas = [
        {"name": f"mlx5_{i}", "model": "MT4123", "fw": "20.43.2026", "guid": f"b83f:d203:00a1:{i:04x}",
         "ports": [{**port, "base_lid": 3 + i, "counters": dict(counters)}]}
        for i in range(4)
    ]  # fmt: skip
    return {
        "node": "node1", "boot_id_file": "/proc/sys/kernel/random/boot_id", "gpus": gpus, "nvswitches": 4, "hcas": hcas,
        "nvme": [], "lustre": {"evicted": False, "reachable": True}, "faults": [],
    }  # fmt: skip


class Node:
    """A directory that looks like a node with every package installed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write(sample_hardware())
        seen: set[str] = set()
        for package in packages():
            if package.name not in seen:
                seen.add(package.name)
                self.set_version(package.name, package.upstream)
                static = SIMULATORS / package.name
                for path in static.rglob("*"):
                    if path.is_file():
                        target = root / path.relative_to(static)
                        target.parent.mkdir(parents=True, exist_ok=True)
                        target.write_bytes(path.read_bytes())

    def set_version(self, package: str, version: str) -> None:
        """As dpkg does when it unpacks another version."""
        file = self.root / "usr/lib/lab/versions" / package
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(version + "\n")

    @property
    def hardware(self) -> Path:
        return self.root / "run/lab/hw/hardware.json"

    def read(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads(self.hardware.read_text())
        return data

    def write(self, hardware: dict[str, Any]) -> None:
        self.hardware.parent.mkdir(parents=True, exist_ok=True)
        self.hardware.write_text(json.dumps(hardware))

    def call(self, entry: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `module:function` of labsim as its command does."""
        module, function = entry.split(":")
        code = f"import sys; from labsim.{module} import {function} as f; sys.exit(f(sys.argv[1:]))"
        environment = {**os.environ, "LABSIM_ROOT": str(self.root), "PYTHONPATH": str(LIBRARY), "TZ": "UTC"}
        return subprocess.run(
            [sys.executable, "-B", "-c", code, *arguments],
            capture_output=True,
            text=True,
            env=environment,
            timeout=30,
            check=False,
        )

    def run(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command by its name, for example `nvidia-smi`."""
        entries = {Path(path).name: entry for recipe in RECIPES.values() for path, entry in recipe.commands.items()}
        return self.call(entries[command], *arguments)

    def modprobe(self, module: str, action: str = "load") -> subprocess.CompletedProcess[str]:
        code = f"import sys; from labsim.kmod import main; sys.exit(main({module!r}, {action!r}))"
        environment = {**os.environ, "LABSIM_ROOT": str(self.root), "PYTHONPATH": str(LIBRARY)}
        return subprocess.run(
            [sys.executable, "-B", "-c", code], capture_output=True, text=True, env=environment, timeout=30, check=False
        )

"""A node's simulated silicon: what a healthy machine has, and how a fault is put in and taken out again.

Standard library only: this very file also runs on the node, as PID 1's helper at each boot.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Json = dict[str, Any]

# PCI addresses of the GPUs of an HGX H200 board, as nvidia-smi prints them (a public `nvidia-smi -q` capture).
GPU_PCI = ("18:00.0", "2A:00.0", "3A:00.0", "5D:00.0", "9A:00.0", "AB:00.0", "BA:00.0", "DB:00.0")
NVLINKS = 18
# The marker that a BMC leaves when it cycles the power: more faults clear then than by a reboot.
POWER_CYCLE_MARKER = "power_cycle"


def healthy(node: str) -> Json:
    """The silicon of `node` without a fault. Serial numbers and temperatures follow from the name alone."""
    return {
        "node": node,
        "boot_id_file": "/proc/sys/kernel/random/boot_id",
        "gpus": [_gpu(node, index, pci) for index, pci in enumerate(GPU_PCI)],
        "nvswitches": 4,
        "hcas": [_hca(node, index) for index in range(4)],
        "nvme": [{"device": "nvme0n1", "model": "SAMSUNG MZWLO3T8HCLS-00A07", "size_bytes": 3840755982336}],
        "lustre": {"evicted": False, "reachable": True},
        "faults": [],
    }


def _seeded(*words: object) -> bytes:
    return hashlib.sha256("/".join(map(str, words)).encode()).digest()


def _gpu(node: str, index: int, pci: str) -> Json:
    seed = _seeded(node, "gpu", index)
    text = seed.hex()
    return {
        "index": index,
        "uuid": f"GPU-{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:32]}",
        "serial": f"165{int.from_bytes(seed[:5], 'big') % 10**10:010d}",
        "pci": f"00000000:{pci}",
        "model": "NVIDIA H200",
        "memory_mib": 143771,
        "temperature_c": 28 + seed[6] % 6,
        "memory_temperature_c": 32 + seed[7] % 6,
        "power_w": round(74 + seed[8] / 25.6, 2),
        "power_limit_w": 700,
        "power_limit_min_w": 200,
        "power_limit_max_w": 700,
        "utilization": 0,
        "clocks_sm_mhz": 345,
        "ecc": {
            "sbe_volatile": 0, "dbe_volatile": 0, "sbe_aggregate": 0, "dbe_aggregate": 0,
            "sram_uncorrectable_aggregate": 0,
        },
        "remapped": {"correctable": 0, "uncorrectable": 0, "pending": False, "failure": False},
        "nvlinks": [{"id": link, "state": "active", "gbs": 26.562} for link in range(NVLINKS)],
        "fabric": {"state": "Completed", "status": "Success"},
        "present": True,
        "last_xid": 0,
    }  # fmt: skip


def _hca(node: str, index: int) -> Json:
    text = _seeded(node, "hca", index).hex()
    number = int(node.removeprefix("node")) if node.removeprefix("node").isdigit() else 0
    return {
        "name": f"mlx5_{index}",
        "model": "MT4123",
        "fw": "20.43.2026",
        "guid": f"b83f:d203:00{text[:2]}:{text[2:6]}",
        "ports": [
            {
                "port": 1, "state": "Active", "physical": "LinkUp", "rate_gbps": 200, "link_layer": "InfiniBand",
                "base_lid": 3 + number * 4 + index, "sm_lid": 1,
                "counters": {"symbol_error": 0, "link_downed": 0, "link_error_recovery": 0, "port_rcv_errors": 0},
            }
        ],
    }  # fmt: skip


def read(path: Path) -> Json:
    """The hardware as it is now."""
    with path.open() as stream:
        data: Json = json.load(stream)
    return data


@contextlib.contextmanager
def edit(path: Path) -> Iterator[Json]:
    """Change the hardware: one writer at a time, on the node and on its host; readers see the old file or the new."""
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        hardware = read(path)
        yield hardware
        write(path, hardware)


def write(path: Path, hardware: Json) -> None:
    """Replace `path` in one step."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w") as stream:
        json.dump(hardware, stream, indent=1)
    Path(temporary).chmod(0o644)
    Path(temporary).replace(path)


def put_fault(hardware: Json, name: str, target: str, clears_on: str, changes: Json) -> None:
    """Set each value of `changes` (path like `gpus.3.present` → value) and remember what was there.

    The same fault on the same target twice is one fault, so that clearing it brings back the healthy value.
    """
    if any(fault["name"] == name and fault["target"] == target for fault in hardware["faults"]):
        return
    restore = {path: _at(hardware, path) for path in changes}
    for path, value in changes.items():
        _set(hardware, path, value)
    since = datetime.now(UTC).isoformat(timespec="seconds")
    hardware["faults"].append(
        {"name": name, "target": target, "clears_on": clears_on, "since": since, "restore": restore}
    )


def clear_faults(hardware: Json, which: Callable[[Json], bool]) -> list[Json]:
    """Take out the faults that `which` picks, and put back the values they changed. Returns them.

    Where a later fault that stays has changed the same value, it stays so, and the later fault's end brings it back.
    """
    faults = hardware["faults"]
    gone = [fault for fault in faults if which(fault)]
    for fault in reversed(gone):
        later = [other for other in faults[faults.index(fault) + 1 :] if other not in gone]
        for path, value in fault["restore"].items():
            heir = next((other for other in later if path in other["restore"]), None)
            if heir is None:
                _set(hardware, path, value)
            else:
                heir["restore"][path] = value
    hardware["faults"] = [fault for fault in faults if fault not in gone]
    return gone


def _at(hardware: Json, path: str) -> Any:
    value: Any = hardware
    for key in path.split("."):
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value


def _set(hardware: Json, path: str, value: object) -> None:
    parent, _, last = path.rpartition(".")
    container: Any = _at(hardware, parent) if parent else hardware
    container[int(last) if isinstance(container, list) else last] = value


def boot(path: Path) -> None:
    """What a start of the machine clears: all but `never`; `power_cycle` faults only if the power was cut.

    A fault that less than a boot clears (a reset of the GPU, a new mount, a lower power limit) is gone after one too.
    """
    marker = path.with_name(POWER_CYCLE_MARKER)
    cleared = {"reset", "remount", "power_limit", "reboot"} | ({"power_cycle"} if marker.exists() else set())
    with edit(path) as hardware:
        clear_faults(hardware, lambda fault: fault["clears_on"] in cleared)
        for gpu in hardware["gpus"]:
            # A driver counts volatile errors, remembers the last XID and keeps a power limit from its start on.
            gpu["power_limit_w"] = gpu["power_limit_max_w"]
            gpu["ecc"]["sbe_volatile"] = gpu["ecc"]["dbe_volatile"] = 0
            if gpu["present"]:
                gpu["last_xid"] = 0
    marker.unlink(missing_ok=True)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] != "boot":
        sys.exit("usage: hardware.py boot HARDWARE.JSON")
    boot(Path(sys.argv[2]))

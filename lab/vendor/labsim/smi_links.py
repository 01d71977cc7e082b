"""`nvidia-smi topo -m` and `nvidia-smi nvlink`: the NVLink and PCIe paths of an HGX board.

Captures: 8x H200, driver 570.211.01 (topo: tab separated, one tab after each cell, two before the last column);
8x H100 and H200 (`nvlink -s`: nine spaces before "Link"). Cited in tests/data/vendor/README.md.
"""

from __future__ import annotations

import argparse
import os

from . import hardware
from .driver import INVALID_ARGUMENT, NOT_FOUND, Gpu, answering

LEGEND = """
Legend:

  X    = Self
  SYS  = Connection traversing PCIe as well as the SMP interconnect between NUMA nodes (e.g., QPI/UPI)
  NODE = Connection traversing PCIe as well as the interconnect between PCIe Host Bridges within a NUMA node
  PHB  = Connection traversing PCIe as well as a PCIe Host Bridge (typically the CPU)
  PXB  = Connection traversing multiple PCIe bridges (without traversing the PCIe Host Bridge)
  PIX  = Connection traversing at most a single PCIe bridge
  NV#  = Connection traversing a bonded set of # NVLinks
"""


def topology(arguments: list[str], gpus: list[Gpu]) -> int:
    """`topo -m`: the matrix of GPUs and NICs."""
    if arguments not in (["-m"], ["--matrix"]):
        print(
            f"Invalid combination of input arguments. Please run 'nvidia-smi topo -h' for help: {' '.join(arguments)}"
        )
        return INVALID_ARGUMENT
    shown = answering(gpus)
    nics = [hca["name"] for hca in hardware.read()["hcas"]]
    print(matrix(shown, nics))
    return 0


def matrix(gpus: list[Gpu], nics: list[str]) -> str:
    """GPUs in order, four to a NUMA node; NIC k sits under the same PCIe switch as the GPUs 2k and 2k+1."""
    gpu_names = [f"GPU{gpu.index}" for gpu in gpus]
    nic_names = [f"NIC{number}" for number in range(len(nics))]
    lines = ["\t" + "\t".join([*gpu_names, *nic_names, "CPU Affinity", "NUMA Affinity", "GPU NUMA ID"])]
    for row in gpus:
        cells = [" X " if row is other else _nvlinks(row, other) for other in gpus]
        cells += [_pcie(row.index // 2, number) for number in range(len(nics))]
        node = row.index // 4
        lines.append(f"GPU{row.index}\t" + "\t".join(cells) + f"\t{_cpus(node)}\t{node}\t\tN/A")
    for number in range(len(nics)):
        cells = [_pcie(gpu.index // 2, number) for gpu in gpus]
        cells += [" X " if number == other else _between(number, other) for other in range(len(nics))]
        lines.append(f"NIC{number}\t" + "\t".join(cells) + "\t\t\t\t")
    legend = "".join(f"  NIC{number}: {name}\n" for number, name in enumerate(nics))
    return "\n".join(lines) + "\n" + LEGEND + ("\nNIC Legend:\n\n" + legend if nics else "")


def _nvlinks(one: Gpu, other: Gpu) -> str:
    """NV and the number of links that both ends have up; through NVSwitch each pair shares all links of a GPU."""
    active = min(sum(link["state"] == "active" for link in gpu.data["nvlinks"]) for gpu in (one, other))
    return f"NV{active}" if active else ("NODE" if one.index // 4 == other.index // 4 else "SYS")


def _pcie(switch: int, nic: int) -> str:
    return "PXB" if switch == nic else _between(switch, nic)


def _between(one: int, other: int) -> str:
    return "NODE" if one // 2 == other // 2 else "SYS"


def _cpus(node: int) -> str:
    """The processors near a NUMA node, as the kernel's cpulist writes them: halves of this machine's processors."""
    half = max(1, (os.cpu_count() or 2) // 2)
    return f"{node * half}-{node * half + half - 1}" if half > 1 else str(node)


def nvlink(arguments: list[str], gpus: list[Gpu]) -> int:
    """`nvlink -s` (state and speed) and `-e` (error counters)."""
    parser = argparse.ArgumentParser(prog="nvidia-smi nvlink", allow_abbrev=False)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("-s", "--status", action="store_true")
    what.add_argument("-e", "--errorcounters", action="store_true")
    parser.add_argument("-i", "--id", type=int)
    options = parser.parse_args(arguments)
    chosen = [gpu for gpu in gpus if options.id in (None, gpu.index)]
    if not chosen:
        print("No devices were found")
        return NOT_FOUND
    for gpu in answering(chosen):
        print(f"GPU {gpu.index}: {gpu.data['model']} (UUID: {gpu.data['uuid']})")
        for link in gpu.data["nvlinks"]:
            if options.status:
                state = f"{link['gbs']:.3f} GB/s" if link["state"] == "active" else "<inactive>"
                print(f"\t Link {link['id']}: {state}")
            else:
                for kind in ("Replay", "Recovery", "CRC"):
                    print(f"\t Link {link['id']}: {kind} Errors: {link.get(kind.lower(), 0)}")
                print()
    return 0

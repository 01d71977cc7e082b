"""Parser of `nvidia-smi topo -m`: how GPUs and network adapters of a node reach each other.

The matrix is tab separated; a copy from a page may have blanks instead. Drivers before ~525 name adapters by device
(`mlx5_0`), newer ones by number with a "NIC Legend" below (NVIDIA/nccl issues 933, 1505; DeepEP issue 128). Wide
matrices have been seen with a cell cut off (`PH0-115`), so each cell is checked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_CELL = re.compile(r"X|SYS|NODE|PHB|PXB|PIX|NV\d+")
_LEGEND = re.compile(r"\s+(NIC\d+): (\S+)\s*$")
# From near to far, as the legend of the command orders them backwards.
_NEAR = ("PIX", "PXB", "PHB", "NODE", "SYS")


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuPlace:
    """Where a GPU sits: the processors and the NUMA node near it, as text; None where the driver doesn't know."""

    name: str
    index: int
    cpu_affinity: str | None
    numa_affinity: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Topology:
    """The matrix: `paths[a][b]` is `NV18`, `PIX`, `SYS`, …; `nics` maps the matrix' name to the adapter's."""

    gpus: tuple[GpuPlace, ...]
    nics: dict[str, str]
    paths: dict[str, dict[str, str]]

    def nvlinks(self, one: str, other: str) -> int:
        """Bonded NVLinks between two GPUs; 0 when they meet over PCIe."""
        path = self.paths[one][other]
        return int(path[2:]) if path.startswith("NV") else 0

    def nearest_nics(self, gpu: str) -> list[str]:
        """Adapters on the shortest path of a GPU, by their own names: those that should carry its traffic."""
        for kind in _NEAR:
            near = [name for nic, name in self.nics.items() if self.paths[gpu][nic] == kind]
            if near:
                return near
        return []


def parse_topo(text: str) -> Topology:
    """The matrix of `nvidia-smi topo -m`. Raises ValueError, with the line, when it isn't one."""
    lines = _ANSI.sub("", text).splitlines()
    header = next((number for number, line in enumerate(lines) if "CPU Affinity" in line), None)
    if header is None:
        raise ValueError(f"no line with 'CPU Affinity' in {text.strip()[:120]!r}")
    names = lines[header].split("CPU Affinity")[0].split()
    if not any(name.startswith("GPU") for name in names) or len(set(names)) != len(names):
        raise ValueError(f"no GPUs in {lines[header]!r}")
    gpus: list[GpuPlace] = []
    paths: dict[str, dict[str, str]] = {}
    for line, expected in zip(lines[header + 1 :], names, strict=False):
        row = line.split()
        cells = row[1 : len(names) + 1]
        if row[:1] != [expected] or len(cells) != len(names) or not all(map(_CELL.fullmatch, cells)):
            raise ValueError(f"not the row of {expected} with {len(names)} paths: {line!r}")
        if cells[names.index(expected)] != "X":
            raise ValueError(f"the path from {expected} to itself is not X: {line!r}")
        paths[expected] = dict(zip(names, cells, strict=True))
        if expected.startswith("GPU"):
            places = [None if place == "N/A" else place for place in row[len(names) + 1 :]]
            cpu, numa, *_ = [*places, None, None]
            gpus.append(GpuPlace(name=expected, index=int(expected[3:]), cpu_affinity=cpu, numa_affinity=numa))
    if list(paths) != names:
        raise ValueError(f"the matrix ends before the row of {names[len(paths)]}")
    for one, other in ((one, other) for one in names for other in names):
        if paths[one][other] != paths[other][one]:
            raise ValueError(f"the path from {one} to {other} is {paths[one][other]}, back it is {paths[other][one]}")
    legend = {found[1]: found[2] for found in map(_LEGEND.match, lines[header + len(names) :]) if found}
    nics = {name: legend.get(name, name) for name in names if not name.startswith("GPU")}
    unnamed = [name for name in nics.values() if re.fullmatch(r"NIC\d+", name)]
    if unnamed:
        raise ValueError(f"the NIC legend does not name {', '.join(unnamed)}")
    return Topology(gpus=tuple(gpus), nics=nics, paths=paths)


def topology_facts(topology: Topology) -> dict[str, Any]:
    """The topology as plain data, for Ansible: per GPU its NVLinks to the others and its nearest adapters."""
    names = [gpu.name for gpu in topology.gpus]
    links = {one: {other: topology.nvlinks(one, other) for other in names if other != one} for one in names}
    counts = [count for row in links.values() for count in row.values()]
    return {
        "gpus": [
            {
                "name": gpu.name,
                "index": gpu.index,
                "cpu_affinity": gpu.cpu_affinity,
                "numa_affinity": gpu.numa_affinity,
                "nvlinks": links[gpu.name],
                "nearest_nics": topology.nearest_nics(gpu.name),
            }
            for gpu in topology.gpus
        ],
        "nics": list(topology.nics.values()),
        "nvlinks_min": min(counts, default=0),
        "nvlinks_max": max(counts, default=0),
        "all_to_all": bool(counts) and min(counts) > 0,
    }

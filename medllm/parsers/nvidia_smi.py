"""`nvidia-smi -L`, `nvidia-smi -q -x` and `nvidia-smi nvlink -s`.

Formats: drivers 535 to 580, from public captures (tests/data/README.md). A lost GPU shows in two ways: the tool names
its bus address and gives up on it, or it prints "GPU is lost" in the place of each value.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass

_LISTED = re.compile(r"^GPU (\d+): (.+) \(UUID: (GPU-[0-9a-f-]+)\)$")
_LOST = re.compile(
    r"^Unable to determine the device handle for (?:GPU|gpu) ?\d*:? ?([0-9A-Fa-f]{4,8}:[0-9A-Fa-f:.]+): (.+)$"
)
_MIG = re.compile(r"^\s+MIG .+$")
_LINK = re.compile(r"^\s+Link (\d+): (?:([0-9.]+) GB/s|<inactive>)$")
_ALL_INACTIVE = "NVML: Unable to retrieve NVLink information as all links are inactive"


@dataclass(frozen=True, slots=True)
class ListedGpu:
    index: int
    name: str
    uuid: str


@dataclass(frozen=True, slots=True)
class LostGpu:
    bus_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Listing:
    """What `nvidia-smi -L` lists, and the GPUs that it can't open."""

    gpus: tuple[ListedGpu, ...]
    lost: tuple[LostGpu, ...]


def parse_list(text: str) -> Listing:
    """Read `nvidia-smi -L`; an unknown line is an error, for it may be a failure that looks like nothing."""
    gpus: list[ListedGpu] = []
    lost: list[LostGpu] = []
    for number, line in enumerate(text.splitlines(), 1):
        if found := _LISTED.match(line):
            gpus.append(ListedGpu(int(found[1]), found[2], found[3]))
        elif found := _LOST.match(line):
            lost.append(LostGpu(found[1], found[2]))
        elif line == "No devices were found":
            return Listing((), ())
        elif line.strip() and not _MIG.match(line):
            raise ValueError(f"nvidia-smi -L, line {number}: {line.strip()!r} is no GPU")
    if not gpus and not lost:
        raise ValueError("nvidia-smi -L, line 1: the output is empty")
    return Listing(tuple(gpus), tuple(lost))


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU of `nvidia-smi -q -x`. None: the tool gives no value (N/A, an error, or "GPU is lost").

    Temperatures in °C. `uncorrectable` sums the volatile DRAM and SRAM uncorrectable errors.
    """

    bus_id: str
    name: str | None
    uuid: str | None
    serial: str | None
    vbios: str | None
    memory_mib: int | None
    persistence: bool | None
    temperature_c: int | None
    memory_temperature_c: int | None
    uncorrectable: int | None
    remap_pending: bool | None
    remap_failure: bool | None
    fabric_state: str | None
    fabric_status: str | None
    recovery_action: str | None


@dataclass(frozen=True, slots=True)
class SmiLog:
    """`attached_gpus` counts a GPU that fell off the bus too; `gpus` are those that answer."""

    driver_version: str
    attached_gpus: int
    gpus: tuple[Gpu, ...]


def parse_query(text: str) -> SmiLog:
    """Read `nvidia-smi -q -x` (nvsmi_device_v12 and v13)."""
    if not text.lstrip().startswith("<?xml"):
        first = next((line for line in text.splitlines() if line.strip()), "")
        raise ValueError(f"nvidia-smi -q -x, line 1: no XML but {first.strip()!r}")
    if "<!ENTITY" in text:
        raise ValueError("nvidia-smi -q -x: an entity declaration has no place in it")
    try:
        root = ET.fromstring(text.lstrip())
    except ET.ParseError as error:
        raise ValueError(f"nvidia-smi -q -x, line {error.position[0]}: {error.msg}") from None
    driver, attached = root.findtext("driver_version"), root.findtext("attached_gpus")
    if root.tag != "nvidia_smi_log" or not driver or not attached or not attached.strip().isdigit():
        raise ValueError("nvidia-smi -q -x, line 1: driver_version or attached_gpus is missing")
    gpus = tuple(_gpu(element) for element in root.findall("gpu"))
    if len(gpus) > int(attached):
        raise ValueError(f"nvidia-smi -q -x: {attached.strip()} GPUs attached, {len(gpus)} described")
    return SmiLog(driver.strip(), int(attached), gpus)


def _gpu(gpu: ET.Element) -> Gpu:
    def text(path: str) -> str | None:
        value = (gpu.findtext(path) or "").strip()
        return None if value in {"", "N/A", "GPU is lost", "Unknown Error"} else value

    def number(path: str) -> int | None:
        found = re.match(r"^-?\d+\b", text(path) or "")
        return int(found[0]) if found else None

    def flag(path: str, yes: str, no: str) -> bool | None:
        return {yes: True, no: False}.get(text(path) or "")

    # Hopper and newer split the SRAM counter by kind of protection; the A100's drivers print one.
    volatile = "ecc_errors/volatile/"
    parts = [number(volatile + "dram_uncorrectable")]
    if gpu.find(volatile + "sram_uncorrectable") is not None:
        parts.append(number(volatile + "sram_uncorrectable"))
    else:
        parts += [number(volatile + f"sram_uncorrectable_{kind}") for kind in ("parity", "secded")]
    return Gpu(
        bus_id=gpu.get("id", ""),
        name=text("product_name"),
        uuid=text("uuid"),
        serial=text("serial"),
        vbios=text("vbios_version"),
        memory_mib=number("fb_memory_usage/total"),
        persistence=flag("persistence_mode", "Enabled", "Disabled"),
        temperature_c=number("temperature/gpu_temp"),
        memory_temperature_c=number("temperature/memory_temp"),
        uncorrectable=None if None in parts else sum(part for part in parts if part is not None),
        remap_pending=flag("remapped_rows/remapped_row_pending", "Yes", "No"),
        remap_failure=flag("remapped_rows/remapped_row_failure", "Yes", "No"),
        fabric_state=text("fabric/state"),
        fabric_status=text("fabric/status"),
        recovery_action=text("gpu_recovery_action"),
    )


@dataclass(frozen=True, slots=True)
class GpuLinks:
    """One GPU's NVLinks: GB/s a direction by link number; None is an inactive link."""

    index: int
    name: str
    uuid: str
    links: tuple[tuple[int, float | None], ...]


def parse_nvlink(text: str) -> tuple[GpuLinks, ...]:
    """Read `nvidia-smi nvlink -s`."""
    found_gpus: list[tuple[ListedGpu, list[tuple[int, float | None]]]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if found := _LISTED.match(line):
            found_gpus.append((ListedGpu(int(found[1]), found[2], found[3]), []))
        elif (found := _LINK.match(line)) and found_gpus:
            found_gpus[-1][1].append((int(found[1]), float(found[2]) if found[2] else None))
        elif line.strip() and not (line.strip() == _ALL_INACTIVE and found_gpus):
            raise ValueError(f"nvidia-smi nvlink -s, line {number}: {line.strip()!r} is no link")
    if not found_gpus:
        raise ValueError("nvidia-smi nvlink -s, line 1: the output is empty")
    return tuple(GpuLinks(gpu.index, gpu.name, gpu.uuid, tuple(links)) for gpu, links in found_gpus)

"""`nvidia-smi --query-…=… --format=csv`: one table of fields, with the unit that the header carries."""

from __future__ import annotations

import sys
from collections.abc import Callable

from . import driver
from .driver import INVALID_ARGUMENT, Gpu, answering

Value = Callable[[Gpu, str], object]
Field = tuple[str, Value]  # unit in the header ("" for none), value


def _memory_used(gpu: Gpu) -> int:
    return int(gpu.data.get("memory_used_mib", 0))


def _mask(gpu: Gpu) -> str:
    return "0x0000000000000001" if gpu.clocks_idle else "0x0000000000000000"


def _ecc(name: str) -> Value:
    return lambda gpu, _version: gpu.data["ecc"].get(name, 0)


def _yes(value: object) -> str:
    return "Yes" if value else "No"


GPU_FIELDS: dict[str, Field] = {
    "index": ("", lambda gpu, _: gpu.index),
    "count": ("", lambda _gpu, _: len([item for item in driver.gpus() if not item.lost])),
    "name": ("", lambda gpu, _: gpu.data["model"]),
    "uuid": ("", lambda gpu, _: gpu.data["uuid"]),
    "serial": ("", lambda gpu, _: gpu.data["serial"]),
    "pci.bus_id": ("", lambda gpu, _: gpu.data["pci"]),
    "driver_version": ("", lambda _gpu, version: version),
    "vbios_version": ("", lambda _gpu, _: "96.00.D0.00.01"),
    "compute_cap": ("", lambda _gpu, _: "9.0"),
    "compute_mode": ("", lambda _gpu, _: "Default"),
    "mig.mode.current": ("", lambda _gpu, _: "Disabled"),
    "pstate": ("", lambda _gpu, _: "P0"),
    "persistence_mode": ("", lambda gpu, _: "Enabled" if driver.persistence_enabled(gpu.index) else "Disabled"),
    "temperature.gpu": ("", lambda gpu, _: gpu.data["temperature_c"]),
    "temperature.memory": ("", lambda gpu, _: gpu.data["memory_temperature_c"]),
    "power.draw": ("W", lambda gpu, _: f"{float(gpu.data['power_w']):.2f}"),
    "power.draw.instant": ("W", lambda gpu, _: f"{float(gpu.data['power_w']):.2f}"),
    "power.draw.average": ("W", lambda gpu, _: f"{float(gpu.data['power_w']):.2f}"),
    "power.limit": ("W", lambda gpu, _: f"{float(gpu.data['power_limit_w']):.2f}"),
    "enforced.power.limit": ("W", lambda gpu, _: f"{float(gpu.data['power_limit_w']):.2f}"),
    "power.default_limit": ("W", lambda gpu, _: f"{float(gpu.data['power_limit_max_w']):.2f}"),
    "power.min_limit": ("W", lambda gpu, _: f"{float(gpu.data['power_limit_min_w']):.2f}"),
    "power.max_limit": ("W", lambda gpu, _: f"{float(gpu.data['power_limit_max_w']):.2f}"),
    "memory.total": ("MiB", lambda gpu, _: gpu.data["memory_mib"]),
    "memory.used": ("MiB", lambda gpu, _: _memory_used(gpu)),
    "memory.free": ("MiB", lambda gpu, _: int(gpu.data["memory_mib"]) - _memory_used(gpu) - 612),
    "memory.reserved": ("MiB", lambda _gpu, _: 612),
    "utilization.gpu": ("%", lambda gpu, _: gpu.data["utilization"]),
    "utilization.memory": ("%", lambda gpu, _: gpu.data["utilization"]),
    "clocks.current.sm": ("MHz", lambda gpu, _: gpu.data["clocks_sm_mhz"]),
    "clocks.current.graphics": ("MHz", lambda gpu, _: gpu.data["clocks_sm_mhz"]),
    "clocks.current.memory": ("MHz", lambda _gpu, _: 3201),
    "clocks.max.sm": ("MHz", lambda _gpu, _: 1980),
    "clocks.max.memory": ("MHz", lambda _gpu, _: 3201),
    "clocks_event_reasons.active": ("", lambda gpu, _: _mask(gpu)),
    "pcie.link.gen.current": ("", lambda _gpu, _: 5),
    "pcie.link.gen.max": ("", lambda _gpu, _: 5),
    "pcie.link.width.current": ("", lambda _gpu, _: 16),
    "pcie.link.width.max": ("", lambda _gpu, _: 16),
    "ecc.mode.current": ("", lambda _gpu, _: "Enabled"),
    "ecc.mode.pending": ("", lambda _gpu, _: "Enabled"),
    "ecc.errors.corrected.volatile.total": ("", _ecc("sbe_volatile")),
    "ecc.errors.uncorrected.volatile.total": ("", _ecc("dbe_volatile")),
    "ecc.errors.corrected.aggregate.total": ("", _ecc("sbe_aggregate")),
    "ecc.errors.uncorrected.aggregate.total": ("", _ecc("dbe_aggregate")),
    "ecc.errors.uncorrected.aggregate.sram": ("", _ecc("sram_uncorrectable_aggregate")),
    "fabric.state": ("", lambda gpu, _: driver.fabric(gpu)[0]),
    "fabric.status": ("", lambda gpu, _: driver.fabric(gpu)[1]),
}
# Short names that `nvidia-smi --help-query-gpu` gives beside the long ones; the header repeats what was asked.
ALIASES = {
    "gpu_name": "name",
    "gpu_uuid": "uuid",
    "gpu_serial": "serial",
    "gpu_bus_id": "pci.bus_id",
    "clocks.sm": "clocks.current.sm",
    "clocks.gr": "clocks.current.graphics",
    "clocks.mem": "clocks.current.memory",
    "clocks_throttle_reasons.active": "clocks_event_reasons.active",
}
# The header names the field in full for these, whatever was asked.
HEADER_OF_ALIAS = {
    "gpu_name": "name",
    "gpu_uuid": "uuid",
    "gpu_serial": "serial",
    "gpu_bus_id": "pci.bus_id",
    "clocks.sm": "clocks.current.sm",
    "clocks.gr": "clocks.current.graphics",
    "clocks.mem": "clocks.current.memory",
}

REMAPPED_FIELDS: dict[str, Field] = {
    "gpu_uuid": ("", lambda gpu, _: gpu.data["uuid"]),
    "gpu_bus_id": ("", lambda gpu, _: gpu.data["pci"]),
    "gpu_name": ("", lambda gpu, _: gpu.data["model"]),
    "gpu_serial": ("", lambda gpu, _: gpu.data["serial"]),
    "remapped_rows.correctable": ("", lambda gpu, _: gpu.data["remapped"]["correctable"]),
    "remapped_rows.uncorrectable": ("", lambda gpu, _: gpu.data["remapped"]["uncorrectable"]),
    "remapped_rows.pending": ("", lambda gpu, _: _yes(gpu.data["remapped"]["pending"])),
    "remapped_rows.failure": ("", lambda gpu, _: _yes(gpu.data["remapped"]["failure"])),
}

APP_FIELDS: dict[str, Field] = {
    "pid": ("", lambda _gpu, _: ""),
    "process_name": ("", lambda _gpu, _: ""),
    "gpu_uuid": ("", lambda _gpu, _: ""),
    "used_memory": ("MiB", lambda _gpu, _: ""),
    "used_gpu_memory": ("MiB", lambda _gpu, _: ""),
}


def print_rows(asked: str, form: str, gpus: list[Gpu], known: dict[str, Field], version: str) -> int:
    """Print the asked fields, one line a GPU that answers; 2 when the format or a field is wrong."""
    words = {word.strip() for word in form.split(",") if word.strip()}
    if "csv" not in words:
        print('"--format=" switch is missing. Specify "csv" as part of the format.', file=sys.stderr)
        return INVALID_ARGUMENT
    names = [name.strip() for name in asked.split(",")]
    fields: list[Field] = []
    for name in names:
        key = name if name in known else ALIASES.get(name, name)
        if key not in known:
            print(f'Field "{name}" is not a valid field to query.\n')
            return INVALID_ARGUMENT
        fields.append(known[key])
    if "noheader" not in words:
        titles = [HEADER_OF_ALIAS.get(name, name) if known is GPU_FIELDS else name for name in names]
        print(", ".join(f"{t} [{unit}]" if unit else t for t, (unit, _) in zip(titles, fields, strict=True)))
    for gpu in answering(gpus):
        cells = []
        for unit, value in fields:
            text = str(value(gpu, version))
            cells.append(f"{text} {unit}" if unit and "nounits" not in words else text)
        print(", ".join(cells))
    return 0

"""`nvidia-smi`: arguments and dispatch. The formats are in smi_table, smi_log, smi_query and smi_links.

Formats follow public captures of drivers 570 and 580 on H100 and H200; each is cited in tests/data/vendor/README.md.
"""

from __future__ import annotations

import argparse

from . import driver, hardware, smi_links, smi_log, smi_query, smi_table
from .driver import INVALID_ARGUMENT, NOT_FOUND, DriverError, Gpu, answering


def main(arguments: list[str]) -> int:
    """Exit status as nvidia-smi's (its manual page, RETURN VALUE)."""
    try:
        version = driver.require_driver()
        if arguments[:1] == ["topo"]:
            return smi_links.topology(arguments[1:], driver.gpus())
        if arguments[:1] == ["nvlink"]:
            return smi_links.nvlink(arguments[1:], driver.gpus())
        return _run(_parser().parse_args(arguments), version)
    except DriverError as error:
        print(error)
        return error.status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nvidia-smi", allow_abbrev=False)
    parser.add_argument("-L", "--list-gpus", action="store_true")
    parser.add_argument("-q", "--query", action="store_true")
    parser.add_argument("-x", "--xml-format", action="store_true")
    parser.add_argument("-i", "--id")
    parser.add_argument("-d", "--display")
    parser.add_argument("--query-gpu")
    parser.add_argument("--query-remapped-rows")
    parser.add_argument("--query-compute-apps")
    parser.add_argument("--format", default="")
    parser.add_argument("-pl", "--power-limit", type=float)
    parser.add_argument("-pm", "--persistence-mode", choices=["0", "1"])
    parser.add_argument("-r", "--gpu-reset", action="store_true")
    parser.add_argument("--version", action="store_true")
    return parser


def _run(options: argparse.Namespace, version: str) -> int:
    gpus = driver.gpus()
    if options.version:
        print(f"NVIDIA-SMI version  : {version}\nNVML version        : {'.'.join(version.split('.')[:2])}")
        print(f"DRIVER version      : {version}\nCUDA Version        : {smi_log.CUDA_VERSION}")
        return 0
    if not gpus:
        print("No devices were found")
        return NOT_FOUND
    chosen = _choose(gpus, options.id)
    if not chosen:
        print("No devices were found")
        return NOT_FOUND
    if options.power_limit is not None:
        return _power_limit(chosen, options.power_limit)
    if options.persistence_mode is not None:
        return _persistence(chosen, options.persistence_mode == "1")
    if options.gpu_reset:
        return _reset(chosen)
    if options.list_gpus:
        return _list(chosen)
    for fields, known in (
        (options.query_gpu, smi_query.GPU_FIELDS),
        (options.query_remapped_rows, smi_query.REMAPPED_FIELDS),
        (options.query_compute_apps, smi_query.APP_FIELDS),
    ):
        if fields is not None:
            rows = [] if known is smi_query.APP_FIELDS else chosen
            return smi_query.print_rows(fields, options.format, rows, known, version)
    if options.query:
        text = smi_log.xml(chosen, version) if options.xml_format else smi_log.text(chosen, version, options.display)
        print(text)
        return 0
    print(smi_table.table(chosen, version))
    return 0


def _choose(gpus: list[Gpu], wanted: str | None) -> list[Gpu]:
    if wanted is None:
        return gpus
    names = wanted.split(",")
    return [gpu for gpu in gpus if {str(gpu.index), gpu.data["uuid"], gpu.data["pci"], gpu.data["serial"]} & set(names)]


def _list(gpus: list[Gpu]) -> int:
    for gpu in answering(gpus):
        print(f"GPU {gpu.index}: {gpu.data['model']} (UUID: {gpu.data['uuid']})")
    return 0


def _power_limit(gpus: list[Gpu], watts: float) -> int:
    for gpu in answering(gpus):
        low, high = float(gpu.data["power_limit_min_w"]), float(gpu.data["power_limit_max_w"])
        if not low <= watts <= high:
            print(
                f"Provided power limit {watts:.2f} W is not a valid power limit which should be between "
                f"{low:.2f} W and {high:.2f} W for GPU {gpu.data['pci']}\nTerminating early due to previous errors."
            )
            return INVALID_ARGUMENT
    for gpu in answering(gpus):
        with hardware.edit() as silicon:
            target = next(item for item in silicon["gpus"] if item["uuid"] == gpu.data["uuid"])
            before, target["power_limit_w"] = float(target["power_limit_w"]), watts
            if watts < high / 2:
                hardware.clear_by_power_limit(silicon, f"gpu{gpu.index}")
        print(f"Power limit for GPU {gpu.data['pci']} was set to {watts:.2f} W from {before:.2f} W.")
        if not driver.persistence_enabled(gpu.index):
            print(
                f"Warning: persistence mode is disabled on GPU {gpu.data['pci']}. See the Known Issues section of the "
                "nvidia-smi(1) man page for more information. Run with [--help | -h] switch to get more information "
                "on how to enable persistence mode."
            )
    print("All done.")
    return 0


def _persistence(gpus: list[Gpu], on: bool) -> int:
    word = "Enabled" if on else "Disabled"
    for gpu in answering(gpus):
        if driver.persistence_enabled(gpu.index) == on:
            print(f"Persistence mode is already {word} for GPU {gpu.data['pci']}.")
            continue
        driver.set_persistence(gpu.index, on)
        print(f"{word} persistence mode for GPU {gpu.data['pci']}.")
    print("All done.")
    return 0


def _reset(gpus: list[Gpu]) -> int:
    """`--gpu-reset` clears what the silicon says a reset clears; a lost GPU cannot be reset (Xid 79 needs a reboot)."""
    for gpu in gpus:
        if gpu.lost:
            driver.report_lost(gpu)
            return 255
        with hardware.edit() as silicon:
            hardware.clear_by_reset(silicon, f"gpu{gpu.index}")
        print(f"GPU {gpu.data['pci']} was successfully reset.")
    print("All done.")
    return 0

"""DCGM: `nv-hostengine` and `dcgmi` (discovery, health, diag).

Layouts: captures in NVIDIA/DCGM issues 229 (discovery) and 282 (diag of 4.4.1), and DCGM's user guide (health).
"""

from __future__ import annotations

import argparse
import os
import signal
import sys

from . import driver, hardware
from .driver import Gpu

STATE = "hostengine.json"
NOT_CONNECTED = 231  # DCGM_ST_CONNECTION_NOT_VALID (-25) as an exit status
DIAG_RULE = "+---------------------------+------------------------------------------------+"


def hostengine(arguments: list[str]) -> int:
    """`nv-hostengine -n`: stays in the foreground, as its unit runs it."""
    parser = argparse.ArgumentParser(prog="nv-hostengine", allow_abbrev=False)
    parser.add_argument("-n", action="store_true")
    parser.add_argument("--service-account", default="root")
    parser.parse_args(arguments)
    hardware.write_json(hardware.state_file(STATE), {"pid": os.getpid()})
    version = hardware.package_version("datacenter-gpu-manager-4-core")
    print(f"Started host engine version {version} using port number: 5555 ", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    while True:
        signal.pause()


def dcgmi(arguments: list[str]) -> int:
    """`dcgmi SUBSYSTEM …`; the exit status is 0 or the DCGM error modulo 256."""
    engine = hardware.read_state(STATE)
    if not (engine and hardware.alive(int(engine["pid"]))):
        print("Error: unable to establish a connection to the specified host: localhost")
        print("Error: Unable to connect to host engine. Host engine connection invalid/disconnected.")
        return NOT_CONNECTED
    commands = {"discovery": _discovery, "health": _health, "diag": _diag}
    if not arguments or arguments[0] not in commands:
        print("Usage: dcgmi discovery|health|diag …", file=sys.stderr)
        return 1
    gpus = driver.gpus() if driver.loaded_version() else []
    return commands[arguments[0]](arguments[1:], [gpu for gpu in gpus if not gpu.lost])


def _discovery(arguments: list[str], gpus: list[Gpu]) -> int:
    if arguments not in (["-l"], ["--list"]):
        print("Error: Required parameter is missing. Either argument -l or -i is required.", file=sys.stderr)
        return 1
    rule = "+--------+----------------------------------------------------------------------+"
    print(f"{len(gpus)} GPU{'s' if len(gpus) != 1 else ''} found.")
    print(rule, "| GPU ID | Device Information                                                   |", rule, sep="\n")
    for gpu in gpus:
        lines = (f"Name: {gpu.data['model']}", f"PCI Bus ID: {gpu.data['pci']}", f"Device UUID: {gpu.data['uuid']}")
        for number, text in enumerate(lines):
            print(f"| {gpu.index if number == 0 else '':<6} | {text:<68} |")
        print(rule)
    switches = int(hardware.read()["nvswitches"]) if gpus else 0
    print(f"{switches} NvSwitches found.", "+-----------+", "| Switch ID |", "+-----------+", sep="\n")
    for number in range(switches):
        print(f"| {number:<9} |")
    print("+-----------+")
    for kind, title in (
        ("ConnectX", "| ConnectX ID | Device Information |"),
        ("CPUs", "| CPU ID | Device Information |"),
    ):
        line = f"+{'-' * (len(title) - 2)}+"
        print(f"0 {kind} found.", line, title, line, line, sep="\n")
    return 0


def _problems(gpu: Gpu) -> list[str]:
    data, found = gpu.data, []
    if data["remapped"]["failure"]:
        found.append("Row remapping failure occurred")
    if data["remapped"]["pending"]:
        found.append("A pending row remapping was detected: reset the GPU")
    if data["ecc"]["dbe_volatile"]:
        found.append(f"Detected {data['ecc']['dbe_volatile']} volatile double-bit ECC error(s)")
    if any(link["state"] != "active" for link in data["nvlinks"]):
        found.append("An NVLink is down")
    return found


def _health(arguments: list[str], gpus: list[Gpu]) -> int:
    parser = argparse.ArgumentParser(prog="dcgmi health", allow_abbrev=False)
    parser.add_argument("-g", "--group", type=int, default=0)
    parser.add_argument("-s", "--set")
    parser.add_argument("-c", "--check", action="store_true")
    options = parser.parse_args(arguments)
    if options.set:
        print("Health monitor systems set successfully.")
    if options.check:
        failing = {gpu.index: _problems(gpu) for gpu in gpus if _problems(gpu)}
        rule = "+---------------------------+----------------------------------------------------------+"
        print(rule, f"| {'Health Monitor Report':<84} |", rule.replace("-", "="), sep="\n")
        print(f"| {'Overall Health':<25} | {'Failure' if failing else 'Healthy':<56} |")
        for index, problems in failing.items():
            print(f"| {'GPU ' + str(index):<25} | {problems[0]:<56.56} |")
        print(rule)
    return 0


def _diag(arguments: list[str], gpus: list[Gpu]) -> int:
    parser = argparse.ArgumentParser(prog="dcgmi diag", allow_abbrev=False)
    parser.add_argument("-r", "--run", required=True)
    options = parser.parse_args(arguments)
    if not gpus:
        print("Error: Diagnostic could not be run because no supported GPUs were found.")
        return 1
    failing = {gpu.index: _problems(gpu) for gpu in gpus if _problems(gpu)}
    print("Successfully ran diagnostic for group.")
    print(DIAG_RULE, f"| {'Diagnostic':<25} | {'Result':<46} |", DIAG_RULE.replace("-", "="), sep="\n")
    version = hardware.package_version("datacenter-gpu-manager-4-core")
    print(_section("Metadata"))
    for label, value in (
        ("DCGM Version", version),
        ("Driver Version Detected", driver.loaded_version()),
        ("GPU Device IDs Detected", ", ".join("2335" for _ in gpus)),
    ):
        print(f"| {label:<25} | {value:<46} |")
    print(_section("Deployment"))
    rows = [("software", not driver.loaded_version())]
    if options.run.startswith(("2", "3", "4")):
        rows += [("pcie", False), ("memory", bool(failing))]
    for name, failed in rows:
        print(f"| {name:<25} | {'Fail' if failed else 'Pass':<46} |")
        for gpu in gpus:
            bad = failed and gpu.index in failing
            print(f"| {'':<25} | {f'GPU{gpu.index}: ' + ('Fail' if bad else 'Pass'):<46} |")
    print(DIAG_RULE)
    return 226 if any(failed for _, failed in rows) else 0


def _section(title: str) -> str:
    return f"|{f'-----  {title}  ':-<27}+{'-' * 48}|"

"""The NVIDIA kernel driver as its tools see it: loaded version, enumerated GPUs, persistence, fabric.

The driver enumerates GPUs when the module loads; one that falls off the bus later stays listed and answers
"Unknown Error" until the next load. So a GPU here is `lost` when it is enumerated and no longer present.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

from lab.hardware import Json

from . import hardware
from .hardware import rooted

STATE = "nvidia-driver.json"
MAJOR = 195
UVM_MAJOR = 510  # dynamic on a real node

# Exit statuses of nvidia-smi (its manual page, RETURN VALUE).
INVALID_ARGUMENT, NOT_FOUND = 2, 6
CONTROL_MINOR, MODESET_MINOR = 255, 254

# First line as on an HGX node with 580.95.05 (a public capture of `cat /proc/driver/nvidia/version`, cited in
# tests/data/vendor/README.md); the build host and date are those of that capture.
VERSION_TEXT = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {version}  Release Build  "
    "(dvs-builder@U22-I3-B17-02-5)  Tue Sep 23 09:55:41 UTC 2025\n"
    "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14+deb12u1) \n"
)


class DriverError(Exception):
    """What NVML answers instead of data: message as nvidia-smi prints it, and its exit status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Gpu:
    """One GPU of the driver's list."""

    data: Json
    lost: bool

    @property
    def index(self) -> int:
        return int(self.data["index"])

    @property
    def pci(self) -> str:
        """Bus id as the driver's files spell it: 0000:18:00.0 (nvidia-smi prints eight digits of domain)."""
        return str(self.data["pci"])[4:].lower()

    @property
    def clocks_idle(self) -> bool:
        return int(self.data.get("utilization", 0)) == 0


def loaded_version() -> str:
    """Version of the module in the kernel; empty when it is not loaded."""
    try:
        text = rooted("/proc/driver/nvidia/version").read_text()
    except FileNotFoundError:
        return ""
    match = re.search(r"x86_64\s+(\S+)", text)
    return match.group(1) if match else ""


def require_driver(library_package: str = "nvidia-driver-cuda") -> str:
    """Version of the driver when it is loaded and the library matches it, else DriverError as NVML reports it."""
    loaded, library = loaded_version(), hardware.package_version(library_package)
    if not loaded:
        raise DriverError(
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "
            "Make sure that the latest NVIDIA driver is installed and running.\n",
            9,
        )
    if loaded != library:
        raise DriverError(
            "Failed to initialize NVML: Driver/library version mismatch\n"
            f"NVML library version: {'.'.join(library.split('.')[:2])}",
            18,
        )
    return loaded


def gpus() -> list[Gpu]:
    """The GPUs that the driver enumerated when it was loaded, lost ones included."""
    known = hardware.read_state(STATE).get("enumerated", [])
    by_uuid = {gpu["uuid"]: gpu for gpu in hardware.read()["gpus"]}
    return [Gpu(by_uuid[uuid], not by_uuid[uuid]["present"]) for uuid in known if uuid in by_uuid]


def report_lost(gpu: Gpu) -> None:
    """What nvidia-smi says of a GPU that fell off the bus; it goes on with the others and exits 0."""
    bus = gpu.pci.upper()
    print(f"Unable to determine the device handle for GPU{gpu.index}: {bus}: Unknown Error", file=sys.stderr)


def answering(gpus: list[Gpu]) -> list[Gpu]:
    """The GPUs that still answer; the others are reported."""
    for gpu in gpus:
        if gpu.lost:
            report_lost(gpu)
    return [gpu for gpu in gpus if not gpu.lost]


def persistence_enabled(index: int) -> bool:
    """Persistence mode of a GPU: kept by nvidia-persistenced while it runs, else set by `nvidia-smi -pm`."""
    daemon = hardware.read_state("persistenced.json")
    if daemon and hardware.alive(int(daemon["pid"])):
        return bool(daemon["modes"].get(str(index), daemon["default"]))
    return bool(hardware.read_state("persistence-legacy.json").get(str(index), False))


def fabric(gpu: Gpu) -> tuple[str, str]:
    """State and Status of a GPU's NVLink fabric registration; only a running, matching Fabric Manager completes it."""
    manager = hardware.read_state("fabricmanager.json")
    running = bool(manager) and hardware.alive(int(manager["pid"])) and manager["version"] == loaded_version()
    if not running:
        return "In Progress", "N/A"
    wanted = gpu.data.get("fabric", {})
    return str(wanted.get("state", "Completed")), str(wanted.get("status", "Success"))


def load() -> int:
    """`modprobe nvidia`: what the module leaves in /proc and /dev. Exit status as modprobe's."""
    version = hardware.package_version("nvidia-kernel-open-dkms")
    root = rooted("/proc/driver/nvidia")
    present = [gpu for gpu in hardware.read()["gpus"] if gpu["present"]]
    (root / "gpus").mkdir(parents=True, exist_ok=True)
    (root / "version").write_text(VERSION_TEXT.format(version=version))
    (root / "params").write_text(
        "ResmanDebugLevel: 4294967295\nEnableMSI: 1\nModifyDeviceFiles: 1\nOpenRmEnableUnsupportedGpus: 1\n"
    )
    for gpu in present:
        folder = root / "gpus" / str(gpu["pci"])[4:].lower()
        folder.mkdir(exist_ok=True)
        (folder / "information").write_text(_information(gpu, version))
        make_device(f"/dev/nvidia{gpu['index']}", MAJOR, gpu["index"])
    make_device("/dev/nvidiactl", MAJOR, CONTROL_MINOR)
    make_device("/dev/nvidia-modeset", MAJOR, MODESET_MINOR)
    hardware.write_json(
        hardware.state_file(STATE), {"version": version, "enumerated": [gpu["uuid"] for gpu in present]}
    )
    return 0


def unload() -> int:
    """`rmmod nvidia`: refuse while a daemon or another module uses it, as the kernel's use count does."""
    users = [path.name.removeprefix("module-") for path in hardware.state_file("").glob("module-nvidia-*")]
    if users:
        print(f"rmmod: ERROR: Module nvidia is in use by: {' '.join(users).replace('-', '_')}", file=sys.stderr)
        return 1
    for name in ("persistenced.json", "fabricmanager.json"):
        daemon = hardware.read_state(name)
        if daemon and hardware.alive(int(daemon["pid"])):
            print("rmmod: ERROR: Module nvidia is in use", file=sys.stderr)
            return 1
    shutil.rmtree(rooted("/proc/driver/nvidia"), ignore_errors=True)
    for path in rooted("/dev").glob("nvidia*"):
        if path.name != "nvidia-caps":
            path.unlink(missing_ok=True)
    hardware.state_file(STATE).unlink(missing_ok=True)
    return 0


def _information(gpu: Json, version: str) -> str:
    """/proc/driver/nvidia/gpus/*/information; field order of open-gpu-kernel-modules kernel-open/nvidia/nv-procfs.c."""
    return (
        f"Model: \t\t {gpu['model']}\n"
        f"IRQ:   \t\t {200 + int(gpu['index'])}\n"
        f"GPU UUID: \t {gpu['uuid']}\n"
        "Video BIOS: \t 96.00.d0.00.01\n"
        "Bus Type: \t PCIe\n"
        "DMA Size: \t 52 bits\n"
        "DMA Mask: \t 0xfffffffffffff\n"
        f"Bus Location: \t {str(gpu['pci'])[4:].lower()}\n"
        f"Device Minor: \t {gpu['index']}\n"
        f"GPU Firmware: \t {version}\n"
        "GPU Excluded:\t No\n"
    )


def make_device(path: str, major: int, minor: int) -> None:
    """A character device, as the driver's udev rule or nvidia-modprobe makes it."""
    target = rooted(path)
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        if os.environ.get("LABSIM_ROOT"):
            target.touch()  # a test need not be root
        else:
            os.mknod(target, stat.S_IFCHR | 0o666, os.makedev(major, minor))
            Path(target).chmod(0o666)


def set_persistence(index: int, on: bool) -> None:
    """`nvidia-smi -pm`: through nvidia-persistenced when it runs, else in the driver itself (legacy)."""
    daemon = hardware.read_state("persistenced.json")
    if daemon and hardware.alive(int(daemon["pid"])):
        daemon["modes"][str(index)] = on
        hardware.write_json(hardware.state_file("persistenced.json"), daemon)
        return
    legacy = hardware.read_state("persistence-legacy.json")
    legacy[str(index)] = on
    hardware.write_json(hardware.state_file("persistence-legacy.json"), legacy)

"""The part of a kernel module that user space sees, for the modules that vendor packages bring.

The lab's modprobe runs `/usr/lib/lab/modules/<module> load|unload`; those files call `main` here.
"""

from __future__ import annotations

import os
import subprocess
import sys

from . import driver, hardware

# A module that needs another one loaded first, as depmod would record it.
REQUIRES = {"nvidia-peermem": "nvidia", "nvidia-uvm": "nvidia", "lustre": "lnet"}


def main(module: str, action: str) -> int:
    """Load or unload `module`; exit status as modprobe's."""
    if action not in ("load", "unload"):
        print(f"usage: {module} load|unload", file=sys.stderr)
        return 2
    if module == "nvidia":
        return driver.load() if action == "load" else driver.unload()
    return _load(module) if action == "load" else _unload(module)


def loaded(module: str) -> bool:
    """Whether `module` is in the simulated kernel."""
    if module == "nvidia":
        return bool(driver.loaded_version())
    return hardware.state_file(f"module-{module}").exists()


def request(module: str) -> bool:
    """Load `module` if it is not there, as the kernel's request_module() does: through modprobe, so lsmod shows it."""
    if not loaded(module) and not os.environ.get("LABSIM_ROOT"):  # a test must not reach the machine's own modprobe
        subprocess.run(["/sbin/modprobe", "-q", module], check=False)
    return loaded(module)


def _load(module: str) -> int:
    needed = REQUIRES.get(module)
    if needed and not request(needed):
        return 1
    marker = hardware.state_file(f"module-{module}")
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.touch()
    if module == "nvidia-uvm":
        driver.make_device("/dev/nvidia-uvm", driver.UVM_MAJOR, 0)
    return 0


def _unload(module: str) -> int:
    if module == "lnet" and loaded("lustre"):
        print("rmmod: ERROR: Module lnet is in use by: lustre", file=sys.stderr)
        return 1
    hardware.state_file(f"module-{module}").unlink(missing_ok=True)
    return 0

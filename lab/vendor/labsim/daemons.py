"""The two NVIDIA daemons, nvidia-persistenced and nv-fabricmanager: both fork, as the real units expect."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from lab.hardware import Json

from . import driver, hardware
from .hardware import rooted


def persistenced(arguments: list[str]) -> int:
    """`nvidia-persistenced`: keeps persistence mode of all GPUs while it runs; on unless told otherwise."""
    parser = argparse.ArgumentParser(prog="nvidia-persistenced", allow_abbrev=False)
    parser.add_argument("--user", "-u", default="root")
    parser.add_argument("--group", "-g")
    parser.add_argument("--verbose", "-V", action="store_true")
    parser.add_argument("--persistence-mode", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--uvm-persistence-mode", action=argparse.BooleanOptionalAction, default=False)
    options = parser.parse_args(arguments)
    version = hardware.package_version("nvidia-persistenced")
    if driver.loaded_version() != version:
        _syslog(
            "Failed to query NVIDIA devices. Please ensure that the NVIDIA device files (/dev/nvidia*) exist, "
            f"and that user {options.user} has read and write permissions for those files."
        )
        return 1
    state: Json = {"default": options.persistence_mode, "modes": {}}
    return _daemon(
        "persistenced.json",
        state,
        rooted("/run/nvidia-persistenced/nvidia-persistenced.pid"),
        f"Started ({{pid}}), persistence mode {'enabled' if options.persistence_mode else 'disabled'}",
    )


def fabricmanager(arguments: list[str]) -> int:
    """`nv-fabricmanager -c FILE`: refuses to start when its version is not the loaded driver's."""
    parser = argparse.ArgumentParser(prog="nv-fabricmanager", allow_abbrev=False)
    parser.add_argument("-c", "--config", default="/usr/share/nvidia/nvswitch/fabricmanager.cfg")
    parser.add_argument("-v", "--version", action="store_true")
    options = parser.parse_args(arguments)
    version, loaded = hardware.package_version("nvidia-fabricmanager"), driver.loaded_version()
    if options.version:
        print(f"Fabric Manager version is : {version}")
        return 0
    if not rooted(options.config).exists():
        _fabric_log(f"failed to open config file {options.config}", "ERROR")
        return 1
    if not loaded:
        _fabric_log("failed to open /dev/nvidiactl: the NVIDIA driver is not loaded", "ERROR")
        return 1
    if loaded != version:
        _fabric_log(
            f"fabric manager NVIDIA GPU driver interface version {version} don't match with driver version {loaded}. "
            "Please update with matching NVIDIA driver package.",
            "ERROR",
        )
        return 1
    silicon = hardware.read()
    if not silicon["nvswitches"]:
        _fabric_log(
            "request to query NVSwitch device information from NVSwitch driver failed with error:"
            "WARNING Nothing to do [NV_WARN_NOTHING_TO_DO]",
            "ERROR",
        )
        return 1
    if any(fault["name"] == "fabric_manager_dead" for fault in silicon.get("faults", [])):
        _fabric_log("failed to initialize the NVSwitch fabric: NVLink training failed", "ERROR")
        return 1
    _fabric_log(f"Fabric Manager version {version} is running with the following configuration options", "INFO")
    state: Json = {"version": version}
    return _daemon(
        "fabricmanager.json",
        state,
        rooted("/run/nvidia-fabricmanager/nv-fabricmanager.pid"),
        "Successfully configured all the available NVSwitches to route GPU NVLink traffic. "
        "NVLink Peer-to-Peer support will be enabled once the GPUs are successfully registered with the NVLink fabric.",
    )


def _daemon(name: str, state: Json, pidfile: Path, message: str) -> int:
    """Fork; the parent returns when the child has written its state and pid file; the child sleeps until SIGTERM."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        ready = os.read(reader, 1)
        if ready:
            _syslog(message.format(pid=pid))
        return 0 if ready else 1
    os.close(reader)
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    own = os.getpid()
    hardware.write_json(hardware.state_file(name), {**state, "pid": own})
    pidfile.parent.mkdir(parents=True, exist_ok=True)
    pidfile.write_text(f"{own}\n")
    signal.signal(signal.SIGTERM, _leave(name, pidfile))
    os.write(writer, b"1")
    os.close(writer)
    while True:
        signal.pause()


def _leave(name: str, pidfile: Path) -> Callable[[int, FrameType | None], None]:
    def stop(_signal: int, _frame: FrameType | None) -> None:
        hardware.state_file(name).unlink(missing_ok=True)
        pidfile.unlink(missing_ok=True)
        os._exit(0)

    return stop


def _syslog(message: str) -> None:
    """The journal takes a service's stderr; the real daemons write to syslog under the same identifier."""
    print(message, file=sys.stderr, flush=True)


def _fabric_log(message: str, level: str) -> None:
    stamp = time.strftime("%b %d %Y %H:%M:%S")
    log = rooted("/var/log/fabricmanager.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as stream:
        stream.write(f"[{stamp}] [{level}] [tid {os.getpid()}] {message}\n")
    if level == "ERROR":
        _syslog(message)

"""Faults of the simulated hardware: each edits hardware.json, leaves the kernel's own words in the node's log, and
kills what holds the device. What clears a fault is its own; `heal` alone clears all of them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lab import hardware, nodes, power
from lab.hardware import Json
from lab.host import LabError, podman_environment, run
from lab.layout import Node, hardware_file
from medllm.errors import user_error

HEAL_SECONDS = 60
_ON_NODE = Path(__file__).with_name("on_node.py")


@dataclass(frozen=True, slots=True)
class Target:
    """What a fault hits: the node's silicon, and the GPU's index for a fault of a GPU."""

    silicon: Json
    gpu: int | None

    @property
    def label(self) -> str:
        return "" if self.gpu is None else f"gpu{self.gpu}"

    @property
    def bus(self) -> str:
        """The GPU's PCI address as the driver's log writes it: 0000:18:00."""
        return str(self.silicon["gpus"][self.gpu]["pci"])[4:].rsplit(".", 1)[0].lower()


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault. `changes`: path in hardware.json → value; `log`: kernel lines; `kills`: what dies of it;
    `stops_writes`: on Lustre; `machine`: what becomes of the machine itself."""

    name: str
    summary: str
    clears_on: Literal["reset", "remount", "power_limit", "reboot", "power_cycle", "never"]
    needs_gpu: bool = False
    changes: Callable[[Target], Json] = lambda target: {}
    log: Callable[[Target], list[str]] = lambda target: []
    kills: Literal["gpu", "fabric manager", ""] = ""
    stops_writes: bool = False
    machine: Literal["freeze", "off", ""] = ""


def _gpu(values: dict[str, Any]) -> Callable[[Target], Json]:
    return lambda target: {f"gpus.{target.gpu}.{key}": value for key, value in values.items()}


# Log lines: "NVRM: Xid (PCI:…): N, pid=…, name=…, text" of the XID catalogue (docs.nvidia.com/deploy/xid-errors);
# the Lustre line is LCONSOLE_ERROR_MSG(0x167, …) of lustre/ptlrpc/import.c (lustre-release);
# the SXid line is that of NVIDIA's Fabric Manager User Guide, "NVSwitch fatal errors".
FAULTS = {
    fault.name: fault
    for fault in (
        Fault(
            "xid79",
            "a GPU falls off the bus",
            "reboot",
            needs_gpu=True,
            changes=_gpu({"present": False, "last_xid": 79}),
            log=lambda target: [
                f"NVRM: Xid (PCI:{target.bus}): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
                f"NVRM: GPU {target.bus}.0: GPU has fallen off the bus.",
            ],
            kills="gpu",
        ),
        Fault(
            "xid48",
            "an uncorrectable memory error; the row waits for a reset to be remapped",
            "reset",
            needs_gpu=True,
            changes=lambda target: _gpu(
                {
                    "last_xid": 48,
                    "ecc.dbe_volatile": target.silicon["gpus"][target.gpu]["ecc"]["dbe_volatile"] + 1,
                    "remapped.pending": True,
                }
            )(target),
            log=lambda target: [
                f"NVRM: Xid (PCI:{target.bus}): 48, pid='<unknown>', name=<unknown>, DBE (double bit error) ECC Error",
            ],
            kills="gpu",
        ),
        Fault(
            "overheat",
            "a GPU's temperature rises to 92 degrees; the cooling is broken, so nothing but a repair helps",
            "never",
            needs_gpu=True,
            changes=_gpu({"temperature_c": 92, "memory_temperature_c": 98}),
        ),
        Fault(
            "hot_spell",
            "a GPU's temperature rises to 92 degrees until it may draw less than half of its power",
            "power_limit",
            needs_gpu=True,
            changes=_gpu({"temperature_c": 92, "memory_temperature_c": 98}),
        ),
        Fault(
            "fabric_manager_dead",
            "the fabric manager dies and cannot start again until the NVSwitches start anew",
            "reboot",
            log=lambda target: ["nvidia-nvswitch0: SXid (PCI:0000:0d:00.0): 20034, Fatal, Link 28 LTSSM Fault Up"],
            kills="fabric manager",
        ),
        Fault(
            "lustre_evicted",
            "the Lustre server evicts this client",
            "remount",
            changes=lambda target: {"lustre.evicted": True},
            log=lambda target: [
                "LustreError: 167-0: medllm-MDT0000-mdc-ffff9d0f4a3c1000: This client was evicted by medllm-MDT0000; "
                "in progress operations using this service will fail."
            ],
            stops_writes=True,
        ),
        Fault("hang", "the machine hangs: it answers ping and nothing else", "power_cycle", machine="freeze"),
        Fault("gone", "the machine loses its power", "power_cycle", machine="off"),
    )
}


def inject(node: Node, name: str, gpu: int | None) -> list[str]:
    """Put a fault in. Returns what died of it, one "pid name" an entry.

    Raises:
        UserError: no such fault or GPU, or the fault needs a GPU node that this is not.
        LabError: the node is off, frozen, or does not answer.
    """
    fault = FAULTS.get(name)
    if fault is None:
        raise user_error(f"there is no fault {name!r}", f"use one of: {', '.join(FAULTS)}")
    silicon = hardware.read(hardware_file(node))
    if not fault.machine and not node.is_gpu_node:
        raise user_error(f"{node.name} has no such hardware", "use one of node1 to node4")
    if fault.needs_gpu != (gpu is not None):
        rule = f"{name} hits one GPU" if fault.needs_gpu else f"{name} hits the whole node"
        fix = f"medllm lab fault {name} {node.name}" + (" 0" if fault.needs_gpu else "")
        raise user_error(rule, fix)
    if gpu is not None and not 0 <= gpu < len(silicon["gpus"]):
        raise user_error(f"{node.name} has no GPU {gpu}", f"use 0 to {len(silicon['gpus']) - 1}")
    if power.state(node) != "running":
        raise LabError(f"{node.name} is {power.state(node)}: `medllm lab heal {node.name}` first")
    target = Target(silicon, gpu)
    with hardware.edit(hardware_file(node)) as current:
        hardware.put_fault(current, name, target.label, fault.clears_on, fault.changes(target))
    if fault.machine:
        power.freeze(node) if fault.machine == "freeze" else power.off(node)
        return []
    died = []
    if fault.kills == "gpu":
        died = _on_node(node, "kill-gpu", str(gpu))
    elif fault.kills == "fabric manager":
        died = _on_node(node, "kill-unit", "nvidia-fabricmanager.service")
    if fault.stops_writes:
        _on_node(node, "lustre", "ro")
    lines = fault.log(target)
    if died and fault.kills == "gpu":
        pid, _, process = died[0].partition(" ")
        lines = [re.sub(r"pid='<unknown>', name=<unknown>", f"pid={pid}, name={process}", line) for line in lines]
    if lines:
        _on_node(node, "log", *lines)
    return died


def heal(node: Node) -> list[str]:
    """Take every fault out, whatever clears it, and bring a frozen or dark machine back. Returns the faults' names.

    What the kernel said goes too: with the line still in this boot's log, a watcher would find the fault again.

    Raises:
        LabError: the machine does not come back within a minute.
    """
    with hardware.edit(hardware_file(node)) as current:
        gone = [str(fault["name"]) for fault in hardware.clear_faults(current, lambda fault: True)]
        for gpu in current["gpus"]:
            gpu["last_xid"] = 0
    power.thaw(node)
    if power.state(node) not in {"running", "absent"}:
        power.on(node)
        nodes.wait_ready(node, time.monotonic() + HEAL_SECONDS)
    if "fabric_manager_dead" in gone:
        nodes.execute(node, "systemctl", "restart", "nvidia-fabricmanager.service")
    if "lustre_evicted" in gone:
        _on_node(node, "lustre", "rw")
    if gone and power.state(node) == "running":
        nodes.execute(node, "journalctl", "--quiet", "--rotate", "--vacuum-size=1")
    return gone


def _on_node(node: Node, *arguments: str) -> list[str]:
    command = ["podman", "exec", "--interactive", node.name, "/usr/bin/python3", "-", *arguments]
    done = run(command, timeout=30, env=podman_environment(), input_text=_ON_NODE.read_text())
    return done.stdout.splitlines()

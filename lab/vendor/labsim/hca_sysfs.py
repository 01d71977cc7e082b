"""/sys/class/infiniband as mlx5_ib fills it: an overlay over /sys/class, written anew when the silicon changes.

File names and formats: Linux, Documentation/ABI/stable/sysfs-class-infiniband, and drivers/infiniband/core/sysfs.c.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from lab.hardware import Json

from . import hardware
from .hardware import rooted

CLASS = "/sys/class"
UPPER = "/run/lab/sysclass"
STATES = {"Down": "1: DOWN", "Initializing": "2: INIT", "Armed": "3: ARMED", "Active": "4: ACTIVE"}
PHYSICAL = {"Sleep": "1: Sleep", "Polling": "2: Polling", "Disabled": "3: Disabled", "LinkUp": "5: LinkUp"}
RATES = {100: "100 Gb/sec (4X EDR)", 200: "200 Gb/sec (4X HDR)", 400: "400 Gb/sec (4X NDR)"}
# Name in sysfs to name in hardware.json, where a counter can move; the others stay 0.
COUNTERS = {
    "symbol_error": "symbol_error",
    "link_downed": "link_downed",
    "link_error_recovery": "link_error_recovery",
    "port_rcv_errors": "port_rcv_errors",
    "port_rcv_data": "port_rcv_data",
    "port_xmit_data": "port_xmit_data",
    "port_rcv_packets": "port_rcv_packets",
    "port_xmit_packets": "port_xmit_packets",
    "port_xmit_discards": "port_xmit_discards",
}
STILL = ("local_link_integrity_errors", "excessive_buffer_overrun_errors", "port_xmit_wait", "VL15_dropped")


def main(_arguments: list[str]) -> int:
    """Make the overlay if this boot has none, then write what the hardware says now."""
    if not rooted(UPPER).exists():
        _overlay()
    for hca in hardware.read()["hcas"]:
        for name, text in files(hca).items():
            path = rooted(f"{CLASS}/infiniband/{hca['name']}/{name}")
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists() or path.read_text() != text:
                path.write_text(text)
    return 0


def _overlay() -> None:
    for name in ("upper/infiniband", "work"):
        Path(UPPER, name).mkdir(parents=True)
    layers = f"lowerdir={CLASS},upperdir={UPPER}/upper,workdir={UPPER}/work"
    subprocess.run(["/bin/mount", "-t", "overlay", "-o", layers, "lab-class", CLASS], check=True)


def files(hca: Json) -> dict[str, str]:
    """Path below the adapter's directory to content."""
    guid = hca["guid"]
    found = {
        "node_type": "1: CA",
        "fw_ver": hca["fw"],
        "hca_type": hca["model"],
        "board_id": "MT_0000000223",
        "node_guid": guid,
        "sys_image_guid": guid,
    }
    for port in hca["ports"]:
        top = f"ports/{port['port']}"
        up = port["physical"] == "LinkUp"
        found |= {
            f"{top}/state": STATES[port["state"]],
            f"{top}/phys_state": PHYSICAL[port["physical"]],
            f"{top}/rate": RATES[port["rate_gbps"]] if up else "10 Gb/sec (4X SDR)",
            f"{top}/link_layer": port["link_layer"],
            f"{top}/lid": f"0x{port['base_lid'] if up else 65535:x}",
            f"{top}/sm_lid": f"0x{port['sm_lid'] if up else 0:x}",
        }
        found |= {f"{top}/counters/{name}": str(port["counters"].get(key, 0)) for name, key in COUNTERS.items()}
        found |= {f"{top}/counters/{name}": "0" for name in STILL}
    return {name: f"{text}\n" for name, text in found.items()}

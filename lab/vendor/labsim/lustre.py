"""The Lustre client that tools see: mounts, parameters, the file system's targets.

The backing store is one directory that all nodes share; a mount is a bind of it. What a mount recorded lives on /run,
so parameters set by `lctl set_param` are lost on remount and on reboot, as on a real client.
"""

from __future__ import annotations

import os
import shutil
import zlib
from dataclasses import dataclass

from lab.hardware import Json

from . import hardware
from .hardware import rooted

BACKING = "/run/lab/lustre-backing"
STATE = "lustre-mounts.json"
OSTS, MDTS = 2, 1
OST_BYTES = 16 * 2**40

# Defaults of a 2.15 client (lustre-release, lustre/llite/llite_lib.c and lustre/obdclass/genops.c), per device kind.
LLITE = {
    "max_read_ahead_mb": "64",
    "max_read_ahead_per_file_mb": "64",
    "max_read_ahead_whole_mb": "2",
    "checksum_pages": "1",
    "lazystatfs": "1",
    "statahead_max": "32",
    "xattr_cache": "1",
    "max_cached_mb": "users: 6\nmax_cached_mb: 1966\nused_mb: 0\nunused_mb: 1966\nreclaim_count: 0",
}
OSC = {
    "max_rpcs_in_flight": "8",
    "max_pages_per_rpc": "1024",
    "max_dirty_mb": "2000",
    "checksums": "1",
    "checksum_type": "crc32 adler [crc32c] t10ip512 t10ip4K t10crc512 t10crc4K",
    "active": "1",
}
MDC = {
    "max_rpcs_in_flight": "8",
    "max_mod_rpcs_in_flight": "7",
    "max_pages_per_rpc": "256",
    "checksums": "1",
    "active": "1",
}
READ_ONLY = {"max_cached_mb"}


@dataclass(frozen=True)
class Client:
    """One mounted Lustre file system."""

    device: str
    mount_point: str
    options: str
    instance: str
    parameters: dict[str, str]

    @property
    def fsname(self) -> str:
        return self.device.rsplit("/", 1)[-1]

    @property
    def server(self) -> str:
        return self.device.split(":", 1)[0]

    def targets(self) -> list[tuple[str, str]]:
        """(device kind, target name) of each server target."""
        return [("mdc", f"{self.fsname}-MDT{i:04x}") for i in range(MDTS)] + [
            ("osc", f"{self.fsname}-OST{i:04x}") for i in range(OSTS)
        ]

    def all_parameters(self) -> dict[str, str]:
        """Every tunable by its full name, with what was set on top of the defaults."""
        values = {f"llite.{self.fsname}-{self.instance}.{name}": value for name, value in LLITE.items()}
        for kind, target in self.targets():
            device = f"{kind}.{target}-{kind}-{self.instance}"
            values |= {f"{device}.{name}": value for name, value in (OSC if kind == "osc" else MDC).items()}
            values[f"{device}.import"] = self._import(kind, target)
        return values | {name: value for name, value in self.parameters.items() if name in values}

    def _import(self, kind: str, target: str) -> str:
        state = "EVICTED" if lustre()["evicted"] else "FULL" if lustre()["reachable"] else "DISCONN"
        return (
            f"import:\n    name: {target}-{kind}-{self.instance}\n    target: {target}_UUID\n    state: {state}\n"
            f"    connect_flags: [ write_grant, server_lock, version, acl, checksum, lru_resize, layout_lock ]\n"
            f"    connection:\n       failover_nids: [ {self.server} ]\n       current_connection: {self.server}"
        )


def lustre() -> Json:
    """The simulated Lustre side of the hardware: evicted, reachable."""
    state: Json = hardware.read()["lustre"]
    return state


def healthy() -> bool:
    """Whether a client can do I/O now."""
    state = lustre()
    return bool(state["reachable"]) and not state["evicted"]


def clients() -> list[Client]:
    """The mounts that are still there; what was unmounted is forgotten, with its parameters."""
    known = hardware.read_state(STATE)
    current = {point: entry for point, entry in known.items() if os.path.ismount(rooted(point))}
    if current != known:
        hardware.write_json(hardware.state_file(STATE), current)
    return [Client(mount_point=point, **entry) for point, entry in current.items()]


def client_of(path: str) -> Client | None:
    """The mount that `path` lies on."""
    real = os.path.realpath(path)
    found = [c for c in clients() if real == c.mount_point or real.startswith(c.mount_point.rstrip("/") + "/")]
    return max(found, key=lambda c: len(c.mount_point), default=None)


def remember_mount(device: str, mount_point: str, options: str) -> None:
    """Record a new mount with an instance number of its own and no parameters set."""
    known = hardware.read_state(STATE)
    seed = f"{device}{mount_point}{os.getpid()}".encode()
    known[mount_point] = {
        "device": device,
        "options": options,
        "instance": f"ffff9d0c{zlib.crc32(seed):08x}",
        "parameters": {},
    }
    hardware.write_json(hardware.state_file(STATE), known)


def remember_parameter(mount_point: str, name: str, value: str) -> None:
    """Keep what `lctl set_param` set, for as long as this mount lives."""
    known = hardware.read_state(STATE)
    known[mount_point]["parameters"][name] = value
    hardware.write_json(hardware.state_file(STATE), known)


def usage() -> tuple[int, int]:
    """(used, total) bytes of one OST: the backing store's use, shared out over OSTs of a plausible size."""
    disk = shutil.disk_usage(rooted(BACKING))
    return disk.used // OSTS, OST_BYTES

"""The five containers: make, start, wait, remove. A node whose declaration changed is made anew."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import hardware
from lab.host import RUN, LabError, boot_time, podman, run, this_boot
from lab.layout import (
    GATEWAY,
    NETWORK,
    NODES,
    OPERATOR,
    SUBNET,
    Node,
    hardware_file,
    keys_dir,
    lab_dir,
    shared_dir,
    ssh_dir,
    vendor_dir,
    wheelhouse_dir,
)  # fmt: skip
from medllm.errors import user_error

_LABEL = "medllm.lab.declaration"
# Podman's own place for the addresses it gave away, whatever its configuration says.
_ADDRESSES = Path("/run/containers/networks/ipam.db")


@dataclass(frozen=True, slots=True)
class Power:
    """What podman says of a node. `state`: running, paused, exited, created, absent, or `lost`: podman believes that it
    runs, but its processes were killed together with podman's watcher of them."""

    state: str
    declaration: str

    @property
    def on(self) -> bool:
        return self.state in {"running", "paused"}


def prepare_storage() -> None:
    """Make the directories that nodes mount; forget what a switched-off machine left behind."""
    for node in NODES:
        hardware_file(node).parent.mkdir(parents=True, exist_ok=True)
        if not hardware_file(node).exists():
            hardware.write(hardware_file(node), hardware.healthy(node.name))
    for directory in (shared_dir("opt-medllm"), shared_dir("lustre"), wheelhouse_dir(), vendor_dir()):
        directory.mkdir(parents=True, exist_ok=True)
    stamp = lab_dir() / "boot_id"
    if not stamp.exists() or stamp.read_text() != this_boot():
        _forget_last_boot()
        stamp.write_text(this_boot())


def _forget_last_boot() -> None:
    """Remove what names processes, namespaces and addresses of a boot that is over; /run is not always a tmpfs."""
    shutil.rmtree(RUN, ignore_errors=True)
    RUN.mkdir(parents=True, exist_ok=True)
    if _ADDRESSES.exists() and _ADDRESSES.stat().st_mtime < boot_time():
        _ADDRESSES.unlink()
    podman("rm", "--all", "--force", "--time", "0", check=False)


def make_network() -> None:
    """The network that the five share; its bridge exists while a node runs.

    Raises:
        UserError: this machine has the gateway's address already, from another lab.
    """
    if podman("network", "exists", NETWORK, check=False).returncode:
        if f" {GATEWAY}/" in run(["ip", "-oneline", "-4", "address"], timeout=10).stdout:
            raise user_error(f"this machine has the address {GATEWAY} already", "take the other lab down first")
        podman(
            "network", "create", "--driver", "bridge", "--subnet", SUBNET, "--gateway", GATEWAY,
            "--disable-dns", NETWORK,
        )  # fmt: skip


def powers() -> dict[str, Power]:
    """The state of each node that podman knows."""
    listed = podman("ps", "--all", "--format", "json").stdout
    containers: list[dict[str, Any]] = json.loads(listed or "[]")
    found = {c["Names"][0]: Power(_true_state(c), (c.get("Labels") or {}).get(_LABEL, "")) for c in containers}
    return {node.name: found.get(node.name, Power("absent", "")) for node in NODES}


def _true_state(container: dict[str, Any]) -> str:
    state = str(container["State"])
    alive = Path(f"/proc/{container.get('Pid', 0)}/ns").exists()
    return "lost" if state in {"running", "paused"} and not alive else state


def ensure(node: Node, image: str, power: Power) -> str:
    """Bring one node to its declaration. Returns what was done: `kept`, `started`, `made`."""
    arguments = _arguments(node, image)
    declaration = hashlib.sha256("\0".join(arguments).encode()).hexdigest()[:16]
    if power.state not in {"absent", "lost"} and power.declaration == declaration:
        if power.on:
            return "kept"
        podman("start", node.name)
        return "started"
    remove([node])
    podman("run", "--detach", "--label", f"{_LABEL}={declaration}", *arguments)
    return "made"


def _arguments(node: Node, image: str) -> list[str]:
    app = f"{shared_dir('opt-medllm')}:/opt/medllm:{'ro' if node.is_gpu_node else 'rw'}"
    mounts = [
        f"{node.name}-journal:/var/log/journal",
        # Overlay file systems cannot be stacked: the node's container runtime needs a real one for its layers.
        f"{node.name}-containerd:/var/lib/containerd",
        f"{hardware_file(node).parent}:/run/lab/hw",
        f"{keys_dir(node)}:/run/lab/keys:ro",
        f"{shared_dir('lustre')}:/run/lab/lustre-backing",
        app,
    ]
    if not node.is_gpu_node:
        mounts += [f"{wheelhouse_dir()}:/srv/medllm/wheelhouse:ro", f"{vendor_dir()}:/srv/lab/vendor:ro"]
    return [
        "--name", node.name, "--hostname", node.name, "--network", NETWORK, "--ip", node.address,
        "--mac-address", node.mac, "--no-hosts", "--systemd=always", "--privileged", "--restart=always",
        *(word for mount in mounts for word in ("--volume", mount)), image,
    ]  # fmt: skip


def remove(nodes: Iterable[Node]) -> None:
    """Delete containers with their journals; the silicon's file and the shared directories stay."""
    for node in nodes:
        podman("rm", "--force", "--ignore", "--time", "2", node.name)
        podman("volume", "rm", "--force", f"{node.name}-journal", f"{node.name}-containerd", check=False)


def ssh_command(node: Node, *command: str, tty: bool = False) -> list[str]:
    """The `ssh` line that any operator could type."""
    return [
        "ssh", "-i", str(ssh_dir() / "id_ed25519"), "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=yes",
        "-o", f"UserKnownHostsFile={ssh_dir() / 'known_hosts'}", "-o", "ConnectTimeout=5", "-o", "LogLevel=ERROR",
        "-o", f"BatchMode={'no' if tty else 'yes'}", *(["-t"] if tty else []), f"{OPERATOR}@{node.address}", *command,
    ]  # fmt: skip


def wait_ready(node: Node, deadline: float) -> None:
    """Wait until the node answers SSH and its systemd has started everything.

    Raises:
        LabError: not within `deadline` (monotonic seconds); says what the node's state was.
    """
    while not _ssh_open(node):
        if time.monotonic() > deadline:
            raise LabError(f"{node.name} does not answer on {node.address}:22; see `podman logs {node.name}`")
        time.sleep(0.2)
    left = max(5.0, deadline - time.monotonic())
    state = run(ssh_command(node, "sudo systemctl is-system-running --wait"), timeout=left, check=False).stdout.strip()
    if state not in {"running", "degraded"}:
        raise LabError(f"{node.name}: systemd is {state or 'silent'}")
    if state == "degraded":
        failed = run(ssh_command(node, "systemctl --failed --plain --no-legend"), timeout=20, check=False).stdout
        way_out = f"`medllm lab reset {node.name}` makes it anew"
        raise LabError(f"{node.name}: units failed at boot, {way_out}: {failed.strip()}")


def _ssh_open(node: Node) -> bool:
    try:
        with socket.create_connection((node.address, 22), timeout=1) as connection:
            connection.settimeout(2)
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def execute(node: Node, *command: str, timeout: float = 20, check: bool = True) -> str:
    """Run a command inside the node, as the node's root, whatever state its SSH is in."""
    return podman("exec", node.name, *command, timeout=timeout, check=check).stdout

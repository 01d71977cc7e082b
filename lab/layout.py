"""Where the lab's parts are: its five machines, their addresses, and its directories on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medllm.files import cache_dir, state_dir

NETWORK = "medllm-lab"
SUBNET = "10.89.77.0/24"
GATEWAY = "10.89.77.1"
REDFISH_PORT = 8443
OPERATOR = "ops"


@dataclass(frozen=True, slots=True)
class Node:
    """One machine of the lab. `number` is the last octet of its address."""

    name: str
    number: int

    @property
    def address(self) -> str:
        return f"10.89.77.{self.number}"

    @property
    def mac(self) -> str:
        """Fixed, or a peer's neighbour table points at a container that is gone and SSH hangs."""
        return f"02:6d:65:64:00:{self.number:02x}"

    @property
    def is_gpu_node(self) -> bool:
        return self.name != "mgmt"


NODES: tuple[Node, ...] = (Node("mgmt", 10), *(Node(f"node{index}", 10 + index) for index in range(1, 5)))
BY_NAME = {node.name: node for node in NODES}


def lab_dir() -> Path:
    return state_dir() / "lab"


def ssh_dir() -> Path:
    """The operator's key pair and `known_hosts`."""
    return lab_dir() / "ssh"


def keys_dir(node: Node) -> Path:
    """What the node's first boot needs: SSH host key, authorized_keys, hosts file."""
    return lab_dir() / "keys" / node.name


def hardware_file(node: Node) -> Path:
    """The node's simulated silicon, which the node sees as /run/lab/hw/hardware.json."""
    return lab_dir() / "nodes" / node.name / "hardware.json"


def shared_dir(name: str) -> Path:
    """A directory that several nodes see: `opt-medllm`, `lustre`."""
    return lab_dir() / "shared" / name


def wheelhouse_dir() -> Path:
    return cache_dir() / "wheelhouse"


def vendor_dir() -> Path:
    """Builds of the vendor repository; `current` in it is a link to the newest. mgmt mounts it whole, so a new build
    needs no new container."""
    return cache_dir() / "vendor"

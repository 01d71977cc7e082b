"""The power of a node, as its BMC switches it. A cut of the power clears more faults than a reboot does."""

from __future__ import annotations

from lab.hardware import POWER_CYCLE_MARKER
from lab.host import LabError, podman
from lab.layout import Node, hardware_file

# What systemd may take to stop everything before the power is cut all the same, in seconds.
GRACE_SECONDS = 30


def state(node: Node) -> str:
    """Podman's word for the container: running, paused, exited, created; `absent` when there is none."""
    answer = podman("inspect", "--format", "{{.State.Status}}", node.name, check=False)
    return answer.stdout.strip() if answer.returncode == 0 else "absent"


def is_on(node: Node) -> bool:
    """Whether the machine has power. A hung one has."""
    return state(node) in {"running", "paused", "stopping"}


def off(node: Node, *, graceful: bool = False) -> None:
    """Switch the node off, at once or after systemd has stopped everything. It stays off until `on`."""
    if not is_on(node):
        return
    thaw(node)
    # Not `kill`: podman's restart policy would start the node again.
    podman("stop", "--time", str(GRACE_SECONDS if graceful else 0), node.name, timeout=GRACE_SECONDS + 30)


def on(node: Node) -> None:
    """Give the node power; its start clears what a power cycle clears.

    Raises:
        LabError: the node was never made, or podman cannot start it.
    """
    if state(node) == "absent":
        raise LabError(f"there is no machine {node.name}: run `medllm lab up`")
    if is_on(node):
        return
    hardware_file(node).with_name(POWER_CYCLE_MARKER).touch()
    podman("start", node.name)


def freeze(node: Node) -> None:
    """Stop the node's processors: it answers ping, and nothing else."""
    podman("pause", node.name)


def thaw(node: Node) -> None:
    """Undo `freeze`."""
    if state(node) == "paused":
        podman("unpause", node.name)

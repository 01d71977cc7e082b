"""The systemd units that run Kubernetes on the lab's machines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lab.kubernetes.arguments import COMPONENTS, STOP_S, ControlPlane

KUBELET = "lab-kubelet.service"
# Enough for a loaded machine, but not for ever: then systemd starts it again.
_START_S = 120
_KUBELET_STOP_S = 30

_UNIT = """\
[Unit]
Description={description}
After={after}
StartLimitIntervalSec=0

[Service]
Type={type}
ExecStart={command}
{extra}Restart=always
RestartSec=2
TimeoutStartSec={start_s}
TimeoutStopSec={stop_s}

[Install]
WantedBy=multi-user.target
"""


def unit_name(component: str) -> str:
    return f"lab-{component}.service"


def control_plane_units(plane: ControlPlane, binaries: Mapping[str, Path]) -> dict[str, str]:
    """Name → text of the four units. `binaries` are their places on that machine.

    Raises:
        ValueError: an argument can't stand in a unit as it is.
    """
    texts = {}
    for component, arguments in COMPONENTS.items():
        # Only etcd is waited for at boot: the others try again until the one that they need answers.
        after = "network.target" if component == "etcd" else f"network.target {unit_name('etcd')}"
        texts[unit_name(component)] = _UNIT.format(
            description=f"{component} of the lab's Kubernetes",
            after=after,
            type="notify" if component == "etcd" else "exec",
            command=_line([str(binaries[component]), *arguments(plane)]),
            extra="",
            start_s=_START_S,
            stop_s=STOP_S,
        )
    return texts


def kubelet_unit(directory: Path) -> str:
    """The unit of a node's kubelet, whose package `kubelet/` and configuration `kubelet.json` are in `directory`."""
    command = ["/usr/bin/python3", "-m", "kubelet", f"--config={directory / 'kubelet.json'}"]
    # Pods outlive a kubelet that ends or is replaced; it finds them again. They are processes of this unit: one that is
    # out of memory must not end the others, and they may do what containers may under the role containerd.
    extra = (
        f"Environment=PYTHONPATH={directory} PYTHONUNBUFFERED=1\nKillMode=process\nOOMPolicy=continue\n"
        "TasksMax=infinity\nLimitMEMLOCK=infinity\nLimitNOFILE=1048576\n"
    )
    return _UNIT.format(
        description="Kubelet of the lab's Kubernetes",
        after="network.target",
        type="exec",
        command=_line(command),
        extra=extra,
        start_s=_START_S,
        stop_s=_KUBELET_STOP_S,
    )


def _line(words: list[str]) -> str:
    """Raises: ValueError: systemd would read a word differently (systemd.service(5), "Command lines")."""
    for word in words:
        if not word or any(character in word for character in " \t\n\"'\\$%;"):
            raise ValueError(f"{word!r} can't stand in a unit as it is")
    return " ".join(words)

"""The kubelet's configuration: one JSON file."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import quantity

# What an image reference can be mapped to: the command runs in the node's own file system.
HOST = "host"
_REQUIRED_CAPACITY = ("cpu", "memory", "ephemeral-storage", "pods")


class ConfigError(Exception):
    """The configuration is wrong: place, rule and fix in one line."""


@dataclass(frozen=True, slots=True)
class Config:
    """What one kubelet needs to know.

    `kubeconfig` and `names_kubeconfig` are JSON files: the node's identity, and one that may watch EndpointSlices
    (`system:kube-proxy`). `capacity` maps resource names to quantities. `images` maps references to `host`.
    """

    node_name: str
    address: str
    version: str
    kubeconfig: Path
    names_kubeconfig: Path
    state_directory: Path
    log_directory: Path
    capacity: Mapping[str, str]
    gpu_resource: str
    images: Mapping[str, str]

    @property
    def gpus(self) -> range:
        """Indexes of the node's GPUs."""
        return range(int(quantity.parse(self.capacity.get(self.gpu_resource, "0"))))


def load(path: Path) -> Config:
    """Read and check a configuration.

    Raises:
        ConfigError: it can't be read, or a value breaks its rule.
    """
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}. Fix: give a JSON file") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: it is no mapping. Fix: give a JSON object")
    fields = set(Config.__dataclass_fields__)
    for key in sorted(fields ^ set(data)):
        rule = "the key is missing" if key in fields else "there is no such key"
        raise ConfigError(f"{path}: {key}: {rule}. Fix: give exactly {', '.join(sorted(fields))}")
    try:
        return _checked(data)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error


def _checked(data: dict[str, Any]) -> Config:
    for key in ("node_name", "address", "version", "gpu_resource"):
        if not isinstance(data[key], str) or not data[key]:
            raise ValueError(f"{key}: not a text. Fix: give a text that is not empty")
    for key in ("capacity", "images"):
        if not isinstance(data[key], dict) or not all(isinstance(value, str) for value in data[key].values()):
            raise ValueError(f"{key}: not a mapping of texts. Fix: give texts, quantities too")
    try:
        ipaddress.ip_address(data["address"])
    except ValueError as error:
        raise ValueError(f"address: {error}. Fix: give the node's IP address") from error
    for name in _REQUIRED_CAPACITY:
        if name not in data["capacity"]:
            raise ValueError(f"capacity: {name} is missing. Fix: give {', '.join(_REQUIRED_CAPACITY)}")
    for name, value in data["capacity"].items():
        try:
            quantity.parse(value)
        except ValueError as error:
            raise ValueError(f"capacity.{name}: {error}. Fix: write it as Kubernetes does, like 500m or 4Gi") from error
    for reference, target in data["images"].items():
        if target != HOST:
            raise ValueError(f"images.{reference}: {target!r} is unknown. Fix: give {HOST!r}")
    paths = {}
    for key in ("kubeconfig", "names_kubeconfig", "state_directory", "log_directory"):
        if not isinstance(data[key], str) or not data[key].startswith("/"):
            raise ValueError(f"{key}: not an absolute path. Fix: give one")
        paths[key] = Path(data[key])
    return Config(**{**data, **paths})

"""The node object: registration, Ready, and the lease that shows that this kubelet lives."""

from __future__ import annotations

import datetime
import logging
import os
import platform
import threading
import time
from pathlib import Path

from .client import MERGE, ApiError, Client, Json, Unreachable
from .config import Config
from .status import timestamp

# As the genuine kubelet's defaults: a node that is silent for longer than its lease is lost.
LEASE_S = 40
BEAT_S = 10.0

log = logging.getLogger(__name__)


class NodeAgent:
    """Registers the node, then reports that it lives each `BEAT_S` seconds."""

    def __init__(self, client: Client, config: Config) -> None:
        self._client, self._config = client, config
        self._path = f"/api/v1/nodes/{config.node_name}"
        self._lease = f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{config.node_name}"

    def register(self) -> None:
        """Create the node object, or correct the one that is there; then say Ready.

        Raises:
            ApiError, Unreachable: it did not work.
        """
        labels = {
            "kubernetes.io/hostname": self._config.node_name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine()),
        }
        body = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self._config.node_name, "labels": labels},
            "status": self.status(time.time(), []),
        }
        try:
            self._client.create("/api/v1/nodes", body)
        except ApiError as error:
            if error.code != 409:
                raise
            known = self._client.get(self._path)["metadata"].get("labels") or {}
            if any(known.get(key) != value for key, value in labels.items()):
                self._client.patch(self._path, {"metadata": {"labels": labels}}, MERGE)
        self.report()

    def report(self) -> None:
        """Post the status. Raises: ApiError, Unreachable."""
        known = (self._client.get(self._path).get("status") or {}).get("conditions") or []
        self._client.patch(f"{self._path}/status", {"status": self.status(time.time(), known)})

    def status(self, now: float, known: list[Json]) -> Json:
        """The node's status; a condition that is in `known` keeps the time of its last change."""
        since = {(each["type"], each["status"]): each.get("lastTransitionTime") for each in known}
        conditions = [
            ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
        ]
        stamp = timestamp(now)
        return {
            "capacity": dict(self._config.capacity),
            "allocatable": dict(self._config.capacity),
            "addresses": [
                {"type": "InternalIP", "address": self._config.address},
                {"type": "Hostname", "address": self._config.node_name},
            ],
            "nodeInfo": _node_info(self._config.version),
            "conditions": [
                {
                    "type": kind, "status": status, "reason": reason, "message": message,
                    "lastHeartbeatTime": stamp, "lastTransitionTime": since.get((kind, status)) or stamp,
                }
                for kind, status, reason, message in conditions
            ],
        }  # fmt: skip

    def renew(self) -> None:
        """Renew the lease, or make it. Raises: ApiError, Unreachable."""
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {"holderIdentity": self._config.node_name, "leaseDurationSeconds": LEASE_S, "renewTime": now}
        try:
            self._client.patch(self._lease, {"spec": spec}, MERGE)
        except ApiError as error:
            if error.code != 404:
                raise
            node = self._client.get(self._path)["metadata"]
            owner = {"apiVersion": "v1", "kind": "Node", "name": node["name"], "uid": node["uid"]}
            metadata = {"name": node["name"], "namespace": "kube-node-lease", "ownerReferences": [owner]}
            body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
            self._client.create(self._lease.rpartition("/")[0], body)

    def run(self, stop: threading.Event) -> None:
        """Register, then beat until `stop`; a node object that was deleted is made anew."""
        registered = False
        while not stop.is_set():
            try:
                if not registered:
                    self.register()
                    registered = True
                self.renew()
                self.report()
            except ApiError as error:
                log.warning("node: %s", error)
                registered = registered and error.code != 404
            except Unreachable as error:
                log.warning("node: %s", error)
            stop.wait(BEAT_S if registered else 1.0)


def _node_info(version: str) -> Json:
    return {
        "machineID": _line("/etc/machine-id"),
        "systemUUID": _line("/etc/machine-id"),
        "bootID": _line("/proc/sys/kernel/random/boot_id"),
        "kernelVersion": os.uname().release,
        "osImage": _os_image(),
        # What runs here is no container runtime, and says so.
        "containerRuntimeVersion": "lab://1",
        "kubeletVersion": version,
        "kubeProxyVersion": "",
        "operatingSystem": "linux",
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine()),
    }


def _line(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _os_image() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        return ""

"""Names that a pod can resolve: its hosts file, from its own name and the endpoints of headless Services.

There is no DNS server and no kube-proxy: the names of Services with a cluster IP do not resolve.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from .client import Client, Json
from .follow import follow

DOMAIN = "cluster.local"
SLICES = "/apis/discovery.k8s.io/v1/endpointslices"
# The EndpointSlice controller marks the slices of headless Services with these labels.
HEADLESS = "service.kubernetes.io/headless"
SERVICE = "kubernetes.io/service-name"
_LOOPBACK = (
    "127.0.0.1\tlocalhost",
    "::1\tlocalhost ip6-localhost ip6-loopback",
    "fe00::0\tip6-localnet",
    "fe00::0\tip6-mcastprefix",
    "fe00::1\tip6-allnodes",
    "fe00::2\tip6-allrouters",
)


@dataclass(frozen=True, slots=True, order=True)
class Name:
    """A name of a headless Service in the cluster's domain; `hostname` is empty for the Service's own name."""

    namespace: str
    service: str
    hostname: str
    address: str

    def forms(self, namespace: str) -> list[str]:
        """What the cluster's DNS and the search list of a pod in `namespace` make of it."""
        short = f"{self.hostname}.{self.service}" if self.hostname else self.service
        forms = [f"{short}.{self.namespace}.svc.{DOMAIN}", f"{short}.{self.namespace}.svc", f"{short}.{self.namespace}"]
        return [*forms, short] if namespace == self.namespace else forms


def slice_names(item: Json) -> list[Name]:
    """The names that an EndpointSlice of a headless Service gives. Endpoints that are not ready have none; the
    controller calls all ready when the Service publishes those that are not."""
    metadata = item["metadata"]
    service = (metadata.get("labels") or {}).get(SERVICE)
    if not service:
        return []
    found = []
    for endpoint in item.get("endpoints") or []:
        if (endpoint.get("conditions") or {}).get("ready") is False:
            continue
        for address in endpoint.get("addresses") or []:
            found.append(Name(metadata["namespace"], service, "", address))
            if endpoint.get("hostname"):
                found.append(Name(metadata["namespace"], service, endpoint["hostname"], address))
    return found


def hostname(pod: Json, node: str) -> str:
    """What `hostname` prints in the pod."""
    spec = pod["spec"]
    if spec.get("hostNetwork"):
        return node
    short = str(spec.get("hostname") or pod["metadata"]["name"])[:63].rstrip("-.")
    if spec.get("setHostnameAsFQDN") and spec.get("subdomain"):
        return f"{short}.{spec['subdomain']}.{pod['metadata']['namespace']}.svc.{DOMAIN}"
    return short


def hosts_file(pod: Json, node: str, address: str, names: Iterable[Name]) -> str:
    """The content of a pod's /etc/hosts."""
    namespace, spec = pod["metadata"]["namespace"], pod["spec"]
    own = hostname(pod, node)
    if spec.get("subdomain") and "." not in own:
        own = f"{own}.{spec['subdomain']}.{namespace}.svc.{DOMAIN}\t{own}"
    lines = ["# Kubernetes-managed hosts file.", *_LOOPBACK, f"{address}\t{own}"]
    for alias in spec.get("hostAliases") or []:
        lines.append(f"{alias['ip']}\t" + "\t".join(alias.get("hostnames") or []))
    lines += [f"{name.address}\t" + "\t".join(name.forms(namespace)) for name in sorted(set(names))]
    return "\n".join(lines) + "\n"


def rewrite(path: Path, text: str) -> None:
    """Replace a file's content and keep the file: it is mounted into containers. A shorter text is first filled up
    with empty lines, so that a reader never sees the rest of an old line."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        data = text.encode()
        size = os.fstat(handle).st_size
        if os.pread(handle, size, 0) != data:
            os.pwrite(handle, data.ljust(size, b"\n"), 0)
            os.ftruncate(handle, len(data))
    finally:
        os.close(handle)


class Names:
    """The cluster's headless names, followed from the API server; `changed` is called after each change."""

    def __init__(self, client: Client, changed: Callable[[], None]) -> None:
        self._client, self._changed = client, changed
        self._slices: dict[str, list[Name]] = {}
        self._lock = threading.Lock()

    def all(self) -> list[Name]:
        with self._lock:
            return [name for names in self._slices.values() for name in names]

    def run(self, stop: threading.Event) -> None:
        follow(self._client, SLICES, {"labelSelector": HEADLESS}, self._listed, self._event, stop)

    def _listed(self, items: list[Json]) -> None:
        with self._lock:
            self._slices = {item["metadata"]["uid"]: slice_names(item) for item in items}
        self._changed()

    def _event(self, kind: str, item: Json) -> None:
        with self._lock:
            if kind == "DELETED":
                self._slices.pop(item["metadata"]["uid"], None)
            else:
                self._slices[item["metadata"]["uid"]] = slice_names(item)
        self._changed()

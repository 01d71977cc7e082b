"""The command lines of the control plane's four processes.

Both users pass through here, the units on mgmt and the instance of the tests, so that what the tests prove holds there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from lab.kubernetes import pki

SERVICE_ACCOUNT_ISSUER = "https://kubernetes.default.svc.cluster.local"
# A kubelet reports every 10 s. Upstream waits 50 s, as a kubelet may need 45 s to notice that its HTTP/2 connection is
# dead; the lab's gives a request 10 s, so a lost node can be told within the patience of a test.
NODE_GRACE_S = 20
# An API server that is asked to end waits a minute for watches that nobody ends. To kill it, or any of the four, loses
# nothing: all that they know is in the store, and the store's files survive it.
STOP_S = 5


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """Where it runs. `directory` (of that machine) holds `pki/` and etcd's data; `address` is the API server's."""

    directory: Path
    address: str
    api_port: int = 6443
    etcd_port: int = 2379
    etcd_peer_port: int = 2380
    service_range: str = "10.96.0.0/16"

    @property
    def server(self) -> str:
        return f"https://{self.address}:{self.api_port}"

    @property
    def pki(self) -> Path:
        return self.directory / "pki"

    def certificate(self, name: str) -> Path:
        return self.pki / f"{name}.crt"

    def key(self, name: str) -> Path:
        return self.pki / f"{name}.key"

    def kubeconfig(self, component: str) -> Path:
        return self.pki / f"{component}.kubeconfig"


def etcd(plane: ControlPlane) -> list[str]:
    """One member, on the loopback interface, to which only its own authority's clients speak."""
    client, peer = f"https://127.0.0.1:{plane.etcd_port}", f"https://127.0.0.1:{plane.etcd_peer_port}"
    certificate, key, authority = plane.certificate(pki.ETCD), plane.key(pki.ETCD), plane.certificate(pki.ETCD_CA)
    return [
        "--name=lab",
        f"--data-dir={plane.directory / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=lab={peer}",
        f"--cert-file={certificate}",
        f"--key-file={key}",
        f"--trusted-ca-file={authority}",
        "--client-cert-auth=true",
        f"--peer-cert-file={certificate}",
        f"--peer-key-file={key}",
        f"--peer-trusted-ca-file={authority}",
        "--peer-client-cert-auth=true",
        "--tls-min-version=TLS1.3",
        # What is lost with the machine's power is a lab; a killed process or node loses nothing by it.
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def kube_apiserver(plane: ControlPlane) -> list[str]:
    return [
        f"--bind-address={plane.address}",
        f"--advertise-address={plane.address}",
        f"--secure-port={plane.api_port}",
        f"--tls-cert-file={plane.certificate(pki.API_SERVER)}",
        f"--tls-private-key-file={plane.key(pki.API_SERVER)}",
        "--tls-min-version=VersionTLS13",
        f"--client-ca-file={plane.certificate(pki.CA)}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        # Pod Security decides, not the flag: without it the API would refuse what admission is there to refuse.
        "--allow-privileged=true",
        # ClusterIPs do not route in the lab, the API server's own neither.
        "--endpoint-reconciler-type=none",
        f"--service-cluster-ip-range={plane.service_range}",
        f"--service-account-issuer={SERVICE_ACCOUNT_ISSUER}",
        f"--service-account-key-file={plane.pki / pki.SERVICE_ACCOUNT}.pub",
        f"--service-account-signing-key-file={plane.key(pki.SERVICE_ACCOUNT)}",
        f"--etcd-servers=https://127.0.0.1:{plane.etcd_port}",
        f"--etcd-cafile={plane.certificate(pki.ETCD_CA)}",
        f"--etcd-certfile={plane.certificate(pki.ETCD_CLIENT)}",
        f"--etcd-keyfile={plane.key(pki.ETCD_CLIENT)}",
        "--profiling=false",
    ]


def kube_controller_manager(plane: ControlPlane) -> list[str]:
    return [
        *_client(plane, "kube-controller-manager"),
        "--use-service-account-credentials=true",
        f"--service-account-private-key-file={plane.key(pki.SERVICE_ACCOUNT)}",
        f"--root-ca-file={plane.certificate(pki.CA)}",
        f"--node-monitor-grace-period={NODE_GRACE_S}s",
    ]


def kube_scheduler(plane: ControlPlane) -> list[str]:
    return _client(plane, "kube-scheduler")


def _client(plane: ControlPlane, name: str) -> list[str]:
    return [
        f"--kubeconfig={plane.kubeconfig(name)}",
        # There is one of each; and nobody asks them for metrics, so they listen nowhere.
        "--leader-elect=false",
        "--secure-port=0",
        "--profiling=false",
    ]


# In the order in which they start; each needs the one before, the last two only the API server.
COMPONENTS: Mapping[str, Callable[[ControlPlane], list[str]]] = MappingProxyType(
    {
        "etcd": etcd,
        "kube-apiserver": kube_apiserver,
        "kube-controller-manager": kube_controller_manager,
        "kube-scheduler": kube_scheduler,
    }
)

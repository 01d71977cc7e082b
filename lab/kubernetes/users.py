"""The people and machines that are known to the lab's API server, and their kubeconfigs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lab.kubernetes.pki import Authority, Identity, ensure_kubeconfig

# The operator who runs Pulumi. The group passes every authorisation (upstream's bootstrap).
ADMIN = "admin"
# One person of each role that the program binds, and one whom nothing is granted. The groups are the program's.
PEOPLE = {
    ADMIN: Identity("kubernetes-admin", ("system:masters",)),
    "data-scientist": Identity("dana", ("medllm:data-scientist",)),
    "operator": Identity("oleg", ("medllm:operator",)),
    "auditor": Identity("aude", ("medllm:auditor",)),
    "stranger": Identity("sam"),
}
# The control plane's own clients; upstream's bootstrap roles know them by these names.
CONTROLLERS = {
    "kube-controller-manager": Identity("system:kube-controller-manager"),
    "kube-scheduler": Identity("system:kube-scheduler"),
}
# What a node uses to follow Services and EndpointSlices: a kubelet's own identity may not.
NAMES = Identity("system:kube-proxy")


def node_identity(name: str) -> Identity:
    """Who the kubelet of a node is, as the Node authoriser and NodeRestriction want it."""
    return Identity(f"system:node:{name}", ("system:nodes",))


def write_people(directory: Path, server: str, signer: Authority, people: Iterable[str] = PEOPLE) -> None:
    """`NAME.kubeconfig` of each person, mode 0600."""
    for name in people:
        ensure_kubeconfig(person_file(directory, name), server, signer, PEOPLE[name])


def person_file(directory: Path, name: str) -> Path:
    return directory / f"{name}.kubeconfig"


def write_controllers(directory: Path, server: str, signer: Authority) -> None:
    """`NAME.kubeconfig` of the controller manager and the scheduler."""
    for name, identity in CONTROLLERS.items():
        ensure_kubeconfig(directory / f"{name}.kubeconfig", server, signer, identity)


def write_node(directory: Path, name: str, server: str, signer: Authority) -> None:
    """`kubelet.kubeconfig` and `names.kubeconfig` of one node."""
    ensure_kubeconfig(directory / "kubelet.kubeconfig", server, signer, node_identity(name))
    ensure_kubeconfig(directory / "names.kubeconfig", server, signer, NAMES)

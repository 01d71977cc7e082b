"""Nodes pass from Slurm to Kubernetes and back by one word each; a node that the cluster has not is not made up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from lab.kubernetes.kubelet.client import ApiError, Client
from tests.kubernetes.program import Program, counts, told

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]
NODES = ("node1", "node2", "node3", "node4")
OURS = {"accelerator", "medllm.io/scheduler", "topology.kubernetes.io/zone"}


def scheduler(program: Program, before: str, after: str) -> None:
    program.declare("hosts.yml", lambda text: text.replace(f"scheduler: {before}", f"scheduler: {after}"))


def node(admin: Client, name: str) -> dict[str, Any]:
    found: dict[str, Any] = admin.get(f"/api/v1/nodes/{name}")
    return found


def ours(found: dict[str, Any]) -> dict[str, str]:
    return {key: value for key, value in found["metadata"].get("labels", {}).items() if key in OURS}


@pytest.fixture(autouse=True)
def _empty(admin: Client) -> Iterator[None]:
    """No node: kubelets of other tests have left theirs."""
    _remove(admin)
    yield
    _remove(admin)


def _remove(admin: Client) -> None:
    for found in admin.get("/api/v1/nodes")["items"]:
        admin.delete(f"/api/v1/nodes/{found['metadata']['name']}", {})


@pytest.fixture
def kubernetes(program: Program) -> Iterator[Program]:
    """The program of a site whose nodes are all Kubernetes' own; as it was at the end."""
    hosts = program.inventory / "hosts.yml"
    before = hosts.read_text()
    scheduler(program, "slurm", "kubernetes")
    yield program
    hosts.write_text(before)
    program.export()
    program.up()


@pytest.fixture
def joined(admin: Client) -> None:
    """Nodes with a label and a taint of somebody else's."""
    for name in NODES:
        admin.create(
            "/api/v1/nodes",
            {
                "metadata": {"name": name, "labels": {"of": "kubelet"}},
                "spec": {"taints": [{"key": "example.com/burn-in", "effect": "NoSchedule"}]},
            },
        )


def test_a_node_that_has_not_joined_is_refused_and_not_made(kubernetes: Program, admin: Client) -> None:
    said = kubernetes.up(status=None)
    assert any("node1" in line for line in told(said)), said
    assert "Traceback" not in said
    for name in NODES:
        with pytest.raises(ApiError, match="not found"):
            node(admin, name)


def test_nodes_are_labelled_while_they_are_kubernetes_own(joined: None, kubernetes: Program, admin: Client) -> None:
    kubernetes.up()
    labels = ours(node(admin, "node1"))
    assert labels.pop("topology.kubernetes.io/zone")
    assert labels == {"accelerator": "nvidia-h200", "medllm.io/scheduler": "kubernetes"}
    assert set(counts(kubernetes.up())) == {"unchanged"}
    scheduler(kubernetes, "kubernetes", "slurm")
    kubernetes.up()
    for name in NODES:
        found = node(admin, name)
        assert ours(found) == {}
        assert found["metadata"]["labels"]["of"] == "kubelet"
        assert "example.com/burn-in" in {taint["key"] for taint in found["spec"]["taints"]}

"""A real control plane for the tests of this folder, one a worker of pytest; and a namespace of its own for a test."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.kubernetes import build, environment
from lab.kubernetes.arguments import COMPONENTS
from lab.kubernetes.kubelet.client import Client
from lab.kubernetes.local import LocalControlPlane
from tests.kubernetes.program import Program, lay_out


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test's folder says what it needs: whole processes, which take seconds to start."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalControlPlane]:
    """etcd, API server, controller manager and scheduler on the loopback interface."""
    binaries = build.ensure(COMPONENTS, print)
    with LocalControlPlane(binaries, tmp_path_factory.mktemp("cluster")) as plane:
        yield plane


@pytest.fixture
def admin(cluster: LocalControlPlane) -> Client:
    """The API as one to whom everything is allowed."""
    return Client(cluster.kubeconfig())


@pytest.fixture
def namespace(admin: Client) -> Iterator[str]:
    """An empty namespace that goes with everything in it."""
    name = f"test-{secrets.token_hex(4)}"
    admin.create("/api/v1/namespaces", {"metadata": {"name": name}})
    # The controller manager gives it an account a little later; no pod is let in before.
    end = time.monotonic() + 60
    while not admin.get(f"/api/v1/namespaces/{name}/serviceaccounts")["items"]:
        assert time.monotonic() < end, "the namespace gets no account"
        time.sleep(0.1)
    yield name
    admin.delete(f"/api/v1/namespaces/{name}", {})


@pytest.fixture(scope="session")
def program(cluster: LocalControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Program:
    """The repository's Pulumi program, applied; who changes it or the cluster sets it right again."""
    binaries = build.ensure(["pulumi", "kubectl"], print)
    directory = tmp_path_factory.mktemp("environment")
    prepared = environment.prepare(directory, cluster.kubeconfig(), directory / "passphrase", binaries)
    made = lay_out(tmp_path_factory.mktemp("repository"), prepared)
    made.up()
    return made

"""The Job's pods take whole nodes, one each; what does not fit waits and says why, what is over quota is not made.

The nodes pull no image, so that nothing runs in the pods: where they are put is the scheduler's work alone.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lab.kubernetes.kubelet.client import Client
from lab.kubernetes.local import LocalControlPlane
from lab.kubernetes.local_nodes import CAPACITY, LocalNodes
from tests.kubernetes.program import NAMESPACE, Program
from tests.kubernetes.test_program_admission import GOOD

pytestmark = pytest.mark.timeout(600)
NODES = ["node1", "node2", "node3", "node4"]
JOB, GPU = "medllm-32b-train", "nvidia.com/gpu"
Json = dict[str, Any]


def eventually(come: Callable[[], object], what: Callable[[], object]) -> None:
    end = time.monotonic() + 90
    while not come():
        assert time.monotonic() < end, what()
        time.sleep(0.5)


def pods(admin: Client) -> list[Json]:
    items: list[Json] = admin.get(f"/api/v1/namespaces/{NAMESPACE}/pods")["items"]
    return items


def bound(admin: Client) -> list[str]:
    return sorted(pod["spec"]["nodeName"] for pod in pods(admin) if pod["spec"].get("nodeName"))


def waiting(admin: Client) -> list[str]:
    """Why pods have no node, in the scheduler's words."""
    return [
        condition.get("message", "")
        for pod in pods(admin)
        for condition in pod["status"].get("conditions", [])
        if condition["type"] == "PodScheduled" and condition["status"] == "False"
    ]


@pytest.fixture
def nodes(
    request: pytest.FixtureRequest, cluster: LocalControlPlane, admin: Client, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalNodes]:
    """Four nodes; the parameter changes what they offer."""
    for found in admin.get("/api/v1/nodes")["items"]:
        admin.delete(f"/api/v1/nodes/{found['metadata']['name']}", {})
    capacity = {**CAPACITY, **getattr(request, "param", {})}
    with LocalNodes(cluster, tmp_path_factory.mktemp("nodes"), NODES, images={}, capacity=capacity) as made:
        yield made


@pytest.fixture
def declared(nodes: LocalNodes, program: Program) -> Iterator[Program]:
    """The program of a site whose nodes are all Kubernetes' own; as it was at the end."""
    hosts = program.inventory / "hosts.yml"
    before = hosts.read_text()
    program.declare("hosts.yml", lambda text: text.replace("scheduler: slurm", "scheduler: kubernetes"))
    yield program
    hosts.write_text(before)
    program.export()
    program.up()


def test_the_job_gets_every_gpu_of_four_nodes_and_nothing_else_does(declared: Program, admin: Client) -> None:
    declared.up()
    eventually(lambda: bound(admin) == NODES, lambda: waiting(admin))
    quota = declared.object("resourcequota", "medllm")["status"]
    assert quota["used"][f"requests.{GPU}"] == quota["hard"][f"requests.{GPU}"] == "32"
    # The Job holds all of it: another is not even given pods, and is told so.
    spec = copy.deepcopy(GOOD["spec"])
    job = {"metadata": {"name": "another"}, "spec": {"template": {"spec": {**spec, "restartPolicy": "Never"}}}}
    path = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
    admin.create(path, job)

    def said() -> list[str]:
        events = admin.get(f"/api/v1/namespaces/{NAMESPACE}/events")["items"]
        return [each["message"] for each in events if each["involvedObject"]["name"] == "another"]

    eventually(lambda: any("exceeded quota: medllm, requested: " in message for message in said()), said)
    assert bound(admin) == NODES
    admin.delete(f"{path}/another", {})


@pytest.mark.long
@pytest.mark.parametrize("nodes", [{GPU: "7"}], indirect=True)
def test_nodes_that_lack_a_gpu_get_no_pod_and_the_scheduler_says_why(declared: Program, admin: Client) -> None:
    declared.up()
    eventually(lambda: len(waiting(admin)) == 4, lambda: pods(admin))
    assert all(f"4 Insufficient {GPU}" in message for message in waiting(admin))
    assert bound(admin) == []


@pytest.mark.long
def test_a_cordoned_node_leaves_one_pod_waiting_and_takes_it_once_it_is_back(declared: Program, admin: Client) -> None:
    declared.kubectl("cordon", "node3")
    declared.up()
    eventually(lambda: len(bound(admin)) == 3 and waiting(admin), lambda: pods(admin))
    assert "node3" not in bound(admin)
    assert "1 node(s) were unschedulable" in waiting(admin)[0]
    declared.kubectl("uncordon", "node3")
    eventually(lambda: bound(admin) == NODES, lambda: waiting(admin))

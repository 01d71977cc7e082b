"""The lab's kubelet under a whole control plane: jobs, lost nodes, kubelets that stop and start again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.kubernetes.kubelet.client import ApiError, Client, Unreachable
from lab.kubernetes.local import LocalControlPlane, free_ports
from lab.kubernetes.local_nodes import LocalNode, LocalNodes
from tests.kubernetes.kubelet_pods import IMAGE, Json, Pods, conditions, shell, state

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces and mounts need root"),
]

NAMES = ["node1", "node2", "node3", "node4"]
FOREVER = "while :; do sleep 0.1; done"
# The controller manager's grace of 20 s for a node, its period of 5 s, and room.
LOST_S = 90.0


@pytest.fixture(scope="module")
def nodes(cluster: LocalControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalNodes]:
    with LocalNodes(cluster, tmp_path_factory.mktemp("nodes"), NAMES, images={IMAGE: "host"}) as made:
        yield made


@pytest.fixture
def pods(admin: Client, namespace: str, nodes: LocalNodes) -> Pods:
    return Pods(admin, namespace, nodes)


@pytest.fixture
def node(nodes: LocalNodes) -> Iterator[LocalNode]:
    """A node that a test may hurt; whole again afterwards."""
    node = nodes["node1"]
    yield node
    node.power_off()
    node.power_on()
    until(lambda: nodes.ready(node.name))


def until(good: Callable[[], object], seconds: float = LOST_S) -> float:
    """Wait until `good` holds. Returns the seconds that took."""
    began = time.monotonic()
    while not good():
        assert time.monotonic() < began + seconds, "it does not come to pass"
        time.sleep(0.1)
    return time.monotonic() - began


def counted(out: Path, script: str, **more: object) -> tuple[Json, list[Json]]:
    """A container that notes each of its starts in `out`, and the volume for that."""
    container = shell(
        f"echo start >> /out/starts; {script}", volumeMounts=[{"name": "out", "mountPath": "/out"}], **more
    )
    return container, [{"name": "out", "hostPath": {"path": str(out)}}]


def test_an_indexed_job_runs_once_a_node_and_its_pods_find_each_other(pods: Pods) -> None:
    batch, core = f"/apis/batch/v1/namespaces/{pods.namespace}/jobs", f"/api/v1/namespaces/{pods.namespace}"
    service = {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": {"app": "train"}}
    pods.client.create(f"{core}/services", {"metadata": {"name": "train"}, "spec": service})
    # Each waits for the names of all, then meets them all on index 0: a collective in small.
    script = (
        "for i in 0 1 2 3; do until getent ahostsv4 train-$i.train; do sleep 0.1; done; done;"
        "echo $JOB_COMPLETION_INDEX $NVIDIA_VISIBLE_DEVICES $(hostname);"
        'python3 -c "$MEET"'
    )
    # All nodes are on one machine here, and 29500 is what any other PyTorch on it takes for itself.
    port = free_ports(1)[0]
    meet = (
        "import os, socket, time\n"
        "if os.environ['JOB_COMPLETION_INDEX'] == '0':\n"
        f"    server = socket.create_server((os.environ['IP'], {port}))\n"
        "    peers = [server.accept()[0] for _ in range(3)]\n"
        "    print('met', len(peers))\n"
        "else:\n"
        "    for _ in range(600):\n"
        "        try:\n"
        f"            meeting = socket.create_connection(('train-0.train', {port}), 5)\n"
        "            break\n"
        "        except OSError:\n"
        "            time.sleep(0.1)\n"
        "    else:\n"
        "        raise SystemExit('nobody there')\n"
        # Who is done loses its name: nobody leaves before all have found all.
        "    meeting.settimeout(None)\n"
        "    meeting.recv(1)\n"
    )
    container = shell(
        script, resources={"limits": {"nvidia.com/gpu": "8", "rdma/hca_shared_devices_a": "1"}}, env=[
            {"name": "MEET", "value": meet}, {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        ],
    )  # fmt: skip
    template = {
        "metadata": {"labels": {"app": "train"}},
        "spec": {"restartPolicy": "Never", "subdomain": "train", "containers": [container]},
    }
    spec = {"completions": 4, "parallelism": 4, "completionMode": "Indexed", "backoffLimit": 0, "template": template}
    pods.client.create(batch, {"metadata": {"name": "train"}, "spec": spec})
    until(lambda: pods.client.get(f"{batch}/train")["status"].get("succeeded") == 4)
    done = pods.client.get(pods.path)["items"]
    assert {pod["spec"]["nodeName"] for pod in done} == set(NAMES)
    for pod in done:
        index = pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"]
        assert f"{index} 0,1,2,3,4,5,6,7 train-{index}" in pods.log(pod)
    assert any("met 3" in pods.log(pod) for pod in done)


def test_an_exit_code_that_the_job_declares_final_fails_it_at_once(pods: Pods) -> None:
    batch = f"/apis/batch/v1/namespaces/{pods.namespace}/jobs"
    rules = [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2]}}]
    template = {"spec": {"restartPolicy": "Never", "containers": [shell("exit 2")]}}
    spec = {"backoffLimit": 6, "podFailurePolicy": {"rules": rules}, "template": template}
    pods.client.create(batch, {"metadata": {"name": "train"}, "spec": spec})

    def failed() -> bool:
        status = pods.client.get(f"{batch}/train").get("status") or {}
        return any(each["type"] == "Failed" and each["status"] == "True" for each in status.get("conditions") or [])

    until(failed)
    assert len(pods.client.get(pods.path)["items"]) == 1


def test_the_token_and_the_authority_of_every_pod_are_mounted_as_upstream_does(pods: Pods) -> None:
    script = (
        "cd /var/run/secrets/kubernetes.io/serviceaccount && cat namespace && curl --silent --fail --cacert ca.crt"
        " https://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT/version | grep gitVersion"
    )
    pods.create("p", shell(script), automountServiceAccountToken=True)
    printed = pods.log(pods.ended("p"))
    assert printed.startswith(pods.namespace)
    assert "gitVersion" in printed


def test_pods_outlive_their_kubelet_and_the_next_one_takes_them_over(
    pods: Pods, node: LocalNode, tmp_path: Path
) -> None:
    for name in ("stays", "ends", "deleted"):
        (tmp_path / name).mkdir()
    stays, volumes = counted(tmp_path / "stays", FOREVER)
    pods.create("stays", stays, restartPolicy="Always", volumes=volumes)
    ends, volumes = counted(tmp_path / "ends", "until [ -e /out/end ]; do sleep 0.1; done; exit 5")
    pods.create("ends", ends, volumes=volumes)
    deleted, volumes = counted(tmp_path / "deleted", FOREVER)
    pods.create("deleted", deleted, volumes=volumes, terminationGracePeriodSeconds=1)
    before = {name: pods.running(name) for name in ("stays", "ends", "deleted")}
    until(lambda: all((tmp_path / name / "starts").exists() for name in before))
    node.stop_kubelet()
    (tmp_path / "ends" / "end").touch()
    pods.delete("deleted")
    time.sleep(1)
    assert pods.get("ends")["status"]["phase"] == "Running"
    node.start_kubelet()
    assert state(pods.ended("ends"))["state"]["terminated"]["exitCode"] == 5
    pods.gone("deleted")
    pod = pods.wait("stays", lambda pod: conditions(pod)["Ready"] == "True")
    assert state(pod)["containerID"] == state(before["stays"])["containerID"]
    assert state(pod)["restartCount"] == 0
    assert [(tmp_path / name / "starts").read_text() for name in before] == ["start\n"] * 3


def test_a_pod_that_was_deleted_by_force_while_the_kubelet_was_away_is_killed(pods: Pods, node: LocalNode) -> None:
    pods.create("p", shell(f"trap '' TERM; {FOREVER}"), terminationGracePeriodSeconds=2)
    pods.running("p")
    node.stop_kubelet()
    pods.delete("p", grace=0)
    pods.gone("p")
    assert len(node.processes()) >= 2
    node.start_kubelet()
    until(lambda: len(node.processes()) == 1)


def test_what_ran_when_the_power_failed_has_failed_or_runs_again(pods: Pods, node: LocalNode, tmp_path: Path) -> None:
    for name in ("never", "always"):
        (tmp_path / name).mkdir()
        container, volumes = counted(tmp_path / name, FOREVER)
        pods.create(name, container, volumes=volumes, restartPolicy=name.capitalize())
        pods.running(name)
        until(lambda name=name: (tmp_path / name / "starts").exists())
    node.power_off()
    node.power_on()
    never = pods.ended("never")
    ended = state(never)["state"]["terminated"]
    assert (never["status"]["phase"], ended["exitCode"], ended["reason"]) == ("Failed", 255, "Unknown")
    always = pods.wait("always", lambda pod: state(pod)["restartCount"] == 1 and conditions(pod)["Ready"] == "True")
    assert state(always)["lastState"]["terminated"]["exitCode"] == 255
    until(lambda: (tmp_path / "always" / "starts").read_text() == "start\nstart\n")
    assert (tmp_path / "never" / "starts").read_text() == "start\n"


def test_a_kubelet_that_lost_its_records_does_not_run_a_pod_a_second_time(
    pods: Pods, node: LocalNode, tmp_path: Path
) -> None:
    container, volumes = counted(tmp_path, FOREVER)
    pods.create("p", container, volumes=volumes)
    pods.running("p")
    until(lambda: (tmp_path / "starts").exists())
    node.power_off()
    (node.directory / "state").rename(node.directory / f"lost-{time.monotonic_ns()}")
    node.power_on()
    pod = pods.ended("p")
    assert state(pod)["state"]["terminated"]["reason"] == "ContainerStatusUnknown"
    assert (tmp_path / "starts").read_text() == "start\n"


def test_a_hung_node_is_not_ready_and_its_pods_are_evicted_and_end_when_it_wakes(
    pods: Pods, nodes: LocalNodes, node: LocalNode
) -> None:
    tolerations = [{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute",
                    "tolerationSeconds": 1}]  # fmt: skip
    pods.create("p", shell(FOREVER), tolerations=tolerations, terminationGracePeriodSeconds=1)
    pods.running("p")
    node.pause()
    assert until(lambda: not nodes.ready("node1")) > 15
    pod = pods.wait("p", lambda pod: pod["metadata"].get("deletionTimestamp"), LOST_S)
    assert conditions(pod)["DisruptionTarget"] == "True"
    node.resume()
    pods.gone("p")
    until(lambda: nodes.ready("node1"))
    until(lambda: len(node.processes()) == 1)


def test_pods_go_on_while_the_api_server_is_away(pods: Pods, cluster: LocalControlPlane, tmp_path: Path) -> None:
    container, volumes = counted(tmp_path, "until [ -e /out/end ]; do sleep 0.1; done; exit 0")
    pods.create("p", container, volumes=volumes)
    pods.running("p")
    until(lambda: (tmp_path / "starts").exists())
    cluster.stop("kube-apiserver")
    (tmp_path / "end").touch()
    time.sleep(1)
    cluster.start("kube-apiserver")

    def succeeded() -> bool:
        try:
            return bool(pods.get("p")["status"]["phase"] == "Succeeded")
        except (ApiError, Unreachable):
            return False

    until(succeeded)
    pods.create("q", shell("exit 0"))
    assert pods.ended("q")["status"]["phase"] == "Succeeded"


def test_a_node_may_come_back_with_another_address(pods: Pods, nodes: LocalNodes, node: LocalNode) -> None:
    pods.create("p", shell(FOREVER), restartPolicy="Always")
    pods.running("p")
    node.power_off()
    file = node.directory / "kubelet.json"
    before, other = file.read_text(), nodes["node2"].address
    try:
        file.write_text(before.replace(node.address, other))
        node.power_on()
        pod = pods.wait("p", lambda pod: pod["status"]["podIP"] == other)
        assert (pod["status"]["podIPs"], pod["status"]["hostIPs"]) == ([{"ip": other}], [{"ip": other}])
        pods.delete("p", grace=1)
        pods.gone("p")
    finally:
        file.write_text(before)


def test_a_node_object_that_was_deleted_comes_back(pods: Pods, nodes: LocalNodes) -> None:
    pods.client.delete("/api/v1/nodes/node4", {})
    until(lambda: nodes.ready("node4"))
    labels = pods.client.get("/api/v1/nodes/node4")["metadata"]["labels"]
    assert labels["kubernetes.io/hostname"] == "node4"


def test_two_kubelets_do_not_share_their_records(nodes: LocalNodes, pods: Pods) -> None:
    node = nodes["node2"]
    node.start_kubelet()
    log = node.directory / "kubelet.log"
    until(lambda: "a kubelet runs with it already. Fix: stop that one first" in log.read_text())


def test_a_kubelet_that_is_asked_to_end_leaves_its_pods(pods: Pods, node: LocalNode) -> None:
    pods.create("p", shell(FOREVER))
    pods.running("p")
    began = time.monotonic()
    node.stop_kubelet(signal.SIGTERM)
    assert time.monotonic() - began < 5
    assert len(node.processes()) >= 2
    node.start_kubelet()

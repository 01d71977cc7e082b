"""Pods that must not be: each is refused by the API server, for the reason that is told."""

from __future__ import annotations

import copy
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from lab.kubernetes.kubelet.client import ApiError, Client
from lab.kubernetes.local import LocalControlPlane
from tests.kubernetes.program import NAMESPACE, Program

pytestmark = pytest.mark.timeout(1800)
Json = dict[str, Any]
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
JOBS = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
GOOD: Json = {
    "metadata": {"name": "good"},
    "spec": {
        "automountServiceAccountToken": False,
        "serviceAccountName": "medllm-trainer",
        "priorityClassName": "medllm-training",
        "nodeSelector": {"medllm.io/scheduler": "kubernetes"},
        "securityContext": {
            "runAsNonRoot": True, "runAsUser": 1000, "runAsGroup": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "main",
                "image": "registry.internal/medllm:32b-v1.0",
                "resources": {
                    "requests": {"cpu": "1", "memory": "1Gi", "nvidia.com/gpu": "8"},
                    "limits": {"cpu": "1", "memory": "1Gi", "nvidia.com/gpu": "8"},
                },
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            }
        ],
    },
}  # fmt: skip


def container(pod: Json) -> Json:
    found: Json = pod["spec"]["containers"][0]
    return found


def volume(**source: Any) -> Callable[[Json], None]:
    def change(pod: Json) -> None:
        pod["spec"]["volumes"] = [{"name": "taken", **source}]
        container(pod)["volumeMounts"] = [{"name": "taken", "mountPath": "/taken"}]

    return change


def main(**fields: Any) -> Callable[[Json], None]:
    return lambda pod: container(pod).update(fields)


def spec(**fields: Any) -> Callable[[Json], None]:
    return lambda pod: pod["spec"].update(fields)


def without(*keys: str) -> Callable[[Json], None]:
    def change(pod: Json) -> None:
        for key in keys:
            del pod["spec"][key]

    return change


def label(key: str, value: str) -> Callable[[Json], None]:
    return lambda pod: pod["metadata"].update(labels={key: value})


def init(**fields: Any) -> Callable[[Json], None]:
    def change(pod: Json) -> None:
        pod["spec"]["initContainers"] = [{**copy.deepcopy(container(pod)), "name": "first", **fields}]

    return change


def both(*changes: Callable[[Json], None]) -> Callable[[Json], None]:
    def change(pod: Json) -> None:
        for each in changes:
            each(pod)

    return change


def user(**fields: Any) -> Callable[[Json], None]:
    return lambda pod: pod["spec"]["securityContext"].update(fields)


SECURE = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
SECRET = {"name": "registry", "key": "password"}
ATTACKS = {
    "privileged": (main(securityContext={**SECURE, "privileged": True}), "privileged"),
    "root": (spec(securityContext={"runAsUser": 0, "seccompProfile": {"type": "RuntimeDefault"}}), "runAsNonRoot"),
    "host network": (spec(hostNetwork=True), "host namespaces"),
    "host processes": (spec(hostPID=True), "host namespaces"),
    "host path": (volume(hostPath={"path": "/"}), "hostPath"),
    "host port": (main(ports=[{"containerPort": 8085, "hostPort": 8085}]), "hostPort"),
    "more capabilities": (
        main(securityContext={**SECURE, "capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN"]}}), "capabilities",
    ),
    "no seccomp": (spec(securityContext={"runAsNonRoot": True, "runAsUser": 1000}), "seccompProfile"),
    "another registry": (main(image="docker.io/library/miner:1"), "images come from registry.internal alone"),
    "a registry that looks like it": (main(image="registry.internal.evil.example/x:1"), "images come from"),
    "another registry, first container": (init(image="quay.io/x/y:1"), "images come from"),
    "the latest image": (main(image="registry.internal/medllm:latest"), "version or a digest"),
    "an image without version": (main(image="registry.internal/medllm"), "version or a digest"),
    "an image as a volume": (volume(image={"reference": "docker.io/library/x:1"}), "a volume is one of"),
    "a claim of any size": (
        volume(
            ephemeral={
                "volumeClaimTemplate": {
                    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Pi"}}}
                }
            }
        ),
        "a volume is one of",
    ),
    "a driver's volume with a Secret": (
        volume(csi={"driver": "x.example", "nodePublishSecretRef": {"name": "registry"}}), "a volume is one of",
    ),
    "a node by its name": (spec(nodeName="mgmt"), "the scheduler chooses the node"),
    "all taints tolerated": (spec(tolerations=[{"operator": "Exists"}]), "tolerates a lost node"),
    "onto the control plane": (
        spec(tolerations=[{"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}]),
        "tolerates a lost node",
    ),
    "onto a cordoned node": (
        spec(tolerations=[{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}]), "tolerates a lost node",
    ),
    "among Slurm's ranks": (spec(tolerations=[{"key": "medllm.io/scheduler", "value": "slurm"}]), "tolerates a lost"),
    "passing for a rank": (label("app.kubernetes.io/component", "trainer"), "the production run's alone"),
    "the raw data": (
        volume(persistentVolumeClaim={"claimName": "encrypted-pvc"}), "patients' data as they came",
    ),
    "before those that serve patients": (spec(priorityClassName="medllm-inference"), "an operator starts it"),
    "HCAs without a class": (
        both(
            without("priorityClassName"),
            main(resources={"limits": {"cpu": "1", "memory": "1Gi", "rdma/hca_shared_devices_a": "1"}}),
        ),
        "priority classes",
    ),
    "GPUs without a class": (without("priorityClassName"), "priority classes"),
    "GPUs with a system's class": (spec(priorityClassName="system-node-critical"), "priority class"),
    "GPUs on Slurm's nodes": (spec(nodeSelector={"accelerator": "nvidia-h200"}), "Slurm has the others"),
    "GPUs on a node of its choice": (without("nodeSelector"), "Slurm has the others"),
    "a token": (without("automountServiceAccountToken"), "automountServiceAccountToken"),
    "a token by a volume": (
        volume(projected={"sources": [{"serviceAccountToken": {"path": "token"}}]}), "take no Secrets",
    ),
    "no GPU, but a system's class": (
        both(without("nodeSelector"), main(resources={}), spec(priorityClassName="system-node-critical")),
        "no other priority class",
    ),
    "a group for all of Lustre": (user(fsGroup=4242), "without fsGroup"),
    "somebody else's files": (user(runAsUser=4711), "a pod is user 1000"),
    "root's group": (user(runAsGroup=0), "a pod is user 1000"),
    "further groups": (user(supplementalGroups=[0]), "without fsGroup"),
    "a container as somebody else": (main(securityContext={**SECURE, "runAsUser": 4711}), "a container is user 1000"),
    "GPUs past the device plugin": (
        main(env=[{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}]), "NVIDIA_VISIBLE_DEVICES",
    ),
    "a probe from the node's network": (
        main(livenessProbe={"httpGet": {"host": "169.254.169.254", "port": 80}}), "names no host",
    ),
    "a hook from the node's network": (
        main(lifecycle={"postStart": {"httpGet": {"host": "10.0.0.1", "port": 80}}}), "names no host",
    ),
    "a Secret as a file": (volume(secret={"secretName": "registry"}), "take no Secrets"),
    "a Secret in a projection": (volume(projected={"sources": [{"secret": {"name": "registry"}}]}), "take no Secrets"),
    "a Secret as a variable": (main(env=[{"name": "P", "valueFrom": {"secretKeyRef": SECRET}}]), "take no Secrets"),
    "Secrets as variables": (main(envFrom=[{"secretRef": {"name": "registry"}}]), "take no Secrets"),
    "a Secret in the first container": (init(envFrom=[{"secretRef": {"name": "registry"}}]), "take no Secrets"),
    "more GPUs than the quota": (
        main(resources={key: {"cpu": "1", "memory": "1Gi", "nvidia.com/gpu": "33"} for key in ("requests", "limits")}),
        "exceeded quota",
    ),
}  # fmt: skip


@pytest.fixture
def scientist(program: Program, cluster: LocalControlPlane) -> Client:
    return Client(cluster.kubeconfig("data-scientist"))


@pytest.mark.gate
def test_an_honest_pod_is_let_in(scientist: Client) -> None:
    scientist.create(PODS, GOOD)
    scientist.delete(f"{PODS}/good", {"gracePeriodSeconds": 0})


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.gate
def test_an_attack_is_refused_and_told(scientist: Client, attack: str) -> None:
    change, reason = ATTACKS[attack]
    pod = copy.deepcopy(GOOD)
    change(pod)
    with pytest.raises(ApiError) as caught:
        scientist.create(PODS, pod)
    assert caught.value.code in {403, 422}, caught.value.message
    assert reason in caught.value.message


BY_SCIENTISTS = ("passing for a rank", "the raw data", "before those that serve patients")


@pytest.mark.parametrize("attack", BY_SCIENTISTS)
def test_what_a_scientist_may_not_make_no_job_makes_for_him(scientist: Client, attack: str) -> None:
    """The pods of a Job are made by a controller, for which no rule of a scientist holds."""
    change, reason = ATTACKS[attack]
    pod = copy.deepcopy(GOOD)
    change(pod)
    pod["spec"]["restartPolicy"] = "Never"
    with pytest.raises(ApiError) as caught:
        scientist.create(JOBS, {"metadata": {"name": "good"}, "spec": {"template": pod}})
    assert reason in caught.value.message


@pytest.mark.gate
def test_the_production_run_is_not_ended_by_a_scientist(admin: Client, scientist: Client) -> None:
    labels = {"app.kubernetes.io/component": "trainer"}
    pod = {"metadata": {**GOOD["metadata"], "labels": labels}, "spec": GOOD["spec"]}
    template = {"metadata": {"labels": labels}, "spec": {**GOOD["spec"], "restartPolicy": "Never"}}
    admin.create(
        JOBS, {"metadata": {"name": "good", "labels": labels}, "spec": {"template": template, "suspend": True}}
    )
    admin.create(PODS, pod)
    try:
        for path in (f"{JOBS}/good", f"{PODS}/good"):
            with pytest.raises(ApiError, match="ended by an operator"):
                scientist.delete(path, {})
    finally:
        admin.delete(f"{JOBS}/good", {"propagationPolicy": "Background"})
        admin.delete(f"{PODS}/good", {"gracePeriodSeconds": 0})


@pytest.mark.gate
def test_an_operator_cordons_a_node_and_does_nothing_else_with_it(
    program: Program, admin: Client, cluster: LocalControlPlane
) -> None:
    operator = Client(cluster.kubeconfig("operator"))
    admin.create("/api/v1/nodes", {"metadata": {"name": "spare", "labels": {"medllm.io/scheduler": "slurm"}}})
    try:
        operator.patch("/api/v1/nodes/spare", {"spec": {"unschedulable": True}})
        assert admin.get("/api/v1/nodes/spare")["spec"]["unschedulable"] is True
        for change in (
            {"metadata": {"labels": {"medllm.io/scheduler": "kubernetes"}}},
            {"metadata": {"annotations": {"a": "b"}}},
            {"spec": {"taints": [{"key": "a", "effect": "NoExecute"}]}},
        ):
            with pytest.raises(ApiError, match="changes nothing else"):
                operator.patch("/api/v1/nodes/spare", change)
        admin.patch("/api/v1/nodes/spare", {"metadata": {"labels": {"medllm.io/scheduler": "kubernetes"}}})
    finally:
        admin.delete("/api/v1/nodes/spare", {})


def test_a_service_takes_no_address_of_others(program: Program, cluster: LocalControlPlane) -> None:
    operator = Client(cluster.kubeconfig("operator"))
    services = f"/api/v1/namespaces/{NAMESPACE}/services"
    with pytest.raises(ApiError, match="no externalIPs"):
        operator.create(
            services, {"metadata": {"name": "trap"}, "spec": {"ports": [{"port": 53}], "externalIPs": ["10.0.0.53"]}}
        )
    with pytest.raises(ApiError, match="names no other host"):
        operator.create(
            services, {"metadata": {"name": "trap"}, "spec": {"type": "ExternalName", "externalName": "evil.example"}}
        )


def test_a_container_is_not_slipped_into_a_running_pod(program: Program, admin: Client, scientist: Client) -> None:
    pod = copy.deepcopy(GOOD)
    pod["metadata"]["name"] = "slipped"
    scientist.create(PODS, pod)
    try:
        late = {"name": "late", "image": "docker.io/library/busybox:1", "securityContext": SECURE}
        patch = {"spec": {"ephemeralContainers": [late]}}
        with pytest.raises(ApiError, match="forbidden"):
            scientist.patch(f"{PODS}/slipped/ephemeralcontainers", patch)
        with pytest.raises(ApiError, match=r"images come from registry\.internal alone"):
            admin.patch(f"{PODS}/slipped/ephemeralcontainers", patch)
        with pytest.raises(ApiError, match="images come from"):
            admin.patch(
                f"{PODS}/slipped", {"spec": {"containers": [{"name": "main", "image": "docker.io/library/x:1"}]}}
            )
    finally:
        scientist.delete(f"{PODS}/slipped", {"gracePeriodSeconds": 0})


def test_a_pod_of_an_older_policy_can_still_go(program: Program, admin: Client, scientist: Client) -> None:
    """The job controller takes its finalizer off the pod, an update, though the pod's image is refused by now."""
    template = {"spec": {**copy.deepcopy(GOOD["spec"]), "restartPolicy": "Never"}}
    scientist.create(JOBS, {"metadata": {"name": "old"}, "spec": {"template": template}})
    policy = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/medllm-pods"
    rules = admin.get(policy)["spec"]["validations"]
    never = {"expression": "false", "message": "nothing is let in any more"}
    ours = {"labelSelector": "job-name=old"}
    eventually(lambda: bool(admin.get(PODS, ours)["items"]))
    try:
        admin.patch(policy, {"spec": {"validations": [*rules, never]}})
        eventually(lambda: is_refused(scientist, "nothing is let in any more"))
        scientist.delete(f"{JOBS}/old", {"propagationPolicy": "Background"})
        eventually(lambda: not admin.get(PODS, ours)["items"])
    finally:
        admin.patch(policy, {"spec": {"validations": rules}})
        eventually(lambda: not is_refused(scientist, "nothing is let in any more"))


def is_refused(client: Client, reason: str) -> bool:
    try:
        client.create(PODS, GOOD)
    except ApiError as error:
        return reason in error.message
    client.delete(f"{PODS}/good", {"gracePeriodSeconds": 0})
    return False


def eventually(holds: Callable[[], bool]) -> None:
    """The API server takes a changed policy over within seconds; a loaded machine is slower."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_doors_to_the_outside_are_over_quota(program: Program, admin: Client) -> None:
    for kind in ("NodePort", "LoadBalancer"):
        service = {
            "metadata": {"name": "door"},
            "spec": {"type": kind, "ports": [{"port": 80}], "selector": {"a": "b"}},
        }
        with pytest.raises(ApiError, match="exceeded quota"):
            admin.create(f"/api/v1/namespaces/{NAMESPACE}/services", service)


def test_nobody_without_a_certificate_is_heard(cluster: LocalControlPlane, program: Program) -> None:
    trusted = ssl.create_default_context(cafile=str(cluster.authority))
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{cluster.server}{PODS}", context=trusted, timeout=20)
    assert caught.value.code in {401, 403}

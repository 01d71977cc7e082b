"""The lab's kubelet against a real API server: what a container sees of volumes, configuration, devices and names."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.kubernetes.kubelet.client import Client
from lab.kubernetes.kubelet.environment import PodFacts
from lab.kubernetes.kubelet.volumes import Volumes
from lab.kubernetes.local import LocalControlPlane
from lab.kubernetes.local_nodes import LocalNodes
from tests.kubernetes.kubelet_pods import IMAGE, Json, Pods, shell, state

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces and mounts need root"),
]


@pytest.fixture(scope="module")
def nodes(cluster: LocalControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalNodes]:
    directory = tmp_path_factory.mktemp("nodes")
    with LocalNodes(cluster, directory, ["node1"], images={IMAGE: "host"}) as made:
        yield made


@pytest.fixture
def pods(admin: Client, namespace: str, nodes: LocalNodes) -> Pods:
    return Pods(admin, namespace, nodes)


def run(pods: Pods, script: str, volumes: list[Json], **spec: object) -> tuple[Json, str]:
    """Run a script with each volume at /v/NAME. Returns the pod when it has ended, and what it printed."""
    mounts = [{"name": volume["name"], "mountPath": f"/v/{volume['name']}"} for volume in volumes]
    pods.create("p", shell(script, volumeMounts=mounts), volumes=volumes, **spec)
    pod = pods.ended("p")
    return pod, pods.log(pod)


def config_map(pods: Pods, name: str, **data: str) -> str:
    path = f"/api/v1/namespaces/{pods.namespace}/configmaps"
    pods.client.create(path, {"metadata": {"name": name}, "data": data})
    return f"{path}/{name}"


def secret(pods: Pods, name: str, **data: str) -> None:
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    pods.client.create(f"/api/v1/namespaces/{pods.namespace}/secrets", {"metadata": {"name": name}, "data": encoded})


def test_files_of_every_kind_are_there(pods: Pods) -> None:
    config_map(pods, "site", **{"site.json": "{}"})
    secret(pods, "key", token="s3cret")
    metadata = {"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}
    cores = {"path": "cpu", "resourceFieldRef": {"containerName": "main", "resource": "limits.cpu"}}
    volumes: list[Json] = [
        {"name": "config", "configMap": {"name": "site"}},
        {"name": "secret", "secret": {"secretName": "key", "defaultMode": 0o400}},
        {"name": "downward", "downwardAPI": {"items": [metadata, cores]}},
        {"name": "all", "projected": {"sources": [
            {"configMap": {"name": "site", "items": [{"key": "site.json", "path": "etc/site"}]}},
            {"secret": {"name": "key"}}, {"downwardAPI": {"items": [metadata]}},
        ]}},
    ]  # fmt: skip
    pod, printed = run(
        pods,
        "cd /v; cat config/site.json secret/token downward/name downward/cpu all/etc/site all/token all/name;"
        "stat -L -c ' %a' secret/token; touch config/x; findmnt -n -o FSTYPE /v/secret; findmnt -n -o FSTYPE /v/config",
        volumes,
    )
    first, *rest = printed.split("\n")
    assert first == "{}s3cretp96{}s3cretp 400"
    assert "Read-only file system" in rest[0]
    assert rest[1] == "tmpfs"
    assert rest[2] != "tmpfs"
    assert not list((pods.nodes["node1"].directory / "state/pods" / pod["metadata"]["uid"]).glob("volumes"))


def test_memory_is_as_large_as_it_says_and_counts_as_shared_memory(pods: Pods) -> None:
    shm = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "20Mi"}}
    script = (
        "df -m --output=fstype,size /dev/shm /small | tail -n 2;"
        "head -c 30M /dev/zero > /dev/shm/x; ls -s --block-size=1M /dev/shm/x"
    )
    mounts = [{"name": "shm", "mountPath": "/dev/shm"}, {"name": "scratch", "mountPath": "/small"}]
    pods.create("p", shell(script, volumeMounts=mounts), volumes=[shm, {"name": "scratch", "emptyDir": {}}])
    printed = pods.log(pods.ended("p"))
    assert printed.split("\n")[0].split() == ["tmpfs", "20"]
    assert "No space left on device" in printed
    assert printed.split("\n")[-2] == "20 /dev/shm/x"


def test_containers_of_a_pod_share_its_volumes_and_a_restart_keeps_them(pods: Pods) -> None:
    mount = {"volumeMounts": [{"name": "data", "mountPath": "/data"}]}
    writer = shell("echo x >> /data/a; [ $(wc -l < /data/a) = 2 ] && touch /data/done", **mount)
    reader = shell("until [ -e /data/done ]; do sleep 0.1; done; cat /data/a", **mount) | {"name": "reader"}
    pods.create("p", writer, reader, restartPolicy="OnFailure", volumes=[{"name": "data", "emptyDir": {}}])
    pod = pods.ended("p")
    assert (pod["status"]["phase"], pods.log(pod, "reader")) == ("Succeeded", "x\nx\n")


def test_a_token_is_bound_to_the_pod_and_the_api_server_takes_it(pods: Pods, cluster: LocalControlPlane) -> None:
    volume = {"name": "token", "projected": {"sources": [{"serviceAccountToken": {
        "path": "token", "expirationSeconds": 600}}]}}  # fmt: skip
    script = (
        'curl --silent --insecure --header "Authorization: Bearer $(cat /v/token/token)"'
        " https://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT/apis/authentication.k8s.io/v1/selfsubjectreviews"
        " --header 'Content-Type: application/json' --data"
        ' \'{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}\''
    )
    pod, printed = run(pods, script, [volume])
    user = json.loads(printed)["status"]["userInfo"]
    assert user["username"] == f"system:serviceaccount:{pods.namespace}:default"
    assert user["extra"]["authentication.kubernetes.io/pod-uid"] == [pod["metadata"]["uid"]]


def test_a_claim_is_the_volume_that_it_is_bound_to(pods: Pods, tmp_path: Path) -> None:
    (tmp_path / "local").mkdir()
    (tmp_path / "local/data").write_text("patients\n")
    kinds: dict[str, Json] = {
        "lustre": {"local": {"path": str(tmp_path / "local")}, "nodeAffinity": {"required": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["node1"]}]}]}}},
        "ceph": {"hostPath": {"path": str(tmp_path / "made"), "type": "DirectoryOrCreate"}},
    }  # fmt: skip
    for name, kind in kinds.items():
        bound_claim(pods, name, kind)
    volumes: list[Json] = [
        {"name": "data", "persistentVolumeClaim": {"claimName": "lustre", "readOnly": True}},
        {"name": "out", "persistentVolumeClaim": {"claimName": "ceph"}},
    ]
    _, printed = run(pods, "cat /v/data/data; echo state > /v/out/checkpoint; touch /v/data/x", volumes)
    assert printed.startswith("patients\n")
    assert "Read-only file system" in printed
    pods.delete("p")
    pods.gone("p")
    assert (tmp_path / "made/checkpoint").read_text() == "state\n"
    assert (tmp_path / "local/data").exists()


def bound_claim(pods: Pods, name: str, kind: Json) -> None:
    """A claim and its volume; bound by hand, as the controller does, whether or not it runs."""
    volume = f"{pods.namespace}-{name}"
    common = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    size = {"storage": "1Gi"}
    path = f"/api/v1/namespaces/{pods.namespace}/persistentvolumeclaims"
    claim = pods.client.create(
        path, {"metadata": {"name": name}, "spec": {**common, "volumeName": volume, "resources": {"requests": size}}}
    )
    reference = {"namespace": pods.namespace, "name": name, "uid": claim["metadata"]["uid"]}
    spec = {**common, **kind, "capacity": size, "claimRef": reference, "persistentVolumeReclaimPolicy": "Retain"}
    pods.client.create("/api/v1/persistentvolumes", {"metadata": {"name": volume}, "spec": spec})
    pods.client.patch(f"{path}/{name}/status", {"status": {"phase": "Bound", "capacity": size}})


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        ({"nfs": {"server": "10.0.0.1", "path": "/"}}, "no volume plugin matched: nfs"),
        ({"configMap": {"name": "none"}}, 'configmap "none" not found'),
        ({"persistentVolumeClaim": {"claimName": "none"}}, 'persistentvolumeclaim "none" not found'),
        ({"hostPath": {"path": "/etc/passwd", "type": "Directory"}}, "/etc/passwd is not a directory"),
        ({"emptyDir": {"medium": "HugePages"}}, "unknown storage medium 'HugePages'"),
    ],
)
def test_a_volume_that_can_not_be_made_keeps_the_pod_waiting_and_says_why(
    pods: Pods, volume: Json, message: str
) -> None:
    mounts = [{"name": "x", "mountPath": "/v/x"}]
    pod = pods.create("p", shell("exit 0", volumeMounts=mounts), volumes=[{"name": "x", **volume}])
    assert message in pods.event(pod, "FailedMount")
    pod = pods.wait("p", lambda pod: pod["status"].get("containerStatuses"))
    assert pod["status"]["phase"] == "Pending"
    assert state(pod)["state"]["waiting"]["reason"] == "ContainerCreating"


def test_a_pod_runs_when_what_it_waited_for_comes(pods: Pods) -> None:
    mounts = [{"name": "x", "mountPath": "/v/x"}]
    pod = pods.create(
        "p", shell("cat /v/x/a", volumeMounts=mounts), volumes=[{"name": "x", "configMap": {"name": "late"}}]
    )
    pods.event(pod, "FailedMount")
    config_map(pods, "late", a="here")
    assert pods.log(pods.ended("p")) == "here"


def test_a_variable_without_its_secret_waits_and_says_so(pods: Pods) -> None:
    source = {"secretKeyRef": {"name": "none", "key": "x"}}
    pods.create("p", shell("exit 0", env=[{"name": "X", "valueFrom": source}]))
    pod = pods.waiting("p", "CreateContainerConfigError")
    assert state(pod)["state"]["waiting"]["message"] == 'secret "none" not found'


def test_a_changed_config_map_reaches_the_volume(pods: Pods, tmp_path: Path) -> None:
    path = config_map(pods, "site", a="1")
    pod = pods.create("p", shell("sleep 600"), volumes=[{"name": "x", "configMap": {"name": "site"}}], node=None)
    volumes = Volumes(pods.client, PodFacts(pod, "node1", "10.0.0.1", {}), tmp_path)
    assert (volumes.prepare()["x"].path / "a").read_text() == "1"
    pods.client.patch(path, {"data": {"a": "2", "b": "3"}}, "application/merge-patch+json")
    place = volumes.prepare()["x"].path
    assert [(place / name).read_text() for name in "ab"] == ["2", "3"]
    volumes.tear_down()
    assert list(tmp_path.parent.glob(tmp_path.name)) == []


def test_a_restricted_container_has_no_rights_and_its_group_owns_its_volumes(pods: Pods) -> None:
    context = {
        "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True,
    }  # fmt: skip
    pod_context = {"runAsUser": 1234, "runAsGroup": 2345, "fsGroup": 3456, "runAsNonRoot": True}
    config_map(pods, "site", a="1")
    script = (
        "id -u; id -g; id -G; grep -E 'CapBnd|CapEff|NoNewPrivs' /proc/self/status | tr -d '\\n'; echo;"
        "touch /root-file 2>&1; echo 1 > /proc/sys/kernel/panic;"
        "touch /data/x && stat -c %g /data/x; cat /site/a; sudo -n id"
    )
    mounts = [{"name": "data", "mountPath": "/data"}, {"name": "site", "mountPath": "/site"}]
    pods.create(
        "p", shell(script, securityContext=context, volumeMounts=mounts), securityContext=pod_context,
        volumes=[
            {"name": "data", "emptyDir": {}}, {"name": "site", "configMap": {"name": "site", "defaultMode": 0o440}},
        ],
    )  # fmt: skip
    printed = pods.log(pods.ended("p"))
    lines = printed.split("\n")
    assert lines[:3] == ["1234", "2345", "2345 3456"]
    assert lines[3].split() == ["CapEff:", "0" * 16 + "CapBnd:", "0" * 16 + "NoNewPrivs:", "1"]
    assert "Read-only file system" in lines[4]
    assert "3456\n1" in printed
    assert "uid=0" not in printed


def test_a_container_writes_nothing_into_its_node(pods: Pods) -> None:
    pods.create("p", shell("touch /etc/of-a-pod /of-a-pod && hostname && ps ax | wc -l && ls /of-a-pod"))
    pod = pods.ended("p")
    assert pods.log(pod).split()[0] == "p"
    assert int(pods.log(pod).split()[1]) < 8
    assert not Path("/etc/of-a-pod").exists()
    assert not Path("/of-a-pod").exists()


def test_gpus_belong_to_one_pod_at_a_time(pods: Pods) -> None:
    def gpus(count: int) -> Json:
        limits = {"resources": {"limits": {"nvidia.com/gpu": str(count)}}}
        return shell("echo $NVIDIA_VISIBLE_DEVICES $CUDA_VISIBLE_DEVICES; sleep 600", **limits)

    seen = []
    for name, count in (("a", 3), ("b", 5)):
        pods.create(name, gpus(count), terminationGracePeriodSeconds=1)
        seen.append(pods.printed(pods.running(name), "\n").split())
    assert [first == second for first, second in seen] == [True, True]
    assert sorted(",".join(each[0] for each in seen).split(",")) == list("01234567")
    pods.create("c", gpus(1))
    pod = pods.ended("c")
    assert pod["status"]["reason"] == "OutOfnvidia.com/gpu"
    assert "requested: 1, used: 8, capacity: 8" in pod["status"]["message"]
    pods.delete("a")
    pods.gone("a")
    pods.create("d", gpus(3), terminationGracePeriodSeconds=1)
    assert pods.printed(pods.running("d"), "\n").split() == seen[0]


def test_names_of_headless_services_come_and_go_while_the_pod_runs(pods: Pods) -> None:
    pods.create("p", shell("echo up; sleep 600"), hostname="train-0", subdomain="train")
    pod = pods.running("p")
    pods.printed(pod, "up")
    path = f"/apis/discovery.k8s.io/v1/namespaces/{pods.namespace}/endpointslices"
    labels = {"kubernetes.io/service-name": "train", "service.kubernetes.io/headless": ""}
    peer = {"addresses": ["198.19.0.7"], "hostname": "train-1", "conditions": {"ready": True}}
    item = {"metadata": {"name": "train-x", "labels": labels}, "addressType": "IPv4", "endpoints": [peer]}
    own = f"{pods.nodes['node1'].address} train-0.train.{pods.namespace}.svc.cluster.local train-0"
    pods.client.create(path, item)
    _hosts(pods, pod, f"198.19.0.7 train-1.train.{pods.namespace}.svc.cluster.local", own)
    pods.client.patch(
        f"{path}/train-x", {"endpoints": [{**peer, "addresses": ["198.19.0.8"]}]}, "application/merge-patch+json"
    )
    _hosts(pods, pod, f"198.19.0.8 train-1.train.{pods.namespace}.svc.cluster.local", own)
    pods.client.delete(f"{path}/train-x", {})
    _hosts(pods, pod, own, absent="train-1")


def _hosts(pods: Pods, pod: Json, *texts: str, absent: str = "\0") -> None:
    """Wait until the pod's hosts file has these lines."""
    path = pods.nodes["node1"].directory / "state/pods" / pod["metadata"]["uid"] / "hosts"
    deadline = time.monotonic() + 30
    while True:
        content = path.read_text().replace("\t", " ")
        if all(text in content for text in texts) and absent not in content:
            return
        assert time.monotonic() < deadline, content
        time.sleep(0.05)

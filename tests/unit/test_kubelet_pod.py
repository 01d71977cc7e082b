"""The lab's kubelet: a pod's status, its names, its files, and whether the node takes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lab.kubernetes.kubelet import payload
from lab.kubernetes.kubelet.admission import Admission, Refused, requests
from lab.kubernetes.kubelet.config import Config
from lab.kubernetes.kubelet.environment import CreateError, PodFacts
from lab.kubernetes.kubelet.launch import Ended
from lab.kubernetes.kubelet.names import Name, hostname, hosts_file, rewrite, slice_names
from lab.kubernetes.kubelet.status import Verdict, View, build, differs, phase, seconds, terminated, timestamp, waiting
from lab.kubernetes.kubelet.volumes import Source, mounts

Json = dict[str, Any]
CAPACITY = {"cpu": "8", "memory": "16Gi", "ephemeral-storage": "10Gi", "pods": "3", "nvidia.com/gpu": "8"}
RUNNING = {"running": {"startedAt": timestamp(0)}}


def pod(uid: str = "u", *containers: Json, **spec: object) -> Json:
    return {
        "metadata": {"name": "p", "namespace": "ns", "uid": uid, "generation": 2},
        "spec": {"containers": list(containers) or [{"name": "main"}], **spec},
        "status": {},
    }  # fmt: skip


def ended(code: int) -> Json:
    return terminated(Ended(code, "Error" if code else "Completed", 10.0), 5.0, "lab://x")


def view(state: Json, last: Json | None = None, *, ready: bool = False, name: str = "main") -> View:
    return View(name, "image", state, last or {}, ready=ready, identifier="lab://x")


@pytest.mark.parametrize(
    ("policy", "init", "main", "expected"),
    [
        ("Never", [], [waiting("ContainerCreating")], "Pending"),
        ("Never", [], [RUNNING, waiting("ErrImagePull")], "Pending"),
        ("Never", [], [RUNNING, ended(1)], "Running"),
        ("Never", [], [ended(0), ended(0)], "Succeeded"),
        ("Never", [], [ended(0), ended(3)], "Failed"),
        ("OnFailure", [], [ended(0)], "Succeeded"),
        ("OnFailure", [], [ended(3)], "Running"),
        ("Always", [], [ended(0)], "Running"),
        ("Never", [ended(1)], [waiting("PodInitializing")], "Failed"),
        ("OnFailure", [ended(1)], [waiting("PodInitializing")], "Pending"),
        ("Never", [ended(0), RUNNING], [waiting("PodInitializing")], "Pending"),
        ("Never", [ended(0)], [RUNNING], "Running"),
    ],
)
def test_the_phase_is_that_of_a_genuine_kubelet(policy: str, init: list[Json], main: list[Json], expected: str) -> None:
    assert phase(policy, [view(state) for state in init], [view(state) for state in main]) == expected


def test_a_container_that_waits_to_run_again_does_not_make_its_pod_pending() -> None:
    assert phase("Always", [], [view(waiting("CrashLoopBackOff"), ended(1))]) == "Running"


def test_conditions_say_what_is_not_ready_and_keep_the_time_of_their_last_change() -> None:
    given = pod()
    status = build(given, [], [view(RUNNING)], "10.0.0.1", 0.0, 100.0, Verdict("Running"))
    found = {each["type"]: each for each in status["conditions"]}
    assert found["Ready"]["status"] == found["ContainersReady"]["status"] == "False"
    assert found["Ready"]["message"] == "containers with unready status: [main]"
    assert found["PodReadyToStartContainers"]["status"] == found["Initialized"]["status"] == "True"
    given["status"] = status
    later = build(given, [], [view(RUNNING, ready=True)], "10.0.0.1", 0.0, 200.0, Verdict("Running"))
    times = {each["type"]: seconds(each["lastTransitionTime"]) for each in later["conditions"]}
    assert times == {"PodReadyToStartContainers": 100, "Initialized": 100, "ContainersReady": 200, "Ready": 200}
    assert (later["podIP"], later["hostIP"], later["observedGeneration"]) == ("10.0.0.1", "10.0.0.1", 2)


def test_a_readiness_gate_holds_a_pod_whose_containers_are_ready() -> None:
    given = pod(readinessGates=[{"conditionType": "fabric"}])
    for status, expected in (("False", "False"), ("True", "True")):
        given["status"] = {"conditions": [{"type": "fabric", "status": status}]}
        built = build(given, [], [view(RUNNING, ready=True)], "10.0.0.1", 0.0, 1.0, Verdict("Running"))
        assert {each["type"]: each["status"] for each in built["conditions"]}["Ready"] == expected


def test_a_pod_that_ended_is_not_ready_for_that_reason() -> None:
    status = build(pod(), [], [view(ended(0))], "10.0.0.1", 0.0, 1.0, Verdict("Succeeded"))
    ready = next(each for each in status["conditions"] if each["type"] == "Ready")
    assert (ready["status"], ready["reason"], ready["message"]) == ("False", "PodCompleted", None)


def test_only_a_status_that_says_something_new_is_sent() -> None:
    given = pod()
    status = build(given, [], [view(RUNNING, ready=True)], "10.0.0.1", 0.0, 1.0, Verdict("Running"))
    assert differs({}, status)
    # As the API server gives it back: others' conditions too, nulls and empty texts gone.
    stored = {
        **status,
        "qosClass": "BestEffort",
        "conditions": [
            {"type": "PodScheduled", "status": "True"},
            *({key: value for key, value in each.items() if value is not None} for each in status["conditions"]),
        ],
    }
    assert not differs(stored, status)
    given["status"] = stored
    again = build(given, [], [view(RUNNING, ready=True)], "10.0.0.1", 0.0, 500.0, Verdict("Running"))
    assert not differs(stored, again)
    assert differs(stored, build(given, [], [view(ended(0))], "10.0.0.1", 0.0, 500.0, Verdict("Succeeded")))
    assert differs(stored, build(given, [], [view(RUNNING)], "10.0.0.1", 0.0, 500.0, Verdict("Running")))


# --- names -----------------------------------------------------------------------------------------------------------


def endpoint_slice(*endpoints: Json, namespace: str = "ns", labels: Json | None = None) -> Json:
    marks = {"kubernetes.io/service-name": "train"} if labels is None else labels
    return {"metadata": {"namespace": namespace, "labels": marks, "uid": "s"}, "endpoints": list(endpoints)}


def test_names_come_from_ready_endpoints_only() -> None:
    found = slice_names(
        endpoint_slice(
            {"addresses": ["10.0.0.1"], "hostname": "train-0", "conditions": {"ready": True}},
            {"addresses": ["10.0.0.2"], "hostname": "train-1", "conditions": {"ready": False}},
            {"addresses": ["10.0.0.3"]},
        )
    )
    assert found == [
        Name("ns", "train", "", "10.0.0.1"),
        Name("ns", "train", "train-0", "10.0.0.1"),
        Name("ns", "train", "", "10.0.0.3"),
    ]
    assert slice_names(endpoint_slice({"addresses": ["10.0.0.1"]}, labels={})) == []
    assert slice_names({"metadata": {"namespace": "ns", "labels": {"kubernetes.io/service-name": "x"}}}) == []


def test_a_hosts_file_has_the_pods_own_name_and_its_peers() -> None:
    given = pod(hostname="train-0", subdomain="train", hostAliases=[{"ip": "10.9.9.9", "hostnames": ["store", "s3"]}])
    text = hosts_file(given, "node1", "10.0.0.1", [Name("ns", "train", "train-1", "10.0.0.2")])
    lines = [line.split("\t") for line in text.splitlines()]
    assert ["10.0.0.1", "train-0.train.ns.svc.cluster.local", "train-0"] in lines
    assert ["10.9.9.9", "store", "s3"] in lines
    assert lines[-1] == [
        "10.0.0.2", "train-1.train.ns.svc.cluster.local", "train-1.train.ns.svc", "train-1.train.ns", "train-1.train",
    ]  # fmt: skip


def test_short_names_are_for_pods_of_the_same_namespace() -> None:
    text = hosts_file(pod(), "node1", "10.0.0.1", [Name("other", "train", "train-1", "10.0.0.2")])
    words = text.splitlines()[-1].split("\t")
    assert "train-1.train.other" in words
    assert "train-1.train" not in words


def test_a_host_name_is_at_most_63_letters_and_the_nodes_own_in_its_network() -> None:
    given = pod()
    given["metadata"]["name"] = "a" * 62 + ".tail"
    assert hostname(given, "node1") == "a" * 62
    assert hostname(pod(hostNetwork=True), "node1") == "node1"


@pytest.mark.parametrize("text", ["shorter\n", "longer than it was before\n", ""])
def test_a_file_that_is_mounted_is_changed_in_place(tmp_path: Path, text: str) -> None:
    path = tmp_path / "hosts"
    rewrite(path, "some\nlines\n")
    before = path.stat().st_ino
    rewrite(path, text)
    assert (path.read_text(), path.stat().st_ino) == (text, before)


# --- files of volumes ------------------------------------------------------------------------------------------------


def test_a_volumes_files_change_all_at_once(tmp_path: Path) -> None:
    first = {"a": payload.File(b"1", 0o644), "sub/b": payload.File(b"2", 0o400)}
    assert payload.write(tmp_path, first, None)
    opened = (tmp_path / "..data").resolve()
    assert ((tmp_path / "a").read_text(), (tmp_path / "sub/b").read_text()) == ("1", "2")
    assert (tmp_path / "sub/b").stat().st_mode & 0o777 == 0o400
    assert not payload.write(tmp_path, first, None)
    assert payload.write(tmp_path, {"a": payload.File(b"3", 0o644)}, None)
    assert (tmp_path / "a").read_text() == "3"
    assert not opened.exists()
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("..")) == ["a"]


def test_a_config_map_gives_all_keys_or_those_asked_for() -> None:
    def lookup(kind: str, name: str) -> dict[str, bytes] | None:
        return {"a": b"1", "b": b"2"} if (kind, name) == ("configmaps", "site") else None

    everything = payload.of_object("configmaps", {"name": "site"}, lookup, 0o644)
    assert {path: file.data for path, file in everything.items()} == {"a": b"1", "b": b"2"}
    items = {"name": "site", "items": [{"key": "a", "path": "x/y", "mode": 0o600}]}
    assert payload.of_object("configmaps", items, lookup, 0o644) == {"x/y": payload.File(b"1", 0o600)}
    assert payload.of_object("secrets", {"secretName": "none", "optional": True}, lookup, 0o644) == {}
    with pytest.raises(CreateError, match='secret "none" not found'):
        payload.of_object("secrets", {"secretName": "none"}, lookup, 0o644)
    with pytest.raises(CreateError, match="references non-existent configmap key: c"):
        payload.of_object("configmaps", {"name": "site", "items": [{"key": "c", "path": "c"}]}, lookup, 0o644)


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x"])
def test_a_file_can_not_leave_its_volume(path: str) -> None:
    items = [{"path": path, "fieldRef": {"fieldPath": "metadata.name"}}]
    with pytest.raises(CreateError, match="leads out of the volume"):
        payload.of_downward(items, PodFacts(pod(), "node1", "10.0.0.1", CAPACITY), 0o644)


def test_mounts_follow_sub_paths_inside_their_volume_only(tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume" / "out").symlink_to(tmp_path)
    sources = {"data": Source(tmp_path / "volume", read_only=False), "ro": Source(tmp_path, read_only=True)}

    def one(**wanted: object) -> Any:
        return mounts({"name": "main", "volumeMounts": [{"mountPath": "/m", **wanted}]}, sources, {"RANK": "3"})[0]

    assert one(name="data", subPathExpr="rank-$(RANK)").source == str(tmp_path / "volume" / "rank-3")
    assert (tmp_path / "volume" / "rank-3").is_dir()
    assert not one(name="data").read_only
    assert one(name="data", readOnly=True).read_only
    assert one(name="ro").read_only
    for path in ("../other", "/etc", "out"):
        with pytest.raises(CreateError, match="leads out of its volume"):
            one(name="data", subPath=path)
    with pytest.raises(CreateError, match="cannot find volume 'none'"):
        one(name="none")


# --- admission -------------------------------------------------------------------------------------------------------


@pytest.fixture
def admission() -> Admission:
    path = Path("/none")
    return Admission(Config("node1", "10.0.0.1", "v1", path, path, path, path, CAPACITY, "nvidia.com/gpu", {}))


def gpus(count: int, name: str = "main") -> Json:
    return {"name": name, "resources": {"limits": {"nvidia.com/gpu": str(count)}}}


def test_no_gpu_is_given_twice(admission: Admission) -> None:
    assert admission.admit(pod("a", gpus(2, "x"), gpus(3, "y"))) == {"x": [0, 1], "y": [2, 3, 4]}
    assert admission.admit(pod("b", gpus(1))) == {"main": [5]}
    with pytest.raises(Refused) as caught:
        admission.admit(pod("c", gpus(3)))
    assert caught.value.reason == "OutOfnvidia.com/gpu"
    assert "requested: 3, used: 6, capacity: 8" in caught.value.message
    admission.release("a")
    assert admission.admit(pod("c", gpus(3))) == {"main": [0, 1, 2]}


def test_init_containers_use_the_gpus_of_those_that_run_after_them(admission: Admission) -> None:
    given = pod("a", gpus(2), initContainers=[gpus(1, "check"), gpus(4, "burn")])
    assert requests(given)["nvidia.com/gpu"] == 4
    assert admission.admit(given) == {"main": [0, 1], "check": [0], "burn": [0, 1, 2, 3]}


def test_pods_of_an_earlier_kubelet_keep_what_they_have(admission: Admission) -> None:
    admission.restore(pod("old", gpus(2)), {"main": [0, 4]})
    assert admission.admit(pod("new", gpus(3))) == {"main": [1, 2, 3]}


def test_a_node_takes_no_more_pods_and_cpu_than_it_has(admission: Admission) -> None:
    half = {"name": "main", "resources": {"requests": {"cpu": "4500m"}}}
    admission.admit(pod("a", half))
    with pytest.raises(Refused, match=r"cpu, requested: 4500m, used: 4500m, capacity: 8"):
        admission.admit(pod("b", half))
    admission.admit(pod("c"))
    admission.admit(pod("d"))
    with pytest.raises(Refused) as caught:
        admission.admit(pod("e"))
    assert caught.value.reason == "OutOfpods"


@pytest.mark.parametrize(
    ("given", "field"),
    [
        (pod(hostPID=True), "spec.hostPID"),
        (pod(hostUsers=False), "spec.hostUsers"),
        (pod(initContainers=[{"name": "side", "restartPolicy": "Always"}]), "containers[side].restartPolicy"),
        (pod("u", {"name": "m", "lifecycle": {"postStart": {"exec": {}}}}), "containers[m].lifecycle.postStart"),
        (pod("u", {"name": "m", "livenessProbe": {"grpc": {"port": 1}}}), "containers[m].livenessProbe.grpc"),
        (
            pod("u", {"name": "m", "volumeMounts": [{"mountPath": "/d", "mountPropagation": "Bidirectional"}]}),
            "containers[m].volumeMounts[/d].mountPropagation",
        ),
    ],
)
def test_what_would_not_be_honoured_is_refused_by_its_name(admission: Admission, given: Json, field: str) -> None:
    with pytest.raises(Refused) as caught:
        admission.admit(given)
    assert caught.value.reason == "UnsupportedByLab"
    assert caught.value.message.endswith(field)

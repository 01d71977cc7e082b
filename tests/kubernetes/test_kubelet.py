"""The lab's kubelet against a real API server: how a pod's containers start, end, restart, and are stopped."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.kubernetes.kubelet.client import Client
from lab.kubernetes.local import LocalControlPlane
from lab.kubernetes.local_nodes import LocalNodes
from tests.kubernetes.kubelet_pods import IMAGE, Json, Pods, conditions, shell, state

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


@pytest.mark.parametrize(
    ("script", "phase", "code", "reason"),
    [
        ("exit 0", "Succeeded", 0, "Completed"),
        ("exit 3", "Failed", 3, "Error"),
        # What a signal ends shows as 128 and its number. ("$$" is a manifest's way to write "$".)
        ("sh -c 'kill -9 $$$$'", "Failed", 137, "Error"),
    ],
)
@pytest.mark.gate
def test_an_exit_code_becomes_the_pods_phase(pods: Pods, script: str, phase: str, code: int, reason: str) -> None:
    pods.create("p", shell(f"{script}; exit $?"))
    pod = pods.ended("p")
    ended = state(pod)["state"]["terminated"]
    assert (pod["status"]["phase"], ended["exitCode"], ended["reason"]) == (phase, code, reason)
    assert pod["status"]["podIP"] == pod["status"]["hostIP"] == pods.nodes["node1"].address
    assert (conditions(pod)["Ready"], state(pod)["restartCount"]) == ("False", 0)


def test_a_command_that_is_not_there_is_a_start_error(pods: Pods) -> None:
    pods.create("p", {"name": "main", "image": IMAGE, "command": ["no-such-trainer"]})
    ended = state(pods.ended("p"))["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (128, "StartError")
    assert 'exec: "no-such-trainer": executable file not found in $PATH' in ended["message"]


def test_last_words_are_in_the_status(pods: Pods) -> None:
    pods.create("p", shell("echo why > /dev/termination-log; exit 1"))
    pods.create("q", shell("echo 'Traceback: out of memory'; exit 1", terminationMessagePolicy="FallbackToLogsOnError"))
    assert state(pods.ended("p"))["state"]["terminated"]["message"] == "why\n"
    assert state(pods.ended("q"))["state"]["terminated"]["message"] == "Traceback: out of memory\n"


def test_a_failed_container_runs_again_at_once_then_after_a_back_off(pods: Pods) -> None:
    script = "echo x >> /data/runs; [ $(wc -l < /data/runs) -ge 3 ]"
    container = shell(script, volumeMounts=[{"name": "data", "mountPath": "/data"}])
    pods.create("p", container, restartPolicy="OnFailure", volumes=[{"name": "data", "emptyDir": {}}])
    pod = pods.waiting("p", "CrashLoopBackOff")
    assert state(pod)["restartCount"] == 1
    assert state(pod)["lastState"]["terminated"]["exitCode"] == 1
    assert pod["status"]["phase"] == "Running"
    assert "back-off" in state(pod)["state"]["waiting"]["message"]
    began = time.monotonic()
    assert state(pods.ended("p"))["restartCount"] == 2
    assert time.monotonic() - began > 5
    assert "Back-off restarting failed container main" in pods.event(pod, "BackOff")


def test_restart_policy_always_restarts_what_ended_well(pods: Pods) -> None:
    pods.create("p", shell("exit 0"), restartPolicy="Always")
    pod = pods.wait("p", lambda pod: pod["status"].get("containerStatuses") and state(pod)["restartCount"] >= 1)
    assert state(pod)["lastState"]["terminated"]["exitCode"] == 0


def test_init_containers_run_one_after_the_other_before_the_others(pods: Pods) -> None:
    mount = [{"name": "data", "mountPath": "/data"}]
    first = shell("sleep 0.3; echo first >> /data/order", volumeMounts=mount) | {"name": "first"}
    second = shell("echo second >> /data/order", volumeMounts=mount) | {"name": "second"}
    pods.create(
        "p", shell("echo main >> /data/order; cat /data/order", volumeMounts=mount), initContainers=[first, second],
        volumes=[{"name": "data", "emptyDir": {}}],
    )  # fmt: skip
    pod = pods.ended("p")
    assert pod["status"]["phase"] == "Succeeded"
    assert pods.log(pod).split() == ["first", "second", "main"]
    assert state(pod, "first", "initContainerStatuses")["state"]["terminated"]["exitCode"] == 0


def test_a_failed_init_container_ends_the_pod_before_its_main_one_ran(pods: Pods) -> None:
    pods.create("p", shell("echo ran"), initContainers=[shell("exit 4") | {"name": "init"}])
    pod = pods.ended("p")
    assert pod["status"]["phase"] == "Failed"
    assert state(pod, "init", "initContainerStatuses")["state"]["terminated"]["exitCode"] == 4
    assert pods.log(pod) == ""
    assert conditions(pod)["Initialized"] == "False"


def test_an_image_that_is_not_there_keeps_the_pod_pending(pods: Pods) -> None:
    pods.create("p", shell("exit 0") | {"image": "registry.internal/medllm:none"})
    reasons = set()

    def seen(pod: Json) -> bool:
        for each in pod["status"].get("containerStatuses") or []:
            reasons.add(each["state"].get("waiting", {}).get("reason"))
        return "ImagePullBackOff" in reasons

    pod = pods.wait("p", seen)
    assert "ErrImagePull" in reasons
    assert pod["status"]["phase"] == "Pending"
    assert "pulls none" in pods.event(pod, "Failed")
    pods.delete("p")
    pods.gone("p")


def test_term_gives_the_time_that_the_pod_asked_for(pods: Pods, tmp_path: Path) -> None:
    script = (
        "trap 'echo term; sleep 1; echo saved > /out/checkpoint; exit 0' TERM; echo up; while :; do sleep 0.1; done"
    )
    container = shell(
        script,
        volumeMounts=[{"name": "out", "mountPath": "/out"}],
        lifecycle={"preStop": {"exec": {"command": ["sh", "-c", "echo hook > /out/hook; date +%s.%N >> /out/hook"]}}},
    )
    pods.create(
        "p", container, terminationGracePeriodSeconds=20, volumes=[{"name": "out", "hostPath": {"path": str(tmp_path)}}]
    )
    pods.printed(pods.running("p"), "up")
    pods.delete("p")
    assert pods.gone("p") < 15
    assert (tmp_path / "checkpoint").read_text() == "saved\n"
    assert (tmp_path / "hook").read_text().startswith("hook\n")
    assert (tmp_path / "hook").stat().st_mtime < (tmp_path / "checkpoint").stat().st_mtime


def test_who_does_not_listen_is_killed_when_the_grace_is_over(pods: Pods) -> None:
    pods.create("p", shell("trap '' TERM; echo up; while :; do sleep 0.1; done"), terminationGracePeriodSeconds=3)
    pods.printed(pods.running("p"), "up")
    pods.delete("p")
    assert 2 < pods.gone("p") < 20
    assert _pod_processes(pods) == []


def test_a_pod_deleted_by_force_leaves_nothing(pods: Pods) -> None:
    script = (
        "trap '' TERM; (setsid sleep 4321 &); setsid sh -c 'trap \"\" TERM HUP; sleep 4321' & echo up; wait; sleep 4321"
    )
    pods.create("p", shell(script), terminationGracePeriodSeconds=3600)
    pod = pods.running("p")
    pods.printed(pod, "up")
    assert len(_pod_processes(pods)) >= 4
    pods.delete("p", grace=0)
    deadline = time.monotonic() + 30
    while _pod_processes(pods) or (pods.nodes["node1"].directory / "state/pods" / pod["metadata"]["uid"]).exists():
        assert time.monotonic() < deadline, [_command(pid) for pid in _pod_processes(pods)]
        time.sleep(0.1)


def test_a_long_grace_can_be_cut_short(pods: Pods) -> None:
    pods.create("p", shell("trap '' TERM; echo up; while :; do sleep 0.1; done"), terminationGracePeriodSeconds=3600)
    pods.printed(pods.running("p"), "up")
    pods.delete("p")
    pods.wait("p", lambda pod: pod["metadata"].get("deletionTimestamp"))
    pods.delete("p", grace=1)
    assert pods.gone("p") < 20


def test_a_pod_that_is_deleted_ends_with_the_phase_of_its_containers(pods: Pods) -> None:
    body = shell("trap 'exit 0' TERM; echo up; while :; do sleep 0.1; done")
    pod = pods.create("p", body, restartPolicy="Always")
    path = f"{pods.path}/p"
    pods.client.patch(path, {"metadata": {"finalizers": ["medllm.io/test"]}}, "application/merge-patch+json")
    pods.printed(pods.running("p"), "up")
    pods.delete("p")
    pod = pods.ended("p")
    assert (pod["status"]["phase"], state(pod)["state"]["terminated"]["exitCode"]) == ("Succeeded", 0)
    pods.client.patch(path, {"metadata": {"finalizers": None}}, "application/merge-patch+json")
    pods.gone("p")


def test_a_pod_ends_at_its_deadline(pods: Pods) -> None:
    pods.create("p", shell("sleep 600"), activeDeadlineSeconds=2, terminationGracePeriodSeconds=1)
    pod = pods.ended("p")
    assert (pod["status"]["phase"], pod["status"]["reason"]) == ("Failed", "DeadlineExceeded")
    assert state(pod)["state"]["terminated"]["exitCode"] == 137


def test_readiness_follows_its_probe_and_waits_for_the_startup_probe(pods: Pods, tmp_path: Path) -> None:
    def probe(name: str) -> Json:
        return {"exec": {"command": ["test", "-e", f"/probed/{name}"]}, "periodSeconds": 1, "failureThreshold": 100}

    ready = probe("ready") | {"failureThreshold": 1}
    container = shell(
        "sleep 600", volumeMounts=[{"name": "x", "mountPath": "/probed"}],
        startupProbe=probe("up"), readinessProbe=ready,
    )  # fmt: skip
    pods.create("p", container, volumes=[{"name": "x", "hostPath": {"path": str(tmp_path)}}])
    (tmp_path / "ready").touch()
    pod = pods.running("p")
    assert (state(pod)["started"], state(pod)["ready"]) == (False, False)
    assert "Startup probe failed" in pods.event(pod, "Unhealthy")
    (tmp_path / "up").touch()
    pods.wait("p", lambda pod: conditions(pod)["Ready"] == "True" and state(pod)["started"])
    (tmp_path / "ready").unlink()
    pods.wait("p", lambda pod: conditions(pod)["Ready"] == "False")
    (tmp_path / "ready").touch()
    pods.wait("p", lambda pod: conditions(pod)["Ready"] == "True")


@pytest.mark.parametrize("kind", ["exec", "httpGet", "tcpSocket"])
def test_a_container_that_is_not_alive_is_restarted(pods: Pods, kind: str) -> None:
    actions: dict[str, Json] = {
        "exec": {"exec": {"command": ["sh", "-c", "echo sick; exit 1"]}},
        "httpGet": {"httpGet": {"path": "/metrics", "port": "metrics"}},
        "tcpSocket": {"tcpSocket": {"port": 9}},
    }
    container = shell(
        "trap 'exit 7' TERM; while :; do sleep 0.1; done", ports=[{"name": "metrics", "containerPort": 9}],
        livenessProbe={**actions[kind], "periodSeconds": 1, "failureThreshold": 2},
    )  # fmt: skip
    pods.create("p", container, restartPolicy="Always")
    pod = pods.wait("p", lambda pod: pod["status"].get("containerStatuses") and state(pod)["restartCount"] >= 1)
    assert state(pod)["lastState"]["terminated"]["exitCode"] == 7
    assert "Liveness probe failed" in pods.event(pod, "Unhealthy")
    assert "failed liveness probe" in pods.event(pod, "Killing")


def test_a_container_that_is_not_alive_ends_a_pod_that_is_never_restarted(pods: Pods) -> None:
    probe = {"exec": {"command": ["sleep", "30"]}, "periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 1}
    pods.create("p", shell("sleep 600", livenessProbe=probe), terminationGracePeriodSeconds=1)
    pod = pods.ended("p")
    assert (pod["status"]["phase"], state(pod)["state"]["terminated"]["exitCode"]) == ("Failed", 137)
    assert "timed out after 1s" in pods.event(pod, "Unhealthy")


def test_an_answer_over_http_makes_a_pod_ready(pods: Pods) -> None:
    server = {
        "name": "main", "image": IMAGE, "command": ["python3", "-m", "http.server", "--bind", "$(IP)", "18085"],
        "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        "ports": [{"name": "http", "containerPort": 18085}], "workingDir": "/var/empty-of-this-pod",
        "readinessProbe": {"httpGet": {"port": "http", "path": "/"}, "periodSeconds": 1},
        "livenessProbe": {"tcpSocket": {"port": "http"}, "periodSeconds": 1, "initialDelaySeconds": 2},
    }  # fmt: skip
    pods.create("p", server)
    pods.wait("p", lambda pod: conditions(pod).get("Ready") == "True")
    assert not Path("/var/empty-of-this-pod").exists()


def test_what_is_not_supported_is_refused_with_its_name(pods: Pods) -> None:
    pods.create("p", shell("sleep 1"), hostPID=True)
    pod = pods.ended("p")
    assert pod["status"]["reason"] == "UnsupportedByLab"
    assert "spec.hostPID" in pod["status"]["message"]
    pods.delete("p")
    pods.gone("p")


def _pod_processes(pods: Pods) -> list[int]:
    """What runs on the node besides its kubelet."""
    node = pods.nodes["node1"]
    return [pid for pid in node.processes() if b"lab.kubernetes.kubelet\0" not in _command(pid)]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        # It has just ended: take it for the kubelet's own.
        return b"lab.kubernetes.kubelet\0"

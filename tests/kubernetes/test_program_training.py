"""The Job that the program declares trains the tiny model on four nodes, whatever happens to a pod or a node."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab.kubernetes import build, environment
from lab.kubernetes.arguments import COMPONENTS
from lab.kubernetes.kubelet.client import Client
from lab.kubernetes.local import LocalControlPlane
from lab.kubernetes.local_nodes import LocalNodes
from tests.kubernetes.program import NAMESPACE, REPOSITORY, Program, counts, lay_out
from tests.trainer_helpers import write_dataset
from trainer.run_files import read_lines

pytestmark = [
    pytest.mark.timeout(5400),
    pytest.mark.long,
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces and mounts need root"),
]

NODES = ["node1", "node2", "node3", "node4"]
JOB, IMAGE, USER = "medllm-32b-train", "registry.internal/medllm:32b-v1.0", 1000
SITE = "group_vars/all/site_kubernetes.yml"
PATIENCE_S = 1500.0
Json = dict[str, Any]


@dataclass(frozen=True)
class Cluster:
    """Four nodes, the program's stack, and what the pods see below `storage`."""

    program: Program
    client: Client
    nodes: LocalNodes
    storage: Path

    @property
    def data(self) -> Path:
        return self.storage / "lustre/datasets/medllm-sample"

    def run(self, name: str) -> Path:
        return self.storage / "lustre/checkpoints" / name

    def job(self) -> Json:
        return self.client.get(f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs/{JOB}")

    def pods(self) -> dict[int, Json]:
        """The pods that are not done, by index."""
        listed = self.client.get(f"/api/v1/namespaces/{NAMESPACE}/pods")["items"]
        return {
            int(pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"]): pod
            for pod in listed
            if pod["status"].get("phase") not in {"Succeeded", "Failed"}
        }

    def evict(self, name: str) -> None:
        """What `kubectl drain` does to each pod of a node."""
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": NAMESPACE}}
        self.client.create(f"/api/v1/namespaces/{NAMESPACE}/pods/{name}/eviction", body)

    def declare(self, **changes: str) -> None:
        """Change keys of the Job's declaration."""
        for key, value in changes.items():
            self.program.declare(SITE, lambda text, key=key, value=value: re.sub(  # type: ignore[misc]
                rf"(?m)^    {key}: .*$", f"    {key}: {value}", text
            ))  # fmt: skip


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    # Not below /tmp: a pod has one of its own there.
    storage = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="medllm-test-"))
    bound = lay_out_storage(storage)
    try:
        binaries = build.ensure([*COMPONENTS, "pulumi", "kubectl"], print)
        with (
            LocalControlPlane(binaries, tmp_path_factory.mktemp("cluster")) as plane,
            LocalNodes(plane, tmp_path_factory.mktemp("nodes"), NODES, images={IMAGE: "host"}) as nodes,
        ):
            directory = tmp_path_factory.mktemp("environment")
            prepared = environment.prepare(directory, plane.kubeconfig(), directory / "passphrase", binaries)
            program = lay_out(tmp_path_factory.mktemp("repository"), prepared)
            declare_storage(program, storage)
            yield Cluster(program, Client(plane.kubeconfig()), nodes, storage)
    finally:
        for place in bound:
            subprocess.run(["umount", "--lazy", place], check=True, timeout=60)
        shutil.rmtree(storage)


def lay_out_storage(storage: Path) -> list[Path]:
    """What a site has on Lustre and below `site_paths.app`; returns what was mounted there."""
    storage.chmod(0o755)
    for name in ("lustre/datasets", "lustre/checkpoints", "cache", "app/keys", "app/trainer/current", "app/source",
                 "app/packages"):  # fmt: skip
        (storage / name).mkdir(parents=True)
    for name in ("lustre/checkpoints", "cache"):
        os.chown(storage / name, USER, USER)
    key = write_dataset(storage / "lustre/datasets/medllm-sample")
    shutil.move(key, storage / "app/keys/data.pub")
    bound = []
    for source, name in ((REPOSITORY, "app/source"), (sysconfig.get_path("purelib"), "app/packages")):
        # Read-only: a test that is killed leaves the mount, and a later `rm -r` would go through it into this tree.
        subprocess.run(["mount", "--bind", "-o", "ro", source, storage / name], check=True, timeout=60)
        bound.append(storage / name)
    python = storage / "app/trainer/current/python"
    python.write_text(
        "#!/bin/sh\n"
        f'PYTHONPATH={storage}/app/source:{storage}/app/packages PYTHONDONTWRITEBYTECODE=1 exec {interpreter()} "$@"\n'
    )
    python.chmod(0o755)
    return bound


def interpreter() -> str:
    """A Python of this one's version that any user may run; this one may lie in somebody's home, or below /tmp."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for directory in ("/usr/bin", "/usr/local/bin"):
        if (candidate := Path(directory, f"python{version}")).exists():
            return str(candidate)
    pytest.skip(f"the system has no Python {version}")


def declare_storage(program: Program, storage: Path) -> None:
    def all_here(text: str) -> str:
        return text.replace("/mnt/lustre", f"{storage}/lustre").replace("/var/cache/medllm", f"{storage}/cache")

    paths = program.inventory / "group_vars/all/site_cluster.yml"
    paths.write_text(all_here(paths.read_text()).replace("app: /opt/medllm", f"app: {storage}/app"))
    program.declare("group_vars/all/site_storage.yml", all_here)
    program.declare("hosts.yml", lambda text: text.replace("scheduler: slurm", "scheduler: kubernetes"))
    program.declare(SITE, lambda text: text.replace("/opt/medllm", f"{storage}/app"))


def until(come: Callable[[], object], what: Callable[[], object], seconds: float = PATIENCE_S) -> float:
    """Wait for it; the seconds that took."""
    begin = time.monotonic()
    while not come():
        assert time.monotonic() < begin + seconds, what()
        time.sleep(0.5)
    return time.monotonic() - begin


def newest_step(run: Path, restart: int) -> int:
    """The last step that was done since the run was resumed so often."""
    return max((each["step"] for each in read_lines(run / "metrics.jsonl") if each["restart"] >= restart), default=0)


def resumed(run: Path) -> list[int]:
    return [each["step"] for each in read_lines(run / "events.jsonl") if each["event"] == "resume"]


def trains(cluster: Cluster, name: str, restart: int) -> float:
    """Wait until all pods are ready and steps are done in that restart of the run."""

    def come() -> bool:
        ready = cluster.job()["status"].get("ready") == 4
        return ready and newest_step(cluster.run(name), restart) > (resumed(cluster.run(name)) or [0])[-1]

    return until(come, lambda: story(cluster))


def story(cluster: Cluster) -> str:
    """What the pods said, for a test that failed."""
    logs = [file for name in NODES for file in cluster.nodes[name].logs.rglob("*.log")]
    said = "\n".join(f"{file}:\n{file.read_text(errors='replace')[-1500:]}" for file in logs)
    return f"{json.dumps(cluster.job()['status'], indent=1)}\n{said}"


def counted(pod: Json) -> tuple[int, int]:
    """How often the pod's index has failed, and how often that was not counted."""
    annotations = pod["metadata"]["annotations"]
    return tuple(  # type: ignore[return-value]
        int(annotations.get(f"batch.kubernetes.io/job-index-{kind}", 0))
        for kind in ("failure-count", "ignored-failure-count")
    )


def test_the_job_trains_is_drained_loses_a_node_and_completes(cluster: Cluster) -> None:
    run = cluster.run("kubernetes")
    cluster.declare(steps="1000000", settings="[checkpoint.every_steps=4, engine.collective_timeout_s=900]")
    cluster.program.up()
    print(f"trains on four nodes after {trains(cluster, 'kubernetes', 0):.0f} s")
    assert set(counts(cluster.program.up())) == {"unchanged"}
    pods = cluster.pods()
    assert sorted(pod["spec"]["nodeName"] for pod in pods.values()) == NODES, "one a node"
    assert {file.stat().st_uid for file in run.iterdir()} == {USER}
    # A node is drained: one pod is evicted, all write a checkpoint; nothing of it counts.
    before = {pod["metadata"]["uid"] for pod in pods.values()}
    cluster.evict(pods[2]["metadata"]["name"])
    print(f"goes on {trains(cluster, 'kubernetes', 1):.0f} s after an eviction")
    [stop] = [each for each in read_lines(run / "events.jsonl") if each["event"] == "stop"]
    assert (stop["reason"], resumed(run)) == ("SIGTERM", [stop["step"]])
    pods = cluster.pods()
    assert not before & {pod["metadata"]["uid"] for pod in pods.values()}
    assert {counted(pod) for pod in pods.values()} == {(0, 1)}
    # A node loses its power and comes back: the others wait for it.
    lost = cluster.nodes[pods[0]["spec"]["nodeName"]]
    lost.power_off()
    gone = until(
        lambda: not any(pod["status"].get("phase") == "Running" for index, pod in cluster.pods().items() if index),
        lambda: story(cluster),
    )
    print(f"the other pods ended {gone:.0f} s after the loss of a node")
    until(lambda: not cluster.nodes.ready(lost.name), lambda: story(cluster))
    lost.power_on()
    print(f"goes on {trains(cluster, 'kubernetes', 2):.0f} s after the node came back")
    assert len(resumed(run)) == 2
    assert all(failures <= 1 for failures, _ in map(counted, cluster.pods().values()))
    # Fewer steps: another order, so the Job is replaced; its pods write a checkpoint and the new ones go on from it.
    cluster.declare(steps=str(newest_step(run, 2) + 20))
    assert counts(cluster.program.up())["replaced"] >= 1
    took = until(lambda: "completionTime" in cluster.job()["status"], lambda: story(cluster))
    print(f"complete {took:.0f} s after the Job was replaced")
    assert cluster.job()["status"]["completedIndexes"] == "0-3"
    assert set(counts(cluster.program.up())) == {"unchanged"}, "a Job that is complete is what was declared"


def test_altered_data_fail_the_job_without_another_attempt(cluster: Cluster) -> None:
    shard = cluster.data / "shards/train-000000.tar"
    good = shard.read_bytes()
    shard.write_bytes(good[:700] + bytes([good[700] ^ 1]) + good[701:])
    try:
        cluster.declare(run="altered", steps="4")
        cluster.program.up()
        until(lambda: any(each["type"] == "Failed" for each in cluster.job()["status"].get("conditions", [])),
              lambda: story(cluster))  # fmt: skip
    finally:
        shard.write_bytes(good)
    [failed] = [each for each in cluster.job()["status"]["conditions"] if each["type"] == "Failed"]
    assert failed["reason"] == "PodFailurePolicy"
    assert "exit code 2" in failed["message"]
    assert "the file was altered" in story(cluster)
    assert not (cluster.run("altered") / "metrics.jsonl").exists()

"""Kubernetes on the lab's machines: the program's Job trains on the four nodes from Lustre, and survives what nodes do.

The site is the lab's, but for `scheduler: kubernetes` in a copy of its inventory: Slurm keeps the nodes and is idle.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab.kubernetes import mgmt
from lab.kubernetes.kubelet.client import Client
from medllm.remote import Remote
from medllm.site import load_site
from tests.kubernetes.program import NAMESPACE, REPOSITORY, Program, counts, lay_out

SITE = load_site(REPOSITORY / "inventory" / "lab")
DECLARED = "group_vars/all/site_kubernetes.yml"
JOB, NODES = "medllm-32b-train", ["node1", "node2", "node3", "node4"]
# The tools were built before: `python -m lab.kubernetes.build`.
pytestmark = pytest.mark.timeout(1200)
Json = dict[str, Any]


def medllm(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("medllm")), "lab", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0 or not check, done.stdout + done.stderr
    return done


def on(name: str, command: str, *, sudo: bool = False) -> str:
    """What a command prints on a machine of the lab."""
    with Remote(next(host for host in SITE.hosts if host.name == name)) as remote:
        return remote.run(command, deadline_s=60, sudo=sudo).check().stdout


def until(come: Callable[[], object], what: Callable[[], object], seconds: float = 300.0) -> float:
    """Wait for it; the seconds that took."""
    begin = time.monotonic()
    while not come():
        assert time.monotonic() < begin + seconds, what()
        time.sleep(1)
    return time.monotonic() - begin


@dataclass(frozen=True)
class Stack:
    """The program's stack on the lab, and the API as the administrator."""

    program: Program
    client: Client

    def declare(self, run: str, steps: int) -> None:
        """Train that run for so many steps; what an earlier test left of it is gone."""
        on("mgmt", f"rm -rf {SITE.paths.checkpoints}/{run}")

        def change(text: str) -> str:
            lines = []
            for line in text.splitlines():
                key = line.strip().partition(":")[0]
                lines.append({"run": f"    run: {run}", "steps": f"    steps: {steps}",
                              "settings": "    settings: [checkpoint.every_steps=4]"}.get(key, line))  # fmt: skip
            return "\n".join(lines) + "\n"

        self.program.declare(DECLARED, change)

    def job(self) -> Json:
        return self.client.get(f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs/{JOB}")

    def pods(self) -> list[Json]:
        items: list[Json] = self.client.get(f"/api/v1/namespaces/{NAMESPACE}/pods")["items"]
        return items

    def complete(self) -> bool:
        conditions = self.job()["status"].get("conditions", [])
        assert not any(each["type"] == "Failed" for each in conditions), self.story()
        return any(each["type"] == "Complete" and each["status"] == "True" for each in conditions)

    def ready(self, node: str) -> str:
        conditions = self.client.get(f"/api/v1/nodes/{node}")["status"]["conditions"]
        return next(str(each["status"]) for each in conditions if each["type"] == "Ready")

    def story(self) -> str:
        """What a failed test should show."""
        said = [on(node, "tail -qn 12 /var/log/pods/*/*/*.log 2>/dev/null || true", sudo=True) for node in NODES]
        states = [(pod["metadata"]["name"], pod["spec"].get("nodeName"), pod["status"]["phase"]) for pod in self.pods()]
        return f"{json.dumps(self.job()['status'], indent=1)}\n{states}\n" + "\n".join(said)


def lines(run: str, file: str) -> list[Json]:
    """A run's JSON lines, as they are on Lustre."""
    path = f"{SITE.paths.checkpoints}/{run}/{file}"
    return [json.loads(line) for line in on("mgmt", f"cat {path} 2>/dev/null || true").splitlines() if line]


def newest_step(run: str) -> int:
    return max((each["step"] for each in lines(run, "metrics.jsonl")), default=0)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    # Nothing of another stack is left in it.
    medllm("kubernetes", "down")
    medllm("kubernetes", "up")
    program = lay_out(tmp_path_factory.mktemp("repository"), mgmt.prepared())
    program.declare("hosts.yml", lambda text: text.replace("scheduler: slurm", "scheduler: kubernetes"))
    try:
        yield Stack(program, Client(mgmt.kubeconfig()))
    finally:
        medllm("heal")
        medllm("kubernetes", "down", "--purge")


def test_up_twice_changes_nothing_and_every_node_is_ready(stack: Stack) -> None:
    again = medllm("kubernetes", "up").stderr
    assert "control plane kept" in again
    assert all(f"{node} kept" in again for node in NODES)
    told = json.loads(medllm("kubernetes", "status", "--json").stdout)
    assert told["good"]
    assert [node["ready"] for node in told["nodes"]] == ["True"] * 4


def test_nothing_on_mgmt_signs_certificates_and_secrets_are_roots_alone(stack: Stack) -> None:
    assert "ca.key" not in on("mgmt", "find /opt/lab/kubernetes -name '*.key'", sudo=True)
    for name in ("mgmt", "node1"):
        modes = on(name, "stat -c %a $(find /opt/lab/kubernetes -name '*.key' -o -name '*.kubeconfig')", sudo=True)
        assert set(modes.split()) == {"600"}


def test_the_programs_job_trains_on_four_nodes(stack: Stack) -> None:
    stack.declare("kubernetes-test", 8)
    made = counts(stack.program.up())
    assert set(made) == {"created"}
    assert set(counts(stack.program.up())) == {"unchanged"}
    until(stack.complete, stack.story)
    assert sorted(pod["spec"]["nodeName"] for pod in stack.pods()) == NODES, "one a node"
    assert newest_step("kubernetes-test") == 8
    told = json.loads(on("mgmt", f"cat {SITE.paths.checkpoints}/kubernetes-test/run.json"))
    assert (told["world_size"], told["hosts"]) == (4, [f"{JOB}-{index}" for index in range(4)])
    # What ran there was the nodes' own trainer, with all of the GPUs.
    asked = {name: amount for pod in stack.pods() for name, amount in
             pod["spec"]["containers"][0]["resources"]["limits"].items()}  # fmt: skip
    assert asked[SITE.kubernetes.gpu_resource] == str(SITE.gpu.per_node)


@pytest.mark.long
def test_a_lost_nodes_job_goes_on_from_its_checkpoint_when_the_node_is_back(stack: Stack) -> None:
    stack.declare("kubernetes-lost", 60)
    stack.program.up()
    until(lambda: newest_step("kubernetes-lost") >= 8, stack.story)
    medllm("fault", "gone", "node3")
    gone = until(lambda: stack.ready("node3") == "Unknown", lambda: stack.ready("node3"), 90)
    print(f"node3 was known as lost after {gone:.0f} s")
    before = newest_step("kubernetes-lost")
    medllm("heal")
    until(lambda: stack.ready("node3") == "True", lambda: stack.ready("node3"), 120)
    went_on = until(lambda: newest_step("kubernetes-lost") > before + 4, stack.story, 400)
    print(f"steps again {went_on:.0f} s after the node was back")
    [resumed] = [each["step"] for each in lines("kubernetes-lost", "events.jsonl") if each["event"] == "resume"]
    assert before - 4 <= resumed <= before + 1, "lost no more than the steps since the last checkpoint"
    until(stack.complete, stack.story, 400)


@pytest.mark.long
def test_a_node_that_hangs_is_not_ready_until_it_wakes(stack: Stack) -> None:
    medllm("fault", "hang", "node2")
    until(lambda: stack.ready("node2") == "Unknown", lambda: stack.ready("node2"), 90)
    medllm("heal")
    until(lambda: stack.ready("node2") == "True", lambda: stack.ready("node2"), 90)


@pytest.mark.long
def test_a_lost_gpu_takes_its_pod_and_the_job_takes_another(stack: Stack) -> None:
    stack.declare("kubernetes-gpu", 40)
    stack.program.up()
    until(lambda: newest_step("kubernetes-gpu") >= 6, stack.story)
    medllm("fault", "xid79", "node4", "2")
    until(lambda: any(pod["status"]["phase"] == "Failed" for pod in stack.pods()), stack.story)
    medllm("heal")
    until(stack.complete, stack.story, 400)
    assert newest_step("kubernetes-gpu") == 40
    assert [each["event"] for each in lines("kubernetes-gpu", "events.jsonl")].count("resume") >= 1


@pytest.mark.long
def test_down_leaves_nothing_on_the_machines_and_up_joins_all_again(stack: Stack) -> None:
    medllm("kubernetes", "down")
    for name in ("mgmt", *NODES):
        units = "systemctl list-unit-files --no-legend 'lab-kube*' 'lab-etcd*'"
        left = on(name, f"ls -d /opt/lab/kubernetes /var/lib/lab-kubelet 2>/dev/null; {units}; true", sudo=True)
        assert not left.strip(), f"{name}: {left}"
        assert not on(name, "pgrep '^(etcd|kube-)' || true", sudo=True).strip()
        assert not on(name, "pgrep -f '[m] kubelet' || true", sudo=True).strip()
    again = medllm("kubernetes", "down")
    assert again.returncode == 0
    medllm("kubernetes", "up")
    assert json.loads(medllm("kubernetes", "status", "--json").stdout)["good"]

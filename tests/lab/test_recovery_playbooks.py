"""Each recovery playbook once on the lab, as an operator runs it by hand: against the fault that it is for, against a
person's drain, and against a machine that does not answer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import faults
from lab.layout import BY_NAME, lab_dir
from medllm.remote import Remote
from medllm.site import load_site
from tests.lab.engine_aside import engine_stopped
from tests.trainer_helpers import write_dataset
from trainer.run_files import parse_lines

ROOT = Path(__file__).parents[2]
SITE = load_site(ROOT / "inventory/lab")
NAME = f"books-{os.getpid()}"
DATA = f"{SITE.paths.datasets}/{NAME}"
KEY = f"{SITE.paths.checkpoints}/{NAME}.pub"
INCIDENT = f"inc-{NAME}"
STEPS = 600
SETTINGS = [
    "model.vocabulary=300", "model.width=32", "model.layers=2", "model.heads=2", "model.feed_forward=64",
    "model.tower_width=16", "batch.global_size=4", "batch.micro_size=1", "optimizer.learning_rate=0.01",
    "checkpoint.every_steps=20", "evaluation.every_steps=300", "evaluation.samples=8",
]  # fmt: skip


def play(book: str, node: str = "", run: str = "", **variables: Any) -> tuple[int, dict[str, Any], str]:
    """Run a playbook from here; its exit status, what it reported, and the messages of what failed."""
    redfish = lab_dir() / "redfish"
    given = {
        "recovery_node": node, "recovery_run": run, "recovery_incident": INCIDENT,
        "recovery_bmc_credentials_file": str(redfish / "credentials.json"),
        "recovery_bmc_ca_file": str(redfish / "cert.pem"), **variables,
    }  # fmt: skip
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ansible-playbook")), f"playbooks/{book}.yml", "-e", json.dumps(given)],
        cwd=ROOT, env={**os.environ, "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json", "ANSIBLE_SHOW_CUSTOM_STATS": "1"},
        capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    answer = json.loads(done.stdout[done.stdout.index("{") :])
    failed = [
        str(result.get("msg"))
        for part in answer["plays"]
        for task in part["tasks"]
        for result in task["hosts"].values()
        if result.get("failed") or result.get("unreachable")
    ]
    return done.returncode, answer["global_custom_stats"], "\n".join(failed)


def must(book: str, node: str = "", run: str = "", **variables: Any) -> dict[str, Any]:
    code, facts, failed = play(book, node, run, **variables)
    assert code == 0, failed
    return facts


class Cluster:
    def __init__(self, mgmt: Remote) -> None:
        self.mgmt = mgmt

    def on(self, node: str, command: str) -> str:
        with Remote(SITE.host(node)) as remote:
            return remote.run(command, deadline_s=30, sudo=True).check().stdout.strip()

    def boot_id(self, node: str) -> str:
        return self.on(node, "cat /proc/sys/kernel/random/boot_id")

    def state(self, node: str) -> tuple[str, str]:
        text = self.mgmt.run(f"sinfo -h -N -n {node} -o '%T|%E'", deadline_s=20).check().stdout.strip()
        state, _, reason = text.partition("|")
        # "*": slurmctld has not heard from it since its last change.
        return state.rstrip("*"), reason

    def job(self, script: str, *options: str) -> str:
        command = f"cd /tmp && sbatch --parsable {' '.join(options)} --wrap '{script}'"
        return self.mgmt.run(command, deadline_s=20).check().stdout.strip()

    def job_state(self, job: str) -> str:
        return self.mgmt.run(f"squeue -h -j {job} -o %T", deadline_s=20).stdout.strip()

    def train(self, run: str) -> subprocess.Popen[str]:
        command = [
            str(Path(sys.executable).with_name("medllm")), "train", "-i", str(ROOT / "inventory/lab"), "--data", DATA,
            "--key", KEY, "--run", run, "--steps", str(STEPS), "--nodes", "2", "--json",
            *(word for setting in SETTINGS for word in ("--set", setting)),
        ]  # fmt: skip
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def records(self, run: str, file: str) -> list[dict[str, Any]]:
        path = f"{SITE.paths.checkpoints}/{run}/{file}"
        return list(parse_lines(self.mgmt.run(f"cat {path} 2>/dev/null", deadline_s=20).stdout))

    def wait_for_step(self, run: str, step: int) -> None:
        end = time.monotonic() + 120
        while max((record["step"] for record in self.records(run, "metrics.jsonl")), default=0) < step:
            assert time.monotonic() < end, f"{run} did not come to step {step}"
            time.sleep(0.2)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    notes = tmp_path_factory.mktemp("data") / "notes"
    key = write_dataset(notes)
    with Remote(SITE.mgmt) as mgmt, engine_stopped(mgmt):
        mgmt.put_tree(notes, DATA)
        mgmt.put(key, KEY)
        try:
            yield Cluster(mgmt)
        finally:
            mgmt.run(f"squeue --me -h -o '%i %j' | grep -E 'medllm-{NAME}|other-{NAME}' | cut -d' ' -f1 | "
                     "xargs -r scancel --signal=KILL --full", deadline_s=30)  # fmt: skip
            mgmt.run(f"rm -rf {DATA} {KEY} {SITE.paths.checkpoints}/{NAME}-*", deadline_s=60).check()


@pytest.fixture(autouse=True)
def _whole_again(cluster: Cluster) -> Iterator[None]:
    """After each test the nodes are healthy and in service, whatever the test left."""
    yield
    for host in SITE.gpu_nodes:
        faults.heal(BY_NAME[host.name])
        state, reason = cluster.state(host.name)
        if not state.startswith(("idle", "alloc", "mix")) or reason.startswith(("medllm-recover", "a person")):
            cluster.mgmt.run(f"scontrol update nodename={host.name} state=resume", deadline_s=20, sudo=True)
    end = time.monotonic() + 60
    while not all(cluster.state(host.name)[0] in {"idle", "allocated", "mixed"} for host in SITE.gpu_nodes):
        assert time.monotonic() < end, [cluster.state(host.name) for host in SITE.gpu_nodes]
        time.sleep(0.5)


def test_a_node_that_a_person_took_out_is_never_touched(cluster: Cluster) -> None:
    """Node Health Check issue 134: it put a node back that its administrator had drained."""
    for change in ("state=drain", "state=down"):
        cluster.mgmt.run(
            f"scontrol update nodename=node3 {change} reason='a person swaps a disk'", deadline_s=20, sudo=True
        ).check()
        before, boot = cluster.state("node3"), cluster.boot_id("node3")
        for book in ("drain", "take_down", "isolate", "return_to_service"):
            code, _, failed = play(book, "node3")
            assert (code, cluster.state("node3")) == (2, before), book
            assert "node3 was taken out of service by a person" in failed
            assert "a person swaps a disk" in failed
        for book in ("reboot", "power_cycle", "power_on", "remount_lustre", "restart_fabric_manager", "reset_gpu"):
            code, _, failed = play(book, "node3", recovery_device="0")
            assert code == 2, book
            assert f"node3 is not held by {INCIDENT}" in failed
        assert cluster.boot_id("node3") == boot
        cluster.mgmt.run("scontrol update nodename=node3 state=resume", deadline_s=20, sudo=True).check()


def test_a_node_of_another_incident_stays_with_it(cluster: Cluster) -> None:
    must("isolate", "node3", recovery_incident="inc-other")
    code, _, failed = play("return_to_service", "node3")
    assert (code, "held by another incident" in failed) == (2, True)
    assert cluster.state("node3")[1].startswith("medllm-recover:inc-other")
    must("return_to_service", "node3", recovery_incident="inc-other")
    assert cluster.state("node3")[0] == "idle"


def test_input_is_refused_by_name(cluster: Cluster) -> None:
    for node, more in (
        ("all", {}),
        ("", {}),
        ("node1", {"recovery_incident": "a b"}),
        ("node1", {"recovery_run": ".."}),
    ):
        code, _, failed = play("reboot", node, **more)
        assert (code, "Fix: ansible-playbook" in failed) == (2, True), (node, more, failed)


def test_check_mode_changes_nothing(cluster: Cluster) -> None:
    boot = cluster.boot_id("node1")
    for book in sorted(
        path.stem for path in (ROOT / "playbooks").glob("*.yml") if "recovery_input" in path.read_text()
    ):
        done = subprocess.run(
            [str(Path(sys.executable).with_name("ansible-playbook")), f"playbooks/{book}.yml", "--check", "-e",
             f"recovery_node=node1 recovery_run={NAME}-none recovery_incident={INCIDENT} recovery_device=1"],
            cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    assert (cluster.state("node1"), cluster.boot_id("node1")) == (("idle", "none"), boot)


def test_a_drained_run_writes_a_checkpoint_and_goes_on_and_its_user_notices_a_pause_only(cluster: Cluster) -> None:
    run = f"{NAME}-drained"
    user = cluster.train(run)
    cluster.wait_for_step(run, 25)
    [job] = [json.loads(cluster.mgmt.get(f"{SITE.paths.checkpoints}/{run}/launch.json"))["job"]]
    node = cluster.mgmt.run(f"scontrol show hostnames $(squeue -h -j {job} -o %N)", deadline_s=20).stdout.split()[1]
    facts = must("drain", node, run)
    assert facts["ended_jobs"] == [job]
    assert cluster.state(node)[1].startswith(f"medllm-recover:{INCIDENT}")
    [stop] = [event for event in cluster.records(run, "events.jsonl") if event["event"] == "stop"]
    assert stop["reason"] == "SIGTERM"
    must("return_to_service", node, run)
    facts = must("resume_training", "", run)
    assert (facts["checkpoint_step"], facts["resumed_step"]) == (stop["step"], stop["step"]), "no step was lost"
    assert facts["job"] != job
    # A second one finds the job at work and submits none.
    again = must("resume_training", "", run)
    assert (again["job"], again["submitted"]) == (facts["job"], False)
    output, errors = user.communicate(timeout=240)
    assert user.returncode == 0, errors
    assert (json.loads(output)["finished"], json.loads(output)["restarts"]) == (True, 1)
    assert f"recovery goes on with job {facts['job']}" in errors


def test_a_job_of_somebody_else_is_waited_for_and_named(cluster: Cluster) -> None:
    job = cluster.job("sleep 300", f"--job-name=other-{NAME}", "--nodelist=node3", "--gres=gpu:8")
    impostor = cluster.job("sleep 300", f"--job-name=medllm-{NAME}-impostor", "--nodelist=node4", "--gres=gpu:8")
    end = time.monotonic() + 20
    while {cluster.job_state(job), cluster.job_state(impostor)} != {"RUNNING"} and time.monotonic() < end:
        time.sleep(0.2)
    for node, number in (("node3", job), ("node4", impostor)):
        code, _, failed = play("drain", node, recovery_grace_s=0, recovery_deadline_s=3)
        assert (code, f"others' jobs still run on it (state MIXED+DRAIN; {number} " in failed) == (2, True), failed
        code, _, failed = play("take_down", node, recovery_deadline_s=3)
        assert (code, cluster.job_state(number)) == (2, "RUNNING"), "DOWN would have ended it"
        code, _, failed = play("reboot", node)
        assert (code, f"jobs still run on {node}: {number} " in failed) == (2, True)
    cluster.mgmt.run(f"scancel {job} {impostor}", deadline_s=20).check()


def test_a_hung_node_is_taken_down_and_its_power_cut(cluster: Cluster) -> None:
    run = f"{NAME}-hung"
    user = cluster.train(run)
    cluster.wait_for_step(run, 25)
    job = json.loads(cluster.mgmt.get(f"{SITE.paths.checkpoints}/{run}/launch.json"))["job"]
    node = cluster.mgmt.run(f"scontrol show hostnames $(squeue -h -j {job} -o %N)", deadline_s=20).stdout.split()[1]
    boot = cluster.boot_id(node)
    faults.inject(BY_NAME[node], "hang", None)
    begin = time.monotonic()
    facts = must("take_down", node, run)
    assert facts["ended_jobs"] == [job]
    assert time.monotonic() - begin < 60
    # What needs the node ends by itself.
    code, _, failed = play("remount_lustre", node, run)
    assert code != 0
    assert time.monotonic() - begin < 180, failed
    facts = must("power_cycle", node, run, recovery_boot_id=boot)
    assert (facts["by"], facts["boot_id_before"], facts["boot_id_after"]) == (
        "bmc PowerCycle",
        boot,
        cluster.boot_id(node),
    )
    must("return_to_service", node, run)
    facts = must("resume_training", "", run)
    assert facts["resumed_step"] == facts["checkpoint_step"] >= 20
    must("end_job", "", run)
    assert cluster.job_state(facts["job"]) in {"", "COMPLETING"}
    user.terminate()
    user.wait(30)


def test_ranks_that_ignore_sigterm_give_their_nodes_back_at_once(cluster: Cluster) -> None:
    """A job's KILL is a TERM first, and a KILL after KillWait (30 s): too long for a restart within two minutes."""
    run = f"{NAME}-deaf"
    deaf = 'trap "" TERM; for second in $(seq 300); do sleep 1; done'
    script = f"#!/bin/bash\ntrap '' TERM\nsrun bash -c '{deaf}'\n"
    place = f"{SITE.paths.checkpoints}/{run}"
    cluster.mgmt.put(script.encode(), f"{place}/logs/job.sh")
    job = cluster.mgmt.run(
        f"cd {place}/logs && sbatch --parsable -N2 --gres=gpu:8 --job-name=medllm-{run} job.sh", deadline_s=20
    ).check().stdout.strip()  # fmt: skip
    cluster.mgmt.put(json.dumps({"job": job}).encode(), f"{place}/launch.json")
    end = time.monotonic() + 20
    while cluster.job_state(job) != "RUNNING" and time.monotonic() < end:
        time.sleep(0.2)
    time.sleep(1)
    begin = time.monotonic()
    assert must("end_job", "", run)["ended_jobs"] == [job]
    while cluster.job_state(job):
        assert time.monotonic() - begin < 25, cluster.job_state(job)
        time.sleep(0.2)


def test_a_node_without_power_is_switched_on(cluster: Cluster) -> None:
    boot = cluster.boot_id("node4")
    faults.inject(BY_NAME["node4"], "gone", None)
    must("take_down", "node4")
    facts = must("power_on", "node4", recovery_boot_id=boot)
    assert facts["by"] == "bmc On"
    assert facts["boot_id_after"] not in {boot, ""}
    must("return_to_service", "node4")
    assert cluster.state("node4")[0] == "idle"


def test_an_evicted_client_is_mounted_anew(cluster: Cluster) -> None:
    faults.inject(BY_NAME["node4"], "lustre_evicted", None)
    must("drain", "node4", recovery_grace_s=0)
    # Something still has a file open there, so the mount can only be detached.
    cluster.on("node4", f"nohup sh -c 'cd {SITE.lustre.mount_point} && sleep 60' > /dev/null 2>&1 &")
    assert must("remount_lustre", "node4")["mounted_anew"]
    assert not must("remount_lustre", "node4")["mounted_anew"], "a usable one is left alone"
    cluster.on("node4", f"touch {SITE.lustre.mount_point}/.books && rm {SITE.lustre.mount_point}/.books")
    cluster.on("node4", "systemctl is-active medllm-lustre-params.service")
    must("return_to_service", "node4")


def test_a_fabric_manager_that_cannot_start_is_told_and_a_reboot_helps(cluster: Cluster) -> None:
    must("isolate", "node4")
    assert not must("restart_fabric_manager", "node4")["restarted"]
    cluster.on("node4", "systemctl kill --signal=KILL nvidia-fabricmanager.service && sleep 0.5")
    assert must("restart_fabric_manager", "node4")["restarted"]
    faults.inject(BY_NAME["node4"], "fabric_manager_dead", None)
    code, _, failed = play("restart_fabric_manager", "node4")
    assert (code, "nvidia-fabricmanager" in failed) == (2, True), failed
    facts = must("reboot", "node4")
    assert (facts["by"], facts["boot_id_after"]) == ("ssh", cluster.boot_id("node4"))
    assert facts["boot_id_before"] != facts["boot_id_after"]
    assert not must("restart_fabric_manager", "node4")["restarted"]


def test_a_gpu_is_reset_by_any_of_its_names_and_a_lost_one_is_not(cluster: Cluster) -> None:
    must("isolate", "node4")
    running = "systemctl is-active nvidia-persistenced.service nvidia-dcgm.service nvidia-dcgm-exporter.service"
    uuid = cluster.on("node4", "nvidia-smi --query-gpu=uuid --format=csv,noheader -i 3")
    for device in ("3", uuid, "0000:5d:00", "PCI:0000:5D:00", "00000000:5D:00.0"):
        faults.inject(BY_NAME["node4"], "xid48", 3)
        assert "5D:00.0 was successfully reset" in must("reset_gpu", "node4", recovery_device=device)["reset"]
        pending = cluster.on(
            "node4", "nvidia-smi --query-remapped-rows=remapped_rows.pending --format=csv,noheader -i 3"
        )
        assert pending in {"0", "No"}
        assert cluster.on("node4", running).split() == ["active"] * 3
    faults.inject(BY_NAME["node4"], "xid79", 3)
    code, _, failed = play("reset_gpu", "node4", recovery_device="3")
    assert (code, "no GPU 3 answers here" in failed) == (2, True), failed
    assert cluster.on("node4", running).split() == ["active"] * 3
    must("reboot", "node4")
    assert len(cluster.on("node4", "nvidia-smi -L").splitlines()) == SITE.gpu.per_node


def test_a_hot_gpu_is_limited_within_bounds_and_gets_its_limit_back(cluster: Cluster) -> None:
    def limits() -> list[float]:
        text = cluster.on("node4", "nvidia-smi --query-gpu=power.limit --format=csv,noheader,nounits")
        return [float(line) for line in text.splitlines()]

    before = limits()
    faults.inject(BY_NAME["node4"], "hot_spell", 2)
    [line] = must("limit_power", "node4", recovery_device="2")["gpus"]
    assert line.split()[1:] == ["700.00", str(SITE.recovery.overheat_power_w)]
    assert limits() == [*before[:2], SITE.recovery.overheat_power_w, *before[3:]]
    assert must("limit_power", "node4", recovery_device="2")["gpus"] == [], "and the limit before is not forgotten"
    must("limit_power", "node4", recovery_device="2", recovery_power_w=20)
    assert limits()[2] == SITE.gpu.power_limit_min_w
    assert int(cluster.on("node4", "nvidia-smi --query-gpu=temperature.gpu --format=csv,noheader -i 2")) < 60
    must("restore_power", "node4", recovery_device="2")
    assert limits() == before
    assert must("restore_power", "node4")["gpus"] == []

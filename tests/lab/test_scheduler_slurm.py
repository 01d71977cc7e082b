"""Slurm on the lab: all nodes with all GPUs in one job, limits, the job log, and who returns a node to service."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from medllm.remote import Remote, Result
from medllm.site import load_site

ROOT = Path(__file__).parents[2]
SITE = load_site(ROOT / "inventory/lab")
NODES = [host.name for host in SITE.gpu_nodes if host.scheduler == "slurm"]
LOG = "/var/log/slurm/jobcomp.log"


@pytest.fixture(scope="module")
def mgmt() -> Iterator[Remote]:
    with Remote(SITE.mgmt) as remote:
        yield remote


def converge(*options: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "playbooks/scheduler.yml", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)


def changes(done: subprocess.CompletedProcess[str]) -> int:
    assert done.returncode == 0, done.stdout + done.stderr
    return sum(int(count) for count in re.findall(r"\bchanged=(\d+)", done.stdout))


def srun(mgmt: Remote, command: str, before: str = "true") -> Result:
    everything = f"-N{len(NODES)} --gres=gpu:{SITE.gpu.per_node} --immediate=60"
    return mgmt.run(f"{before}; srun {everything} {command}", deadline_s=90).check()


def state(mgmt: Remote, node: str) -> str:
    return mgmt.run(f"sinfo -hN -n {node} -o %T", deadline_s=20).check().stdout.strip()


def test_one_job_gets_every_gpu_of_every_node(mgmt: Remote) -> None:
    lines = srun(mgmt, "sh -c 'echo $(hostname -s) $CUDA_VISIBLE_DEVICES'").stdout.split("\n")
    every = ",".join(str(index) for index in range(SITE.gpu.per_node))
    assert sorted(line for line in lines if line) == [f"{node} {every}" for node in NODES]


def test_more_gpus_than_declared_are_refused(mgmt: Remote) -> None:
    done = mgmt.run(f"srun -N1 --gres=gpu:{SITE.gpu.per_node + 1} true", deadline_s=30)
    assert done.rc == 1
    assert "Requested node configuration is not available" in done.stderr


def test_a_job_takes_the_daemons_memlock_and_not_that_of_the_shell(mgmt: Remote) -> None:
    """How high it may be is the machine's matter: a container can't exceed its host."""
    job = "sh -c 'echo $(ulimit -l) $(systemctl show -P LimitMEMLOCK slurmd)'"
    lines = srun(mgmt, job, before="ulimit -l 64").stdout.splitlines()
    with Remote(SITE.host(NODES[0])) as node:
        allowed = node.run("awk '/Max locked memory/ {print $5}' /proc/1/limits", deadline_s=20).check().stdout.strip()
    kib = "unlimited" if allowed == "unlimited" else str(int(allowed) // 1024)
    assert kib != "64"
    assert lines == [f"{kib} infinity"] * len(NODES)


def test_finished_jobs_are_logged_and_the_log_survives_its_rotation(mgmt: Remote) -> None:
    def run_job(name: str) -> None:
        mgmt.run(f"srun -N1 -J {name} true", deadline_s=60).check()
        mgmt.run(
            f"for i in $(seq 50); do sudo grep -q Name={name} {LOG} && exit 0; sleep 0.2; done; exit 1", deadline_s=30
        ).check()

    run_job("before-rotation")
    rules = mgmt.run("cat /etc/logrotate.d/medllm-slurm-jobs", deadline_s=20).check().stdout
    assert f"rotate {SITE.slurm.job_log_retention_days}" in rules
    work = mgmt.run("mktemp -d", deadline_s=20).check().stdout.strip()
    try:
        mgmt.run(f"cp -p {LOG} {work}/", deadline_s=20, sudo=True).check()
        force = f"logrotate --force --state {work}/state /etc/logrotate.d/medllm-slurm-jobs"
        mgmt.run(force, deadline_s=60, sudo=True).check()
        run_job("after-rotation")
        assert mgmt.run(f"grep -c Name=before-rotation {LOG}", deadline_s=20, sudo=True).stdout.strip() == "0"
        rotated = mgmt.run(f"grep -l Name=before-rotation {LOG}-*", deadline_s=20, sudo=True).check().stdout.split()
        assert len(rotated) == 1
    finally:
        mgmt.run(
            f"set -e; [ ! -f {work}/jobcomp.log ] || cat {work}/jobcomp.log > {LOG}; rm -rf {work} {LOG}-*;"
            " scontrol reconfigure",
            deadline_s=60,
            sudo=True,
        ).check()


def test_a_second_run_changes_nothing_and_says_nothing_of_the_key(mgmt: Remote) -> None:
    key = mgmt.run("cat /etc/munge/munge.key", deadline_s=20, sudo=True).check().stdout.strip()
    assert len(key) >= 64
    done = converge("-vvv", "--diff")
    assert changes(done) == 0
    for secret in (key, base64.b64encode(key.encode()).decode()[:40]):
        assert secret not in done.stdout + done.stderr


def test_a_persons_drain_is_left_alone_and_slurms_own_is_ended(mgmt: Remote) -> None:
    theirs, slurms = NODES[-2:]
    try:
        mgmt.run(
            f"scontrol update nodename={theirs} state=drain reason='the fan is being changed' && "
            f"scontrol update nodename={slurms} state=down reason='Not responding'",
            deadline_s=30,
            sudo=True,
        ).check()
        assert changes(converge()) == 1
        assert state(mgmt, theirs).startswith("drain")
        assert state(mgmt, slurms) == "idle"
    finally:
        for node in (theirs, slurms):
            mgmt.run(f"scontrol update nodename={node} state=resume", deadline_s=30, sudo=True)


@pytest.mark.long
def test_a_node_given_to_kubernetes_leaves_slurm_but_never_under_a_job(mgmt: Remote, tmp_path: Path) -> None:
    leaving = NODES[-1]
    inventory = tmp_path / "inventory"
    shutil.copytree(ROOT / "inventory", inventory)
    hosts = inventory / "lab/hosts.yml"
    before, after = hosts.read_text().split(f"{leaving}:\n")
    hosts.write_text(f"{before}{leaving}:\n{after.replace('scheduler: slurm', 'scheduler: kubernetes', 1)}")
    given = ("-i", str(inventory / "lab"))
    with Remote(next(host for host in SITE.hosts if host.name == leaving)) as node:
        active = "systemctl is-active slurmd.service || true"
        try:
            mgmt.run(f"sbatch -w {leaving} -o /dev/null --wrap 'sleep 600'", deadline_s=30).check()
            mgmt.run(f"until squeue -h -w {leaving} -t R | grep -q .; do sleep 1; done", deadline_s=60).check()
            refused = converge(*given)
            assert refused.returncode != 0
            assert "Slurm's jobs run here" in refused.stdout
            assert node.run(active, deadline_s=20).stdout.strip() == "active"
            mgmt.run(f"scancel -w {leaving} -t R; while squeue -h -w {leaving} | grep -q .; do sleep 1; done",
                     deadline_s=90).check()  # fmt: skip
            assert changes(converge(*given)) > 0
            assert changes(converge(*given)) == 0
            assert node.run(active, deadline_s=20).stdout.strip() == "inactive"
            assert leaving not in mgmt.run("sinfo -hN -o %N", deadline_s=20).check().stdout.split()
        finally:
            mgmt.run(f"scancel -w {leaving}", deadline_s=30)
            converge()
        assert node.run(active, deadline_s=20).stdout.strip() == "active"
        assert state(mgmt, leaving) == "idle"

"""Scheduler, monitoring, trainer environment: what was broken by hand is predicted exactly and repaired exactly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from medllm.remote import Remote
from medllm.site import load_site

ROOT = Path(__file__).parents[2]
SITE = load_site(ROOT / "inventory/lab")
MGMT, NODE = SITE.mgmt.name, SITE.gpu_nodes[-1].name
STAGES = "scheduler,monitoring,trainer"

# (host, what is done to it, the tasks that must change there).
BREAKS = [
    (
        MGMT,
        "echo 'JobRequeue=0' >> /etc/slurm/slurm.conf",
        {"slurm : Write the configuration", "slurm : Run the Slurm daemon on this configuration"},
    ),
    (
        NODE,
        "systemctl disable --now --quiet slurmd && rm /etc/systemd/system/slurmd.service.d/medllm.conf",
        {"slurm : Write the configuration", "slurm : Run the Slurm daemon on this configuration"},
    ),
    (
        NODE,
        "echo 00 >> /etc/munge/munge.key",
        {"slurm : Spread the munge key", "slurm : Run munge on the cluster's key"},
    ),
    (
        NODE,
        "sed -i /ECC_DBE_VOL/d /etc/dcgm-exporter/medllm-counters.csv",
        {"dcgm_exporter : Choose the counters", "dcgm_exporter : Run the exporter"},
    ),
    (
        NODE,
        "systemctl disable --now --quiet medllm-textfile@lustre.timer",
        {"node_exporter : Run our own collectors"},
    ),
    (
        MGMT,
        "sed -i 's/GPU_TEMP > 85/GPU_TEMP > 185/' /etc/prometheus/rules/gpu.yml",
        {"prometheus : Write the alert rules", "prometheus : Have Prometheus read its configuration and rules"},
    ),
    (MGMT, "rm /etc/prometheus/targets/dcgm-exporter.json", {"prometheus : Write the targets"}),
    (MGMT, "systemctl stop prometheus-alertmanager", {"alertmanager : Run Alertmanager"}),
    (MGMT, "apt-mark unhold prometheus >/dev/null", {"prometheus : Install and hold Prometheus"}),
    (
        MGMT,
        f"echo 'raise SystemExit' >> {SITE.paths.app}/trainer/$(readlink {SITE.paths.app}/trainer/current "
        "| sed 's/.*-/app-/')/trainer/__init__.py",
        {"trainer_env : Unpack our own wheel"},
    ),
    (
        MGMT,
        f"rm {SITE.paths.app}/trainer/current {SITE.paths.app}/site.json",
        {"trainer_env : Point at the environment in use", "trainer_env : Write the exported site"},
    ),
]


def run(*options: str) -> dict[str, set[str]]:
    """Run the three stages on both hosts; the tasks that changed something, or would, by host."""
    environment = {**os.environ, "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"}
    mitogen = find_spec("ansible_mitogen")
    if mitogen and mitogen.origin:
        environment["ANSIBLE_STRATEGY"] = "mitogen_linear"
        environment["ANSIBLE_STRATEGY_PLUGINS"] = str(Path(mitogen.origin).parent / "plugins" / "strategy")
    playbook = Path(sys.executable).with_name("ansible-playbook")
    done = subprocess.run(
        [playbook, "site.yml", "--tags", STAGES, "--limit", f"{MGMT},{NODE}", *options],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-2000:]}"
    answer = json.loads(done.stdout[done.stdout.index("{") :])
    return {
        host: {
            task["task"]["name"]
            for play in answer["plays"]
            for task in play["tasks"]
            if task["hosts"].get(host, {}).get("changed")
        }
        for host in (MGMT, NODE)
    }


def test_what_was_broken_by_hand_is_predicted_and_repaired_exactly() -> None:
    run()
    wanted: dict[str, set[str]] = {MGMT: set(), NODE: set()}
    # The repaired file of ours on mgmt has its old content again, so nothing is imported anew.
    for host, command, tasks in BREAKS:
        with Remote(SITE.host(host)) as remote:
            remote.run(command, deadline_s=60, sudo=True).check()
        wanted[host] |= tasks
    # Without a link there is no environment that a host could have imported; afterwards it is the one it knows.
    predicted = run("--check")
    without_link = {"trainer_env : Prove that the environment can be imported here"}
    assert {host: tasks - without_link for host, tasks in predicted.items()} == wanted
    assert run() == wanted
    assert run() == {MGMT: set(), NODE: set()}

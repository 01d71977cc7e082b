"""Bring-up on a real node: what a human broke is predicted exactly, repaired exactly; then nothing changes any more.

Slow (about two minutes): each case is a run of site.yml. The nodes end as they began.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from medllm.site import load_site

ROOT = Path(__file__).parent.parent.parent
INVENTORY = ROOT / "inventory" / "lab"
NODE = "node1"
VIRGIN = "node2"
# The acceptance checks have tests of their own.
STAGES_OF_A_NODE = "--skip-tags=verify"

# What is done to the node by hand → the tasks that must change, and no other.
BREAKS: dict[str, tuple[str, set[str]]] = {
    "a file is edited": (
        "echo 'vm.swappiness = 99' >> /etc/sysctl.d/60-medllm.conf",
        {"base : Write the settings for the next boot, session and service"},
    ),
    "a kernel setting is changed": (
        "sysctl -q -w vm.max_map_count=65530",
        {"base : Set the kernel settings that run now"},
    ),
    "transparent hugepages are switched on": (
        "echo always > /sys/kernel/mm/transparent_hugepage/enabled",
        {"base : Set transparent hugepages now"},
    ),
    "a file is deleted": (
        "rm /etc/security/limits.d/60-medllm.conf",
        {"base : Write the settings for the next boot, session and service"},
    ),
    "a mode is changed": (
        "chmod 0600 /etc/modules-load.d/medllm-nvidia.conf",
        {"nvidia_driver : Load the driver at each boot, with persistence"},
    ),
    "a repository key is exchanged": (
        "echo untrusted > /etc/apt/keyrings/medllm-vendor.asc",
        {"vendor_repository : Trust the declared signing keys"},
    ),
    "a hold is removed": (
        "apt-mark unhold nvidia-driver-cuda >/dev/null",
        {"nvidia_driver : Install and hold the driver at the locked version"},
    ),
    "a module is unloaded": (
        "modprobe -r nvidia-peermem",
        {"nvidia_driver : Load the driver now"},
    ),
    "a unit is disabled and stopped": (
        "systemctl disable --now --quiet nvidia-persistenced.service",
        {"nvidia_driver : Run the persistence daemon"},
    ),
    "a package gets another version": (
        "apt-get -qq -y --allow-downgrades --allow-change-held-packages -o Dpkg::Use-Pty=0 install "
        "nvidia-fabricmanager=580.82.07-1 >/dev/null",
        {
            "nvidia_fabricmanager : Install and hold Fabric Manager at the locked version",
            "nvidia_fabricmanager : Run Fabric Manager",
        },
    ),
    "a package is removed": (
        "apt-get -qq -y --allow-change-held-packages purge mlnx-tools >/dev/null",
        {"rdma_tools : Install and hold the fabric's tools at the locked version"},
    ),
    "the file system is unmounted": (
        # Whoever looks at it at this very moment (the exporter does, every few seconds) keeps it busy.
        "for _ in $(seq 50); do umount /mnt/lustre && exit 0; sleep 0.2; done; exit 1",
        {"lustre_client : Mount the file system"},
    ),
    "the runtime's configuration is deleted": (
        "rm /etc/containerd/conf.d/99-nvidia.toml",
        {"containerd : Make the NVIDIA runtime the default", "containerd : Run containerd with its configuration"},
    ),
    "an image is removed": (
        "ctr images rm medllm.local/smoke:1 >/dev/null",
        {"containerd : Import the smoke image"},
    ),
}

SNAPSHOT = r"""
cd /
# The linker's cache is written anew by each installation, with the same content in another order.
find etc -not -path etc/ld.so.cache -printf '%p %y %m %u %g %l\n' | sort
find etc -type f -not -path etc/ld.so.cache -print0 | sort -z | xargs -0 sha256sum
dpkg-query -W -f '${Package} ${db:Status-Abbrev} ${Version}\n'
systemctl list-unit-files --no-legend --no-pager --type=service,mount,path,timer | sort
systemctl list-units --no-legend --no-pager --plain --all --type=service,mount | awk '{print $1, $2, $3, $4}' |
  grep -vE '^(user|session|run-user|systemd-(tmpfiles-clean|hostnamed|timedated))' | sort
"""


def on(node: str, command: str) -> str:
    """Run a shell command as root on a node; its output."""
    host = next(host for host in load_site(INVENTORY).hosts if host.name == node)
    key, known_hosts = host.private_key_file, host.known_hosts_file
    assert key
    assert known_hosts
    ran = subprocess.run(
        [
            "ssh", "-i", key, "-o", f"UserKnownHostsFile={known_hosts}",
            "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", f"{host.user}@{host.address}", "sudo", "sh", "-s",
        ],
        input=command, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, f"{command!r} on {node}: {ran.stderr}"
    return ran.stdout


def site(node: str, *arguments: str) -> set[str]:
    """Run site.yml on one node; the tasks that changed something there, or would (not those delegated elsewhere)."""
    environment = {**os.environ, "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"}
    mitogen = find_spec("ansible_mitogen")
    if mitogen and mitogen.origin:
        environment["ANSIBLE_STRATEGY"] = "mitogen_linear"
        environment["ANSIBLE_STRATEGY_PLUGINS"] = str(Path(mitogen.origin).parent / "plugins" / "strategy")
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "site.yml", "--limit", node, STAGES_OF_A_NODE]
    ran = subprocess.run(
        [*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert ran.returncode == 0, f"{ran.stdout[-4000:]}\n{ran.stderr[-2000:]}"
    answer = json.loads(ran.stdout[ran.stdout.index("{") :])
    assert answer["stats"][node]["failures"] == answer["stats"][node]["unreachable"] == 0
    return {
        task["task"]["name"]
        for play in answer["plays"]
        for task in play["tasks"]
        if task["hosts"].get(node, {}).get("changed") and "_ansible_delegated_vars" not in task["hosts"][node]
    }


@pytest.fixture(scope="module")
def converged() -> str:
    """The state of the node after a run, before anything is broken."""
    site(NODE)
    assert site(NODE, "--check") == set(), "check mode predicts changes where there are none"
    return on(NODE, SNAPSHOT)


@pytest.fixture
def broken(converged: str) -> Iterator[set[str]]:
    """Everything of BREAKS done to the node at once; the tasks that must change. It ends mended, whatever happens."""
    try:
        for command, _ in BREAKS.values():
            on(NODE, f"set -e\n{command}")
        assert on(NODE, SNAPSHOT) != converged
        yield set().union(*(tasks for _, tasks in BREAKS.values()))
    finally:
        if on(NODE, SNAPSHOT) != converged:
            site(NODE)


def test_what_was_broken_by_hand_is_predicted_and_repaired_exactly(converged: str, broken: set[str]) -> None:
    assert site(NODE, "--check") == broken
    assert site(NODE) == broken
    repaired = on(NODE, SNAPSHOT)
    assert site(NODE) == set()
    assert on(NODE, SNAPSHOT) == repaired
    assert repaired == converged


def test_a_reboot_loses_nothing(converged: str) -> None:
    boot = "cat /proc/sys/kernel/random/boot_id"
    before = on(NODE, boot)
    on(NODE, "systemd-run --quiet --on-active=1 systemctl reboot")
    deadline = time.monotonic() + 60
    # Up is: a new boot, and systemd has started what it starts at boot.
    while time.monotonic() < deadline:
        time.sleep(1)
        try:
            if on(NODE, f"{boot}; systemctl is-system-running --wait >/dev/null || true").strip() != before.strip():
                break
        except (AssertionError, subprocess.TimeoutExpired):
            continue
    assert on(NODE, boot) != before
    assert site(NODE, "--check") == set()


def test_a_virgin_node_can_be_checked_then_converges_once() -> None:
    subprocess.run(
        [str(Path(sys.executable).parent / "medllm"), "lab", "reset", VIRGIN], cwd=ROOT, timeout=300, check=True
    )
    before = on(VIRGIN, SNAPSHOT)
    predicted = site(VIRGIN, "--check")
    assert "nvidia_driver : Install and hold the driver at the locked version" in predicted
    assert on(VIRGIN, SNAPSHOT) == before, "check mode changed the node"
    assert site(VIRGIN) == predicted
    assert site(VIRGIN) == set()

"""On the machines: each check fails for a real fault, and says NOT_RUN when its input is taken away.

Every test mends what it broke. Needs machines that are brought up (`medllm lab run`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from medllm.checks import CHECKS
from tests.lab.acceptance_lab import SITE, changed, fault, items, node, silicon, without

# Slurm and Prometheus see a change only at their next look.
LOOK_S = 3 * SITE.prometheus.scrape_interval_s
IMAGE = SITE.container.smoke_image


def drained() -> AbstractContextManager[None]:
    return changed(
        "mgmt",
        "scontrol update nodename=node4 state=drain reason=acceptance-test",
        "scontrol update nodename=node4 state=resume",
    )


def limited() -> AbstractContextManager[None]:
    """The soft limit of slurmd, from which each job has its own."""
    pid = "$(systemctl show -p MainPID --value slurmd)"
    before = f"$(awk '/locked memory/ {{print $5}}' /proc/{pid}/limits)"
    return changed("node4", f"prlimit --pid {pid} --memlock=65536:", f"prlimit --pid {pid} --memlock={before}:")


def renamed_image() -> AbstractContextManager[None]:
    return changed(
        "node4",
        f"ctr images tag {IMAGE} aside:1 && ctr images rm {IMAGE}",
        f"ctr images tag aside:1 {IMAGE} && ctr images rm aside:1",
    )


# check, host that is judged, what breaks it, part of the reason.
FAULTS: list[tuple[str, str, Callable[[], AbstractContextManager[None]], str]] = [
    ("gpu_count", "node4", lambda: fault("xid79", "node4", 2), "lost: GPU"),
    ("gpu_temperature", "node4", lambda: fault("overheat", "node4", 5), "92 °C"),
    ("gpu_ecc", "node4", lambda: fault("xid48", "node4", 1), "remapped"),
    ("gpu_persistence", "node4", lambda: changed("node4", "nvidia-smi -i 3 -pm 0", "nvidia-smi -i 3 -pm 1"), "7 GPUs"),
    (
        "nvlink",
        "node4",
        lambda: silicon("node4", "gpus", 6, "nvlinks", 17, "state", value="inactive"),
        "link 17 inactive",
    ),
    ("hca_link", "node4", lambda: silicon("node4", "hcas", 2, "ports", 0, "state", value="Initializing"), "mlx5_2/1"),
    ("driver_fabricmanager_match", "node4", lambda: fault("fabric_manager_dead", "node4"), "fabric In Progress"),
    ("lustre_readiness", "node4", lambda: fault("lustre_evicted", "node4"), "/mnt/lustre"),
    ("container_start", "node4", renamed_image, "does not start"),
    ("scheduler", "mgmt", drained, "node4 drained (acceptance-test)"),
    ("job_memlock", "mgmt", limited, "node4 64 KiB"),
    (
        "prometheus_targets",
        "mgmt",
        lambda: changed("node4", "systemctl stop prometheus-node-exporter", "systemctl start prometheus-node-exporter"),
        "node4:9100 down",
    ),
]


@pytest.fixture(scope="module", autouse=True)
def sound_before_and_after(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A fault proves something only on machines without one, and none is left behind."""
    state = tmp_path_factory.mktemp("state")
    names = [word for name in dict.fromkeys(entry[0] for entry in FAULTS) for word in ("--tag", name)]

    def wait_until_sound() -> None:
        # What the test before us did may still be in the queue, or not yet scraped.
        deadline = time.monotonic() + 90
        while True:
            left = [item["reason"] for item in items(state, *names).values() if item["label"] != "REHEARSED"]
            if not left or time.monotonic() > deadline:
                break
            time.sleep(3)
        assert left == []

    wait_until_sound()
    yield
    wait_until_sound()


@pytest.mark.parametrize(("check", "host", "breaking", "reason"), FAULTS, ids=[entry[0] for entry in FAULTS])
def test_a_fault_fails_its_check(
    check: str, host: str, breaking: Callable[[], AbstractContextManager[None]], reason: str, tmp_path: Path
) -> None:
    with breaking():
        if check == "prometheus_targets":
            time.sleep(LOOK_S)
        found = items(tmp_path, "--tag", check)
    item = found[check, host]
    assert (item["outcome"], reason in item["reason"]) == ("FAIL", True), item["reason"]
    others = {place: other["label"] for place, other in found.items() if place != (check, host)}
    assert set(others.values()) <= {"REHEARSED"}, others


INPUTS: list[tuple[str, str, tuple[str, ...], set[str]]] = [
    (
        "nvidia-smi",
        "node4",
        ("/usr/bin/nvidia-smi",),
        {"gpu_count", "gpu_temperature", "gpu_ecc", "gpu_persistence", "nvlink", "driver_fabricmanager_match"},
    ),
    ("ibstat", "node4", ("/usr/sbin/ibstat",), {"hca_link"}),
    ("lfs", "node4", ("/usr/bin/lfs",), {"lustre_readiness"}),
    ("ctr", "node4", ("/usr/bin/ctr",), {"container_start"}),
    ("srun", "mgmt", ("/usr/bin/srun",), {"scheduler", "job_memlock"}),
    ("sinfo", "mgmt", ("/usr/bin/sinfo",), {"scheduler"}),
]


@pytest.mark.parametrize(("tool", "host", "paths", "checks"), INPUTS, ids=[entry[0] for entry in INPUTS])
def test_a_missing_tool_is_not_run(
    tool: str, host: str, paths: tuple[str, ...], checks: set[str], tmp_path: Path
) -> None:
    tags = [word for name in checks for word in ("--tag", name)]
    with without(host, *paths):
        found = items(tmp_path, *tags)
    for check in checks:
        assert found[check, host]["outcome"] == "NOT_RUN", found[check, host]["reason"]
        assert found[check, host]["evidence"] != "measured"


def test_prometheus_that_is_down_is_not_run(tmp_path: Path) -> None:
    with changed("mgmt", "systemctl stop prometheus", "systemctl start prometheus"):
        item = items(tmp_path, "--tag", "prometheus_targets")["prometheus_targets", "mgmt"]
    assert item["outcome"] == "NOT_RUN"
    time.sleep(LOOK_S)


def test_a_hung_node_costs_its_own_items_only(tmp_path: Path) -> None:
    assert node("node4")
    begin = time.monotonic()
    with fault("hang", "node4"):
        found = items(tmp_path, "--tag", "node")
        spent = time.monotonic() - begin
    assert {item["outcome"] for (_, host), item in found.items() if host == "node4"} == {"NOT_RUN"}
    assert {item["label"] for (_, host), item in found.items() if host != "node4"} == {"REHEARSED"}
    assert spent < 60


def test_the_node_checks_are_quick(tmp_path: Path) -> None:
    """site.yml ends with them."""
    begin = time.monotonic()
    found = items(tmp_path, "--tag", "node")
    assert time.monotonic() - begin < 20
    assert len(found) == 4 * len([check for check in CHECKS if "node" in check.tags])

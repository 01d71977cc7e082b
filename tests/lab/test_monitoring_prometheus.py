"""Monitoring on the lab: exporters are scraped, rules are loaded, and a fault becomes an alert at Alertmanager."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from medllm.site import load_site

ROOT = Path(__file__).parents[2]
SITE = load_site(ROOT / "inventory/lab")
PROMETHEUS = f"http://{SITE.mgmt.address}:{SITE.ports.prometheus}/api/v1"
ALERTMANAGER = f"http://{SITE.mgmt.address}:{SITE.ports.alertmanager}/api/v2"
MEDLLM = Path(sys.executable).with_name("medllm")
HOT, EVICTED = SITE.gpu_nodes[-1].name, SITE.gpu_nodes[-2].name


def get(address: str) -> Any:
    with urllib.request.urlopen(address, timeout=10) as answer:
        return json.load(answer)


def query(expression: str) -> dict[str, float]:
    """Value by node."""
    data = get(f"{PROMETHEUS}/query?{urllib.parse.urlencode({'query': expression})}")["data"]["result"]
    return {entry["metric"].get("node", ""): float(entry["value"][1]) for entry in data}


def until(true: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(1)


def firing(name: str, node: str) -> bool:
    """Whether Alertmanager holds this alert of this node as active."""
    alerts = get(f"{ALERTMANAGER}/alerts?active=true")
    return any(alert["labels"]["alertname"] == name and alert["labels"].get("node") == node for alert in alerts)


def test_the_monitor_of_a_run_learns_how_busy_the_gpus_are() -> None:
    """dcgm-exporter's labels, as Prometheus has them here."""
    from trainer.data.gpu_utilisation import gpu_utilisation

    found = gpu_utilisation(PROMETHEUS.removesuffix("/api/v1"), 60)
    assert found.gpus == len(SITE.gpu_nodes) * SITE.gpu.per_node
    assert 0 <= found.lowest_value <= found.mean <= 100
    assert found.lowest.partition("/")[0] in {host.name for host in SITE.gpu_nodes}


def test_every_exporter_is_scraped() -> None:
    nodes = len(SITE.gpu_nodes)
    wanted = {"node-exporter": nodes + 1, "dcgm-exporter": nodes, "alertmanager": 1, "recovery": 1}

    def up() -> Counter[str]:
        targets = get(f"{PROMETHEUS}/targets?state=active")["data"]["activeTargets"]
        assert sum(target["labels"]["job"] == "trainer" for target in targets) == nodes
        return Counter(
            target["labels"]["job"]
            for target in targets
            if target["health"] == "up" and target["labels"]["job"] != "trainer"
        )

    until(lambda: up() == wanted, 30, f"up: {up()}, wanted: {wanted}")


@pytest.mark.parametrize(
    "metric",
    [
        "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL",
        "DCGM_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL",
        "DCGM_FI_DEV_FABRIC_MANAGER_STATUS",
    ],
)
def test_what_the_packaged_list_leaves_out_is_exported_for_each_gpu(metric: str) -> None:
    assert query(f"count by (node) ({metric})") == {host.name: SITE.gpu.per_node for host in SITE.gpu_nodes}


def test_the_state_of_storage_and_scheduler_is_collected() -> None:
    assert query("medllm_lustre_ready") == {host.name: 1 for host in SITE.hosts}
    assert set(query("time() - medllm_lustre_probe_timestamp_seconds < 90")) == {host.name for host in SITE.hosts}
    assert query("medllm_slurm_up") == {SITE.mgmt.name: 1}
    assert query("count by (node) (medllm_slurm_node_available)") == {SITE.mgmt.name: len(SITE.gpu_nodes)}


def test_every_rule_is_loaded_and_evaluates() -> None:
    groups = get(f"{PROMETHEUS}/rules")["data"]["groups"]
    loaded = {rule["name"]: rule["health"] for group in groups for rule in group["rules"] if rule["type"] == "alerting"}
    written = {
        rule["alert"]
        for path in (ROOT / "roles/prometheus/files/rules").glob("*.yml")
        for group in YAML(typ="safe").load(path)["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }
    assert loaded == dict.fromkeys(written, "ok")


def test_the_alarm_path_works() -> None:
    until(lambda: any(a["labels"]["alertname"] == "Watchdog" for a in get(f"{ALERTMANAGER}/alerts")), 30, "Watchdog")


@pytest.fixture
def faults() -> Iterator[None]:
    def lab(*arguments: str) -> None:
        subprocess.run([MEDLLM, "lab", *arguments], cwd=ROOT, check=True, capture_output=True, timeout=120)

    try:
        lab("fault", "overheat", HOT, "2")
        lab("fault", "lustre_evicted", EVICTED)
        yield
    finally:
        lab("heal", HOT)
        lab("heal", EVICTED)


def test_faults_become_alerts_and_go_again(faults: None, request: pytest.FixtureRequest) -> None:
    """`for:` is 60 s and 30 s, the probe runs each 20 s; a busy machine takes its time."""
    until(lambda: firing("LustreUnavailable", EVICTED), 150, "LustreUnavailable")
    until(lambda: firing("GpuTemperatureHigh", HOT), 150, "GpuTemperatureHigh")
    assert not firing("GpuTemperatureHigh", EVICTED)
    hottest = query("max by (node) (DCGM_FI_DEV_GPU_TEMP > 85)")
    assert list(hottest) == [HOT]


def test_alerts_of_healed_faults_end() -> None:
    until(lambda: not firing("LustreUnavailable", EVICTED), 420, "end of LustreUnavailable")
    until(lambda: not firing("GpuTemperatureHigh", HOT), 420, "end of GpuTemperatureHigh")


def test_a_second_run_changes_nothing() -> None:
    command = [Path(sys.executable).with_name("ansible-playbook"), "playbooks/monitoring.yml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(re.findall(r"\bchanged=(\d+)", done.stdout)) == {"0"}

"""Alert rules: valid for Prometheus, right at their boundaries, each with a test, a severity and a page."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from medllm.files import cache_dir

ROOT = Path(__file__).parents[2]
RULES = sorted((ROOT / "roles/prometheus/files/rules").glob("*.yml"))
RULE_TESTS = sorted((Path(__file__).parent / "alerts").glob("*.test.yml"))
# The last one is written from the procedures (runbooks.pages).
SECTIONS = ["Meaning", "Impact", "Diagnosis", "Mitigation", "By itself"]


def read(path: Path) -> Any:
    return YAML(typ="safe").load(path)


def alerts() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for path in RULES:
        for group in read(path)["groups"]:
            for rule in group["rules"]:
                if "alert" in rule:
                    assert rule["alert"] not in found, f"{rule['alert']} stands twice"
                    found[rule["alert"]] = rule
    return found


@pytest.fixture(scope="session")
def promtool(tmp_path_factory: pytest.TempPathFactory) -> str:
    """promtool: the one installed, or Debian's, unpacked into the cache (no root, nothing installed)."""
    kept = cache_dir() / "promtool" / "promtool"
    if installed := shutil.which("promtool"):
        return installed
    if not kept.is_file():
        work = tmp_path_factory.mktemp("promtool")
        subprocess.run(["apt-get", "download", "prometheus"], cwd=work, check=True, capture_output=True, timeout=300)
        (package,) = work.glob("prometheus_*.deb")
        subprocess.run(["dpkg-deb", "-x", package, work / "x"], check=True, timeout=60)
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(work / "x/usr/bin/promtool", kept)
    return str(kept)


def test_there_are_rules_and_tests() -> None:
    assert len(alerts()) >= 20
    assert len(RULE_TESTS) == len(RULES)


def test_prometheus_accepts_the_rules(promtool: str) -> None:
    done = subprocess.run([promtool, "check", "rules", *RULES], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.name)
def test_rules_fire_when_they_should_and_not_before(promtool: str, path: Path) -> None:
    done = subprocess.run([promtool, "test", "rules", path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("old", "new", "test"),
    [
        ("GPU_TEMP > 85", "GPU_TEMP > 86", "gpu.test.yml"),
        ("GPU_TEMP > 85", "GPU_TEMP > 84", "gpu.test.yml"),
        ("[1h]", "[1m]", "gpu.test.yml"),
        ("for: 1m", "for: 50s", "gpu.test.yml"),
        ("for: 1m", "for: 70s", "cluster.test.yml"),
        ("for: 30s", "for: 20s", "cluster.test.yml"),
        ("for: 10m", "for: 9m", "recovery.test.yml"),
        ("> 60", "> 70", "recovery.test.yml"),
    ],
)
def test_the_rule_tests_notice_a_changed_rule(promtool: str, tmp_path: Path, old: str, new: str, test: str) -> None:
    for path in RULES:
        (tmp_path / path.name).write_text(path.read_text().replace(old, new))
    text = (Path(__file__).parent / "alerts" / test).read_text()
    (tmp_path / test).write_text(re.sub(r"\[\S*/rules/(\w+\.yml)\]", r"[\1]", text))
    done = subprocess.run([promtool, "test", "rules", tmp_path / test], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, f"{old} -> {new} went unnoticed"


def test_each_alert_is_tested_until_it_fires() -> None:
    fired = {
        case["alertname"]
        for path in RULE_TESTS
        for test in read(path)["tests"]
        for case in test["alert_rule_test"]
        if case.get("exp_alerts")
    }
    assert fired == set(alerts())


@pytest.mark.parametrize("name", sorted(alerts()))
def test_each_alert_has_a_severity_and_a_page(name: str) -> None:
    rule = alerts()[name]
    assert rule["labels"]["severity"] in {"critical", "warning", "info", "none"}
    assert rule["annotations"]["runbook_url"] == f"runbooks/{name}.md"
    assert rule["annotations"]["summary"]
    page = (ROOT / "runbooks" / f"{name}.md").read_text()
    assert re.match(rf"---\nfault_classes: .*\n---\n\n# {name}\n", page)
    assert re.findall(r"^## (.+)$", page, re.MULTILINE) == SECTIONS
    assert all(body.strip() for body in re.split(r"^## .+$", page, flags=re.MULTILINE)[1:])


def test_each_page_has_an_alert() -> None:
    pages = {path.stem for path in (ROOT / "runbooks").glob("[A-Z]*.md")} - {"README"}
    assert pages == set(alerts())


def test_the_sticky_xid_gauge_is_never_rated() -> None:
    """It holds the last XID, so a rate of it means nothing (dcgm-exporter#500)."""
    for path in RULES:
        assert not re.search(r"(rate|increase|delta)\(\s*DCGM_FI_DEV_XID_ERRORS", path.read_text())


def test_each_dcgm_metric_in_a_rule_is_exported() -> None:
    """dcgm-exporter exports only what its list names, and a rule over a metric that is not there never fires."""
    listed = (ROOT / "roles/dcgm_exporter/files/counters.csv").read_text()
    exported = {line.split(",")[0].strip() for line in listed.splitlines() if line.startswith("DCGM_")}
    used = {name for path in RULES for name in re.findall(r"DCGM_\w+", path.read_text())}
    assert used <= exported, used - exported

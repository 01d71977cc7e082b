"""What the program declares, under a scanner that others wrote (checkov, in an environment of its own)."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from benchmarks.perf.environment import locked_environment
from tests.unit.test_k8s_program import declared

SCANNERS = Path(__file__).parents[1] / "scanners"
pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def checkov() -> Path:
    """The program, from the scanners' own lock."""
    return locked_environment(SCANNERS, "scanners") / "checkov"


@pytest.mark.parametrize("site", ["h200", "a100_roce"])
def test_a_scanner_finds_nothing_but_what_is_excepted(checkov: Path, tmp_path: Path, site: str) -> None:
    yaml = YAML(typ="safe")
    yaml.default_flow_style = False
    rendered = [each for each in declared(site) if each["kind"] != "Node" and not each["kind"].endswith("Patch")]
    # These sites give nodes to Kubernetes: the training Job is scanned too.
    assert "Job" in {each["kind"] for each in rendered}
    for number, each in enumerate(rendered):
        with (tmp_path / f"{number:02}-{each['kind']}.yaml").open("w") as stream:
            yaml.dump(each, stream)
    words = [
        "--directory",
        str(tmp_path),
        "--framework",
        "kubernetes",
        "--skip-download",
        "--quiet",
        "--output",
        "json",
    ]
    # It exits 1 when it finds something.
    done = subprocess.run([checkov, *words], capture_output=True, text=True, timeout=600, check=False)
    answer: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    assert answer["summary"]["resource_count"] >= len(rendered)
    assert answer["summary"]["parsing_errors"] == 0
    found = {
        each["check_id"]: f"{each['check_name']} ({each['resource']})" for each in answer["results"]["failed_checks"]
    }
    excepted = YAML(typ="safe").load(SCANNERS / "exceptions.yml") or {}
    assert {name: text for name, text in found.items() if name not in excepted} == {}
    assert sorted(excepted.keys() - found.keys()) == [], "these exceptions are not needed"

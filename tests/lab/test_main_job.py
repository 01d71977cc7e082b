"""The main job once more on the lab that it left: everything runs again for real, and nothing needs a change."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
MEDLLM = Path(sys.executable).with_name("medllm")


def test_a_second_run_changes_nothing_and_accepts_again() -> None:
    done = subprocess.run(
        [MEDLLM, "lab", "run", "--json"], cwd=REPOSITORY, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout)
    notes = {stage["name"]: stage["note"] for stage in report["stages"]}
    assert list(notes) == ["lab", "bring-up", "data", "training", "acceptance"]
    assert notes["bring-up"] == "changed=0"
    assert "there already" in notes["data"]
    assert "REHEARSED" in notes["acceptance"]
    dossier = json.loads(Path(report["dossier"]).with_name("dossier.json").read_text())
    assert len({item["check"] for item in dossier["items"]}) >= 10

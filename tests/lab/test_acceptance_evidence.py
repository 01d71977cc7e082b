"""On the machines: the lab certifies nothing, under whatever declaration; data and runs that were altered are found."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.acceptance_lab import ROOT, SAMPLE, SITE, accept, items, on

COPY = f"acceptance-{os.getpid()}"
DATA, RUNS = SITE.paths.datasets, SITE.paths.checkpoints


@pytest.fixture
def h200_at_the_lab(tmp_path: Path) -> Path:
    """The declaration of the real machines, with the lab's addresses."""
    inventory = tmp_path / "inventory"
    shutil.copytree(ROOT / "inventory", inventory)
    shutil.copy(ROOT / "inventory" / "lab" / "hosts.yml", inventory / "h200" / "hosts.yml")
    return inventory / "h200"


def test_the_h200_declaration_at_the_lab_certifies_nothing(h200_at_the_lab: Path, tmp_path: Path) -> None:
    done = accept(tmp_path, "run", "--json", "-i", str(h200_at_the_lab))
    dossier = json.loads(done.stdout)
    assert dossier["complete"]
    passed = {item["check"] for item in dossier["items"] if item["label"] == "PASS"}
    assert passed <= {"deid_validated"}  # a signed statement, which is what it claims to be
    assert {"gpu_count", "gpu_temperature", "nvlink"} <= {
        item["check"] for item in dossier["items"] if item["label"] == "REHEARSED"
    }
    refused = accept(tmp_path, "sign", "--signer", "A. Person", "--role", "operations")
    assert (refused.returncode, "simulated evidence, which nothing can waive" in refused.stderr) == (1, True)
    assert not list(tmp_path.rglob("signatures.json"))


def test_the_labs_own_dossier_is_whole_and_not_signed(tmp_path: Path) -> None:
    found = items(tmp_path)
    assert {item["label"] for item in found.values()} == {"REHEARSED", "PASS"}, {
        place: item["reason"] for place, item in found.items() if item["outcome"] != "PASS"
    }
    assert {check for (check, _), item in found.items() if item["label"] == "PASS"} == {"deid_validated"}
    assert accept(tmp_path, "verify").returncode == 0
    assert accept(tmp_path, "sign", "--signer", "A. Person", "--role", "operations").returncode == 1
    page = (tmp_path / "medllm-cluster" / "dossiers" / "latest" / "dossier.html").read_text()
    assert "this certifies nothing" in page


@pytest.fixture
def copies() -> Iterator[None]:
    """The accepted data set and run, under another name, to be altered."""
    on("mgmt", f"cp -a {DATA}/{SAMPLE.dataset} {DATA}/{COPY} && cp -a {RUNS}/{SAMPLE.run} {RUNS}/{COPY}")
    yield
    on("mgmt", f"rm -rf {DATA}/{COPY} {RUNS}/{COPY}")


ALTERED = [
    ("shards_verified", f"printf x >> {DATA}/{COPY}/tokenizer.json", "FAIL"),
    ("shards_verified", f"rm {DATA}/{COPY}/tokenizer.json", "FAIL"),
    ("shards_verified", f"rm {DATA}/{COPY}/manifest.sig", "NOT_RUN"),
    ("deid_validated", f'sed -i \'s/"validation_passed"/ "validation_passed"/\' {DATA}/{COPY}/manifest.json', "FAIL"),
    ("deid_validated", f"rm {DATA}/{COPY}/manifest.json", "NOT_RUN"),
    # The losses are ordered by their steps: with a minus before each, the run goes backwards.
    ("loss_falls", f'sed -i \'s/"step": /"step": -/\' {RUNS}/{COPY}/metrics.jsonl', "FAIL"),
    ("loss_falls", f"rm {RUNS}/{COPY}/eval.jsonl", "NOT_RUN"),
    (
        "checkpoint_restore",
        f"cd {RUNS}/{COPY}/checkpoints && f=$(find $(ls -d step-* | tail -n1) -name '*optim_states.pt' | head -n1) "
        '&& printf x | dd of="$f" bs=1 seek=4096 conv=notrunc status=none',
        "FAIL",
    ),
    ("checkpoint_restore", f"rm -r {RUNS}/{COPY}/checkpoints", "NOT_RUN"),
]


@pytest.mark.usefixtures("copies")
@pytest.mark.parametrize(
    ("check", "command", "outcome"), ALTERED, ids=[f"{a[0]}-{a[2]}-{n}" for n, a in enumerate(ALTERED)]
)
def test_altered_data_and_runs_are_found(check: str, command: str, outcome: str, tmp_path: Path) -> None:
    on("mgmt", command)
    item = items(tmp_path, "--tag", check, "--dataset", COPY, "--run", COPY)[check, "mgmt"]
    assert item["outcome"] == outcome, item["reason"]

"""Training on the lab through Slurm: a killed rank, a cancelled job and refused data, as a user meets them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from medllm.remote import Remote
from medllm.site import load_site
from tests.lab.engine_aside import engine_stopped
from tests.trainer_helpers import write_dataset
from trainer.run_files import parse_lines

ROOT = Path(__file__).parents[2]
SITE = load_site(ROOT / "inventory/lab")
NAME = f"test-{os.getpid()}"
DATA = f"{SITE.paths.datasets}/{NAME}"
KEY = f"{SITE.paths.checkpoints}/{NAME}.pub"
STEPS = 16
SETTINGS = [
    "model.vocabulary=300", "model.width=32", "model.layers=2", "model.heads=2", "model.feed_forward=64",
    "model.tower_width=16", "batch.global_size=4", "batch.micro_size=1", "optimizer.learning_rate=0.01",
    "checkpoint.every_steps=4", "evaluation.every_steps=8", "evaluation.samples=8",
]  # fmt: skip


class Cluster:
    """mgmt over SSH, and `medllm train` from here."""

    def __init__(self, mgmt: Remote) -> None:
        self.mgmt = mgmt

    def command(self, run: str, *more: str) -> list[str]:
        return [
            str(Path(sys.executable).with_name("medllm")), "train", "-i", str(ROOT / "inventory/lab"), "--data", DATA,
            "--key", KEY, "--run", f"{NAME}-{run}", "--steps", str(STEPS), "--json",
            *(word for setting in SETTINGS for word in ("--set", setting)), *more,
        ]  # fmt: skip

    def train(self, run: str, *more: str) -> tuple[int, dict[str, Any]]:
        done = subprocess.run(self.command(run, *more), capture_output=True, text=True, timeout=300, check=False)
        assert "Traceback" not in done.stderr, done.stderr
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    def start(self, run: str, *more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(self.command(run, *more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def records(self, run: str, file: str) -> list[dict[str, Any]]:
        path = f"{SITE.paths.checkpoints}/{NAME}-{run}/{file}"
        return list(parse_lines(self.mgmt.run(f"cat {path} 2>/dev/null", deadline_s=20).stdout))

    def losses(self, run: str) -> dict[int, set[float]]:
        found: dict[int, set[float]] = {}
        for record in self.records(run, "metrics.jsonl"):
            found.setdefault(record["step"], set()).add(record["loss"])
        return found

    def wait_for_step(self, run: str, step: int) -> None:
        end = time.monotonic() + 240
        while max(self.losses(run), default=0) < step:
            assert time.monotonic() < end, f"{run} did not come to step {step}"
            time.sleep(0.2)

    def kill_rank(self, run: str, node: str) -> None:
        """SIGKILL the rank on a node, as the kernel's out-of-memory killer does."""
        with Remote(SITE.host(node)) as remote:
            remote.run(f"pkill -KILL -f '[t]rainer.worker --request .*/{NAME}-{run}/'", deadline_s=20).check()


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
            mgmt.run(f"squeue --me -h -o '%i %j' | sed -n 's/ medllm-{NAME}-.*//p' | xargs -r scancel", deadline_s=30)
            mgmt.run(f"rm -rf {DATA} {KEY} {SITE.paths.checkpoints}/{NAME}-*", deadline_s=60).check()


@pytest.fixture(scope="module")
def uninterrupted(cluster: Cluster) -> dict[str, Any]:
    code, result = cluster.train("whole")
    assert (code, result["steps"], result["finished"], result["restarts"]) == (0, STEPS, True, 0)
    return result


def test_four_nodes_learn(cluster: Cluster, uninterrupted: dict[str, Any]) -> None:
    assert uninterrupted["last_val_loss"] < 0.6 * uninterrupted["first_val_loss"]
    path = f"{SITE.paths.checkpoints}/{NAME}-whole/run.json"
    run = json.loads(cluster.mgmt.get(path))
    assert run["hosts"] == [host.name for host in SITE.gpu_nodes]
    assert run["versions"]["torch"].partition("+")[0] == SITE.lock.trainer.torch


def test_the_checkpoint_restores_on_mgmt(cluster: Cluster, uninterrupted: dict[str, Any]) -> None:
    result = cluster.mgmt.run(
        f"{SITE.paths.app}/trainer/current/python -m trainer.verify_restore "
        f"--run {SITE.paths.checkpoints}/{NAME}-whole",
        deadline_s=120,
    )
    verdict = json.loads(result.check().stdout)
    assert (verdict["match"], verdict["state_sha256"]) == (True, uninterrupted["state_sha256"])


def test_a_killed_rank_fails_the_job_and_the_same_command_resumes_bit_exact(
    cluster: Cluster, uninterrupted: dict[str, Any]
) -> None:
    process = cluster.start("killed")
    cluster.wait_for_step("killed", 6)
    cluster.kill_rank("killed", "node4")
    begin = time.monotonic()
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 1, output + errors
    # Of this, 20 s are the wait for a word of recovery's.
    assert time.monotonic() - begin < 50, "the other ranks must not wait for the dead one"
    assert not json.loads(output)["finished"]
    code, result = cluster.train("killed")
    assert (code, result["finished"], result["restarts"]) == (0, True, 1)
    assert result["state_sha256"] == uninterrupted["state_sha256"]
    assert result["last_val_loss"] == uninterrupted["last_val_loss"]
    assert cluster.losses("killed") == cluster.losses("whole"), "also the steps that were done twice"


def test_a_job_may_start_its_ranks_again_by_itself_and_serves_its_metrics(
    cluster: Cluster, uninterrupted: dict[str, Any]
) -> None:
    process = cluster.start("again", "--set", "launch.max_restarts=1")
    cluster.wait_for_step("again", 5)
    cluster.kill_rank("again", "node2")
    end = time.monotonic() + 120
    # The first node of the job has rank 0. Before the resume its port may still be closed.
    address = f"http://{SITE.gpu_nodes[0].address}:{SITE.ports.trainer}/metrics"
    restarts = ""
    while restarts != "1.0" and process.poll() is None and time.monotonic() < end:
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                text = answer.read().decode()
        except OSError:
            text = ""
        found = re.search(rf'^training_restarts_total\{{run="{NAME}-again"\}} (\S+)$', text, re.MULTILINE)
        restarts = found[1] if found else ""
        time.sleep(0.1)
    output, errors = process.communicate(timeout=180)
    assert process.returncode == 0, output + errors
    assert restarts == "1.0"
    assert json.loads(output)["state_sha256"] == uninterrupted["state_sha256"]


def test_a_cancelled_job_writes_a_checkpoint_first(cluster: Cluster, uninterrupted: dict[str, Any]) -> None:
    process = cluster.start("cancelled")
    cluster.wait_for_step("cancelled", 5)
    cluster.mgmt.run(f"scancel --name=medllm-{NAME}-cancelled", deadline_s=20).check()
    process.communicate(timeout=120)
    assert process.returncode == 1
    [stop] = [event for event in cluster.records("cancelled", "events.jsonl") if event["event"] == "stop"]
    assert (stop["reason"], stop["step"] < STEPS) == ("SIGTERM", True)
    code, result = cluster.train("cancelled")
    assert (code, result["state_sha256"]) == (0, uninterrupted["state_sha256"])
    resumed = [event for event in cluster.records("cancelled", "events.jsonl") if event["event"] == "resume"]
    assert [event["step"] for event in resumed] == [stop["step"]], "nothing was lost"


def test_an_altered_shard_is_refused_before_a_job_is_submitted(cluster: Cluster) -> None:
    shard = f"{DATA}/shards/train-000000.tar"
    flip = f"printf '\\{{0}}' | dd of={shard} bs=1 seek=700 conv=notrunc status=none"
    byte = cluster.mgmt.run(f"od -An -to1 -j700 -N1 {shard}", deadline_s=20).check().stdout.strip()
    cluster.mgmt.run(flip.format(f"{int(byte, 8) ^ 1:03o}"), deadline_s=20).check()
    try:
        code, answer = cluster.train("altered")
    finally:
        cluster.mgmt.run(flip.format(byte), deadline_s=20).check()
    assert code == 2
    assert "train-000000.tar: the file was altered" in answer["problems"][0]["rule"]
    queued = cluster.mgmt.run(f"scontrol show job | grep medllm-{NAME}-altered", deadline_s=20)
    assert queued.rc == 1, "no job was submitted"

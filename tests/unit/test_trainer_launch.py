"""`medllm train`: the plan, the job script, and whole launches on this machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from medllm.errors import UserError
from medllm.site import load_site
from tests.trainer_helpers import write_dataset
from trainer.config import load_config
from trainer.launch import CANN, Order, Plan, ascend_environment, make_plan, refused_problems
from trainer.run_files import read_lines

REPOSITORY = Path(__file__).parents[2]
MEDLLM = Path(sys.executable).with_name("medllm")
INVENTORY = REPOSITORY / "inventory/lab"


def plan(**changes: Any) -> Plan:
    order: dict[str, Any] = {
        "config": load_config("medllm-tiny"), "data": "notes", "run": "first", "steps": 60, "nodes": None,
        "public_key": None, "fresh": False, "must_resume": False,
    }  # fmt: skip
    return make_plan(load_site(INVENTORY), Order(**{**order, **changes}), "slurm")


def test_the_plan_follows_the_declaration() -> None:
    site = load_site(INVENTORY)
    described = plan().describe()
    assert described["hosts"] == [host.name for host in site.gpu_nodes]
    assert described["world_size"] == len(site.gpu_nodes)
    assert described["data"] == f"{site.paths.datasets}/notes"
    assert described["run_directory"] == f"{site.paths.checkpoints}/first"
    assert f"#SBATCH --nodes={len(site.gpu_nodes)}\n" in described["script"]
    assert f"#SBATCH --gres=gpu:{site.gpu.per_node}\n" in described["script"]
    assert f"export GLOO_SOCKET_IFNAME={site.fabric.socket_interface}\n" in described["script"]
    assert plan(data="/elsewhere/notes").request.data_directory == Path("/elsewhere/notes")


def test_on_gpus_there_is_a_rank_a_gpu_and_nccl_is_told_its_adapters() -> None:
    site = load_site(REPOSITORY / "inventory/h200")
    order = Order(load_config("medllm-tiny", ["batch.global_size=64"]), "notes", "first", 60, None, None, False, False)
    script = make_plan(site, order, "slurm").script
    assert f"#SBATCH --ntasks-per-node={site.gpu.per_node}\n" in script
    assert f"export NCCL_IB_HCA=={','.join(site.fabric.hcas)}\n" in script


def test_on_ascend_hccl_is_told_its_interface_and_how_long_to_wait() -> None:
    site = load_site(INVENTORY)
    ascend = site.model_copy(update={"trainer_accelerator": "npu"})
    config = load_config("medllm-tiny", ["engine.collective_timeout_s=30", "batch.global_size=64"])
    script = make_plan(ascend, Order(config, "notes", "first", 60, None, None, False, False), "slurm").script
    for line in (
        "export DS_ACCELERATOR=npu", f"export HCCL_SOCKET_IFNAME={site.fabric.socket_interface}",
        "export HCCL_WHITELIST_DISABLE=1", "export HCCL_CONNECT_TIMEOUT=120", "export HCCL_EXEC_TIMEOUT=120",
        f". {CANN}",
    ):  # fmt: skip
        assert f"\n{line}\n" in script
    assert "NCCL_IB" not in script
    assert ascend_environment("eth0", 10**6)["HCCL_EXEC_TIMEOUT"] == "7200"
    checked = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert "HCCL" not in plan().script


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"nodes": 5}, "--nodes"),
        ({"nodes": 0}, "--nodes"),
        ({"nodes": 3}, "batch.global_size"),
        ({"run": "../x"}, "--run"),
        ({"run": "a b"}, "--run"),
        ({"run": "x\n"}, "--run"),
        ({"run": ""}, "--run"),
    ],
)
def test_an_impossible_order_is_refused(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(UserError) as caught:
        plan(**changes)
    assert caught.value.problems[0].key == key


@pytest.mark.parametrize(
    ("statuses", "calls", "expected"),
    [([0], 1, 0), ([2], 1, 2), ([137, 0], 2, 0), ([1, 1, 1, 0], 3, 1), ([137, 2], 2, 2)],
)
def test_the_job_starts_dead_ranks_again_and_refused_input_not(
    tmp_path: Path, statuses: list[int], calls: int, expected: int
) -> None:
    """The script as bash runs it; `srun` and `scontrol` here only answer."""
    config = load_config("medllm-tiny", ["launch.max_restarts=2"])
    script = plan(config=config).script.replace("/mnt/lustre/checkpoints", str(tmp_path))
    (tmp_path / "first/logs").mkdir(parents=True)
    answers = tmp_path / "answers"
    answers.write_text("".join(f"{status}\n" for status in statuses))
    for name, body in {
        "scontrol": "echo node1; echo node2",
        "srun": f'read -r status < {answers}; sed -i 1d {answers}; echo "$MASTER_ADDR $*"; exit "$status"',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", script, "job", "request.json"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node[1-2]"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.count("-m trainer.worker --request request.json") == calls, done.stdout + done.stderr
    assert done.stdout.startswith("node1 --kill-on-bad-exit=1")
    assert (done.returncode, (tmp_path / "first/logs/job-7.exit").read_text()) == (expected, f"{expected}\n")


def test_refused_input_is_found_in_a_job_log() -> None:
    log = (
        "0: resumed\n2: error: a.tar: it is bad. Fix: mend it\n0: error: a.tar: it is bad. Fix: mend it\nslurm error: x"
    )
    [problem] = refused_problems(log)
    assert (problem.rule, problem.fix) == ("a.tar: it is bad", "mend it")


# --- whole launches, as a user makes them ---


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("launch") / "notes"
    write_dataset(directory)
    return directory


def command(notes: Path, *more: str) -> list[str]:
    small = ["vocabulary=300", "width=32", "layers=2", "heads=2", "feed_forward=64", "tower_width=16"]
    return [
        str(MEDLLM), "train", "-i", str(INVENTORY), "--launcher", "local", "--nodes", "2", "--data", str(notes),
        "--key", f"{notes}.pub", "--run", "mine", "--json", "--set", "checkpoint.every_steps=4",
        *(word for setting in small for word in ("--set", f"model.{setting}")), *more,
    ]  # fmt: skip


def medllm_train(state: Path, notes: Path, *more: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        command(notes, *more),
        env={**os.environ, "XDG_STATE_HOME": str(state)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.slow
def test_a_run_begins_goes_on_and_begins_anew(tmp_path: Path, notes: Path) -> None:
    code, first = medllm_train(tmp_path, notes, "--steps", "6", "--nodes", "1")
    assert (code, first["steps"], first["finished"], first["restarts"]) == (0, 6, True, 0)
    code, more = medllm_train(tmp_path, notes, "--steps", "10", "--nodes", "1", "--resume")
    assert (code, more["steps"], more["restarts"]) == (0, 10, 1)
    assert more["first_val_loss"] == first["first_val_loss"] > more["last_val_loss"]
    code, anew = medllm_train(tmp_path, notes, "--steps", "6", "--nodes", "1", "--fresh")
    assert (code, anew["restarts"], anew["state_sha256"]) == (0, 0, first["state_sha256"])
    runs = tmp_path / "medllm-cluster/runs"
    assert len(list(runs.glob("mine.old-*"))) == 1, "the old run was put aside, not deleted"


@pytest.mark.slow
def test_a_dead_rank_is_started_again(tmp_path: Path, notes: Path) -> None:
    run = tmp_path / "medllm-cluster/runs/mine"
    process = subprocess.Popen(
        command(notes, "--steps", "40", "--set", "launch.max_restarts=2"),
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    end = time.monotonic() + 60
    while max((record["step"] for record in read_lines(run / "metrics.jsonl")), default=0) < 6:
        assert time.monotonic() < end
        time.sleep(0.05)
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    os.kill(int(children[-1]), signal.SIGKILL)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "attempt 0 ended with status" in errors
    result = json.loads(output)
    assert (result["steps"], result["finished"], result["restarts"]) == (40, True, 1)


def test_refused_input_exits_with_two_before_any_rank(tmp_path: Path, notes: Path) -> None:
    spoiled = tmp_path / "notes"
    shutil.copytree(notes, spoiled)
    shutil.copy(f"{notes}.pub", f"{spoiled}.pub")
    shard = spoiled / "shards/train-000000.tar"
    data = bytearray(shard.read_bytes())
    data[900] ^= 1
    shard.write_bytes(data)
    state = tmp_path / "state"
    code, answer = medllm_train(state, spoiled, "--steps", "2")
    assert (code, answer["problems"][0]["file"]) == (2, str(shard))
    assert not list(state.rglob("*.log")), "no rank was started"
    code, answer = medllm_train(state, notes, "--steps", "2", "--resume")
    assert (code, answer["problems"][0]["key"]) == (2, "--resume")
    code, answer = medllm_train(state, tmp_path / "nothing", "--steps", "2", "--key", f"{notes}.pub")
    assert (code, answer["problems"][0]["rule"]) == (2, "there is no such data set")


@pytest.mark.slow
def test_a_declared_accelerator_that_is_absent_is_refused(tmp_path: Path, notes: Path) -> None:
    code, answer = medllm_train(tmp_path, notes, "--steps", "2", "-i", str(REPOSITORY / "inventory/h200"))
    assert code == 2
    assert answer["problems"][0]["rule"].startswith("site_trainer_accelerator: the site declares")


def test_help_and_dry_run_are_quick_and_touch_nothing(tmp_path: Path, notes: Path) -> None:
    begin = time.monotonic()
    code, described = medllm_train(tmp_path, notes, "--steps", "2", "--dry-run")
    assert (code, described["world_size"]) == (0, 2)
    assert time.monotonic() - begin < 5, "torch is not imported for a plan"
    assert list(tmp_path.iterdir()) == []

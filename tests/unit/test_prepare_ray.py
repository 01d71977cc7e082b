"""The Ray executor does what the local processes do: each sample exactly once, whatever dies in between."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from curation.prepare.ray_cluster import check_address, ray_cluster
from curation.prepare.run import Summary, run
from curation.prepare.workers import Task, WorkersError, local_processes
from medllm.errors import UserError
from medllm.manifest import public_key_pem
from tests.curation_helpers import marking, sign_clean
from tests.unit.test_prepare_patient import _folder
from tests.unit.test_prepare_run import _SECRET, _run, _tasks, _tree, prepare

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'medllm-cluster[ray]'"
)


@pytest.mark.parametrize(
    "text", ["", "cluster", "host:", ":6379", "host:0", "host:65536", "ray://h:1", "a b:1", "h:1\n"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="no address of a Ray cluster"):
        check_address(text)


def test_a_closed_port_is_told_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        begin = time.monotonic()
        with pytest.raises(UserError, match="no Ray cluster answers"):
            check_address(f"127.0.0.1:{taken.getsockname()[1]}")
        assert time.monotonic() - begin < 6
    assert check_address("auto") == "auto"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes with one CPU each on this machine, as processes of their own."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80 << 20}
    with pytest.MonkeyPatch.context() as patch:
        # Workers have the environment of their node, not of the command.
        patch.setenv("SLOWLY", "1")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        found = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
        found.add_node(**node)
        yield found
        found.shutdown()


def _on_ray(tasks: list[Task], destination: Path, address: str, timeout_s: float = 60) -> Summary:
    executor = ray_cluster(address, [destination / "run.json"], timeout_s)
    return run(tasks, prepare, {"factor": 1}, destination, executor)


def begin(inputs: str, destination: str, address: str, marks: str = "") -> None:
    """A run in a process of its own, to be killed or to be watched."""
    target = Path(destination)
    work, parameters = (marking, {"factor": 1, "marks": marks}) if marks else (prepare, {"factor": 1})
    run(_found(Path(inputs)), work, parameters, target, ray_cluster(address, [target / "run.json"], 60))


def _driver(base: Path, address: str, *more: str) -> subprocess.Popen[bytes]:
    code = "import sys; from tests.unit.test_prepare_ray import begin; begin(*sys.argv[1:])"
    words = [sys.executable, "-c", code, str(base / "in"), str(base / "ray"), address, *more]
    return subprocess.Popen(words, stderr=subprocess.DEVNULL)


def _wait(until: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end
        time.sleep(0.02)


def _found(inputs: Path) -> list[Task]:
    return [Task(path.stem, (str(path),)) for path in sorted(inputs.glob("*.txt"))]


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@needs_ray
@pytest.mark.slow
def test_bad_samples_are_quarantined_and_the_bytes_are_those_of_local_processes(cluster: Any, tmp_path: Path) -> None:
    texts = ["good", "empty", "raise", "kill", "hang", "part", "memory", "once", *(["good"] * 12)]
    there = _on_ray(_tasks(tmp_path / "in", *texts), tmp_path / "ray", cluster.address, timeout_s=4)
    (tmp_path / "in" / "007.mark").unlink()
    here = _run(_tasks(tmp_path / "in", *texts), tmp_path / "local", timeout_s=4)
    assert there == here
    assert there.quarantined == 5
    assert there.reasons == {
        "empty": 1, "internal_KeyError": 1, "worker_killed": 1, "timeout": 1, "out_of_memory": 1
    }  # fmt: skip
    assert _tree(tmp_path / "ray") == _tree(tmp_path / "local")
    logs = Path(cluster.head_node.get_session_dir_path()) / "logs"
    assert any(logs.rglob("worker-*"))
    assert not any(_SECRET.encode() in path.read_bytes() for path in logs.rglob("*") if path.is_file())


@needs_ray
@pytest.mark.slow
def test_a_killed_driver_goes_on_where_it_was(cluster: Any, tmp_path: Path) -> None:
    _tasks(tmp_path / "in", *(["slow"] * 150))
    tasks = _found(tmp_path / "in")
    journal = tmp_path / "ray" / "journal.jsonl"
    for least in (20, 60):
        driver = _driver(tmp_path, cluster.address)
        while _lines(journal) < least:
            assert driver.poll() is None
            time.sleep(0.02)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    finished = _lines(journal)
    assert 60 <= finished < 150
    made: list[int] = []
    found = run(
        tasks, prepare, {"factor": 1}, tmp_path / "ray",
        ray_cluster(cluster.address, [tmp_path / "ray" / "run.json"]), lambda done, _all: made.append(done),
    )  # fmt: skip
    assert made[0] >= finished - 1, "what was finished was made again"
    assert (found.done, found.quarantined) == (150, 0)
    _run(tasks, tmp_path / "local")
    assert _tree(tmp_path / "ray") == _tree(tmp_path / "local")


@needs_ray
@pytest.mark.slow
def test_a_node_that_joins_gets_work_and_when_it_is_lost_no_sample_is(cluster: Any, tmp_path: Path) -> None:
    _tasks(tmp_path / "in", *(["slow"] * 400))
    marks, journal = tmp_path / "marks", tmp_path / "ray" / "journal.jsonl"
    marks.mkdir()
    driver = _driver(tmp_path, cluster.address, str(marks))
    try:
        _wait(lambda: _lines(journal) >= 10)
        before = len(list(marks.iterdir()))
        node = cluster.add_node(num_cpus=2, object_store_memory=80 << 20)
        _wait(lambda: len(list(marks.iterdir())) > before)
        cluster.remove_node(node, allow_graceful=False)
        assert 10 <= _lines(journal) < 400, "it was lost after the end"
        assert driver.wait(120) == 0
    finally:
        driver.kill()
        driver.wait()
    parameters = {"factor": 1, "marks": str(marks)}
    found = run(_found(tmp_path / "in"), marking, parameters, tmp_path / "local", local_processes(2))
    assert (found.done, found.quarantined) == (400, 0)
    assert _tree(tmp_path / "ray") == _tree(tmp_path / "local")


@needs_ray
@pytest.mark.slow
def test_a_node_without_the_shared_files_gets_no_work(cluster: Any, tmp_path: Path) -> None:
    """Each process sees its own content in this file, as a node with a disk of its own would."""
    tasks = _tasks(tmp_path / "in", "good")
    executor = ray_cluster(cluster.address, [Path("/proc/self/stat")])
    with pytest.raises(WorkersError, match="does not see /proc/self/stat"):
        run(tasks, prepare, {"factor": 1}, tmp_path / "ray", executor)
    assert not (tmp_path / "ray" / "results").exists()


@needs_ray
@pytest.mark.slow
def test_the_command_prepares_a_signed_tree_on_two_nodes(cluster: Any, tmp_path: Path) -> None:
    signer = Ed25519PrivateKey.generate()
    for number in range(4):
        _folder(tmp_path / "clean", f"p{number}")
    (tmp_path / "clean/patients/p3/note.txt").unlink()
    sign_clean(tmp_path / "clean", signer)
    (tmp_path / "deid.pub").write_bytes(public_key_pem(signer.public_key()))
    home = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
    base = [sys.executable, "-m", "cli.main", "data", "prepare", str(tmp_path / "clean")]
    for name, more in (("ray", ["--ray", cluster.address]), ("local", ["--processes", "1"])):
        words = [*base, str(tmp_path / name), *more, "--key", str(tmp_path / "deid.pub")]
        done = subprocess.run(words, capture_output=True, text=True, check=False, env=home)
        assert done.returncode == 0, done.stderr
        assert "3 samples, 1 quarantined" in done.stdout
        assert done.stderr == ""
    assert _tree(tmp_path / "ray") == _tree(tmp_path / "local")
    assert json.loads((tmp_path / "ray" / "manifest.json").read_text())["meta"]["samples"] == 3
    shutil.rmtree(tmp_path / "ray")
    bad = subprocess.run([*base, str(tmp_path / "ray"), "--ray", "nowhere"], capture_output=True, text=True, env=home)
    assert bad.returncode == 2
    assert "no address of a Ray cluster" in bad.stderr
    assert len(bad.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "ray").exists()

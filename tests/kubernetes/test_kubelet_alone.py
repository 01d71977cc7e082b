"""The lab's kubelet as it is copied to a node: one directory, the standard library, no API server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab.kubernetes import kubelet
from lab.kubernetes.kubelet import kernel
from lab.kubernetes.kubelet.launch import STARTED, Launch, read, start_ticks
from lab.kubernetes.kubelet.record import Record
from lab.kubernetes.kubelet.runtime import Attempt, Runtime
from tests.unit.test_kubelet_container import CONFIG

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces and mounts need root"),
]


def launch(log: Path, *argv: str) -> Launch:
    return Launch(
        argv=list(argv), environment={"PATH": os.environ["PATH"]}, directory="/", hostname="alone", log=str(log),
        mounts=[], devices=[], uid=0, gid=0, groups=[0], dropped=[], no_new_privileges=True, read_only_root=False,
    )  # fmt: skip


def start(state: Path, *argv: str) -> Attempt:
    return Runtime(state / "pods").start("u-1", "main", lambda *_: launch(state / "log", *argv))


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The package as a node has it."""
    target = tmp_path / "node/kubelet"
    target.mkdir(parents=True)
    for path in Path(kubelet.__path__[0]).glob("*.py"):
        shutil.copy(path, target)
    return target.parent


def command(copied: Path, config: object, *more: str) -> subprocess.CompletedProcess[str]:
    (copied / "kubelet.json").write_text(json.dumps(config))
    # -S: no site-packages, as on a node.
    words = [sys.executable, "-S", "-m", "kubelet", f"--config={copied / 'kubelet.json'}", *more]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(copied), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, cwd="/", env=environment)


def config(tmp_path: Path) -> dict[str, object]:
    return CONFIG | {"state_directory": str(tmp_path / "state"), "log_directory": str(tmp_path / "logs")}


def test_wrong_input_is_one_line_and_exit_code_2(copied: Path, tmp_path: Path) -> None:
    for given, word in ((config(tmp_path) | {"address": "x"}, "address"), (config(tmp_path), "/k")):
        done = command(copied, given)
        assert done.returncode == 2
        assert word in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_everything_of_an_earlier_kubelet_can_be_ended_without_an_api_server(copied: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    attempt = start(state, "sleep", "600")
    pod = {"metadata": {"uid": "u-1", "name": "p", "namespace": "n"}, "spec": {"containers": []}}
    Record(pod, time.time(), {}).save(state / "pods/u-1")
    volume = state / "pods/u-1/volumes/shm"
    volume.mkdir(parents=True)
    kernel.mount("tmpfs", str(volume), "tmpfs", options="size=1m")
    started = read(attempt.directory / STARTED)
    assert started is not None
    assert start_ticks(started["pid"]) == started["ticks"]
    done = command(copied, config(tmp_path), "--stop-pods")
    assert (done.returncode, done.stderr) == (0, "")
    assert not volume.exists()
    assert not (state / "pods/u-1").exists()
    assert start_ticks(started["pid"]) != started["ticks"]
    assert command(copied, config(tmp_path), "--stop-pods").returncode == 0


def test_a_container_dies_with_its_shim_and_nobody_takes_it_for_running(tmp_path: Path) -> None:
    attempt = start(tmp_path, "sh", "-c", "setsid sleep 600 & sleep 600")
    started = read(attempt.directory / STARTED)
    assert started is not None
    os.kill(started["shim_pid"], 9)
    deadline = time.monotonic() + 10
    while start_ticks(started["pid"]) == started["ticks"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    last = Runtime(tmp_path / "pods").last("u-1", "main")
    assert last is not None
    assert last.ended is not None
    assert (last.ended.exit_code, last.ended.reason) == (255, "Unknown")


def test_a_process_of_another_container_is_never_taken_for_ours(tmp_path: Path) -> None:
    attempt = start(tmp_path, "sleep", "600")
    runtime = Runtime(tmp_path / "pods")
    started = read(attempt.directory / STARTED)
    assert started is not None
    # As if the number had been given to another process meanwhile.
    (attempt.directory / STARTED).write_text(json.dumps({**started, "pid": os.getpid(), "shim_pid": os.getpid()}))
    assert not runtime.signal(attempt.directory, 9)
    assert runtime.process(attempt.directory) is None
    (attempt.directory / STARTED).write_text(json.dumps(started))
    assert runtime.signal(attempt.directory, 9)


def test_a_command_in_a_container_ends_at_its_time_and_the_container_goes_on(tmp_path: Path) -> None:
    attempt = start(tmp_path, "sh", "-c", "exec sleep 600")
    runtime = Runtime(tmp_path / "pods")
    code, output = runtime.execute(attempt.directory, ["sh", "-c", "hostname; echo $$; exit 3"], 10)
    assert (code, output.split()[0]) == (3, "alone")
    with pytest.raises(TimeoutError, match=r"timed out after 0\.5s"):
        runtime.execute(attempt.directory, ["sleep", "60"], 0.5)
    _, output = runtime.execute(attempt.directory, ["ps", "-e", "-o", "args="], 10)
    assert "sleep 60\n" not in output
    last = runtime.last("u-1", "main")
    assert last is not None
    assert last.ended is None
    runtime.signal(attempt.directory, 9)

"""The pods of a Job as processes on this machine: they train, stop, lose one another, come back and refuse."""

from __future__ import annotations

import fcntl
import os
import re
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

from tests.trainer_helpers import LocalRanks, request_for, tiny_config, write_dataset
from trainer.checkpoint import store
from trainer.config import TrainConfig
from trainer.pod import ALIVE, INCOMPLETE, INDEX, TRAINING
from trainer.pod import main as pod_main
from trainer.run_files import read_lines

REPOSITORY = Path(__file__).parents[2]
STEPS = 14


def config(*overrides: str) -> TrainConfig:
    # A collective would wait longer than any test here: what ends in time does not owe it to that.
    return tiny_config("batch.global_size=8", "engine.collective_timeout_s=900", *overrides)


class Pods:
    """The pods of one attempt of a Job; index 0 is found on the loopback interface."""

    def __init__(self, base: Path, data: Path, key: Path) -> None:
        self.base, self.data, self.key = base, data, key
        self.started: list[subprocess.Popen[bytes]] = []
        with socket.socket() as probe:
            probe.bind(("", 0))
            self._port = probe.getsockname()[1]

    def start(
        self, name: str, indexes: list[int], *, size: int = 4, steps: int = STEPS, ranks: int = 1,
        settings: TrainConfig | None = None, data: Path | None = None, meet_s: float = 600,
    ) -> dict[int, subprocess.Popen[bytes]]:  # fmt: skip
        request = request_for(
            self.base / name, data or self.data, self.key, steps, world_size=size * ranks, config=settings or config()
        )
        file = self.base / f"{name}.json"
        file.write_text(request.model_dump_json())
        pods = {}
        for index in indexes:
            probes = self.probes(name, index)
            probes.mkdir(parents=True, exist_ok=True)
            with self.log(name, index).open("ab") as log:
                pods[index] = subprocess.Popen(
                    [
                        sys.executable, "-m", "trainer.pod", "--request", str(file), "--meet",
                        f"localhost:{self._port}", "--ranks-per-node", str(ranks), "--meet-seconds", str(meet_s),
                        "--probes", str(probes),
                    ],
                    cwd=REPOSITORY, env={**os.environ, INDEX: str(index), "GLOO_SOCKET_IFNAME": "lo"},
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                )  # fmt: skip
        self.started += pods.values()
        return pods

    def probes(self, name: str, index: int) -> Path:
        return self.base / f"probes-{name}-{index}"

    def log(self, name: str, index: int) -> Path:
        return self.base / f"{name}-{index}.log"

    def output(self, name: str) -> str:
        return "\n".join(file.read_text() for file in sorted(self.base.glob(f"{name}-*.log")))

    def end(self) -> None:
        for pod in self.started:
            for pid in [pod.pid, *ranks_of(pod)] if pod.poll() is None else []:
                os.kill(pid, signal.SIGKILL)
            pod.wait()


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A data set and its public key."""
    directory = tmp_path_factory.mktemp("pods") / "notes"
    return directory, write_dataset(directory)


@pytest.fixture
def pods(tmp_path: Path, notes: tuple[Path, Path]) -> Iterator[Pods]:
    made = Pods(tmp_path, *notes)
    yield made
    made.end()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, notes: tuple[Path, Path]) -> Path:
    """The same run by four ranks that nothing happened to."""
    base = tmp_path_factory.mktemp("uninterrupted")
    ranks = LocalRanks(request_for(base / "run", *notes, STEPS, world_size=4, config=config()), base / "logs")
    assert ranks.wait(800) == [0, 0, 0, 0], ranks.output()
    return base / "run"


def ranks_of(pod: subprocess.Popen[bytes]) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{pod.pid}/task/{pod.pid}/children").read_text().split()]


def statuses(pods: dict[int, subprocess.Popen[bytes]], seconds: float = 800) -> dict[int, int]:
    end = time.monotonic() + seconds
    return {index: pod.wait(max(0.1, end - time.monotonic())) for index, pod in pods.items()}


def until(come: Callable[[], bool], what: Callable[[], str], seconds: float = 800) -> None:
    end = time.monotonic() + seconds
    while not come():
        assert time.monotonic() < end, what()
        time.sleep(0.02)


def trains(pods: Pods, name: str, step: int) -> None:
    file = pods.base / name / "metrics.jsonl"
    until(
        lambda: file.is_file() and re.search(f'"step": {step},', file.read_text()) is not None,
        lambda: pods.output(name),
    )


def losses(run: Path) -> dict[int, set[float]]:
    found: dict[int, set[float]] = {}
    for record in read_lines(run / "metrics.jsonl"):
        found.setdefault(record["step"], set()).add(record["loss"])
    return found


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    return [record for record in read_lines(run / "events.jsonl") if record["event"] == kind]


@pytest.mark.slow
def test_four_pods_train_are_drained_lose_a_rank_come_back_and_finish_bit_exact(
    pods: Pods, uninterrupted: Path
) -> None:
    run = pods.base / "job"
    # The pods come in any order; nobody starts before all are there.
    first = pods.start("job", [3, 1])
    until(lambda: (pods.probes("job", 3) / ALIVE).exists(), lambda: pods.output("job"))
    assert not ranks_of(first[3])
    first |= pods.start("job", [0, 2])
    trains(pods, "job", 5)
    assert all((pods.probes("job", index) / TRAINING).exists() for index in range(4))
    # A node is drained: its pod alone gets SIGTERM, and the ranks of all write one checkpoint.
    first[2].terminate()
    assert statuses(first) == {0: 143, 1: 143, 2: 143, 3: 143}, pods.output("job")
    [stop] = events(run, "stop")
    assert stop["reason"] == "SIGTERM"
    assert store.published(run)[0].step == stop["step"] < STEPS
    assert not (pods.probes("job", 0) / TRAINING).exists()
    # The pods are started anew; then one rank dies.
    second = pods.start("job", [0, 1, 2, 3])
    trains(pods, "job", max(stop["step"] + 1, 9))
    [victim] = ranks_of(second[1])
    os.kill(victim, signal.SIGKILL)
    killed = time.monotonic()
    ended = statuses(second)
    assert time.monotonic() - killed < 60, "in bounded time, whatever the collectives' own"
    assert ended.pop(1) == 137, "its own signal is the pod's"
    assert ended.items() <= {0: 1, 2: 1, 3: 1}.items()
    assert max(losses(run)) < STEPS
    newest = store.published(run)[0].step
    third = pods.start("job", [0, 1, 2, 3])
    assert statuses(third) == {0: 0, 1: 0, 2: 0, 3: 0}, pods.output("job")
    assert [event["step"] for event in events(run, "resume")] == [stop["step"], newest]
    assert losses(run) == losses(uninterrupted), "also the steps that were done twice"
    assert events(run, "stop")[-1]["state_sha256"] == events(uninterrupted, "stop")[-1]["state_sha256"]
    # One pod is started again by mistake, or because it broke after the last checkpoint: nobody is there to meet.
    begin = time.monotonic()
    assert statuses(pods.start("job", [2])) == {2: 0}
    assert time.monotonic() - begin < 60
    assert "is finished" in pods.output("job")


@pytest.mark.slow
@pytest.mark.parametrize("gone", [0, 1])
def test_a_node_that_hangs_ends_the_others_in_time(pods: Pods, gone: int) -> None:
    started = pods.start("hung", [0, 1], size=2, steps=100_000)
    trains(pods, "hung", 2)
    for pid in [*ranks_of(started[gone]), started[gone].pid]:
        os.kill(pid, signal.SIGSTOP)
    begin = time.monotonic()
    assert started[1 - gone].wait(120) == 1, pods.output("hung")
    assert time.monotonic() - begin < 75
    assert f"index {gone} is lost: not a word for 30 s" in pods.output("hung")


@pytest.mark.slow
def test_a_node_that_loses_its_power_ends_the_others_at_once(pods: Pods) -> None:
    started = pods.start("power", [0, 1], size=2, steps=100_000)
    trains(pods, "power", 2)
    for pid in [started[1].pid, *ranks_of(started[1])]:
        os.kill(pid, signal.SIGKILL)
    begin = time.monotonic()
    assert started[0].wait(60) == 1
    assert time.monotonic() - begin < 30


@pytest.mark.slow
def test_a_changed_byte_of_the_data_ends_all_pods_with_two(pods: Pods) -> None:
    data = pods.base / "altered"
    shutil.copytree(pods.data, data)
    shard = data / "shards/heldout-000000.tar"
    spoiled = bytearray(shard.read_bytes())
    spoiled[700] ^= 1
    shard.write_bytes(spoiled)
    ended = statuses(pods.start("refused", [0, 1], size=2, ranks=2, data=data))
    assert ended == {0: 2, 1: 2}, pods.output("refused")
    assert f"error: {shard}: the file was altered" in pods.log("refused", 0).read_text()
    assert not losses(pods.base / "refused")


@pytest.mark.slow
def test_ranks_are_started_again_where_the_configuration_says_so(pods: Pods) -> None:
    settings = config("launch.max_restarts=1", "checkpoint.every_steps=2")
    started = pods.start("again", [0, 1], size=2, steps=12, ranks=2, settings=settings)
    trains(pods, "again", 5)
    [victim, _] = ranks_of(started[0])
    os.kill(victim, signal.SIGKILL)
    assert statuses(started) == {0: 0, 1: 0}, pods.output("again")
    assert "attempt 0 ended with status 137" in pods.log("again", 0).read_text()
    assert len(events(pods.base / "again", "resume")) == 1


@pytest.mark.slow
def test_sigterm_is_heeded_while_waiting_and_while_libraries_load(pods: Pods) -> None:
    [waiting] = pods.start("early", [1], size=2).values()
    until(lambda: (pods.probes("early", 1) / ALIVE).exists(), lambda: pods.output("early"))
    waiting.terminate()
    assert waiting.wait(30) == 143
    both = pods.start("early", [0, 1], size=2, steps=100_000)
    until(lambda: bool(ranks_of(both[1])), lambda: pods.output("early"))
    both[1].terminate()
    assert statuses(both) == {0: 143, 1: 143}, pods.output("early")


@pytest.mark.slow
def test_a_run_that_another_process_still_writes_is_waited_for(pods: Pods) -> None:
    run = pods.base / "locked"
    run.mkdir()
    with (run / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        started = pods.start("locked", [0, 1], size=2, steps=2)
        until(lambda: (pods.probes("locked", 0) / ALIVE).exists(), lambda: pods.output("locked"))
        time.sleep(3)
        assert not any(ranks_of(pod) for pod in started.values())
    assert statuses(started) == {0: 0, 1: 0}, pods.output("locked")


def test_pods_without_the_rest_give_up_and_say_who_is_missing(pods: Pods) -> None:
    ended = statuses(pods.start("few", [0, 2], size=4, meet_s=4))
    assert ended == {0: INCOMPLETE, 2: INCOMPLETE}
    assert "waiting for index 1" in pods.log("few", 0).read_text()
    assert "waiting for " in pods.log("few", 2).read_text()


@pytest.mark.parametrize(
    ("index", "more", "said"),
    [
        ("", [], f"{INDEX} is '' and the run has 2 pods"),
        ("2", [], f"{INDEX} is '2' and the run has 2 pods"),
        ("-1", [], f"{INDEX} is '-1' and the run has 2 pods"),
        ("x", [], f"{INDEX} is 'x' and the run has 2 pods"),
        ("0", ["--ranks-per-node", "3"], "2 ranks can't be shared out 3 a pod"),
        ("0", ["--ranks-per-node", "0"], "2 ranks can't be shared out 0 a pod"),
        ("0", ["--meet", "nowhere"], "'nowhere' is no meeting place"),
        ("0", ["--meet", ":29500"], "':29500' is no meeting place"),
        ("0", ["--request", "/nothing.json"], "/nothing.json: the request can't be read"),
    ],
)
def test_what_does_not_fit_together_is_refused_at_once(
    tmp_path: Path, notes: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    index: str, more: list[str], said: str,
) -> None:  # fmt: skip
    file = tmp_path / "request.json"
    file.write_text(request_for(tmp_path / "run", *notes, 4).model_dump_json())
    monkeypatch.setenv(INDEX, index)
    assert pod_main(["--request", str(file), "--meet", "localhost:29500", *more]) == 2
    assert f"error: {said}" in capsys.readouterr().err.replace(f"{more[0] if more else INDEX}: ", "")


def test_a_place_for_the_run_that_cannot_be_written_is_refused(
    tmp_path: Path, notes: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    file = tmp_path / "request.json"
    file.write_text(request_for(tmp_path / "file/run", *notes, 4).model_dump_json())
    monkeypatch.setenv(INDEX, "0")
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        assert pod_main(["--request", str(file), "--meet", "localhost:29500"]) == 2
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    assert "Not a directory. Fix: correct the path" in capsys.readouterr().err

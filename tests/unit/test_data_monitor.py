"""`medllm data monitor`: planted bottlenecks are named, and nothing is said without measurements."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medllm.errors import UserError
from tests.trainer_helpers import tiny_config, write_dataset
from trainer.data.advice import BATCHES, Stretch, diagnose
from trainer.data.cache import DiskCache, MemoryCache, SampleReader
from trainer.data.collate import Batch, Collator, batches_of
from trainer.data.gate import Dataset, open_dataset
from trainer.data.gpu_utilisation import gpu_utilisation
from trainer.data.loader import Loader, rank_batches
from trainer.data.monitor import Scrape, app, between, parse
from trainer.data.shards import RawSample
from trainer.data.stages import COMMUNICATE, COMPUTE, SAVE, StageClock
from trainer.metrics import TrainingMetrics

CONFIG = tiny_config()
MS = 0.001


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    directory = tmp_path_factory.mktemp("data") / "notes"
    return open_dataset(directory, write_dataset(directory, train=64), CONFIG)


@dataclass(frozen=True)
class Plant:
    """Seconds that each part takes more than it does; `burst`: seconds of every eighth read."""

    read: float = 0
    decode: float = 0
    collate: float = 0
    compute: float = 2 * MS
    communicate: float = 0
    save: float = 0
    burst: float = 0
    threads: int = 2
    ahead: int = 4
    disk: int = 0
    lost: bool = False
    batches: int = 50


class SlowReader(SampleReader):
    """With a plant in it."""

    plant: Plant
    reads = 0

    def stretch(self, number: int) -> bytes | None:
        self.reads += 1
        time.sleep(self.plant.burst if self.plant.burst and self.reads % 16 == 0 else 0)
        if self.plant.disk == 0 or self.shards.entries[number].xxh3 not in (self.disk or ()):
            time.sleep(self.plant.read)
        return None if self.plant.lost and number % 2 else super().stretch(number)

    def decode(self, number: int, data: bytes | None) -> RawSample | None:
        time.sleep(self.plant.decode)
        return super().decode(number, data)


class SlowCollator(Collator):
    """With a plant in it."""

    plant: Plant

    def collate(self, samples: list[RawSample | None]) -> Batch:  # type: ignore[override]
        time.sleep(self.plant.collate)
        return super().collate(samples)


def train(dataset: Dataset, plant: Plant, directory: Path) -> Stretch:
    """A loop that does what the trainer's does, with the real loader; its metrics go the real way, as text."""
    disk = DiskCache(directory, plant.disk) if plant.disk else None
    reader, collator = SlowReader(dataset.train, MemoryCache(0), disk), SlowCollator(CONFIG, dataset.tokenizer)
    reader.plant = collator.plant = plant
    clock, metrics = StageClock(), TrainingMetrics("run")
    begin = time.monotonic()
    [first] = parse(metrics.page(), begin)
    with Loader(
        reader, collator, lambda: rank_batches(batches_of(dataset.train, CONFIG), 0, 2, 0, 1),
        threads=plant.threads, ahead=plant.ahead, clock=clock,
    ) as loader:  # fmt: skip
        for number in range(plant.batches):
            next(loader)
            for stage, seconds in ((COMPUTE, plant.compute), (COMMUNICATE, plant.communicate)):
                with clock.stage(stage):
                    time.sleep(seconds)
            if number % 5 == 4:
                with clock.stage(SAVE):
                    time.sleep(plant.save)
        metrics.loaded(loader, loader.lost, clock.seconds())
        [last] = parse(metrics.page(), time.monotonic())
    return between(first, last)


PLANTS = {
    "slow shared storage": ("storage", Plant(read=8 * MS)),
    "a node's disk too small for the data": ("cache", Plant(read=8 * MS, disk=200_000)),
    "pictures that take long to decode": ("decoding", Plant(decode=6 * MS)),
    "notes that take long to tokenise": ("collating", Plant(collate=12 * MS)),
    "one thread for everything": ("threads", Plant(read=3 * MS, decode=3 * MS, collate=6 * MS, threads=1)),
    "reads that come in bursts": ("look_ahead", Plant(burst=60 * MS, compute=4 * MS, ahead=2, batches=120)),
    "a slow rank": ("communication", Plant(communicate=6 * MS)),
    "checkpoints all the time": ("checkpoints", Plant(save=30 * MS)),
    "damaged samples": ("damaged", Plant(lost=True)),
    "nothing but computing": (None, Plant(compute=25 * MS)),
}


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_bottleneck_is_the_first_that_is_named(dataset: Dataset, tmp_path: Path, name: str) -> None:
    expected, plant = PLANTS[name]
    stretch = train(dataset, plant, tmp_path)
    findings = diagnose(stretch)
    assert findings is not None
    assert [finding.name for finding in findings[:1]] == ([expected] if expected else []), (findings, stretch)
    assert all(finding.advice for finding in findings)


GOOD = Stretch(10, 100, 0, 0, 2, {"wait": 0.1, "compute": 9, "read": 1, "decode": 1, "collate": 1}, {"memory": 100})


@pytest.mark.parametrize(
    "missing",
    [{"batches": BATCHES - 1}, {"stages": {}}, {"stages": {"compute": 1.0}}, {"threads": 0}, {"seconds": 0.0}],
    ids=str,
)
def test_too_little_measured_is_never_good(missing: dict[str, object]) -> None:
    assert diagnose(GOOD) == []
    assert diagnose(replace(GOOD, **missing)) is None  # type: ignore[arg-type]


def scrape(time_s: float, **values: float) -> Scrape:
    return Scrape("run", time_s, 0, {f"training_data_{name}": value for name, value in values.items()}, {}, {})


def test_a_run_that_was_started_anew_between_two_looks_is_told() -> None:
    with pytest.raises(ValueError, match="started anew"):
        between(scrape(0, batches=50), scrape(1, batches=3))
    with pytest.raises(ValueError, match="not after"):
        between(scrape(1), scrape(1))


@pytest.fixture
def serve() -> Iterator[Callable[[bytes], str]]:
    """A page under an address of this machine."""
    servers: list[ThreadingHTTPServer] = []

    def start(page: bytes) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(page)

            def log_message(self, *_: object) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/metrics"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_run_that_stands_still_is_not_called_good(serve: Callable[[bytes], str]) -> None:
    url = serve(TrainingMetrics("run").page().encode())
    done = CliRunner().invoke(app, ["--url", url, "--seconds", "1", "--json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout)["outcome"] == "NOT_RUN"
    shown = CliRunner().invoke(app, ["--url", url, "--seconds", "1"])
    assert "too little was measured" in shown.stdout


@pytest.mark.parametrize(
    ("page", "rule"), [(b"<html>", "no page of metrics"), (b"\xff\xfe", "no page of metrics"), (b"", "0 such runs")]
)
def test_what_is_no_trainer_is_refused(serve: Callable[[bytes], str], page: bytes, rule: str) -> None:
    with pytest.raises(UserError, match=rule):
        CliRunner().invoke(app, ["--url", serve(page), "--seconds", "1"], catch_exceptions=False)


def test_one_of_several_runs_must_be_named(serve: Callable[[bytes], str]) -> None:
    pages = "".join(
        line + "\n"
        for line in (TrainingMetrics("one").page() + TrainingMetrics("two").page()).splitlines()
        if not line.startswith("#")
    )
    url = serve(pages.encode())
    with pytest.raises(UserError, match="there: one, two"):
        CliRunner().invoke(app, ["--url", url, "--seconds", "1"], catch_exceptions=False)
    assert CliRunner().invoke(app, ["--url", url, "--seconds", "1", "--run", "two"]).exit_code == 1


def test_nobody_there_is_told_with_the_fix() -> None:
    with pytest.raises(UserError, match="does not answer") as caught:
        CliRunner().invoke(app, ["--url", "http://127.0.0.1:9/metrics", "--seconds", "1"], catch_exceptions=False)
    assert "--url" in caught.value.problems[0].fix


# An answer of Prometheus 3.5 (`/api/v1/query`, resultType vector), with dcgm-exporter's labels.
def _vector(**busy: str) -> bytes:
    series = [
        {"metric": {"node": name.partition("_")[0], "gpu": name.partition("_")[2]}, "value": [1_790_000_000.5, value]}
        for name, value in busy.items()
    ]
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": series}}).encode()


def test_the_gpus_mean_and_the_least_busy_one_are_told(serve: Callable[[bytes], str]) -> None:
    found = gpu_utilisation(serve(_vector(node1_0="90.5", node1_1="70", node2_0="NaN")).removesuffix("/metrics"), 15)
    assert (found.mean, found.lowest, found.lowest_value, found.gpus, found.seconds) == (80.25, "node1/1", 70.0, 2, 60)


@pytest.mark.parametrize(
    ("page", "rule"),
    [
        (_vector(), "no GPU's utilisation"),
        (_vector(node1_0="NaN"), "no GPU's utilisation"),
        (b"<html>", "gives no such answer"),
        (b'{"status": "success", "data": {"result": [{"value": 7}]}}', "no such answer"),
    ],
)
def test_an_answer_without_gpus_is_no_measurement(serve: Callable[[bytes], str], page: bytes, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        gpu_utilisation(serve(page).removesuffix("/metrics"), 15)
    with pytest.raises(ValueError, match="does not answer"):
        gpu_utilisation("http://127.0.0.1:9", 15)


def test_idle_gpus_are_named_where_nothing_keeps_them_waiting() -> None:
    computing = Stretch(
        10.0, 100, 0, 0, 2, {"wait": 0.1, "compute": 9.0, "read": 1.0, "decode": 0.1, "collate": 0.1}, {}
    )
    assert diagnose(computing) == []
    assert diagnose(computing, 75.0) == []
    (finding,) = diagnose(computing, 60.0) or []
    assert finding.name == "gpu"
    waiting = replace(computing, stages={**computing.stages, "wait": 5.0})
    assert [finding.name for finding in diagnose(waiting, 60.0) or []] == ["storage"]


def test_what_is_not_known_of_the_gpus_is_said(serve: Callable[[bytes], str]) -> None:
    url = serve(TrainingMetrics("run").page().encode())
    shown = CliRunner().invoke(app, ["--url", url, "--seconds", "1"]).stdout
    assert "GPUs: not measured: no Prometheus was named" in shown
    asked = CliRunner().invoke(app, ["--url", url, "--seconds", "1", "--prometheus", "http://127.0.0.1:9"]).stdout
    assert "GPUs: not measured: Prometheus does not answer" in asked
    known = serve(_vector(node1_0="90.5")).removesuffix("/metrics")
    found = CliRunner().invoke(app, ["--url", url, "--seconds", "1", "--prometheus", known, "--json"])
    assert json.loads(found.stdout)["gpus"] == {
        "mean": 90.5, "lowest": "node1/0", "lowest_value": 90.5, "gpus": 1, "seconds": 60,
    }  # fmt: skip

"""The run directory: run.json, metrics.jsonl, eval.jsonl, events.jsonl, checkpoints/, logs/."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medllm.errors import user_error
from medllm.files import write_atomic
from trainer.config import TrainConfig

METRICS, EVALUATIONS, EVENTS, RUN = "metrics.jsonl", "eval.jsonl", "events.jsonl", "run.json"
_LOCK = ".lock"


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Add one JSON line. A line that a crash tore before is closed, so the new one stands alone."""
    with path.open("ab+") as stream:
        end = stream.seek(0, os.SEEK_END)
        torn = end > 0 and os.pread(stream.fileno(), 1, end - 1) != b"\n"
        stream.write(b"\n" * torn + json.dumps(record).encode() + b"\n")


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a JSON-lines file; a missing file has none."""
    if path.is_file():
        yield from parse_lines(path.read_text(encoding="utf-8", errors="replace"))


def parse_lines(text: str) -> Iterator[dict[str, Any]]:
    """The records of JSON lines; lines that a crash tore are passed over."""
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict):
            yield record


def versions() -> dict[str, str]:
    """What computes this run."""
    names = ("torch", "deepspeed", "numpy", "tokenizers")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in names}}


def code_sha256() -> str:
    """Hash of the trainer's own source files."""
    root = Path(__file__).parent
    sha = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        sha.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return sha.hexdigest()


def check_run(directory: Path, config: TrainConfig, manifest_sha256: str, world_size: int) -> bool:
    """Whether the run directory holds a run already, and if so that it is this one.

    Raises:
        UserError: another configuration, data set, number of ranks or library version than the run began with.
    """
    path = directory / RUN
    if not path.is_file():
        return False
    begun = json.loads(path.read_text(encoding="utf-8"))
    name = directory.name
    if begun["world_size"] != world_size:
        raise user_error(
            f"run {name!r} was trained by {begun['world_size']} ranks, now there are {world_size}; ZeRO checkpoints "
            "are split by rank",
            f"give --nodes so that there are {begun['world_size']} ranks, or begin anew with --fresh",
            file=path,
            key="world_size",
        )
    if begun["manifest_sha256"] != manifest_sha256:
        raise user_error(
            f"run {name!r} was trained on another data set (manifest {begun['manifest_sha256'][:12]}…, now "
            f"{manifest_sha256[:12]}…)",
            "give the same --data, or begin anew with --fresh or another --run",
            file=path,
            key="manifest_sha256",
        )
    for section, values in config.fixed_part().items():
        before = begun["config"].get(section, {})
        for key, value in values.items():
            if before.get(key) != value:
                raise user_error(
                    f"run {name!r} has {section}.{key} = {before.get(key)!r}, the configuration says {value!r}",
                    f"use --set {section}.{key}={json.dumps(before.get(key))}, or begin anew with --fresh or another "
                    "--run",
                    file=path,
                    key=f"{section}.{key}",
                )
    changed = {
        library: (begun["versions"].get(library), version)
        for library, version in versions().items()
        if library in {"torch", "deepspeed"} and begun["versions"].get(library) != version
    }
    for library, (before, now) in changed.items():
        raise user_error(
            f"run {name!r} was computed with {library} {before}, this environment has {now}",
            "install that version again, or begin anew with --fresh or another --run",
            file=path,
            key=f"versions.{library}",
        )
    return True


def is_locked(directory: Path) -> bool:
    """Whether a process somewhere writes this run."""
    try:
        with (directory / _LOCK).open("r+b") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


class RunFiles:
    """What rank 0 writes. Holds the run's lock while it lives."""

    def __init__(self, directory: Path) -> None:
        """Raises UserError when another process trains this run."""
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = (directory / _LOCK).open("w", encoding="ascii")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise user_error(
                f"another job trains run {directory.name!r} right now", "wait for it, or give another --run"
            ) from None
        previous = [record for record in read_lines(directory / EVENTS) if record.get("event") in {"start", "resume"}]
        self.restart = len(previous)
        self._losses: dict[int, float] = {}
        self._began = float(previous[0]["time"]) if previous else time.time()
        self._seconds: dict[int, float] = {}
        for record in read_lines(directory / METRICS):
            if {"step", "step_s", "loss"} <= set(record):
                self._seconds[int(record["step"])] = float(record["step_s"])
                self._losses[int(record["step"])] = float(record["loss"])

    def begin(self, config: TrainConfig, manifest_sha256: str, data: Path, hosts: list[str]) -> None:
        """Write run.json, once in a run's life."""
        record = {
            "config": config.model_dump(mode="json"),
            "config_sha256": config.sha256(),
            "manifest_sha256": manifest_sha256,
            "data": str(data),
            "world_size": len(hosts),
            "hosts": hosts,
            "versions": versions(),
            "code_sha256": code_sha256(),
            "created": time.time(),
        }
        write_atomic(self.directory / RUN, json.dumps(record, indent=1))

    def event(self, event: str, step: int, **more: Any) -> None:
        """Add to events.jsonl."""
        append_line(
            self.directory / EVENTS,
            {"event": event, "step": step, "restart": self.restart, "time": time.time(), **more},
        )

    def losses(self, step: int, count: int) -> list[float]:
        """Of the last `count` steps up to `step`, oldest first, each as it was done last; nats a token."""
        return [self._losses[number] for number in sorted(self._losses) if number <= step][-count:]

    def rewound_to(self, step: int) -> int | None:
        """How many samples the run had passed when it last went back to its checkpoint of `step`, if it did."""
        found = None
        for record in read_lines(self.directory / EVENTS):
            if record.get("event") == "checkpoint" and record.get("step") == step:
                found = None  # written anew
            if record.get("event") == "rewind" and record.get("to") == step:
                found = int(record["samples"])
        return found

    def metrics(self, **record: Any) -> None:
        """Add to metrics.jsonl; a step's `loss` is remembered."""
        self._losses[int(record["step"])] = float(record["loss"])
        append_line(self.directory / METRICS, {**record, "time": time.time(), "restart": self.restart})

    def goodput(self, step: int, seconds: float) -> float:
        """The share of the time since the run began that its steps took up to `step`, each counted once.

        What a restart does again, waits and loads is lost time; so is what a step took that was done again later.
        """
        self._seconds[step] = seconds
        useful = sum(spent for number, spent in self._seconds.items() if number <= step)
        return min(1.0, useful / max(useful, time.time() - self._began))

    def evaluation(self, step: int, loss: float) -> None:
        """Add to eval.jsonl; `loss` in nats a token."""
        append_line(self.directory / EVALUATIONS, {"step": step, "val_loss": loss, "time": time.time()})

    def close(self) -> None:
        """Give the lock back."""
        self._lock.close()

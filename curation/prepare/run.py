"""A resumable run: every sample is prepared exactly once or quarantined with a reason, whatever dies in between.

    RUN/run.json        the parameters; another set of them needs another directory
    RUN/results/xx/ID   one file for each sample, written whole
    RUN/journal.jsonl   while the run is unfinished
    RUN/unfinished/     while the run is: what is being written
    RUN/index.jsonl     at the end: each sample by id with its hashes, or why it is quarantined
    RUN/summary.json    at the end: counts, reasons, data version

A finished directory has the same bytes however often the run was killed and by however many processes it was made.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from curation.prepare.journal import Journal, to_json
from curation.prepare.reasons import UnfitError
from curation.prepare.workers import Executor, Outcome, Task
from medllm.errors import user_error
from medllm.files import write_atomic

# Makes the bytes of a sample's result, and says which of its parts were left out and why.
Prepare = Callable[[Task, dict[str, Any]], tuple[bytes, tuple[tuple[str, str], ...]]]
_TOOLS = (
    "medllm-cluster", "edfio", "numpy", "pillow", "pydicom", "pyjpegls", "pylibjpeg-openjpeg", "pylibjpeg-rle",
    "python-gdcm", "scipy", "wfdb",
)  # fmt: skip
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}")
RUN, JOURNAL, INDEX, SUMMARY, RESULTS = "run.json", "journal.jsonl", "index.jsonl", "summary.json", "results"
_WORK, _GONE = "unfinished", "unfinished.gone"


@dataclass(slots=True)
class Summary:
    """What a run came to."""

    data_version: str = ""
    done: int = 0
    quarantined: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)


def run(
    tasks: Sequence[Task],
    prepare: Prepare,
    parameters: dict[str, Any],
    destination: Path,
    executor: Executor,
    progress: Callable[[int, int], None] | None = None,
    seal: Callable[[Summary], object] | None = None,
) -> Summary:
    """Prepare all `tasks` into `destination`, going on where an earlier run with the same parameters was stopped.

    Args:
        prepare: a function of a module (worker processes import it); the same input gives the same bytes
        parameters: of JSON types; they are part of the data version
        progress: called with (finished, all) at the start and after each sample
        seal: called when all is written, while no other run can begin; also for a directory that is complete already

    Raises:
        UserError: two samples of one id, an unusable id, other parameters or samples than the directory was begun
            with, or another run at work in it.
        OSError: a result cannot be written.
    """
    _check_ids(tasks)
    destination.mkdir(parents=True, exist_ok=True)
    with _locked(destination):
        _begin(destination, parameters)
        if (destination / INDEX).exists() and not (destination / JOURNAL).exists():
            summary = _finished(destination, tasks)
            if seal:
                seal(summary)
            return summary
        journal = Journal(destination / JOURNAL)
        try:
            _go_on(tasks, partial(_one, prepare, parameters, destination), destination, journal, executor, progress)
            outcomes = [journal.outcomes[task.id] for task in sorted(tasks, key=lambda task: task.id)]
        finally:
            journal.close()
        summary = _finish(destination, outcomes, parameters)
        (destination / JOURNAL).unlink()
        if seal:
            seal(summary)
    return summary


def result_path(destination: Path, identifier: str) -> Path:
    """Where the result of a sample is: spread over 256 directories."""
    return destination / RESULTS / hashlib.sha256(identifier.encode()).hexdigest()[:2] / identifier


def _check_ids(tasks: Iterable[Task]) -> None:
    seen: set[str] = set()
    for task in tasks:
        if not _ID.fullmatch(task.id):
            raise user_error("a sample's id is not of letters, digits, '.', '_' and '-'", "use pseudonyms as ids")
        if task.id in seen:
            raise user_error("two samples have the same id", "give each sample an id of its own")
        seen.add(task.id)


@contextmanager
def _locked(destination: Path) -> Iterator[None]:
    """One run at a time; the lock goes with its process, however that ends."""
    handle = os.open(destination, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise user_error(
                "another run is at work here", "wait for it or name another one", file=destination
            ) from None
        yield
    finally:
        os.close(handle)


def _begin(destination: Path, parameters: dict[str, Any]) -> None:
    text = json.dumps({"parameters": parameters, "tools": tools()}, sort_keys=True, indent=1) + "\n"
    path = destination / RUN
    # Half-written files of a killed process; nobody else's.
    for name in (RUN, INDEX, SUMMARY):
        for left in destination.glob(f".{name}.*"):
            left.unlink()
    if path.exists():
        if path.read_text(encoding="utf-8") != text:
            rule = "this directory was begun with other parameters or other versions of the tools"
            raise user_error(rule, "name a new directory", file=path)
        return
    if any(destination.iterdir()):
        raise user_error("the directory is not empty and holds no run", "name a new directory", file=destination)
    write_atomic(path, text)


def tools() -> dict[str, str]:
    """The versions of all that the bytes of a result depend on."""
    return {tool: version(tool) for tool in _TOOLS}


def _finished(destination: Path, tasks: Sequence[Task]) -> Summary:
    """The summary of a directory that is complete for just these samples."""
    lines = (destination / INDEX).read_text(encoding="utf-8").splitlines()
    if [json.loads(line)["id"] for line in lines] != sorted(task.id for task in tasks):
        raise user_error("this run is complete, with other samples", "name a new directory", file=destination)
    entry = json.loads((destination / SUMMARY).read_text(encoding="utf-8"))
    counts = {key: Counter(entry[key]) for key in ("reasons", "rejected")}
    return Summary(entry["data_version"], entry["done"], entry["quarantined"], **counts)


def _go_on(
    tasks: Sequence[Task],
    work: Callable[[Task], Outcome],
    destination: Path,
    journal: Journal,
    executor: Executor,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Make what the journal does not have, or has of an input or a result that is not there as it was."""
    kept = {task.id for task in tasks if _is_kept(task, journal.outcomes.get(task.id), destination)}
    results = destination / RESULTS
    # What a killed process left: temporary files, and results that no line tells of.
    for path in [path for path in results.glob("*/*") if path.name not in kept]:
        path.unlink(missing_ok=True)
    _discard(destination)
    (destination / _WORK).mkdir()
    finished = len(kept)
    if progress:
        progress(finished, len(tasks))
    for outcome in executor(work, (task for task in tasks if task.id not in kept)):
        if outcome.status == "quarantined":
            # It may have been killed after it wrote.
            result_path(destination, outcome.id).unlink(missing_ok=True)
        journal.add(outcome)
        finished += 1
        if progress:
            progress(finished, len(tasks))
    _discard(destination)


def _discard(destination: Path) -> None:
    """Remove the temporary files. A worker of a lost node may still write: it finds the directory gone, and ends."""
    shutil.rmtree(destination / _GONE, ignore_errors=True)
    if (destination / _WORK).exists():
        (destination / _WORK).rename(destination / _GONE)
        shutil.rmtree(destination / _GONE)


def _is_kept(task: Task, outcome: Outcome | None, destination: Path) -> bool:
    if outcome is None or outcome.stat != _stat(task):
        return False
    if outcome.status == "quarantined":
        return True
    try:
        return result_path(destination, task.id).stat().st_size == outcome.size
    except FileNotFoundError:
        return False


def _stat(task: Task) -> tuple[tuple[int, int], ...]:
    """Size and time of each input; (-1, -1) for one that is gone."""
    found = []
    for name in task.inputs:
        try:
            stat = os.stat(name)  # noqa: PTH116 - a worker does this for each of many files
            found.append((stat.st_size, stat.st_mtime_ns))
        except OSError:
            found.append((-1, -1))
    return tuple(found)


def _one(prepare: Prepare, parameters: dict[str, Any], destination: Path, task: Task) -> Outcome:
    """Prepare one sample and write its result; in a worker. An OSError means that the result cannot be written."""
    stat, inputs = _stat(task), ""
    try:
        inputs = _inputs_sha256(task)
        data, rejected = prepare(task, parameters)
    except UnfitError as error:
        return Outcome(task.id, "quarantined", error.reason, inputs_sha256=inputs, stat=stat)
    except MemoryError:
        return Outcome(task.id, "quarantined", "out_of_memory", inputs_sha256=inputs, stat=stat)
    except OSError:
        return Outcome(task.id, "quarantined", "unreadable_input", inputs_sha256=inputs, stat=stat)
    except Exception as error:
        # The message may quote the patient; the type does not.
        reason = f"internal_{type(error).__name__}"
        return Outcome(task.id, "quarantined", reason, inputs_sha256=inputs, stat=stat)
    write_atomic(result_path(destination, task.id), data, work=destination / _WORK)
    return Outcome(
        task.id, "done", "", hashlib.sha256(data).hexdigest(), len(data), inputs_sha256=inputs, stat=stat,
        rejected=rejected,
    )  # fmt: skip


def _inputs_sha256(task: Task) -> str:
    """A hash over the content of a sample's files, in their order."""
    total = hashlib.sha256()
    for name in task.inputs:
        with open(name, "rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()


def _finish(destination: Path, outcomes: Sequence[Outcome], parameters: dict[str, Any]) -> Summary:
    """Write the index and the summary."""
    summary = Summary()
    total = hashlib.sha256(json.dumps([parameters, tools()], sort_keys=True).encode())
    for outcome in outcomes:
        total.update(f"{outcome.id}\0{outcome.inputs_sha256}\n".encode())
        summary.rejected.update(reason for _, reason in outcome.rejected)
        if outcome.status == "done":
            summary.done += 1
        else:
            summary.quarantined += 1
            summary.reasons[outcome.reason] += 1
    summary.data_version = total.hexdigest()
    entry = {
        "data_version": summary.data_version,
        "done": summary.done,
        "quarantined": summary.quarantined,
        "reasons": dict(summary.reasons),
        "rejected": dict(summary.rejected),
    }
    write_atomic(destination / SUMMARY, json.dumps(entry, sort_keys=True, indent=1) + "\n")
    write_atomic(destination / INDEX, "".join(to_json(outcome, stat=False) + "\n" for outcome in outcomes))
    return summary

"""A run that is killed anywhere ends, when it is started again, with the bytes of one that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from curation.prepare.reasons import WaveformError
from curation.prepare.run import Summary, result_path, run
from curation.prepare.workers import Executor, Outcome, Task, WorkersError, local_processes
from medllm.errors import UserError

_SECRET = "Zebedee Quillfeather"


def prepare(task: Task, parameters: dict[str, Any]) -> tuple[bytes, tuple[tuple[str, str], ...]]:
    """What an input says is done: bad ones fail in each way that there is."""
    text = Path(task.inputs[0]).read_text(encoding="utf-8")
    if text.startswith("slow") and "SLOWLY" in os.environ:
        time.sleep(0.06)  # only where the run is to be caught in the middle
    if text.startswith("empty"):
        raise WaveformError("empty")
    if text.startswith("raise"):
        raise KeyError(_SECRET)
    if text.startswith("memory"):
        raise MemoryError
    if text.startswith("kill"):
        os.kill(os.getpid(), signal.SIGKILL)
    if text.startswith("once"):
        mark = Path(task.inputs[0]).with_suffix(".mark")
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    if text.startswith("hang"):
        time.sleep(60)
    rejected = (("ecg.csv", "empty"),) if text.startswith("part") else ()
    return f"{task.id} {text} {parameters['factor']}".encode(), rejected


def _tasks(folder: Path, *texts: str) -> list[Task]:
    folder.mkdir(exist_ok=True)
    tasks = []
    for number, text in enumerate(texts):
        path = folder / f"{number:03d}.txt"
        path.write_text(text)
        tasks.append(Task(f"p{number:03d}", (str(path),)))
    return tasks


def _run(tasks: list[Task], destination: Path, processes: int = 2, factor: int = 1, timeout_s: float = 60) -> Summary:
    return run(tasks, prepare, {"factor": factor}, destination, local_processes(processes, timeout_s))


def in_this_process(fail_after: int | None = None) -> Executor:
    def execute(work: Any, tasks: Any) -> Any:
        for number, task in enumerate(tasks):
            if number == fail_after:
                raise KeyboardInterrupt
            yield work(task)

    return execute


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def begin(inputs: str, destination: str) -> None:
    """A run in a process of its own, to be killed."""
    tasks = [Task(path.stem, (str(path),)) for path in sorted(Path(inputs).glob("*.txt"))]
    _run(tasks, Path(destination))


def test_a_run_killed_in_the_middle_ends_like_one_that_was_not(tmp_path: Path) -> None:
    _tasks(tmp_path / "in", *(f"slow {number}" if number % 7 else "empty" for number in range(60)))
    tasks = [Task(path.stem, (str(path),)) for path in sorted((tmp_path / "in").glob("*.txt"))]
    run(tasks, prepare, {"factor": 1}, tmp_path / "whole", in_this_process())
    killed, times = tmp_path / "killed", 0
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_prepare_run as t; "
    code += f"t.begin({str(tmp_path / 'in')!r}, {str(killed)!r})"
    for goal in (8, 25):
        process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "SLOWLY": "1"})
        journal = killed / "journal.jsonl"
        while process.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") < goal):
            time.sleep(0.005)
        times += process.poll() is None
        process.kill()
        process.wait()
    assert times == 2, "the run ended before it was killed"
    # As if the kill had hit in the middle of a line, and of a file.
    with (killed / "journal.jsonl").open("ab") as stream:
        stream.write(b'{"id": "0')
    left = next((killed / "results").iterdir()) / ".040.half"
    left.write_bytes(b"half")
    seen: list[int] = []
    summary = run(tasks, prepare, {"factor": 1}, killed, in_this_process(), lambda done, _: seen.append(done))
    assert seen[0] >= 25
    assert (summary.done, summary.quarantined, dict(summary.reasons)) == (51, 9, {"empty": 9})
    assert _tree(killed) == _tree(tmp_path / "whole")


def test_every_bad_sample_is_quarantined_with_its_reason_and_the_rest_is_made(tmp_path: Path) -> None:
    texts = ["good", "empty", f"raise {_SECRET}", "memory", "kill", "once", "part", "good"]
    tasks = [*_tasks(tmp_path / "in", *texts), Task("gone", (str(tmp_path / "none"),))]
    summary = _run(tasks, tmp_path / "out")
    index = {each["id"]: each for each in map(json.loads, (tmp_path / "out/index.jsonl").read_text().splitlines())}
    reasons = {each: entry.get("reason", "") for each, entry in index.items()}
    assert reasons == {
        "p000": "", "p001": "empty", "p002": "internal_KeyError", "p003": "out_of_memory", "p004": "worker_killed",
        "p005": "", "p006": "", "p007": "", "gone": "unreadable_input",
    }  # fmt: skip
    assert (summary.done, summary.quarantined) == (4, 5)
    assert index["p006"]["rejected"] == [["ecg.csv", "empty"]]
    assert result_path(tmp_path / "out", "p005").read_bytes() == b"p005 once 1"
    assert not result_path(tmp_path / "out", "p004").exists()
    assert not any(_SECRET.encode() in data for data in _tree(tmp_path / "out").values())


def test_a_sample_that_never_ends_is_quarantined(tmp_path: Path) -> None:
    summary = _run(_tasks(tmp_path / "in", "hang", "good"), tmp_path / "out", timeout_s=3)
    assert dict(summary.reasons) == {"timeout": 1}
    assert summary.done == 1


def test_the_data_version_follows_from_inputs_and_parameters_alone(tmp_path: Path) -> None:
    tasks = _tasks(tmp_path / "in", "a", "b", "c")

    def version(name: str, these: list[Task], factor: int = 1) -> str:
        return run(these, prepare, {"factor": factor}, tmp_path / name, in_this_process()).data_version

    first = version("1", tasks)
    assert version("2", tasks[::-1]) == first
    assert version("3", tasks, factor=2) != first
    assert version("4", tasks[:2]) != first
    (tmp_path / "in/000.txt").write_text("A")
    assert version("5", tasks) != first


def test_what_changed_since_the_kill_is_made_again(tmp_path: Path) -> None:
    tasks = _tasks(tmp_path / "in", "a", "b", "c", "d")
    with pytest.raises(KeyboardInterrupt):
        run(tasks, prepare, {"factor": 1}, tmp_path / "out", in_this_process(fail_after=3))
    (tmp_path / "in/000.txt").write_text("changed")
    result_path(tmp_path / "out", "p001").unlink()
    made: list[str] = []

    def watch(work: Any, todo: Any) -> Any:
        for task in todo:
            made.append(task.id)
            yield work(task)

    run(tasks, prepare, {"factor": 1}, tmp_path / "out", watch)
    assert made == ["p000", "p001", "p003"]
    assert result_path(tmp_path / "out", "p000").read_bytes() == b"p000 changed 1"


def test_a_complete_run_is_left_as_it_is(tmp_path: Path) -> None:
    tasks = _tasks(tmp_path / "in", "a", "empty")
    first = run(tasks, prepare, {"factor": 1}, tmp_path / "out", in_this_process())
    again = run(tasks, prepare, {"factor": 1}, tmp_path / "out", in_this_process(fail_after=0))
    assert again == first
    with pytest.raises(UserError, match="other samples"):
        run(tasks[:1], prepare, {"factor": 1}, tmp_path / "out", in_this_process())


def test_wrong_use_is_refused(tmp_path: Path) -> None:
    tasks = _tasks(tmp_path / "in", "a", "b")
    run(tasks, prepare, {"factor": 1}, tmp_path / "out", in_this_process())
    (tmp_path / "full").mkdir()
    (tmp_path / "full/.mine").touch()
    for these, factor, place, told in (
        (tasks, 2, "out", "other parameters"),
        ([*tasks, tasks[0]], 1, "new", "same id"),
        ([Task("../x", ())], 1, "new", "letters"),
        (tasks, 1, "full", "not empty"),
    ):
        with pytest.raises(UserError, match=told):
            run(these, prepare, {"factor": factor}, tmp_path / place, in_this_process())
    assert (tmp_path / "full/.mine").exists()
    assert not (tmp_path / "new").exists()


def test_two_runs_do_not_work_in_one_directory(tmp_path: Path) -> None:
    tasks = _tasks(tmp_path / "in", "a", "b")

    def other(work: Any, todo: Any) -> Any:
        with pytest.raises(UserError, match="another run"):
            run(tasks, prepare, {"factor": 1}, tmp_path / "out", in_this_process())
        return iter([work(task) for task in todo])

    assert run(tasks, prepare, {"factor": 1}, tmp_path / "out", other).done == 2


def cannot_write(task: Task) -> Outcome:
    raise OSError(28, "No space left on device", "/somewhere")


class Unstartable:
    """It dies where a worker unpickles its work."""

    def __call__(self, task: Task) -> Outcome:
        raise AssertionError

    def __setstate__(self, state: object) -> None:
        os._exit(3)

    def __getstate__(self) -> object:
        return {"some": 1}


def test_a_full_disk_ends_the_run_and_so_do_workers_that_cannot_start() -> None:
    with pytest.raises(OSError, match="No space"):
        list(local_processes(2)(cannot_write, [Task("a", ())]))
    with pytest.raises(WorkersError):
        list(local_processes(1)(Unstartable(), [Task("a", ())]))

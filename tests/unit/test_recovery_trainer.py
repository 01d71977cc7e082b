"""A run after a recovery: its submission is known, the newest good checkpoint is found, one job is submitted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medllm.errors import UserError
from medllm.remote import Result
from medllm.site import load_site
from trainer import resume as resuming
from trainer import verify_checkpoint
from trainer.checkpoint import store
from trainer.config import load_config
from trainer.launch import Order, make_plan
from trainer.launch_file import LAUNCH, RECOVERY, Launch, submit
from trainer.launch_slurm import SlurmLauncher
from trainer.run_files import append_line

REPOSITORY = Path(__file__).parents[2]


def publish(run: Path, *steps: int) -> None:
    for step in steps:
        draft = store.new_draft(run, step)
        (draft / "engine").mkdir()
        files = [draft / "engine" / f"part{number}" for number in range(3)]
        for file in files:
            file.write_bytes(os.urandom(4096))
        store.commit(run, step, store.seal(draft, files))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run = tmp_path / "run1"
    (run / "logs").mkdir(parents=True)
    (run / "run.json").write_text("{}")
    append_line(run / "events.jsonl", {"event": "start", "step": 0, "restart": 0})
    for step in range(1, 11):
        append_line(run / "metrics.jsonl", {"step": step, "restart": 0})
    publish(run, 4, 8)
    return run


class Slurm:
    """`sbatch`, `squeue`, `scancel` that answer from files; `queue` holds lines `id|STATE|Reason`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.queue, self.next = folder / "queue", folder / "next"
        folder.mkdir()
        self.queue.write_text("")
        self.next.write_text("41")
        self._command("squeue", f"cat {self.queue}")
        self._command(
            "sbatch",
            f'n=$(( $(cat {self.next}) + 1 )); echo $n > {self.next}; echo "$n|RUNNING|None" >> {self.queue}; '
            f'echo "$*" >> {folder}/submitted; sleep 0.1; echo "$n;medllm"',
        )
        self._command("scancel", f'sed -i "/^$1|/d" {self.queue}; echo "$1" >> {folder}/cancelled')

    def _command(self, name: str, body: str) -> None:
        (self.folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (self.folder / name).chmod(0o755)

    def lines(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    slurm = Slurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{slurm.folder}:{os.environ['PATH']}")
    monkeypatch.setattr(resuming, "_POLL_S", 0.02)
    monkeypatch.setattr(resuming, "_LEFT_S", 0.2)
    return slurm


def launched(run: Path, job: str = "41", steps: int = 20) -> Launch:
    launch = Launch("run1", job, str(run / "logs/request.json"), str(run / "logs/job.sh"), steps, 0.0, "ops", 0)
    launch.write(run)
    return launch


def ranks_begin(run: Path, step: int, restart: int = 1) -> threading.Thread:
    """What rank 0 writes once the job has started."""

    def work() -> None:
        while json.loads((run / LAUNCH).read_text())["job"] == "41":
            time.sleep(0.01)
        append_line(run / "events.jsonl", {"event": "resume", "step": step, "restart": restart})
        time.sleep(0.05)
        append_line(run / "metrics.jsonl", {"step": step + 1, "restart": restart})

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


# --- launch.json ---


def test_a_submission_is_recorded_with_all_that_repeats_it(run: Path, slurm: Slurm) -> None:
    request = {"run_directory": str(run), "steps": 20}
    (run / "logs/request.json").write_text(json.dumps(request))
    done = subprocess.run(
        [sys.executable, "-m", "trainer.submit", "--request", run / "logs/request.json", "--script", run / "logs/j.sh"],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr
    launch = Launch.read(run)
    assert (launch.job, launch.steps, launch.restarts_before) == ("42", 20, 1)
    assert (launch.request, launch.script) == (str(run / "logs/request.json"), str(run / "logs/j.sh"))
    assert abs(launch.submitted - time.time()) < 60
    assert slurm.lines("submitted") == [f"--parsable --chdir={run}/logs {run}/logs/j.sh {run}/logs/request.json"]


def test_a_refused_submission_leaves_the_record_of_the_one_before(run: Path, slurm: Slurm) -> None:
    before = launched(run)
    slurm._command("sbatch", "echo 'sbatch: error: Batch job submission failed' >&2; exit 1")
    with pytest.raises(RuntimeError, match="Batch job submission failed"):
        submit(run, Path(before.request), Path(before.script), 20)
    assert Launch.read(run) == before


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"run": 1', '{"run": "x", "job": null}'])
def test_a_torn_record_is_refused_by_name(run: Path, text: str) -> None:
    (run / LAUNCH).write_text(text)
    with pytest.raises(UserError) as caught:
        Launch.read(run)
    assert caught.value.problems[0].file == run / LAUNCH


# --- which checkpoint is good ---

SPOILS: dict[str, Callable[[Path], Any]] = {
    "a flipped bit": lambda path: flip(path / "engine/part1"),
    "a truncated file": lambda path: os.truncate(path / "engine/part1", 100),
    "an empty file": lambda path: os.truncate(path / "engine/part1", 0),
    "a missing file": lambda path: (path / "engine/part1").unlink(),
    "a missing mark": lambda path: (path / store.MARKER).unlink(),
    "an altered list of hashes": lambda path: flip(path / store.HASHES),
}


@pytest.mark.parametrize("spoil", SPOILS.values(), ids=SPOILS)
def test_a_spoiled_checkpoint_is_named_and_the_one_before_taken(
    run: Path, spoil: Callable[[Path], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(run / "checkpoints/step-000008")
    assert verify_checkpoint.main(["--run", str(run), "--json"]) == 0
    verdict = json.loads(capsys.readouterr().out)
    assert (verdict["step"], verdict["checkpoint"]) == (4, "step-000004")
    assert [entry["step"] for entry in verdict["refused"]] == [8]


def test_none_good_is_not_the_same_as_none_yet(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for checkpoint in store.published(run):
        flip(checkpoint.path / "engine/part0")
    assert verify_checkpoint.main(["--run", str(run), "--json"]) == 1
    assert [entry["step"] for entry in json.loads(capsys.readouterr().out)["refused"]] == [8, 4]
    for checkpoint in store.published(run):
        checkpoint.path.rename(run / f"aside-{checkpoint.step}")
    assert verify_checkpoint.main(["--run", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] is None
    assert verify_checkpoint.main(["--run", str(run / "nowhere")]) == 2


def test_it_is_verified_without_torch() -> None:
    code = "import sys, trainer.resume, trainer.verify_checkpoint; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=30, check=False).returncode == 0


# --- resuming ---


def test_a_run_is_submitted_anew_and_watched_until_it_trains(run: Path, slurm: Slurm) -> None:
    launched(run)
    (run / RECOVERY).write_text("{}")
    thread = ranks_begin(run, 8)
    facts = resuming.resume(run, 10)
    thread.join()
    assert (facts["job"], facts["checkpoint_step"], facts["resumed_step"], facts["step"]) == ("42", 8, 8, 9)
    assert (facts["restarts_before"], facts["submitted"]) == (1, True)
    assert Launch.read(run).job == "42"
    assert not (run / RECOVERY).exists()


def test_from_the_checkpoint_before_when_the_newest_is_spoiled(run: Path, slurm: Slurm) -> None:
    launched(run)
    flip(run / "checkpoints/step-000008/engine/part2")
    ranks_begin(run, 4)
    facts = resuming.resume(run, 10)
    assert (facts["checkpoint_step"], facts["checkpoints_refused"]) == (4, ["step-000008"])


def test_ranks_that_begin_elsewhere_are_no_success(run: Path, slurm: Slurm) -> None:
    launched(run)
    ranks_begin(run, 4)
    with pytest.raises(resuming.NotResumedError, match="began at step 4 instead of 8"):
        resuming.resume(run, 10)


def test_without_a_good_checkpoint_nothing_is_submitted(run: Path, slurm: Slurm) -> None:
    launched(run)
    for checkpoint in store.published(run):
        flip(checkpoint.path / "engine/part0")
    with pytest.raises(UserError, match="none of the 2 checkpoints is good"):
        resuming.resume(run, 10)
    assert slurm.lines("submitted") == []


def test_a_job_that_is_there_is_not_submitted_twice(run: Path, slurm: Slurm) -> None:
    launched(run, "42")
    slurm.queue.write_text("42|RUNNING|None\n")
    append_line(run / "events.jsonl", {"event": "resume", "step": 4, "restart": 1})
    append_line(run / "metrics.jsonl", {"step": 5, "restart": 1})
    facts = resuming.resume(run, 10)
    assert (facts["job"], facts["submitted"], facts["step"]) == ("42", False, 5)
    assert slurm.lines("submitted") == []


def test_two_that_resume_at_once_submit_one_job(run: Path, slurm: Slurm) -> None:
    launched(run)
    ranks_begin(run, 8)
    found: list[dict[str, Any]] = []
    threads = [threading.Thread(target=lambda: found.append(resuming.resume(run, 10))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [facts["job"] for facts in found] == ["42", "42"]
    assert len(slurm.lines("submitted")) == 1


def test_a_job_that_was_submitted_and_not_recorded_is_adopted(run: Path, slurm: Slurm) -> None:
    """Killed between sbatch and the record."""
    launched(run)
    slurm.queue.write_text("77|PENDING|Resources\n")
    ranks_begin(run, 8)
    assert resuming.resume(run, 10)["job"] == "77"
    assert slurm.lines("submitted") == []


def test_a_requeued_job_is_replaced_since_slurm_holds_it_for_two_minutes(run: Path, slurm: Slurm) -> None:
    """Slurm gives a job that it requeued a begin time two minutes ahead, with the reason BeginTime."""
    launched(run)
    slurm.queue.write_text("41|PENDING|BeginTime\n")
    ranks_begin(run, 8)
    assert resuming.resume(run, 10)["job"] == "42"
    assert slurm.lines("cancelled") == ["41"]


def test_jobs_that_only_clean_up_hold_nothing_up(run: Path, slurm: Slurm) -> None:
    launched(run)
    slurm.queue.write_text("41|COMPLETING|None\n")
    ranks_begin(run, 8)
    assert resuming.resume(run, 10)["job"] == "42"


def test_a_job_that_dies_at_once_is_told_with_its_status(run: Path, slurm: Slurm) -> None:
    launched(run)
    slurm._command("sbatch", f"echo 2 > {run}/logs/job-50.exit; echo 50")
    begin = time.monotonic()
    with pytest.raises(resuming.NotResumedError, match="job 50 ended with status 2: its ranks have not begun"):
        resuming.resume(run, 60)
    slurm._command("sbatch", "echo 51")
    with pytest.raises(resuming.NotResumedError, match="job 51 ended with no last word"):
        resuming.resume(run, 60)
    assert time.monotonic() - begin < 10


def test_a_job_that_waits_too_long_is_told_with_slurms_reason(run: Path, slurm: Slurm) -> None:
    launched(run, "42")
    slurm.queue.write_text("42|PENDING|Resources\n")
    append_line(run / "events.jsonl", {"event": "resume", "step": 4, "restart": 1})
    launched(run, "42").write(run)
    (run / LAUNCH).write_text((run / LAUNCH).read_text().replace('"restarts_before": 0', '"restarts_before": 2'))
    with pytest.raises(resuming.NotResumedError, match=r"job 42 \(pending, resources\): its ranks have not begun"):
        resuming.resume(run, 0.2)


def test_a_finished_run_is_left_alone(run: Path, slurm: Slurm) -> None:
    launched(run, steps=8)
    assert resuming.resume(run, 10)["finished"]
    assert slurm.lines("submitted") == []


@pytest.mark.parametrize("spoil", ["launch", "squeue"])
def test_the_command_answers_with_what_is_wrong(
    run: Path, slurm: Slurm, capsys: pytest.CaptureFixture[str], spoil: str
) -> None:
    if spoil == "squeue":
        launched(run)
        slurm._command("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    assert resuming.main(["--run", str(run), "--deadline", "5"]) == (2 if spoil == "launch" else 1)
    assert ("medllm train" if spoil == "launch" else "Unable to contact") in capsys.readouterr().err
    assert slurm.lines("submitted") == []


# --- `medllm train` goes with the run to its next job ---


class Mgmt:
    """mgmt as the follower sees it: `answers` to its looks, the last one for ever."""

    def __init__(self, answers: list[tuple[str, str, str]]) -> None:
        self.answers = answers

    def run(self, command: str, *, deadline_s: float) -> Result:
        launch, event, recovery = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        text = f"{launch}\n--\n{event}\n--\n{recovery}"
        from datetime import UTC, datetime

        return Result("mgmt", command, 0 if recovery else 1, text, "", datetime.now(UTC), 0.0)


def follow(monkeypatch: pytest.MonkeyPatch, answers: list[tuple[str, str, str]], status: int = 1) -> str | None:
    site = load_site(REPOSITORY / "inventory/lab")
    plan = make_plan(site, Order(load_config("medllm-tiny"), "notes", "run1", 20, None, None, False, False), "slurm")
    monkeypatch.setattr("trainer.launch_slurm._POLL_S", 0.01)
    monkeypatch.setattr("trainer.launch_slurm._NOTICED_S", 0.2)
    monkeypatch.setattr("trainer.launch_slurm._RECOVERED_S", 2.0)
    mgmt: Any = Mgmt(answers)
    return SlurmLauncher(site)._replaced_by(mgmt, plan, "41", status)


def record(job: str) -> str:
    return json.dumps({"run": "run1", "job": job, "request": "r", "script": "s", "steps": 20, "submitted": 0,
                       "user": "ops", "restarts_before": 1})  # fmt: skip


STOPPED = json.dumps({"event": "stop", "step": 9})


def test_the_follower_goes_with_the_run_to_the_job_that_recovery_submits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    working = (record("41"), STOPPED, '{"incident": "inc-1"}')
    answers = [(record("41"), STOPPED, ""), *[working] * 60, (record("42"), STOPPED, '{"incident": "inc-1"}')]
    assert follow(monkeypatch, answers) == "42"
    assert capsys.readouterr().err.count("recovery works on the run") == 1


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ((record("41"), STOPPED, ""), 1),
        ((record("41"), json.dumps({"event": "stop", "step": 20}), ""), 0),
        ((record("42"), STOPPED, ""), 2),
        (("", "", ""), 1),
        (("{torn", STOPPED, ""), 1),
    ],
    ids=["nobody recovers it", "finished", "refused input", "no record", "torn record"],
)
def test_the_follower_ends_with_the_run_else(
    monkeypatch: pytest.MonkeyPatch, answer: tuple[str, str, str], status: int
) -> None:
    assert follow(monkeypatch, [answer], status) is None

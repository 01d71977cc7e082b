"""`slurm_node`: whose a node is follows from what Slurm says, and only what is ours is changed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.test_bringup_plugins import ROOT, play

_SPEC = importlib.util.spec_from_file_location("slurm_node", ROOT / "plugins/action/slurm_node.py")
assert _SPEC
assert _SPEC.loader
slurm_node: Any = importlib.util.module_from_spec(_SPEC)
sys.modules["slurm_node"] = slurm_node
_SPEC.loader.exec_module(slurm_node)

# `scontrol --oneliner show node` of Slurm 22.05, shortened in the middle.
LINE = (
    "NodeName=node2 Arch=x86_64 CoresPerSocket=2  CPUAlloc=0 CPUEfctv=2 NodeAddr=10.89.77.12 NodeHostName=node2 "
    "Version=22.05.8 OS=Linux 6.1 #1 SMP PREEMPT_DYNAMIC @0  RealMemory=3932 State={state} ThreadsPerCore=1 TmpDisk=0 "
    "Partitions=train  CfgTRES=cpu=2,mem=3932M,billing=2 AllocTRES= ExtSensorsTemp=n/s {reason}"
)
PERSONS = [
    ("IDLE+DRAIN", "bad disk [root@2026-11-23T02:22:55]"),
    ("DOWN", "RMA 4711"),
    ("DOWN*+DRAIN", "Not responding"),
    ("IDLE+DRAIN", "Kill task failed"),
    ("IDLE+DRAIN", "about medllm-recover:inc-1"),
    ("IDLE+DRAIN", ""),
    ("IDLE+MAINT", ""),
    ("IDLE+REBOOT_REQUESTED", ""),
    ("FAIL", "x"),
]


class Slurm:
    """`scontrol`, `squeue`, `scancel` that answer from files and write down what they are told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs = folder / "runs"
        self.runs.mkdir()
        self.node("IDLE")
        self.jobs()
        self.command(
            "scontrol",
            f'if [ "$1" = update ]; then shift; echo "$*" >> {folder}/updates; case "$*" in '
            f"*state=resume*) cp {folder}/idle {folder}/node ;; "
            f'*) sed "s/State=[A-Z+*]*/State=IDLE+DRAIN/; s/ext.*/& /; s|n/s .*|n/s Reason=${{3#reason=}} [x]|" '
            f"{folder}/idle > {folder}/node ;; esac; else cat {folder}/node; fi",
        )
        self.command("squeue", f'case "$1" in --steps) echo "${{3#--jobs=}}.0" ;; *) cat {folder}/jobs ;; esac')
        self.command(
            "scancel",
            f'echo "$*" >> {folder}/cancelled; for word; do case $word in --*) ;; *) '
            f'[ -e {folder}/stubborn ] || sed -i "/^$word|/d" {folder}/jobs ;; esac; done',
        )

    def command(self, name: str, body: str) -> None:
        (self.folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (self.folder / name).chmod(0o755)

    def node(self, state: str, reason: str = "") -> None:
        text = LINE.format(state=state, reason=f"Reason={reason}" if reason else "")
        (self.folder / "node").write_text(text + "\n")
        (self.folder / "idle").write_text(LINE.format(state="IDLE", reason="") + "\n")

    def jobs(self, *lines: str) -> None:
        (self.folder / "jobs").write_text("".join(f"{line}\n" for line in lines))

    def run(self, name: str, job: str) -> Path:
        (self.runs / name).mkdir()
        (self.runs / name / "launch.json").write_text(json.dumps({"job": job}, indent=1))
        return self.runs / name

    def said(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def play(self, state: str, *, check: bool = False, **options: Any) -> dict[str, Any]:
        """What the task answers. Its shell texts run here; Ansible itself would take a second a case."""
        module = slurm_node.ActionModule.__new__(slurm_node.ActionModule)
        module._task = SimpleNamespace(check_mode=check)
        module._low_level_execute_command = self._run
        module.options = {
            "state": state, "node": "node2", "incident": "inc-1", "run": "", "runs_directory": str(self.runs),
            "jobs": "leave", "grace_s": 60.0, "deadline_s": 1.0, **options,
        }  # fmt: skip
        module.end = time.monotonic() + module.options["deadline_s"]
        answer: dict[str, Any] = module.answer()
        return answer

    def _run(self, command: str, in_data: bytes) -> dict[str, Any]:
        environment = {**os.environ, "PATH": f"{self.folder}:{os.environ['PATH']}"}
        done = subprocess.run(
            ["/bin/sh", "-c", command], input=in_data, env=environment, capture_output=True, timeout=60
        )
        return {"rc": done.returncode, "stdout": done.stdout.decode(), "stderr": done.stderr.decode()}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    monkeypatch.setattr(slurm_node, "POLL_S", 0.05)
    return Slurm(tmp_path)


def test_ansible_runs_it_too(slurm: Slurm) -> None:
    given = {"node": "node2", "incident": "inc-1", "runs_directory": str(slurm.runs), "state": "drained"}
    assert play(slurm.folder, [{"name": "Try", "slurm_node": given}])["state"] == "IDLE+DRAIN"
    slurm.node("DOWN", "mine")
    result = play(slurm.folder, [{"name": "Try", "slurm_node": given}])
    assert (result["failed"], "by a person" in result["msg"]) == (True, True)


def test_a_node_is_drained_once_with_the_incident_as_its_reason(slurm: Slurm) -> None:
    assert slurm.play("drained", check=True)["changed"]
    assert slurm.said("updates") == []
    first = slurm.play("drained")
    assert (first["changed"], first["state_before"], first["state"]) == (True, "IDLE", "IDLE+DRAIN")
    assert slurm.said("updates") == ["nodename=node2 state=drain reason=medllm-recover:inc-1"]
    assert not slurm.play("drained")["changed"]


@pytest.mark.parametrize(("state", "reason"), PERSONS)
def test_what_a_person_took_out_stays_as_it_is(slurm: Slurm, state: str, reason: str) -> None:
    """Node Health Check issue 134: it put a node back that its administrator had drained."""
    slurm.node(state, reason)
    for wanted in ("drained", "in_service"):
        result = slurm.play(wanted)
        assert result["failed"]
        assert "taken out of service by a person" in result["msg"]
        assert result["refused_by"] == "person", "the engine must know that nothing was done"
    assert slurm.said("updates") == []


def test_a_person_who_is_quicker_wins(slurm: Slurm) -> None:
    """The node is drained by a person between the look and the change."""
    slurm.command("squeue", f"sed 's/State=IDLE/State=IDLE+DRAIN/; s|$|Reason=mine [me@now]|' -i {slurm.folder}/node")
    result = slurm.play("drained")
    assert result["failed"]
    assert "(state IDLE+DRAIN, reason mine [me@now])" in result["msg"]
    assert result["refused_by"] == "person"
    assert slurm.said("updates") == []


@pytest.mark.parametrize(
    ("state", "reason", "holder"),
    [
        ("IDLE+DRAIN", "medllm-recover:inc-1 [root@2026-11-23T02:22:55]", "ours"),
        ("DOWN*", "medllm-recover:inc-1", "ours"),
        ("IDLE+DRAIN", "medllm-recover:inc-10 [root@2026-11-23T02:22:55]", "incident"),
        ("DOWN*", "Not responding [slurm@2026-11-23T02:22:55]", "slurm"),
        ("DOWN", "Node unexpectedly rebooted [slurm@2026-11-23T02:22:55]", "slurm"),
        ("IDLE", "", "nobody"),
        ("ALLOCATED*", "", "nobody"),
        ("MIXED+PLANNED", "", "nobody"),
        *((state, reason, "person") for state, reason in PERSONS),
    ],
)
def test_whose_a_node_is(slurm: Slurm, state: str, reason: str, holder: str) -> None:
    slurm.node(state, reason)
    done = subprocess.run(
        ["/bin/sh", "-c", f"set -- node2 inc-1\n{slurm_node.HOLDER}\necho $holder"],
        env={**os.environ, "PATH": f"{slurm.folder}:{os.environ['PATH']}"},
        capture_output=True, text=True, timeout=20, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == holder


def test_another_incidents_drain_is_not_ended(slurm: Slurm) -> None:
    slurm.node("IDLE+DRAIN", "medllm-recover:inc-2 [root@x]")
    result = slurm.play("in_service")
    assert (result["failed"], "another incident" in result["msg"], slurm.said("updates")) == (True, True, [])


@pytest.mark.parametrize("reason", ["medllm-recover:inc-1", "Not responding", "Node unexpectedly rebooted"])
def test_our_drain_is_ended_and_what_slurm_did_itself(slurm: Slurm, reason: str) -> None:
    slurm.node("DOWN", reason)
    assert slurm.play("in_service")["state"] == "IDLE"
    assert slurm.said("updates") == ["nodename=node2 state=resume"]
    assert not slurm.play("in_service")["changed"]


def test_a_node_that_does_not_register_again_is_no_success(slurm: Slurm) -> None:
    slurm.node("IDLE*")
    result = slurm.play("in_service")
    assert (result["failed"], "not back in service for Slurm" in result["msg"]) == (True, True)


def test_only_jobs_that_a_runs_record_names_are_ended(slurm: Slurm) -> None:
    run = slurm.run("mine", "7")
    slurm.run("theirs", "1")
    slurm.jobs("7|medllm-mine|ops|RUNNING", "8|medllm-theirs|eve|RUNNING", "9|notebook|eve|RUNNING")
    result = slurm.play("drained", jobs="kill")
    assert result["failed"]
    assert "8 (medllm-theirs of eve, running), 9 (notebook of eve, running)" in result["msg"]
    assert slurm.said("cancelled") == ["--signal=KILL 7.0", "--signal=KILL --full 7", "7"]
    assert json.loads((run / "recovery.json").read_text())["incident"] == "inc-1"
    assert not (slurm.runs / "theirs/recovery.json").exists()


def test_a_dead_node_with_the_jobs_of_others_is_not_set_down(slurm: Slurm) -> None:
    slurm.jobs("9|notebook|eve|RUNNING")
    assert slurm.play("down", jobs="kill")["failed"]
    assert slurm.said("updates") == ["nodename=node2 state=drain reason=medllm-recover:inc-1"]
    slurm.jobs()
    slurm.node("IDLE")
    slurm.play("down", jobs="kill")
    assert slurm.said("updates")[-1] == "nodename=node2 state=down reason=medllm-recover:inc-1"


def test_ranks_have_a_grace_and_no_more(slurm: Slurm) -> None:
    slurm.run("mine", "7")
    slurm.jobs("7|medllm-mine|ops|RUNNING")
    result = slurm.play("drained", jobs="terminate", grace_s=30, deadline_s=60)
    assert (result["ended_jobs"], slurm.said("cancelled")) == (["7"], ["--signal=TERM 7"])
    slurm.jobs("7|medllm-mine|ops|RUNNING")
    (slurm.folder / "stubborn").touch()
    begin = time.monotonic()
    result = slurm.play("drained", jobs="terminate", grace_s=0.3, deadline_s=1)
    assert (result["failed"], "jobs of ours do not end: 7 " in result["msg"]) == (True, True)
    assert time.monotonic() - begin < 12
    assert "--signal=KILL --full 7" in slurm.said("cancelled")


def test_jobs_that_clean_up_or_wait_again_hold_nothing_up(slurm: Slurm) -> None:
    """A node that is set DOWN sends its job back to the queue, where it would wait for two minutes."""
    slurm.run("mine", "7")
    slurm.jobs("7|medllm-mine|ops|PENDING", "6|medllm-mine|ops|COMPLETING")
    assert slurm.play("down", jobs="kill", run="mine")["ended_jobs"] == ["7"]


def test_a_runs_job_is_ended_wherever_it_is(slurm: Slurm) -> None:
    slurm.run("mine", "7")
    slurm.jobs("7|medllm-mine|ops|RUNNING")
    result = slurm.play("any", node="", run="mine", jobs="kill")
    assert (result["ended_jobs"], slurm.said("updates")) == (["7"], [])
    assert not slurm.play("any", node="", run="mine", jobs="kill")["changed"]


def test_held_means_ours_and_empty(slurm: Slurm) -> None:
    assert "is not held by inc-1" in slurm.play("held")["msg"]
    assert "failed" not in slurm.play("held", check=True)
    slurm.node("IDLE+DRAIN", "medllm-recover:inc-1")
    assert not slurm.play("held")["changed"]
    slurm.jobs("9|notebook|eve|RUNNING")
    assert "jobs still run on node2: 9 (notebook of eve, running)" in slurm.play("held")["msg"]


@pytest.mark.parametrize("command", ["scontrol", "squeue"])
def test_a_controller_that_does_not_answer_is_told(slurm: Slurm, command: str) -> None:
    slurm.command(command, "echo 'slurm_load: Unable to contact slurm controller (connect failure)' >&2; exit 1")
    result = slurm.play("drained")
    assert (result["failed"], "Unable to contact slurm controller" in result["msg"]) == (True, True)
    assert slurm.said("updates") == []


@pytest.mark.parametrize("text", ["", "ours\n", "x\nIDLE\n\n--\n--\n", "ours\nIDLE\n\n--\n7 medllm-x ops R\n--\n"])
def test_what_cannot_be_read_is_not_guessed(text: str) -> None:
    if text == "ours\n":
        assert slurm_node.parse_look(text).jobs == ()
    else:
        with pytest.raises(ValueError, match="line 1"):
            slurm_node.parse_look(text)


def test_a_reason_that_looks_like_our_separator_changes_nothing() -> None:
    look = slurm_node.parse_look("person\nDOWN\nbad --\n--\n7|a|b|RUNNING\n--\n")
    assert (look.reason, [job.id for job in look.jobs]) == ("bad --", ["7"])

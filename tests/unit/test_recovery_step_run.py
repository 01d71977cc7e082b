"""The step runner with a real ansible-runner, on playbooks for this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from medllm.verdict import Outcome
from runbooks.engine import step_files, step_run
from runbooks.engine.model import Slot, StepStatus, Work

# Whole processes of Ansible or of the engine.
pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
HERE = "- hosts: '{{ recovery_node }}'\n  connection: local\n  gather_facts: false\n  tasks:\n"

PLAYBOOKS = {
    "good.yml": HERE
    + """\
    - name: Say what was asked
      ansible.builtin.set_stats:
        data:
          node: "{{ recovery_node }}"
          incident: "{{ recovery_incident }}"
          run: "{{ recovery_run }}"
          limit: "{{ limit_w }}"
        per_host: false
""",
    "fails.yml": HERE
    + """\
    - name: Look first
      ansible.builtin.set_stats: {data: {boot_id: before}, per_host: false}
    - name: Expected to fail
      ansible.builtin.command: "false"
      ignore_errors: true
    - name: Break
      ansible.builtin.fail: {msg: "the node\\nsaid no"}
""",
    "refused.yml": HERE
    + """\
    - name: Drain
      refuse: {}
""",
    "command.yml": HERE
    + """\
    - name: Break
      ansible.builtin.shell: "echo scontrol\\\\: no such node >&2; exit 7"
""",
    "secret.yml": HERE
    + """\
    - name: Ask the BMC
      ansible.builtin.fail: {msg: "password {{ secret }} refused"}
      no_log: true
""",
    "syntax.yml": "- hosts: all\n  tasks: 7\n",
    "hangs.yml": HERE
    + """\
    - name: Wait for ever
      ansible.builtin.command: sleep 314159
""",
    "mark.yml": HERE
    + """\
    - name: Do it
      ansible.builtin.shell: echo done >> "{{ playbook_dir }}/../did"
""",
}


@pytest.fixture
def content(tmp_path: Path) -> Iterator[Path]:
    """A content tree as it lies on mgmt: ansible.cfg, playbooks and an inventory; the site is nobody's business."""
    tree = tmp_path / "content"
    (tree / "playbooks").mkdir(parents=True)
    (tree / "inventory" / "site").mkdir(parents=True)
    (tree / "inventory" / "site" / "hosts.yml").write_text(
        f"all: {{hosts: {{here: }}, vars: {{ansible_python_interpreter: {sys.executable}, secret: hunter2}}}}\n"
    )
    (tree / "ansible.cfg").write_text(f"[defaults]\nhome = {tmp_path}/ansible\n")
    # What a content tree brings beside the playbooks must not hide the Python packages of these names.
    (tree / "runbooks").mkdir()
    (tree / "runbooks" / "__init__.py").write_text("raise SystemExit('wrong package')\n")
    for name, text in PLAYBOOKS.items():
        (tree / "playbooks" / name).write_text(text)
    (tree / "playbooks" / "library").mkdir()
    (tree / "playbooks" / "library" / "refuse.py").write_text(
        "#!/usr/bin/python\nimport json\n"
        "print(json.dumps({'failed': True, 'msg': 'Kim has it', 'refused_by': 'person'}))\n"
    )
    yield tree
    # A unit's control group ends with it; here nothing else ends the workers of a playbook that hangs.
    subprocess.run(["pkill", "-KILL", "-f", str(tree)], timeout=10, check=False)


def write_step(directory: Path, work: Work, *, node: str = "here") -> None:
    directory.mkdir()
    described = {
        "id": directory.name, "incident": "inc-20261123-0001", "node": node, "run": "medllm-tiny",
        "work": {
            "slot": work.slot.value, "playbook": work.playbook, "variables": dict(work.variables),
            "checks": list(work.checks), "deadline_s": work.deadline_s, "settle_s": 0, "approval": False,
        },
        "site_inventory": "inventory/site",
        "variables": {
            **work.variables, "recovery_incident": "inc-20261123-0001", "recovery_node": node,
            "recovery_run": "medllm-tiny",
        },
    }  # fmt: skip
    (directory / "step.json").write_text(json.dumps(described))


def run_step(content: Path, work: Work, *, node: str = "here", **environment: str) -> tuple[int, Path]:
    directory = content.parent / f"step-{work.playbook.removesuffix('.yml')}"
    write_step(directory, work, node=node)
    return again(content, directory, **environment), directory


def again(content: Path, directory: Path, **environment: str) -> int:
    command = [sys.executable, "-m", "runbooks.engine.step_run", str(directory), "-i", str(content / "inventory/site")]
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    print(done.stdout, done.stderr)
    return done.returncode


def play(name: str, **changes: Any) -> Work:
    return Work(Slot.ACT, name, **changes)


def test_a_good_playbook_gets_its_variables_and_reports_its_facts(content: Path) -> None:
    status, directory = run_step(content, play("good.yml", variables={"limit_w": 250}))
    result = step_files.read_result(directory)
    assert status == 0
    assert result is not None
    assert result.status is StepStatus.OK
    assert result.facts == {"node": "here", "incident": "inc-20261123-0001", "run": "medllm-tiny", "limit": 250}
    assert "here" in result.summary


def test_a_failure_names_the_first_task_that_counts_and_its_message(content: Path) -> None:
    status, directory = run_step(content, play("fails.yml"))
    result = step_files.read_result(directory)
    assert status == 1
    assert result is not None
    assert result.status is StepStatus.FAILED
    assert result.summary == "here: Break: the node said no"
    # What it had found out before it failed is worth keeping.
    assert result.facts == {"boot_id": "before"}


def test_what_was_refused_for_another_holder_says_so(content: Path) -> None:
    """`slurm_node` says with `refused_by` that nothing was done; the engine then waits instead of giving up."""
    _, directory = run_step(content, play("refused.yml"))
    result = step_files.read_result(directory)
    assert result is not None
    assert (result.status, result.facts) == (StepStatus.FAILED, {"refused_by": "person"})


@pytest.mark.parametrize(
    ("name", "node", "says"),
    [
        ("command.yml", "here", "exit status 7: scontrol: no such node"),
        ("syntax.yml", "here", "tasks"),
        ("missing.yml", "here", "there is no playbooks/missing.yml"),
        ("../../good.yml", "here", "there is no playbooks/"),
        # Ansible exits with 0 when nothing matched: nothing was done, and nothing is well.
        ("good.yml", "elsewhere", "matched no machine"),
    ],
)
def test_what_did_nothing_is_never_ok(content: Path, name: str, node: str, says: str) -> None:
    result = step_run.play(content.parent, content / "inventory/site", play(name), {"recovery_node": node})
    assert result.status is StepStatus.FAILED
    assert says in result.summary


def test_no_secret_reaches_the_artifacts_or_the_summary(content: Path) -> None:
    _, directory = run_step(content, play("secret.yml"), BMC_PASSWORD="hunter2", AWS_SECRET_ACCESS_KEY="hunter2")
    result = step_files.read_result(directory)
    assert result is not None
    assert result.status is StepStatus.FAILED
    assert "Ask the BMC" in result.summary
    for path in directory.rglob("*"):
        if path.is_file():
            assert b"hunter2" not in path.read_bytes(), path


def test_ansible_runner_does_not_turn_host_keys_off(content: Path) -> None:
    """It sets ANSIBLE_HOST_KEY_CHECKING=False where it is not set (ansible_runner/config/_base.py, prepare_env)."""
    _, directory = run_step(content, play("good.yml", variables={"limit_w": 1}))
    begun = json.loads((directory / "artifacts/run/command").read_text())
    assert begun["env"]["ANSIBLE_HOST_KEY_CHECKING"] == "True"


def test_a_hung_playbook_ends_at_its_deadline_and_nobody_knows_what_it_did(content: Path) -> None:
    begin = time.monotonic()
    status, directory = run_step(content, play("hangs.yml", deadline_s=6))
    result = step_files.read_result(directory)
    assert time.monotonic() - begin < 30
    assert status == 1
    assert result is not None
    assert result.status is StepStatus.UNKNOWN
    assert result.summary == "did not end within 6 s; its last task: Wait for ever"


def test_a_step_whose_unit_is_stopped_is_unknown_and_not_failed(content: Path) -> None:
    """systemd sends SIGTERM to all of the unit; Ansible's bad exit must not be read as the work's."""
    directory = content.parent / "step-hangs"
    write_step(directory, play("hangs.yml"))
    command = [sys.executable, "-m", "runbooks.engine.step_run", str(directory), "-i", str(content / "inventory/site")]
    with subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, start_new_session=True) as process:
        while not (events := list(directory.glob("artifacts/run/job_events/*"))) or len(events) < 4:
            time.sleep(0.1)
        children = subprocess.run(
            ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, timeout=10, check=True
        ).stdout.split()
        for pid in (*map(int, children), process.pid):
            os.kill(pid, signal.SIGTERM)
        assert process.wait(timeout=30) == 1
    result = step_files.read_result(directory)
    assert result is not None
    assert result.status is StepStatus.UNKNOWN
    assert "was ended from outside" in result.summary


def test_work_that_began_is_not_begun_again(content: Path) -> None:
    status, directory = run_step(content, play("mark.yml"))
    assert status == 0
    (directory / "result.json").unlink()
    assert again(content, directory) == 3
    assert (content / "did").read_text() == "done\n"
    assert not (directory / "result.json").exists()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"id": "x"}', '{"work": {"slot": "none"}, "node": "", "variables": {}}']
)
def test_a_broken_step_file_is_not_begun(content: Path, text: str) -> None:
    directory = content.parent / "broken"
    directory.mkdir()
    (directory / "step.json").write_text(text)
    assert step_run.main([str(directory), "-i", str(content / "inventory/site")]) == 2
    assert not (directory / "started").exists()


def looks(monkeypatch: pytest.MonkeyPatch, rounds: list[step_run.Looks | float]) -> None:
    """Let each round of checks answer so; a number is a machine that says nothing for so many seconds."""

    def look(*_: object) -> step_run.Looks:
        answer = rounds.pop(0) if len(rounds) > 1 else rounds[0]
        if isinstance(answer, float):
            time.sleep(answer)
            return {}
        return answer

    monkeypatch.setattr(step_run, "look", look)
    monkeypatch.setattr(step_run, "RECHECK_S", 0.01)


GOOD = (Outcome.PASS, "8 of 8")


def test_revalidation_waits_until_every_check_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    off = (Outcome.NOT_RUN, "node3: unreachable")
    looks(
        monkeypatch,
        [{"gpu_count": off, "nvlink": off}, {"gpu_count": GOOD, "nvlink": off}, {"gpu_count": GOOD, "nvlink": GOOD}],
    )
    result = step_run.revalidate(Path(), "node3", Work(Slot.REVALIDATE, checks=("gpu_count", "nvlink"), deadline_s=5))
    assert result.status is StepStatus.OK
    assert result.facts == {"gpu_count": "PASS", "nvlink": "PASS"}
    assert "round 3" in result.summary


@pytest.mark.parametrize("outcome", [Outcome.FAIL, Outcome.NOT_RUN, Outcome.INCONCLUSIVE])
def test_only_a_pass_returns_a_node(monkeypatch: pytest.MonkeyPatch, outcome: Outcome) -> None:
    looks(monkeypatch, [{"gpu_count": (outcome, "7 of 8"), "nvlink": GOOD}])
    result = step_run.revalidate(Path(), "node3", Work(Slot.REVALIDATE, checks=("gpu_count", "nvlink"), deadline_s=1))
    assert result.status is StepStatus.FAILED
    assert f"gpu_count {outcome.value}: 7 of 8" in result.summary
    assert "nvlink" not in result.summary
    assert result.facts["gpu_count"] == outcome.value


def test_a_machine_that_says_nothing_does_not_hold_revalidation(monkeypatch: pytest.MonkeyPatch) -> None:
    looks(monkeypatch, [30.0])
    begin = time.monotonic()
    result = step_run.revalidate(Path(), "node3", Work(Slot.REVALIDATE, checks=("gpu_count",), deadline_s=1))
    assert time.monotonic() - begin < 5
    assert result.status is StepStatus.FAILED
    assert "node3 did not answer" in result.summary


@pytest.mark.parametrize(("checks", "says"), [((), "no check is named"), (("gpu_cuont",), "'gpu_cuont'")])
def test_revalidation_that_proves_nothing_fails(checks: tuple[str, ...], says: str) -> None:
    result = step_run.revalidate(Path(), "node3", Work(Slot.REVALIDATE, checks=checks, deadline_s=1))
    assert result.status is StepStatus.FAILED
    assert says in result.summary


def test_a_bad_declaration_fails_revalidation_with_its_words(content: Path) -> None:
    work = Work(Slot.REVALIDATE, checks=("gpu_count",), deadline_s=5)
    result = step_run.revalidate(content / "inventory/site", "here", work)
    assert result.status is StepStatus.FAILED
    assert "Fix:" in result.summary


def test_a_round_runs_the_real_suite_and_says_not_run_for_a_dead_node(tmp_path: Path) -> None:
    """The lab's declaration with machines that do not answer: every check is NOT_RUN, none passes."""
    site = tmp_path / "inventory" / "site"
    (tmp_path / "inventory").mkdir()
    for name in ("versions", "thresholds"):
        (tmp_path / "inventory" / name).symlink_to(REPOSITORY / "inventory" / name)
    site.mkdir()
    (site / "group_vars").symlink_to(REPOSITORY / "inventory/lab/group_vars")
    hosts = (REPOSITORY / "inventory/lab/hosts.yml").read_text()
    (site / "hosts.yml").write_text(hosts.replace("10.89.77.", "127.0.0."))
    found = step_run.look(site, "node2", ("gpu_count", "lustre_readiness"))
    assert set(found) == {"gpu_count", "lustre_readiness"}
    assert {outcome for outcome, _ in found.values()} == {Outcome.NOT_RUN}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "{}",
        '{"status": "running", "summary": "", "facts": {}, "ended_at": "2026-11-23T01:00:00Z"}',
        '{"status": "ok", "summary": "", "facts": {}, "ended_at": "2026-11-23T01:00:00"}',
    ],
)
def test_a_result_that_cannot_be_read_decides_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "result.json").write_text(text)
    result = step_files.read_result(tmp_path)
    assert result is not None
    assert result.status is StepStatus.UNKNOWN


def test_results_are_bounded(tmp_path: Path) -> None:
    step_files.write_result(tmp_path, step_files.failed("x\n\x1b[31m" * 100_000, {"log": "y" * 1_000_000}))
    assert (tmp_path / "result.json").stat().st_size < 2000
    result = step_files.read_result(tmp_path)
    assert result is not None
    assert "\x1b" not in result.summary
    assert "left_out" in result.facts

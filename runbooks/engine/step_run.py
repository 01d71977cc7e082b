"""Do one step's work: `python -m runbooks.engine.step_run DIRECTORY -i INVENTORY`, as a transient unit starts it.

Exit status: 0 the step did what it was for, 1 it did not or nobody knows, 2 `step.json` can't be read, 3 its work had
begun before: nothing is done then. What came of it stands in `result.json`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import pwd
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from medllm.errors import UserError
from medllm.verdict import Outcome, worst
from runbooks.engine import step_files
from runbooks.engine.model import REFUSED_BY, Slot, StepResult, StepStatus, Work

# All that the work's environment needs; ansible-runner writes the environment into its artifacts.
KEPT = {"HOME", "LANG", "LC_ALL", "PATH", "TZ", "USER"}
KEPT |= {"PYTHONDONTWRITEBYTECODE", "PYTHONNOUSERSITE", "PYTHONPATH"}
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Between two looks at a node that is still coming up.
RECHECK_S = 2.0

T = TypeVar("T")
# Outcome and reason by check.
Looks = dict[str, tuple[Outcome, str]]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("-i", "--inventory", type=Path, required=True)
    options = parser.parse_args(arguments)
    directory, inventory = options.directory.resolve(), options.inventory.resolve()
    try:
        described = json.loads((directory / "step.json").read_text(encoding="utf-8"))
        work = step_files.work_of(described)
        node, variables = str(described["node"]), dict(described["variables"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        print(f"error: {directory}/step.json can't be read ({error!r})", file=sys.stderr)
        return 2
    begun = {"by": "runner", "pid": os.getpid(), "at": datetime.now(UTC).isoformat()}
    if not step_files.claim(directory, begun):
        print(f"{directory.name}: its work had begun before; nothing done", file=sys.stderr)
        return 3
    _clean_environment()
    try:
        if work.slot is Slot.REVALIDATE:
            result = revalidate(inventory, node, work)
        else:
            result = play(directory, inventory, work, variables)
    except Exception as error:  # whatever it was, part of the work may be done: only the machine can tell
        result = step_files.unknown(f"the runner broke: {type(error).__name__}: {error}")
    step_files.write_result(directory, result)
    print(f"{directory.name}: {result.status}: {result.summary}", file=sys.stderr)
    return 0 if result.status is StepStatus.OK else 1


def _clean_environment() -> None:
    """Keep what the work needs and nothing that a later reader of the artifacts should not see."""
    kept = {name: value for name, value in os.environ.items() if name in KEPT}
    kept.setdefault("PATH", SYSTEM_PATH)
    # A system unit has none, and Ansible keeps its own files below it.
    kept.setdefault("HOME", pwd.getpwuid(os.getuid()).pw_dir)
    kept.setdefault("LC_ALL", "C.UTF-8")
    os.environ.clear()
    os.environ.update(kept)


@dataclass
class _Watch:
    """What a playbook's events said: its first failure, what it reported, whether it met any machine."""

    failure: str = ""
    task: str = ""
    refused_by: str = ""
    unmatched: bool = False
    ran_on: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def event(self, event: dict[str, Any]) -> bool:
        """Take one event of ansible-runner; the answer True keeps it among the artifacts.

        The text beside an event is dropped: ansible-core prints there what a failed task says although it has
        `no_log`. The data of such an event is censored.
        """
        text, event["stdout"] = str(event.get("stdout") or ""), ""
        kind, data = event.get("event"), event.get("event_data") or {}
        if kind == "playbook_on_task_start":
            self.task = str(data.get("name") or data.get("task") or "")
        elif kind == "playbook_on_no_hosts_matched":
            self.unmatched = True
        elif kind == "playbook_on_stats":
            self.ran_on = sorted(data.get("processed") or {})
            self.facts = dict(data.get("artifact_data") or {})
        elif kind in ("runner_on_ok", "runner_on_failed", "runner_on_unreachable"):
            bad = kind != "runner_on_ok" and not data.get("ignore_errors")
            print(f"{data.get('host')}: {data.get('task')}: {'failed' if bad else 'ok'}", file=sys.stderr, flush=True)
            if bad and not self.failure:
                self.failure = _failure(data)
                # slurm_node's word that another holds the node and that nothing was done.
                if by := (data.get("res") or {}).get("refused_by"):
                    self.refused_by = str(by)
        elif not self.task and not self.failure and "ERROR" in text:
            # Before any task these are Ansible's words on our playbook, not what a task said.
            self.failure = step_files.one_line(text[text.index("ERROR") :].removeprefix("ERROR]: "))
        return True


def _failure(data: Mapping[str, Any]) -> str:
    """`host: task: message`, from a failed task's event; what it printed only where there is no message."""
    result = data.get("res") or {}
    says = "its output is not shown" if "censored" in result else result.get("msg") or result.get("stderr") or ""
    if not isinstance(says, str):
        says = json.dumps(says, default=str)
    if says == "non-zero return code" and result.get("stderr"):
        says = f"exit status {result.get('rc')}: {str(result['stderr']).strip().splitlines()[-1]}"
    return step_files.one_line(f"{data.get('host')}: {data.get('task')}: {says or 'failed'}")


def play(directory: Path, inventory: Path, work: Work, variables: Mapping[str, Any]) -> StepResult:
    """Run the step's playbook through ansible-runner, at most `work.deadline_s` seconds; it writes `artifacts/run`.

    OK: it ended well on at least one machine. A playbook that matched no machine did nothing, whatever its exit status.
    """
    import ansible_runner

    content = inventory.parent.parent
    playbook = content / "playbooks" / work.playbook
    if playbook.parent != content / "playbooks" or not playbook.is_file():
        return step_files.failed(f"there is no playbooks/{work.playbook}")
    watch = _Watch()
    # Who ends the unit ends Ansible with it, whose bad exit then says nothing about the work.
    told_to_end: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: told_to_end.append(number))
    runner = ansible_runner.run(
        private_data_dir=str(directory),
        project_dir=str(content),
        inventory=str(inventory),
        # `-m ansible playbook` and not a command on some PATH: the one that belongs to this Python.
        binary=sys.executable,
        cmdline=f"-m ansible playbook playbooks/{work.playbook}",
        extravars=dict(variables),
        envvars=_ansible(content),
        settings={
            "pexpect_timeout": 1,
            "job_timeout": work.deadline_s,
            "suppress_ansible_output": True,
            "suppress_output_file": True,
        },
        ident="run",
        quiet=True,
        event_handler=watch.event,
        cancel_callback=lambda: bool(told_to_end),
    )
    signal.signal(signal.SIGTERM, before)
    ended = datetime.now(UTC)
    if runner.status == "timeout" or runner.rc is None or told_to_end:
        how = f"did not end within {work.deadline_s} s" if runner.status == "timeout" else "was ended from outside"
        return StepResult(StepStatus.UNKNOWN, f"{how}; its last task: {watch.task or 'none'}", watch.facts, ended)
    if runner.rc:
        text = watch.failure or f"exit status {runner.rc}"
        facts = watch.facts | ({REFUSED_BY: watch.refused_by} if watch.refused_by else {})
        return StepResult(StepStatus.FAILED, text, facts, ended)
    if watch.unmatched or not watch.ran_on:
        return StepResult(StepStatus.FAILED, "a play of it matched no machine", watch.facts, ended)
    return StepResult(StepStatus.OK, f"{work.playbook} ended well on {', '.join(watch.ran_on)}", watch.facts, ended)


def _ansible(content: Path) -> dict[str, str]:
    environment = {
        "ANSIBLE_CONFIG": str(content / "ansible.cfg"),
        "ANSIBLE_NOCOLOR": "1",
        # ansible-runner turns this off where it is not set: an unknown machine would get our commands.
        "ANSIBLE_HOST_KEY_CHECKING": "True",
        # Or the content's folders would hide the Python packages of the same names.
        "PYTHONSAFEPATH": "1",
    }
    mitogen = importlib.util.find_spec("ansible_mitogen")
    if mitogen is not None and mitogen.origin:
        environment["ANSIBLE_STRATEGY"] = "mitogen_linear"
        environment["ANSIBLE_STRATEGY_PLUGINS"] = str(Path(mitogen.origin).parent / "plugins" / "strategy")
    return environment


def revalidate(inventory: Path, node: str, work: Work) -> StepResult:
    """Repeat the checks on the node until each passes, at most `work.deadline_s` seconds.

    The outcome decides. Whether the evidence is measured or simulated certifies hardware, and nothing here.
    """
    from medllm.checks import CHECKS

    known = {check.id for check in CHECKS}
    if missing := [name for name in work.checks if name not in known]:
        return step_files.failed(f"there is no check {missing[0]!r}")
    if not work.checks:
        return step_files.failed("no check is named: nothing would be proved")
    deadline = time.monotonic() + work.deadline_s
    found: Looks = {}
    rounds = 0
    while (left := deadline - time.monotonic()) > 0:
        # A round on a machine that takes connections and then says nothing must not outlast the step.
        try:
            answer = _within(left, lambda: look(inventory, node, work.checks))
        except UserError as error:
            return step_files.failed(str(error))
        if answer is None:
            break
        found, rounds = answer, rounds + 1
        if all(outcome is Outcome.PASS for outcome, _ in found.values()):
            text = f"{', '.join(found)} passed on {node} in round {rounds}"
            return StepResult(StepStatus.OK, text, _outcomes(found), datetime.now(UTC))
        time.sleep(max(0.0, min(RECHECK_S, deadline - time.monotonic())))
    bad = [f"{check} {outcome.value}: {why}" for check, (outcome, why) in found.items() if outcome is not Outcome.PASS]
    says = "; ".join(bad) or f"{node} did not answer"
    return step_files.failed(f"after {rounds} rounds in {work.deadline_s} s: {says}", _outcomes(found))


def _outcomes(found: Looks) -> dict[str, str]:
    return {check: outcome.value for check, (outcome, _) in found.items()}


def look(inventory: Path, node: str, checks: Sequence[str]) -> Looks:
    """One round of the checks that apply to this site: outcome and reason by check.

    Raises:
        UserError: the declaration is bad, or none of the checks applies to the site.
    """
    from benchmarks.acceptance import suite
    from medllm.checks import CHECKS
    from medllm.checks.base import Subject
    from medllm.site import load_site
    from medllm.thresholds import thresholds_of

    site = load_site(inventory)
    wanted = [check for check in CHECKS if check.id in checks]
    # Some of what proves a node is asked on the management host (is it in service?).
    hosts = sorted({node} | {site.mgmt.name for check in wanted if check.where == "mgmt"})
    chosen = suite.plan(site, thresholds_of(inventory, site), wanted, Subject("", ""), hosts=hosts)
    dossier, _ = suite.run(chosen)
    found: Looks = {}
    for check, _ in chosen.checks:
        items = [item for item in dossier.items if item.check == check.id]
        # A check without an item was to run where this site has no machine: nothing was proved.
        outcome = worst(item.outcome for item in items) if items else Outcome.NOT_RUN
        found[check.id] = (outcome, next((item.reason for item in items if item.outcome is outcome), "it ran nowhere"))
    return found


def _within(seconds: float, work: Callable[[], T]) -> T | None:
    """What `work` returns, or None when it takes longer. Raises what it raises."""
    answers: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            answers.append(work())
        except BaseException as error:  # handed to the caller below
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    return answers[0] if answers else None


if __name__ == "__main__":
    try:
        status = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    sys.stderr.flush()
    # Threads that a dead machine holds would keep the process; all that matters is on the disk.
    os._exit(status)

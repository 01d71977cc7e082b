"""What a step leaves on disk: its directory is the one truth about it, whoever is killed and when.

`step.json` says what to do and is written before anything is started. `started` is made once, by whoever may do the
work; the file itself is the permission, so the work cannot be done twice. `result.json` is what came of it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medllm.files import write_atomic
from runbooks.engine.model import Incident, Slot, Step, StepResult, StepStatus, Work

SUMMARY_LIMIT = 500
FACTS_LIMIT = 64 << 10
# Seconds that Ansible itself takes to begin and to end.
ANSIBLE_S = 10


def describe(step: Step, incident: Incident, inventory: Path) -> dict[str, Any]:
    """The contents of `step.json`: all that the runner needs, so that it asks nobody."""
    return {
        "id": step.id,
        "incident": incident.id,
        "node": incident.node,
        "run": incident.run,
        "work": {**asdict(step.work), "slot": step.work.slot.value, "variables": dict(step.work.variables)},
        "site_inventory": str(inventory),
        "variables": {
            # The playbook's own waits end first, so that it can say what did not happen.
            "recovery_deadline_s": max(step.work.deadline_s - ANSIBLE_S, step.work.deadline_s // 2),
            # What tells a machine that started anew from one that only came back.
            "recovery_boot_id": str(incident.before.get("boot_id") or ""),
            **step.work.variables,
            "recovery_incident": incident.id,
            "recovery_node": incident.node,
            "recovery_device": incident.device,
            "recovery_run": incident.run,
        },
    }


def work_of(described: Mapping[str, Any]) -> Work:
    """The work in a `step.json`. Raises KeyError, TypeError or ValueError when it is not one."""
    fields = dict(described["work"])
    return Work(**{**fields, "slot": Slot(fields["slot"]), "checks": tuple(fields["checks"])})


def claim(directory: Path, who: Mapping[str, Any]) -> bool:
    """Make `started`: True to exactly one caller. It lies on the disk before this returns, so that a power loss of
    this machine cannot undo it after the work had begun.
    """
    try:
        handle = os.open(directory / "started", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    try:
        os.write(handle, (json.dumps(who) + "\n").encode())
        os.fsync(handle)
    finally:
        os.close(handle)
    sync_directory(directory)
    return True


def sync_directory(directory: Path) -> None:
    """Write a directory's entries to the disk."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_result(directory: Path, result: StepResult) -> None:
    """Write `result.json` in one step; the summary is one line of bounded length, too large facts are left out."""
    facts = dict(result.facts)
    size = len(json.dumps(facts, default=str))
    if size > FACTS_LIMIT:
        facts = {"left_out": f"facts of {size} bytes; {FACTS_LIMIT} are kept at most"}
    described = {
        "status": result.status.value,
        "summary": one_line(result.summary),
        "facts": facts,
        "ended_at": result.ended_at.isoformat(),
    }
    write_atomic(directory / "result.json", json.dumps(described, indent=1, default=str) + "\n", mode=0o600)


def read_result(directory: Path) -> StepResult | None:
    """What `result.json` says; None: there is none. One that can't be read decides nothing: UNKNOWN."""
    try:
        text = (directory / "result.json").read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        found = json.loads(text)
        status = StepStatus(found["status"])
        if status not in (StepStatus.OK, StepStatus.FAILED, StepStatus.UNKNOWN):
            raise ValueError(f"{status} is no end")
        ended_at = datetime.fromisoformat(found["ended_at"])
        if ended_at.tzinfo is None:
            raise ValueError("ended_at has no time zone")
        return StepResult(status, one_line(str(found["summary"])), dict(found["facts"]), ended_at)
    except (ValueError, KeyError, TypeError) as error:
        return unknown(f"its result can't be read ({error})")


def unknown(summary: str) -> StepResult:
    """A step of which only the machine can tell what came of it."""
    return StepResult(StepStatus.UNKNOWN, one_line(summary), {}, datetime.now(UTC))


def failed(summary: str, facts: Mapping[str, Any] | None = None) -> StepResult:
    """A step that did not do what it was for."""
    return StepResult(StepStatus.FAILED, one_line(summary), facts or {}, datetime.now(UTC))


def one_line(text: str, limit: int = SUMMARY_LIMIT) -> str:
    """Printable, on one line, of bounded length: what may stand in a journal and in a table."""
    flat = " ".join("".join(sign if sign.isprintable() else " " for sign in text[: 20 * limit]).split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"

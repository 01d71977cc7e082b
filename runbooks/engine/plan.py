"""What the engine would do about an alert, read from the policy, the procedures and the declaration: no machine is
asked.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from medllm.errors import user_error
from medllm.site import Site
from runbooks.engine.model import Slot, Work
from runbooks.engine.policy import Policy, load_policy
from runbooks.engine.procedure import Procedure, load_procedures

RUNBOOKS = Path(__file__).parents[1]


def outlook(site: Site, name: str, node: str) -> dict[str, Any]:
    """The plan as JSON: guards of the site, and for each fault class that the alert may speak for, its steps.

    Raises:
        UserError: there is neither an alert nor a fault class of this name.
    """
    policy, procedures = load_policy(RUNBOOKS), load_procedures(RUNBOOKS / "procedures")
    classes = _classes(policy, procedures, name)
    recovery = site.recovery
    return {
        "alert": name,
        "node": node,
        "mode": recovery.mode,
        "reboot_approval": recovery.reboot_approval,
        "guards": {
            "max_nodes_out": recovery.max_nodes_out,
            "attempts_per_day": recovery.attempts_per_day,
            "storm_incidents": recovery.storm_incidents,
            "storm_window_s": recovery.storm_window_s,
            "storm_cooldown_s": recovery.storm_cooldown_s,
        },
        "fault_classes": [_procedure(site, procedures[one]) for one in classes],
    }


def _classes(policy: Policy, procedures: Mapping[str, Procedure], name: str) -> tuple[str, ...]:
    if name in procedures:
        return (name,)
    if name in policy.alerts:
        return tuple(policy.alerts[name])
    known = [*policy.alerts, *procedures]
    folded = {word.lower().replace("_", ""): word for word in known}
    close = difflib.get_close_matches(name.lower().replace("_", ""), folded, n=3, cutoff=0.5)
    fix = f"did you mean {' or '.join(folded[word] for word in close)}?" if close else f"use one of: {', '.join(known)}"
    raise user_error(f"there is no alert or fault class {name!r}", fix, key="ALERT")


def _procedure(site: Site, procedure: Procedure) -> dict[str, Any]:
    steps = [_work(work, 1) for work in procedure.steps(Slot.QUIESCE, site)]
    for attempt in range(1, procedure.attempts + 1):
        for slot in (Slot.ACT, Slot.REVALIDATE):
            steps += [_work(work, attempt) for work in procedure.steps(slot, site, attempt)]
    for slot in (Slot.RETURN, Slot.RESUME):
        steps += [_work(work, procedure.attempts) for work in procedure.steps(slot, site)]
    return {
        "fault_class": procedure.fault_class,
        "title": procedure.title,
        "scope": procedure.scope,
        "attempts": procedure.attempts,
        "steps": steps,
        "if_all_fail": [_work(work, procedure.attempts) for work in procedure.steps(Slot.ISOLATE, site)],
        "vendor": procedure.vendor,
    }


def _work(work: Work, attempt: int) -> dict[str, Any]:
    return {
        "slot": work.slot.value,
        "attempt": attempt,
        "playbook": work.playbook,
        "checks": list(work.checks),
        "variables": dict(work.variables),
        "settle_s": work.settle_s,
        "deadline_s": work.deadline_s,
        "approval": work.approval,
    }


def show(outlook: Mapping[str, Any]) -> None:
    """Print the plan."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    where = f" on {outlook['node']}" if outlook["node"] else ""
    console.print(f"[bold]{outlook['alert']}[/]{where}", highlight=False)
    if not outlook["fault_classes"]:
        console.print("Nothing is done about it alone: its page tells a person what to do.")
        return
    for one in outlook["fault_classes"]:
        console.print()
        console.print(_table(one, outlook["reboot_approval"] == "ask"))
    console.print()
    for line in _rules(outlook):
        console.print(f"[dim]-[/] {escape(line)}", highlight=False)


def _table(one: Mapping[str, Any], ask: bool) -> Table:
    table = Table(title=f"{one['fault_class']}: {escape(one['title'])}", title_justify="left")
    for heading in ("step", "what is done", "within s", "before it"):
        table.add_column(heading, justify="right" if heading == "within s" else "left")
    for step in one["steps"]:
        again = step["attempt"] > 1 and step["slot"] in (Slot.ACT, Slot.REVALIDATE)
        table.add_row(
            step["slot"],
            _what(step),
            str(step["deadline_s"]),
            _before(step, ask, "if that did not help" if again else ""),
        )
    table.add_section()
    for step in one["if_all_fail"]:
        table.add_row(step["slot"], _what(step), str(step["deadline_s"]), "if nothing helped")
    if one["scope"] == "node":
        table.add_row("escalate", f"hand over to a person: {escape(one['vendor'])}", "", "if nothing helped")
    return table


def _what(step: Mapping[str, Any]) -> str:
    text = step["playbook"] or "all pass: " + ", ".join(step["checks"])
    values = ", ".join(f"{key.removeprefix('recovery_')}={value}" for key, value in step["variables"].items())
    return escape(f"{text} ({values})" if values else text)


def _before(step: Mapping[str, Any], ask: bool, first: str) -> str:
    parts = [
        first,
        f"waits {step['settle_s']} s" if step["settle_s"] else "",
        "a person approves" if ask and step["approval"] else "",
    ]
    return ", ".join(part for part in parts if part)


def _rules(outlook: Mapping[str, Any]) -> Iterable[str]:
    guards = outlook["guards"]
    if outlook["mode"] == "dry_run":
        yield "The site declares mode dry_run: this is recorded and nothing is done."
    yield f"At most {guards['max_nodes_out']} node(s) out of service at once, for whatever reason."
    yield f"At most {guards['attempts_per_day']} attempts a day on one node and class."
    yield (
        f"More than {guards['storm_incidents']} incidents within {guards['storm_window_s']} s: nothing new begins for "
        f"{guards['storm_cooldown_s']} s."
    )
    yield "A node that a person drained is left alone, and so is one whose state in Slurm is not known."

"""The generated part of the alerts' pages: `python -m runbooks.pages --write`, or `--check` (1: not current).

A page `<AlertName>.md` names its fault classes in its front matter; what the engine does about each is rendered from
`procedures/<fault_class>.yml`, so that page and engine can't disagree. `procedures/schema.json` is written too.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from medllm.errors import UserError, user_error
from medllm.files import write_atomic
from runbooks.engine.policy import read_alerts
from runbooks.engine.procedure import CheckWork, PlaybookWork, Procedure, load_procedures, schema

HERE = Path(__file__).parent
BEGIN = "<!-- Written by `python -m runbooks.pages --write` from the procedures; changes here are lost. -->"
END = "<!-- End of what is written. -->"


def render(fault_classes: tuple[str, ...], procedures: Mapping[str, Procedure]) -> str:
    """The section of one page, without its marks."""
    if not fault_classes:
        return "## By itself\n\nNothing: the recovery engine takes no action on this alert; a person does the above."
    parts = ["## By itself"]
    if len(fault_classes) > 1:
        parts.append("Which of these it is, the engine tells from what else it sees (kernel log, SSH, BMC).")
    parts += [_procedure(procedures[name]) for name in fault_classes]
    parts.append(
        "The guards are asked before each step (`medllm recover plan`); `medllm recover history` tells what was done."
    )
    return "\n\n".join(parts)


def _procedure(procedure: Procedure) -> str:
    lines = [f"### `{procedure.fault_class}`: {procedure.title}", ""]
    number = 0

    def add(text: str) -> None:
        nonlocal number
        number += 1
        lines.append(f"{number}. {text}")

    if procedure.scope == "node" and not procedure.act and procedure.isolate and procedure.revalidate:
        add(f"{_book(procedure.isolate)} Then a person is told: nothing else is tried.")
        add(f"When the person says that it is mended: {_checks(procedure.revalidate)}")
        for work in procedure.return_:
            add(_book(work))
        return "\n".join([*lines, "", f"For the vendor: {procedure.vendor}"])
    if procedure.quiesce is not None:
        add(_book(procedure.quiesce))
    for attempt, work in enumerate(procedure.act, 1):
        add(("If the checks fail: " if attempt > 1 else "") + _book(work))
        if attempt == 1 and procedure.revalidate is not None:
            add(_checks(procedure.revalidate))
    for work in procedure.return_:
        add(_book(work))
    if procedure.resume is not None:
        add(_book(procedure.resume))
    if procedure.isolate is not None:
        add(f"If nothing helped, instead of what follows the checks: {_book(procedure.isolate)} Then a person is told.")
    else:
        add("If that did not help, a person is told.")
    lines += ["", f"For the vendor: {procedure.vendor}"]
    return "\n".join(lines)


def _book(work: PlaybookWork) -> str:
    approval = "; a person agrees first where `reboot_approval` is `ask`" if work.approval else ""
    return f"{work.does} (`{work.playbook}`, {work.deadline_s} s at most{approval})."


def _checks(work: CheckWork) -> str:
    settle = f"after {work.settle_s} s " if work.settle_s else ""
    if isinstance(work.settle_s, str):
        settle = f"after `site_recovery.{work.settle_s}` seconds "
    return (
        f"Check {settle}until all pass: {', '.join(f'`{name}`' for name in work.checks)} ({work.deadline_s} s at most)."
    )


def with_section(page: Path, text: str, section: str) -> str:
    """A page's text with its generated section in place of the old one, or at its end.

    Raises:
        UserError: the page has one of the two marks only.
    """
    new = f"{BEGIN}\n\n{section}\n\n{END}\n"
    if BEGIN not in text and END not in text:
        return f"{text.rstrip()}\n\n{new}"
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END + "\n")
    if not begin or not end:
        raise user_error("the marks of its written section are broken", "remove both and write it again", file=page)
    return before + new + after


def wanted(runbooks: Path) -> dict[Path, str]:
    """What each page and the schema should say.

    Raises:
        UserError: a page, a procedure or their connection is wrong.
    """
    procedures = load_procedures(runbooks / "procedures")
    files = {runbooks / "procedures" / "schema.json": json.dumps(schema(), indent=1) + "\n"}
    for name, fault_classes in read_alerts(runbooks).items():
        page = runbooks / f"{name}.md"
        text = page.read_text(encoding="utf-8")
        if name != name.upper():
            if not text.startswith("---\nfault_classes: "):
                raise user_error("it names no fault classes", "begin it with `fault_classes: []`", file=page, line=1)
            if unknown := [one for one in fault_classes if one not in procedures]:
                known = ", ".join(procedures)
                raise user_error(f"there is no procedure for {unknown[0]}", f"use: {known}", file=page, line=2)
            files[page] = with_section(page, text, render(fault_classes, procedures))
    return files


def main() -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--write", action="store_true", help="write what is not current")
    mode.add_argument("--check", action="store_true", help="only say what is not current")
    options = parser.parse_args()
    try:
        files = wanted(HERE)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    old = [path for path, text in files.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in old:
        if options.write:
            write_atomic(path, files[path])
        print(f"{'written' if options.write else 'not current'}: {path.relative_to(HERE.parent)}")
    return 1 if old and options.check else 0


if __name__ == "__main__":
    sys.exit(main())

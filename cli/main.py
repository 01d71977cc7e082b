"""`medllm`: one command; each package brings its own sub-command and is loaded only when that is called."""

from __future__ import annotations

import errno
import json
import os
import sys
from importlib.metadata import entry_points

SUMMARIES = {
    "accept": "Prove the cluster: run the acceptance checks, write and sign the dossier.",
    "data": "Make patients' data safe and ready: de-identify, pack, verify, publish; monitor how they are read.",
    "lab": "The embedded cluster on this machine: up, down, status, fault, heal, reset, run.",
    "recover": "Recovery: the engine, its plans, drills and history; approve and pause.",
    "site": "The declaration: check it, export it.",
    "train": "Launch a training run.",
}


def _usage() -> str:
    width = max(map(len, SUMMARIES))
    lines = [f"  {name:<{width}}  {text}" for name, text in SUMMARIES.items()]
    return "\n".join(
        ["Usage: medllm COMMAND [OPTIONS]", "", "Commands:", *lines, "", "`medllm COMMAND --help` tells more."]
    )


def main() -> None:
    """Run one sub-command. Exit codes: 0 good, 1 not good, 2 wrong usage or input."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        print(_usage())
        sys.exit(0 if arguments else 2)
    known = {entry.name: entry for entry in entry_points(group="medllm.commands")}
    # A word may have parts of several packages: "data.monitor" is the trainer's, the rest of "data" the curation's.
    words = 2 if ".".join(arguments[:2]) in known else 1
    found = known.get(".".join(arguments[:words]))
    if found is None:
        print(f"medllm: there is no command {arguments[0]!r}\n\n{_usage()}", file=sys.stderr)
        sys.exit(2)
    from medllm.errors import UserError, system_error

    try:
        try:
            app = found.load()
        except ModuleNotFoundError as error:
            print(
                f"medllm {arguments[0]}: the Python package {error.name!r} is not installed. "
                "Fix: run `make venv`, or install the extra that this command needs (see README).",
                file=sys.stderr,
            )
            sys.exit(2)
        try:
            app(args=arguments[words:], prog_name=f"medllm {' '.join(arguments[:words])}")
        finally:
            sys.stdout.flush()  # Python would tell nobody that the last of it found no room
    except UserError as error:
        if "--json" in arguments:
            problems = [
                {"file": str(p.file) if p.file else None, "line": p.line, "key": p.key, "rule": p.rule, "fix": p.fix}
                for p in error.problems
            ]
            print(json.dumps({"problems": problems}, indent=2, ensure_ascii=False))
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        # What is still unwritten would fail once more at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno == errno.EPIPE:
            sys.exit(1)
        text, code = system_error(error)
        print(f"error: {text}", file=sys.stderr)
        sys.exit(code)
    except KeyboardInterrupt:  # while the command was loaded; Typer does the same after
        sys.exit(130)


if __name__ == "__main__":
    main()

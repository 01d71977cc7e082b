"""`medllm lab kubernetes`: a control plane on mgmt and a kubelet on each GPU node.

What the commands do is imported when one runs: the other commands of the lab start without it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cli.options import Json
from lab.host import LabError, lab_lock
from lab.kubernetes import users
from medllm.errors import user_error

app = typer.Typer(help="Kubernetes on the lab's machines.", no_args_is_help=True, add_completion=False)


class _Report:
    """Lines with the seconds since the command began, on standard error."""

    def __init__(self) -> None:
        self.started = time.monotonic()

    def __call__(self, text: str) -> None:
        print(f"{time.monotonic() - self.started:6.1f} s  {text}", file=sys.stderr, flush=True)


@contextmanager
def _failures_exit_1() -> Iterator[None]:
    """A failure of the lab is a message and exit code 1, not a traceback."""
    try:
        yield
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None


@app.command()
def up() -> None:
    """Bring the control plane and the kubelets to their declaration; the tools are built when they are missing."""
    from lab.kubernetes import mgmt

    with _failures_exit_1(), lab_lock():
        mgmt.up(_Report())


@app.command()
def down(
    purge: Annotated[bool, typer.Option("--purge", help="Delete identities and Pulumi's home too.")] = False,
) -> None:
    """Take Kubernetes off the machines, with all pods and everything it stored."""
    from lab.kubernetes import mgmt

    with _failures_exit_1(), lab_lock():
        mgmt.down(_Report(), purge=purge)


@app.command()
def status(as_json: Json = False) -> None:
    """Say what runs. Exit code 1 unless all of it does and every node is ready."""
    from lab.kubernetes import mgmt

    with _failures_exit_1():
        found = mgmt.status()
    if as_json:
        print(json.dumps({**asdict(found), "good": found.good}, indent=2))
    else:
        table = Table("what", "state")
        for name, state in found.components.items():
            table.add_row(name, state)
        table.add_row(f"API server {found.server}", found.obstacle or "ready")
        for node in found.nodes:
            table.add_row(node.name, f"kubelet {node.kubelet}, Ready {node.ready}")
        Console().print(table)
    if not found.good:
        raise typer.Exit(1)


@app.command()
def env(
    person: Annotated[str, typer.Option("--as", metavar="PERSON", help=f"One of: {', '.join(users.PEOPLE)}.")] = (
        users.ADMIN
    ),
) -> None:
    """Print what a shell needs for pulumi and kubectl: eval "$(medllm lab kubernetes env)"."""
    if person not in users.PEOPLE:
        raise user_error(f"nobody is called {person!r} here", f"use one of: {', '.join(users.PEOPLE)}")
    from lab.kubernetes import mgmt

    print(mgmt.prepared(person).shell())

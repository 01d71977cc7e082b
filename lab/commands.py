"""`medllm lab`: the embedded cluster on this machine."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cli.options import Json
from lab import cluster, faults
from lab.faults import FAULTS
from lab.host import LabError, lab_lock
from lab.kubernetes.commands import app as kubernetes_app
from lab.nodes import ssh_command

app = typer.Typer(help="The embedded cluster on this machine.", no_args_is_help=True, add_completion=False)
app.add_typer(kubernetes_app, name="kubernetes")
Nodes = Annotated[list[str] | None, typer.Argument(metavar="[NODE]...", help="Only these (default: all).")]


@contextmanager
def _failures_exit_1() -> Iterator[None]:
    """A failure of the lab is a message and exit code 1, not a traceback."""
    try:
        yield
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None


@app.command()
def up(nodes: Nodes = None) -> None:
    """Make what is missing or changed, and wait until every node answers."""
    with _failures_exit_1(), lab_lock():
        cluster.up(Console(stderr=True), nodes or [])


@app.command()
def down(
    purge: Annotated[bool, typer.Option("--purge", help="Delete keys, hardware and shared files too.")] = False,
) -> None:
    """Remove the nodes and their network from this machine."""
    with _failures_exit_1(), lab_lock():
        cluster.down(Console(stderr=True), purge=purge)


@app.command()
def reset(nodes: Nodes = None) -> None:
    """Replace nodes by new ones, as a provider hands them over; all of them: empty the shared storage too."""
    with _failures_exit_1(), lab_lock():
        cluster.reset(Console(stderr=True), nodes or [])


@app.command()
def status(as_json: Json = False) -> None:
    """Say what runs, and which faults are in. Exit code 1 unless every node is up and healthy."""
    with _failures_exit_1():
        entries = cluster.status()
    if as_json:
        print(json.dumps({"nodes": entries}, indent=2))
    else:
        table = Table("node", "address", "state", "power", "faults")
        for entry in entries:
            faults = ", ".join(f"{fault['name']} {fault['target']}".strip() for fault in entry["faults"])
            table.add_row(entry["name"], entry["address"], entry["state"], entry["power"], faults or "-")
        Console().print(table)
    if any(entry["state"] != "running" or entry["faults"] for entry in entries):
        raise typer.Exit(1)


@app.command()
def fault(
    name: Annotated[str, typer.Argument(help="; ".join(f"{fault.name}: {fault.summary}" for fault in FAULTS.values()))],
    node: Annotated[str, typer.Argument(help="Name of a node.")],
    gpu: Annotated[int | None, typer.Argument(help="Index of the GPU, for a fault of one GPU.")] = None,
    as_json: Json = False,
) -> None:
    """Break a node's hardware."""
    with _failures_exit_1(), lab_lock():
        (target,) = cluster.pick([node])
        cluster.require_up()
        died = faults.inject(target, name, gpu)
    answer = {"fault": name, "node": node, "gpu": gpu, "clears_on": FAULTS[name].clears_on, "killed": died}
    print(json.dumps(answer) if as_json else f"{node}: {name} is in; killed {len(died)} process(es)")


@app.command()
def heal(nodes: Nodes = None, as_json: Json = False) -> None:
    """Take all faults out and bring hung and dark machines back. Nothing else clears a fault that needs a repair."""
    with _failures_exit_1(), lab_lock():
        cluster.require_up()
        gone = {target.name: faults.heal(target) for target in cluster.pick(nodes or [])}
    if as_json:
        print(json.dumps({"healed": gone}))
    else:
        print("\n".join(f"{name}: {', '.join(found)}" for name, found in gone.items() if found) or "nothing to heal")


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def shell(
    node: Annotated[str, typer.Argument(help="Name of a node.")],
    command: Annotated[list[str] | None, typer.Argument(help="A command; a login shell without one.")] = None,
) -> None:
    """Open a shell on a node by SSH, or run one command there (its exit code is ours)."""
    (target,) = cluster.pick([node])
    cluster.require_up()
    given = (command or [])[1:] if command and command[0] == "--" else command
    words = [shlex.join(given)] if given else []
    line = ssh_command(target, *words, tty=not given and sys.stdin.isatty())
    os.execvp(line[0], line)


@app.command("run")
def run_main_job(
    first: Annotated[str | None, typer.Option("--from", help="Begin at this stage; those before it are done.")] = None,
    record: Annotated[Path | None, typer.Option(help="Write the times and the memory here too, as JSON.")] = None,
    as_json: Json = False,
) -> None:
    """The main job, end to end: lab, bring-up, data, training, acceptance."""
    from lab import pipeline

    code = pipeline.run_main_job(Path(__file__).parents[1], first=first, as_json=as_json, record=record)
    raise typer.Exit(code)

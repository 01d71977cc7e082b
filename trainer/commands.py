"""`medllm train`: launch a run, follow it, sum it up."""

from __future__ import annotations

import json
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from medllm.errors import UserError, user_error

app = typer.Typer(help="Launch a training run.", add_completion=False)


class LauncherName(StrEnum):
    """Where the ranks run."""

    SLURM = "slurm"
    LOCAL = "local"


@app.command()
def train(
    data: Annotated[str, typer.Option(help="A published data set's name, or a directory where the ranks run.")],
    run: Annotated[str, typer.Option(help="The run's name; a run that exists goes on from its newest checkpoint.")],
    steps: Annotated[int, typer.Option(min=1, max=10**9, help="Optimizer steps in the run's whole life.")],
    config: Annotated[str, typer.Option(help="A configuration of trainer/configs, or a .yml file.")] = "medllm-tiny",
    launcher: Annotated[LauncherName, typer.Option(help="Slurm's nodes, or processes on this machine.")] = (
        LauncherName.SLURM
    ),
    nodes: Annotated[
        int | None,
        typer.Option(min=1, help="Nodes to use (default: all that Slurm has); with local the ranks (default: 1)."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Refuse to start a new run: there must be a checkpoint.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Put a run of this name aside and begin anew.")] = False,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="SECTION.KEY=VALUE, may be repeated.")] = None,
    key: Annotated[
        Path | None,
        typer.Option(help="Public key of the data sets (default: keys/data.pub where medllm data keeps it)."),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return once the job is queued.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan; touch no machine.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for machines.")] = False,
    inventory: Annotated[
        Path, typer.Option("--inventory", "-i", envvar="MEDLLM_INVENTORY", help="The site's directory.")
    ] = Path("inventory/lab"),
) -> None:
    """Train a model on a signed data set. Exits 0 when all steps are done, 1 when not, 2 when something is refused."""
    if resume and fresh:
        raise user_error("--resume and --fresh exclude each other", "leave one out", key="--fresh")
    if detach and launcher is LauncherName.LOCAL:
        raise user_error("a local run can't be detached", "leave --detach out", key="--detach")
    if not data.isprintable() or not data.strip() or ".." in Path(data).parts:
        raise user_error(f"{data!r} is no data set", "give a published name or a whole path", key="--data")
    # Here and not above, so that `--help` stays quick.
    from medllm.site import load_site
    from trainer.config import load_config
    from trainer.launch import Launcher, Order, ProgressLine, make_plan, summary

    site = load_site(inventory)
    order = Order(load_config(config, overrides or ()), data, run, steps, nodes, key, fresh, resume)
    plan = make_plan(site, order, launcher.value)
    needed, there = plan.estimate["memory_gib"], plan.estimate["memory_there_gib"]
    if needed and needed > there:
        print(
            f"warning: a rank is estimated to need {needed} GiB, its GPU has {there}: smaller batch.micro_size, "
            "engine.activation_checkpoint_layers 1, engine.zero_stage 3, or more nodes",
            file=sys.stderr,
        )
    if dry_run:
        print(json.dumps(plan.describe(), indent=2) if as_json else _readable(plan.describe()))
        return
    chosen: Launcher
    if launcher is LauncherName.SLURM:
        from trainer.launch_slurm import SlurmLauncher

        chosen = SlurmLauncher(site, detach=detach)
    else:
        from trainer.launch_local import LocalLauncher

        chosen = LocalLauncher()
    begin = time.monotonic()
    ended = chosen.launch(plan, ProgressLine(steps, quiet=as_json))
    if ended.refused:
        raise UserError(*ended.refused)
    if detach:
        return
    result = summary(plan, ended, time.monotonic() - begin)
    print(json.dumps(result) if as_json else _readable(result))
    if not result["finished"]:
        print(f"run {run} is not finished; the same command goes on from its newest checkpoint", file=sys.stderr)
        raise typer.Exit(1)


def _readable(record: dict[str, Any]) -> str:
    """A line a key; text of several lines below its key."""
    lines = []
    for name, value in record.items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        lines.append(f"{name}:\n{text}" if "\n" in text else f"{name + ':':<16} {text}")
    return "\n".join(lines)

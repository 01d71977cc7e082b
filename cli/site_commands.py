"""`medllm site`: check the declaration, export it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cli.options import DEFAULT_INVENTORY, Inventory, Json
from medllm.files import write_atomic
from medllm.site import load_site, site_json
from medllm.thresholds import thresholds_of

app = typer.Typer(help="The declaration: check it, export it.", no_args_is_help=True, add_completion=False)


@app.command()
def check(inventory: Inventory = DEFAULT_INVENTORY, as_json: Json = False) -> None:
    """Refuse a declaration that is malformed or impossible, before any machine is touched."""
    site = load_site(inventory)
    thresholds_of(inventory, site)
    if as_json:
        print(json.dumps({"site": site.name, "profile": site.profile, "sha256": site.sha256, "problems": []}))
        return
    gpus = len(site.gpu_nodes) * site.gpu.per_node
    print(f"{inventory}: good. {site.name} ({site.profile}): {len(site.gpu_nodes)} nodes, {gpus} x {site.gpu.model}")
    print(f"versions {site.versions}, sha256 {site.sha256}")


@app.command()
def export(
    inventory: Inventory = DEFAULT_INVENTORY,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write here and not to the screen.")] = None,
) -> None:
    """Write the canonical, hashed site.json, which Pulumi, the trainer and the recovery engine read."""
    text = site_json(load_site(inventory))
    if output is None:
        print(text, end="")
    else:
        write_atomic(output, text)

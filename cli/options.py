"""Options that every command takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Inventory = Annotated[
    Path, typer.Option("--inventory", "-i", help="The site's directory.", envvar="MEDLLM_INVENTORY", show_default=True)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
DEFAULT_INVENTORY = Path("inventory/lab")

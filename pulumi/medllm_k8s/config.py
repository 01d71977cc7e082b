"""What a stack is told: which site. All else the site's export says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pulumi

from medllm.errors import UserError
from medllm.site import Site, load_site, load_site_json


@dataclass(frozen=True, slots=True)
class Settings:
    """`export` is the text of site.json as it was read."""

    site: Site
    export: str


def read_settings(config: pulumi.Config, stack: str, directory: Path) -> Settings:
    """The site of a stack; paths in its configuration are relative to `directory`, where Pulumi.yaml is.

    Raises:
        pulumi.RunError: a setting or the export is missing, it is another site's or older than the inventory; says
            in one line what to do.
    """
    inventory, exported = directory / _setting(config, stack, "inventory"), directory / _setting(config, stack, "site")
    again = f"medllm site export -i {_shown(inventory)} -o {_shown(exported)}"
    if inventory.resolve().name != stack:
        raise pulumi.RunError(
            f"stack {stack} names the inventory {_shown(inventory)}: a stack is one site's, so that none is applied to "
            f"another's cluster. Fix: `pulumi stack select {inventory.resolve().name}`, or correct medllm:inventory"
        )
    try:
        site = load_site_json(exported)
        declared = load_site(inventory) if inventory.is_dir() else None
    except UserError as error:
        problem = error.problems[0]
        fix = f"`{again}`" if problem.file == exported else problem.fix
        raise pulumi.RunError(f"{_shown(problem.file or exported)}: {problem.rule}. Fix: {fix}") from None
    if declared is not None and declared.sha256 != site.sha256:
        raise pulumi.RunError(f"{_shown(exported)} is not what {_shown(inventory)} declares now. Fix: `{again}`")
    return Settings(site, exported.read_text(encoding="utf-8"))


def _setting(config: pulumi.Config, stack: str, name: str) -> str:
    value = config.get(name)
    if not value:
        raise pulumi.RunError(
            f"stack {stack} has no medllm:{name}. Fix: write it into Pulumi.{stack}.yaml (see README)"
        )
    return value


def _shown(path: Path) -> str:
    """As a person at the repository's root would write it."""
    root = Path(__file__).resolve().parents[2]
    resolved = path.resolve()
    return str(resolved.relative_to(root)) if resolved.is_relative_to(root) else str(path)

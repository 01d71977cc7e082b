"""What a stack is told: which site. All else the site's export says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pulumi
from pulumi.runtime import config as pulumi_config

from medllm.errors import UserError
from medllm.site import Site, load_site, load_site_json

_REGISTRY_AUTH = "registryAuth"


@dataclass(frozen=True, slots=True)
class Settings:
    """`registry_auth`: a config.json as `docker login` writes it, for the registry of the site's image; None where the
    nodes may pull without.
    """

    site: Site
    registry_auth: pulumi.Output[str] | None = None


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
    return Settings(site, _registry_auth(config))


def _setting(config: pulumi.Config, stack: str, name: str) -> str:
    value = config.get(name)
    if not value:
        raise pulumi.RunError(
            f"stack {stack} has no medllm:{name}. Fix: write it into Pulumi.{stack}.yaml (see README)"
        )
    return value


def _registry_auth(config: pulumi.Config) -> pulumi.Output[str] | None:
    """Pulumi's genuine language host names the secrets of the configuration by the environment."""
    key = f"medllm:{_REGISTRY_AUTH}"
    value = config.get_secret(_REGISTRY_AUTH)
    if value is not None and not (
        pulumi_config.is_config_secret(key) or key in pulumi_config.get_config_secret_keys_env()
    ):
        raise pulumi.RunError(
            f"{key} lies unencrypted in the stack's file. Fix: `pulumi config set --secret {_REGISTRY_AUTH}`, give its "
            "value on standard input, and change the password"
        )
    return value


def _shown(path: Path) -> str:
    """As a person at the repository's root would write it."""
    root = Path(__file__).resolve().parents[2]
    resolved = path.resolve()
    return str(resolved.relative_to(root)) if resolved.is_relative_to(root) else str(path)

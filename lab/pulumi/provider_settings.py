"""The provider's settings: which of the genuine plugin's the stand-in knows, and what it says of the rest."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_TRUE = "true"
# Settings that would change what the program gets, and that the stand-in does not have.
UNSUPPORTED = ("renderYamlToDirectory", "alwaysRender", "helmReleaseSettings")
_FLAGS = {
    "delete_unreachable": ("deleteUnreachable", "PULUMI_K8S_DELETE_UNREACHABLE"),
    "patch_force": ("enablePatchForce", "PULUMI_K8S_ENABLE_PATCH_FORCE"),
    "mutable_config_maps": ("enableConfigMapMutable", "PULUMI_K8S_ENABLE_CONFIGMAP_MUTABLE"),
    "mutable_secrets": ("enableSecretMutable", "PULUMI_K8S_ENABLE_SECRET_MUTABLE"),
    "upsert": ("upsertExistingObjects", "PULUMI_K8S_UPSERT_EXISTING_OBJECTS"),
}


@dataclass(frozen=True, slots=True, repr=False)
class Settings:
    """`kubeconfig` is a path or the text, which may hold a key: it has no place in a log."""

    kubeconfig: str | None = None
    context: str = ""
    cluster: str = ""
    namespace: str = ""
    delete_unreachable: bool = False
    patch_force: bool = False
    mutable_config_maps: bool = False
    mutable_secrets: bool = False
    upsert: bool = False


def settings_from(variables: Mapping[str, str]) -> Settings:
    """Settings from the engine's `kubernetes:config:*` variables, then from the environment."""
    values = {key.removeprefix("kubernetes:config:"): value for key, value in variables.items()}
    flags = {
        field: values.get(name, os.environ.get(environment, "")) == _TRUE
        for field, (name, environment) in _FLAGS.items()
    }
    return Settings(
        kubeconfig=values.get("kubeconfig") or None,
        context=values.get("context", ""),
        cluster=values.get("cluster", ""),
        namespace=values.get("namespace", ""),
        **flags,
    )


def refused(inputs: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(property, reason) for each setting that the stand-in cannot honour."""
    found = [
        (name, f"the lab's plugin has no `{name}`. Fix: install the genuine Kubernetes plugin")
        for name in UNSUPPORTED
        if inputs.get(name) not in (None, "", False, "false", {})
    ]
    if inputs.get("enableServerSideApply") in (False, "false"):
        reason = "the lab's plugin has server-side apply only. Fix: take `enableServerSideApply` away"
        found.append(("enableServerSideApply", reason))
    return found

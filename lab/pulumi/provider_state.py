"""What the provider keeps of a resource: the live object, the inputs that made it, and the field manager's name."""

from __future__ import annotations

from dataclasses import dataclass

from lab.pulumi.provider_values import Json, mark_secrets, plain, underscored

_INPUTS, _MANAGER, _API_VERSION = "__inputs", "__fieldManager", "__initialApiVersion"


@dataclass(frozen=True, slots=True)
class Identity:
    """What a URN says: `name` is the program's, `patch` for a *Patch resource."""

    api_version: str
    kind: str
    name: str
    patch: bool


def identity(urn: str) -> Identity:
    """The identity in `urn:pulumi:STACK::PROJECT::[PARENT$]kubernetes:GROUP/VERSION:KIND::NAME`.

    Raises:
        ValueError: it is no resource of this provider.
    """
    parts = urn.split("::", 3)
    package, _, rest = parts[2].split("$")[-1].partition(":") if len(parts) == 4 else ("", "", "")
    module, _, kind = rest.partition(":")
    group, _, version = module.partition("/")
    if package != "kubernetes" or not version or not kind:
        raise ValueError(f"unrecognized resource type for this provider: {urn}")
    patch = kind.endswith("Patch")
    api_version = version if group == "core" else f"{group}/{version}"
    return Identity(api_version, kind.removesuffix("Patch") if patch else kind, parts[3], patch)


def next_state(inputs: Json, live: Json, given: Json, manager: str) -> Json:
    """The state to keep; what is secret in `given` is secret in it, and so is all data of a Secret."""
    kept, made_from = underscored(live), underscored(inputs)
    mark_secrets(kept, given)
    mark_secrets(made_from, given)
    return {**kept, _INPUTS: made_from, _API_VERSION: live.get("apiVersion", ""), _MANAGER: manager}


def old_state(state: Json) -> tuple[Json, Json, str | None]:
    """(inputs, live object, field manager) of a kept state, without secret marks."""
    values = plain(state)
    inputs, manager = values.pop(_INPUTS, {}), values.pop(_MANAGER, None)
    values.pop(_API_VERSION, None)
    return inputs, values, manager


def object_id(live: Json) -> str:
    """`NAMESPACE/NAME`, or `NAME` for an object of the whole cluster."""
    metadata = live["metadata"]
    return f"{metadata['namespace']}/{metadata['name']}" if metadata.get("namespace") else str(metadata["name"])


def split_id(text: str) -> tuple[str, str]:
    """(namespace, name) of an `object_id`; the namespace is "" when it has none."""
    namespace, slash, name = text.partition("/")
    return (namespace, name) if slash else ("", namespace)

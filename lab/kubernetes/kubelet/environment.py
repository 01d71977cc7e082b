"""A container's environment, command and arguments, as its manifest asks for them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from . import quantity
from .client import Json

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_REFERENCE = re.compile(r"\$(\$|\(([^()]+)\))")
_FIELD_WITH_KEY = re.compile(r"metadata\.(annotations|labels)\['([^']+)'\]")

# A ConfigMap or Secret of the pod's namespace by kind ("configmaps", "secrets") and name: its entries, or None.
Lookup = Callable[[str, str], Mapping[str, bytes] | None]


class CreateError(Exception):
    """The container can't be created from what there is: reason and message as kubelets give them."""

    def __init__(self, message: str, reason: str = "CreateContainerConfigError") -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class PodFacts:
    """What the downward API can tell of a pod on this node."""

    pod: Json
    node: str
    address: str
    allocatable: Mapping[str, str]


def variables(container: Json, facts: PodFacts, lookup: Lookup) -> dict[str, str]:
    """`envFrom` and `env`, in order, with `$(NAME)` replaced by what was set before.

    Raises:
        CreateError: a key, object or field is missing.
    """
    result: dict[str, str] = {}
    for source in container.get("envFrom") or []:
        for kind, key in (("configmaps", "configMapRef"), ("secrets", "secretRef")):
            if key in source:
                entries = _entries(kind, source[key], lookup)
                prefix = source.get("prefix") or ""
                result |= {prefix + name: value.decode(errors="replace") for name, value in entries.items()}
    for entry in container.get("env") or []:
        if "valueFrom" in entry:
            value = _from(entry["valueFrom"], container, facts, lookup)
            if value is not None:
                result[entry["name"]] = value
        else:
            result[entry["name"]] = expand(entry.get("value") or "", result)
    return result


def expand(text: str, known: Mapping[str, str]) -> str:
    """`$(NAME)` by its value; `$$` is a dollar sign; what is not known stays."""

    def replace(found: re.Match[str]) -> str:
        if found[1] == "$":
            return "$"
        return known.get(found[2], found[0])

    return _REFERENCE.sub(replace, text)


def arguments(container: Json, known: Mapping[str, str]) -> list[str]:
    """The command line. The `host` image has no command of its own.

    Raises:
        CreateError: there is none.
    """
    words = [*(container.get("command") or []), *(container.get("args") or [])]
    if not words:
        raise CreateError("no command specified", "CreateContainerError")
    return [expand(word, known) for word in words]


def field(path: str, facts: PodFacts) -> str:
    """A `fieldRef`.

    Raises:
        CreateError: there is no such field.
    """
    metadata, spec = facts.pod["metadata"], facts.pod["spec"]
    if found := _FIELD_WITH_KEY.fullmatch(path):
        return str((metadata.get(found[1]) or {}).get(found[2], ""))
    if path in {"metadata.labels", "metadata.annotations"}:
        entries = metadata.get(path.removeprefix("metadata.")) or {}
        return "\n".join(f'{key}="{_quoted(value)}"' for key, value in sorted(entries.items()))
    values = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata["namespace"],
        "metadata.uid": metadata["uid"],
        "spec.nodeName": facts.node,
        "spec.serviceAccountName": spec.get("serviceAccountName") or "default",
        "status.hostIP": facts.address,
        "status.hostIPs": facts.address,
        "status.podIP": facts.address,
        "status.podIPs": facts.address,
    }
    if path not in values:
        raise CreateError(f"unsupported fieldPath: {path}")
    return str(values[path])


def resource(reference: Json, container: Json, facts: PodFacts) -> str:
    """A `resourceFieldRef`; a limit that is not set is what the node can give.

    Raises:
        CreateError: the reference or the container is wrong.
    """
    if name := reference.get("containerName"):
        spec = facts.pod["spec"]
        everyone = [*(spec.get("initContainers") or []), *spec["containers"]]
        container = next((each for each in everyone if each["name"] == name), {})
        if not container:
            raise CreateError(f"container {name} not found")
    kind, _, what = str(reference["resource"]).partition(".")
    if kind not in {"limits", "requests"} or not what:
        raise CreateError(f"unsupported container resource: {reference['resource']}")
    resources = container.get("resources") or {}
    value = (resources.get(kind) or {}).get(what)
    if value is None:
        value = facts.allocatable.get(what, "0") if kind == "limits" else "0"
    return str(quantity.divided(quantity.parse(value), str(reference.get("divisor") or "1")))


def _from(source: Json, container: Json, facts: PodFacts, lookup: Lookup) -> str | None:
    if "fieldRef" in source:
        return field(source["fieldRef"]["fieldPath"], facts)
    if "resourceFieldRef" in source:
        return resource(source["resourceFieldRef"], container, facts)
    for kind, key, label in (
        ("configmaps", "configMapKeyRef", "ConfigMap"),
        ("secrets", "secretKeyRef", "Secret"),
    ):
        if key in source:
            reference = source[key]
            entries = _entries(kind, reference, lookup)
            if reference["key"] in entries:
                return entries[reference["key"]].decode(errors="replace")
            if reference.get("optional"):
                return None
            place = f"{facts.pod['metadata']['namespace']}/{reference['name']}"
            raise CreateError(f"couldn't find key {reference['key']} in {label} {place}")
    raise CreateError(f"unsupported source of a variable: {', '.join(source) or 'none'}")


def _entries(kind: str, reference: Json, lookup: Lookup) -> Mapping[str, bytes]:
    name = reference["name"]
    entries = lookup(kind, name)
    if entries is not None:
        return entries
    if reference.get("optional"):
        return {}
    raise CreateError(f'{kind.removesuffix("s")} "{name}" not found')


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

"""What a change does to a resource: nothing, an update in place, or a replacement.

The table says which fields the genuine plugin replaces a resource for (pulumi-kubernetes, provider/diff.go);
a change of any other immutable field is refused by the API server.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Any

from lab.pulumi.provider_values import Json, Unknown

Path = tuple[str | int, ...]

_SELECTOR = ("spec.selector",)
_CONTAINER_FIELDS = (
    "args", "command", "env", "image", "imagePullPolicy", "lifecycle", "livenessProbe", "ports", "readinessProbe",
    "resources", "securityContext", "stdin", "stdinOnce", "terminationMessagePath", "terminationMessagePolicy", "tty",
    "volumeDevices", "volumeMounts", "workingDir",
)  # fmt: skip
_POD_FIELDS = (
    "affinity", "automountServiceAccountToken", "dnsConfig", "dnsPolicy", "enableServiceLinks", "hostAliases",
    "hostIPC", "hostNetwork", "hostPID", "hostname", "imagePullSecrets", "nodeName", "nodeSelector", "overhead",
    "preemptionPolicy", "priority", "priorityClassName", "readinessGates", "restartPolicy", "runtimeClassName",
    "schedulerName", "securityContext", "serviceAccount", "serviceAccountName", "shareProcessNamespace", "subdomain",
    "terminationGracePeriodSeconds", "volumes",
)  # fmt: skip
_VOLUME_SOURCES = (
    "awsElasticBlockStore", "azureDisk", "azureFile", "cephfs", "cinder", "csi", "fc", "flexVolume", "flocker",
    "gcePersistentDisk", "glusterfs", "hostPath", "iscsi", "local", "nfs", "photonPersistentDisk", "portworxVolume",
    "quobyte", "rbd", "scaleIO", "storageos", "vsphereVolume",
)  # fmt: skip
_REPLACED_FOR: dict[tuple[str, str], tuple[str, ...]] = {
    ("apps/v1", "DaemonSet"): _SELECTOR,
    ("apps/v1", "Deployment"): _SELECTOR,
    ("apps/v1", "StatefulSet"): (
        "spec.podManagementPolicy", "spec.revisionHistoryLimit", "spec.selector", "spec.serviceName",
        "spec.volumeClaimTemplates",
    ),
    ("batch/v1", "Job"): ("spec.completions", "spec.parallelism", "spec.selector", "spec.template"),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"): ("roleRef",),
    ("rbac.authorization.k8s.io/v1", "RoleBinding"): ("roleRef",),
    ("storage.k8s.io/v1", "StorageClass"): ("parameters", "provisioner"),
    ("v1", "PersistentVolume"): tuple(f"spec.{source}" for source in _VOLUME_SOURCES),
    ("v1", "PersistentVolumeClaim"): (
        "spec.accessModes", "spec.selector", "spec.storageClassName", "spec.volumeName",
    ),
    ("v1", "Pod"): (
        *(f"spec.{field}" for field in _POD_FIELDS),
        *(f"spec.{kind}.*.{field}" for kind in ("containers", "initContainers") for field in _CONTAINER_FIELDS),
    ),
    ("v1", "ResourceQuota"): ("spec.scopes",),
    ("v1", "Secret"): ("type",),
    ("v1", "Service"): ("spec.clusterIP",),
}  # fmt: skip
_IDENTITY = ("metadata.name", "metadata.namespace")


_PATH_PART = re.compile(r'\["(?P<quoted>(?:\\"|[^"])+)"\]|\[(?P<index>\d+|\*)\]|(?P<plain>[^.\[\]"]+)', re.ASCII)


class Change(Enum):
    """What happens to one property."""

    ADD = "ADD"
    DELETE = "DELETE"
    UPDATE = "UPDATE"


@dataclass(frozen=True, slots=True)
class Difference:
    """One property that differs; `replaces` when the resource must be made anew for it."""

    path: Path
    change: Change
    replaces: bool


def replaced_for(inputs: Json, *, mutable_config_maps: bool, mutable_secrets: bool) -> tuple[str, ...]:
    """The fields of this object whose change replaces it, as dotted paths."""
    key = (inputs.get("apiVersion", ""), inputs.get("kind", ""))
    immutable = inputs.get("immutable") is True
    if key == ("v1", "Secret") and (not mutable_secrets or immutable):
        return (*_IDENTITY, "type", "stringData", "data")
    if key == ("v1", "ConfigMap") and (not mutable_config_maps or immutable):
        return (*_IDENTITY, "binaryData", "data")
    return (*_IDENTITY, *_REPLACED_FOR.get(key, ()))


def identity_only() -> tuple[str, ...]:
    """The fields of a *Patch resource whose change replaces it."""
    return _IDENTITY


def differences(live: Json, new: Json, old_inputs: Json, forcing: tuple[str, ...]) -> list[Difference]:
    """How `new` inputs differ from `live`, which is pruned to the shape of `old_inputs`."""
    found: list[Difference] = []
    _compare((), live, new, old_inputs, found, forcing)
    return found


def without_ignored(found: list[Difference], ignored: list[str]) -> list[Difference]:
    """`found` less what lies at or below one of the property paths that the program ignores."""
    paths = [parse_path(text) for text in ignored]
    return [item for item in found if not any(_contains(path, item.path) for path in paths)]


def parse_path(text: str) -> Path:
    """A property path of the engine: `spec.ports[0].name`, `metadata.labels["a.b/c"]`, `spec.containers[*].image`.

    Raises:
        ValueError: it cannot be read as one.
    """
    parts: list[str | int] = []
    place = 0
    while place < len(text):
        found = _PATH_PART.match(text, place)
        if found is None or (found["plain"] and place and text[place - 1] not in "."):
            raise ValueError(f"not a property path: {text!r}")
        quoted, index, name = found["quoted"], found["index"], found["plain"]
        if quoted is not None:
            parts.append(quoted.replace('\\"', '"'))
        else:
            parts.append(name if name else int(index) if index != "*" else index)
        place = found.end()
        if text[place : place + 1] == "." and place + 1 < len(text):
            place += 1
    if not parts:
        raise ValueError(f"not a property path: {text!r}")
    return tuple(parts)


def path_text(path: Path) -> str:
    """The reverse of `parse_path`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif any(character in part for character in '."[]'):
            text += '["' + part.replace('"', '\\"') + '"]'
        else:
            text += f".{part}" if text else part
    return text


_MISSING = object()


def _compare(path: Path, old: Any, new: Any, old_input: Any, found: list[Difference], forcing: tuple[str, ...]) -> None:
    if isinstance(old, dict) and isinstance(new, dict):
        was = old_input if isinstance(old_input, dict) else {}
        for key in sorted({*old, *new}):
            before, after, input_before = (each.get(key, _MISSING) for each in (old, new, was))
            _compare((*path, key), before, after, input_before, found, forcing)
    elif isinstance(old, list) and isinstance(new, list):
        was_list = old_input if isinstance(old_input, list) else []
        for number in range(max(len(old), len(new))):
            before, after, input_before = (
                each[number] if number < len(each) else _MISSING for each in (old, new, was_list)
            )
            _compare((*path, number), before, after, input_before, found, forcing)
    elif old is _MISSING and _is_zero(new) and new == old_input and type(new) is type(old_input):
        # The API server leaves out an empty value: it was asked for, it is as it should be.
        return
    elif new is _MISSING:
        found.append(Difference(path, Change.DELETE, _replaces(path, None, forcing)))
    elif old is _MISSING or not _equal(old, new):
        change = Change.ADD if old is _MISSING else Change.UPDATE
        found.append(Difference(path, change, _replaces(path, new, forcing)))


def _equal(old: Any, new: Any) -> bool:
    if isinstance(new, Unknown) or isinstance(old, bool) is not isinstance(new, bool):
        return False
    return bool(old == new)


def _is_zero(value: Any) -> bool:
    return value is False or (isinstance(value, str | int | float | list | dict) and not value)


def _replaces(path: Path, value: Any, forcing: tuple[str, ...]) -> bool:
    return any(_touches(path, value, tuple(field.split("."))) for field in forcing)


def _touches(path: Path, value: Any, field: tuple[str, ...]) -> bool:
    """Whether putting `value` at `path` sets `field` or a part of it."""
    for part, step in zip(path, field, strict=False):
        if step != "*" and part != step:
            return False
    if len(path) >= len(field):
        return True
    return _has(value, field[len(path) :])


def _has(value: Any, field: tuple[str, ...]) -> bool:
    if not field:
        return True
    if field[0] == "*":
        return isinstance(value, list) and any(_has(item, field[1:]) for item in value)
    return isinstance(value, dict) and field[0] in value and _has(value[field[0]], field[1:])


def _contains(outer: Path, inner: Path) -> bool:
    if len(outer) > len(inner):
        return False
    return all(part in {"*", other} for part, other in zip(outer, inner, strict=False))

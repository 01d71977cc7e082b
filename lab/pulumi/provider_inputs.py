"""What the genuine plugin does to inputs before it compares them: one form for what means the same.

The genuine one converts to Kubernetes' own Go types and back (pulumi-kubernetes provider/pkg/clients/unstructured.go);
this one knows the places of quantities in the kinds that it meets.
"""

from __future__ import annotations

import base64
import hashlib
import re
from decimal import Decimal
from typing import Any

from lab.pulumi.provider_values import Json, Unknown, has_unknown

AUTONAMED = "pulumi.com/autonamed"
# Written by the API server only.
READ_ONLY_METADATA = (
    "creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp", "generation", "managedFields",
    "resourceVersion", "uid",
)  # fmt: skip
_WORKLOADS = frozenset(
    {
        "Pod", "PodTemplate", "ReplicationController", "Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "Job",
        "CronJob",
    }
)  # fmt: skip
_WORKLOAD_KEYS = frozenset({"limits", "requests", "overhead", "sizeLimit", "divisor"})
_RANGE_KEYS = frozenset({"max", "min", "default", "defaultRequest", "maxLimitRequestRatio"})
_QUANTITY_KEYS: dict[str, frozenset[str]] = {
    **dict.fromkeys(_WORKLOADS, _WORKLOAD_KEYS),
    "ResourceQuota": frozenset({"hard"}),
    "LimitRange": _RANGE_KEYS,
    "PersistentVolume": frozenset({"capacity"}),
    "PersistentVolumeClaim": frozenset({"limits", "requests"}),
    "HorizontalPodAutoscaler": frozenset({"averageValue", "value"}),
}
# Fields that Kubernetes' Go types cannot tell from absent ones when they are empty: no pointers, `omitempty`.
_OMITTED_WHEN_EMPTY = frozenset(
    {
        "annotations", "binaryData", "data", "labels", "limits", "matchLabels", "nodeSelector", "parameters",
        "requests",
        "globalDefault", "hostIPC", "hostNetwork", "hostPID", "paused", "publishNotReadyAddresses", "readOnly", "stdin",
        "stdinOnce", "tty", "unschedulable",
        "apiGroup", "clusterIP", "generateName", "hostname", "medium", "namespace", "nodeName", "priorityClassName",
        "schedulerName", "serviceAccountName", "subPath", "subPathExpr", "subdomain", "workingDir",
        "failureThreshold", "initialDelaySeconds", "minReadySeconds", "periodSeconds", "successThreshold",
    }
)  # fmt: skip
# What the program may fill with any keys.
_FREE = frozenset(
    {"annotations", "binaryData", "data", "labels", "matchLabels", "nodeSelector", "parameters", "stringData"}
)
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_BINARY = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}


def normalised(inputs: Json) -> Json:
    """A copy of `inputs` in the form in which the API server returns it. Unknown parts leave it as it is.

    Raises:
        ValueError: `stringData` holds something that is not text.
    """
    result: Json = _copy(inputs)
    if not has_unknown(result):
        if _is_secret(result) and result.get("stringData"):
            encoded = {key: _base64(value) for key, value in result.pop("stringData").items()}
            result["data"] = {**(result.get("data") or {}), **encoded}
        keys = _QUANTITY_KEYS.get(result.get("kind", ""))
        if keys:
            result["spec"] = _with_quantities(result["spec"], keys) if "spec" in result else None
            result = {key: value for key, value in result.items() if value is not None}
        if _is_known_group(result.get("apiVersion", "")):
            result = _without_empty(result)
    metadata = result.get("metadata")
    if isinstance(metadata, dict):
        for key in READ_ONLY_METADATA:
            metadata.pop(key, None)
    return result


def canonical_quantity(value: Any) -> Any:
    """A quantity as Kubernetes writes it ("0.5" → "500m", "1024Mi" → "1Gi", 2 → "2"); what is none stays as it is.

    Rules: k8s.io/apimachinery pkg/api/resource, "canonical form": no precision lost, the largest suffix without a
    fraction, and the family (binary or decimal) stays.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return value
    text = str(value)
    for power, suffix in reversed(list(enumerate(_BINARY))):
        if suffix and text.endswith(suffix):
            number = _number(text[: -len(suffix)])
            if number is None:
                return value
            amount = number * 1024**power
            # Below one unit of 1024, or a fraction of a byte, the binary family is left.
            return (
                _binary(int(amount))
                if amount == amount.to_integral_value() and abs(amount) >= 1024
                else _decimal(amount)
            )
    number = _number(text)
    if number is None and text[-1:] in _DECIMAL and text[-1:]:
        scaled = _number(text[:-1])
        number = None if scaled is None else scaled * Decimal(10) ** _DECIMAL[text[-1]]
    return value if number is None else _decimal(number)


def pruned(live: Any, model: Any) -> Any:
    """The parts of `live` that `model` has too. List elements are matched by position, further ones are dropped.

    So a verb that someone appended to a rule of a Role is not seen: the genuine plugin has the same blind spot.
    """
    if isinstance(live, dict) and isinstance(model, dict):
        return {key: pruned(value, model[key]) for key, value in live.items() if key in model}
    if isinstance(live, list) and isinstance(model, list):
        if live and model and type(live[0]) is not type(model[0]):
            return live
        return [pruned(value, like) for value, like in zip(live, model, strict=False)]
    return live


def name_if_unnamed(inputs: Json, old_inputs: Json, urn_name: str, seed: bytes, proposal: str | None) -> None:
    """Give `inputs` the automatic name of `old_inputs`, else a new one, when the program gives none.

    Args:
        proposal: the name that the engine's own naming rules ask for; "" when they forbid automatic names.

    Raises:
        ValueError: a name is needed and the rules forbid automatic ones.
    """
    metadata = inputs.setdefault("metadata", {})
    if isinstance(metadata, Unknown) or metadata.get("name") or metadata.get("generateName"):
        return
    old = old_inputs.get("metadata") or {}
    if old_inputs:
        if annotations_of(old_inputs).get(AUTONAMED) != "true":
            return
        name = old["name"]
    elif proposal == "":
        raise ValueError("automatic naming is off for this resource: give it metadata.name")
    else:
        name = proposal or f"{urn_name}-{hashlib.sha256(seed or urn_name.encode()).hexdigest()[:8]}"
    metadata["name"] = name
    if not isinstance(metadata.get("annotations"), Unknown):
        metadata["annotations"] = {**(metadata.get("annotations") or {}), AUTONAMED: "true"}


def annotations_of(inputs: Json) -> Json:
    """The annotations of an object; empty when it has none or they are unknown."""
    metadata = inputs.get("metadata")
    found = metadata.get("annotations") if isinstance(metadata, dict) else None
    return found if isinstance(found, dict) else {}


def named(inputs: Json) -> tuple[str, str]:
    """(namespace, name) of an object, "" where it has none or it is unknown."""
    metadata = inputs.get("metadata")
    if not isinstance(metadata, dict):
        return "", ""
    namespace, name = metadata.get("namespace"), metadata.get("name")
    return namespace if isinstance(namespace, str) else "", name if isinstance(name, str) else ""


def _is_known_group(api_version: str) -> bool:
    """Whether Kubernetes itself has Go types for it; a definition's schema is left alone, it may hold anything."""
    group = api_version.rpartition("/")[0]
    return group != "apiextensions.k8s.io" and ("." not in group or group.endswith(".k8s.io"))


def _without_empty(value: Any) -> Any:
    """Without what the API server would leave out: empty lists, and empty values of certain fields."""
    if isinstance(value, list):
        return [_without_empty(item) for item in value]
    if not isinstance(value, dict):
        return value
    result = {}
    for key, item in value.items():
        empty = item in ("", 0, {}) and key in _OMITTED_WHEN_EMPTY
        if not empty and item != []:
            result[key] = item if key in _FREE else _without_empty(item)
    return result


def _is_secret(inputs: Json) -> bool:
    return inputs.get("kind") == "Secret" and inputs.get("apiVersion") == "v1"


def _base64(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("stringData holds something that is not text")
    return base64.b64encode(value.encode()).decode()


def _with_quantities(value: Any, keys: frozenset[str]) -> Any:
    if isinstance(value, list):
        return [_with_quantities(item, keys) for item in value]
    if not isinstance(value, dict):
        return value
    result = {}
    for key, item in value.items():
        if key in keys and isinstance(item, dict):
            result[key] = {name: canonical_quantity(amount) for name, amount in item.items()}
        elif key in keys and not isinstance(item, list):
            result[key] = canonical_quantity(item)
        else:
            result[key] = _with_quantities(item, keys)
    return result


def _number(text: str) -> Decimal | None:
    return Decimal(text) if _NUMBER.fullmatch(text) else None


def _binary(amount: int) -> str:
    for power in reversed(range(len(_BINARY))):
        if amount % 1024**power == 0:
            return f"{amount // 1024**power}{_BINARY[power]}"
    raise AssertionError("each integer is divisible by one")


def _decimal(amount: Decimal) -> str:
    if amount == 0:
        return "0"
    for suffix, exponent in sorted(_DECIMAL.items(), key=lambda item: -item[1]):
        scaled = amount / Decimal(10) ** exponent
        if scaled == scaled.to_integral_value():
            return f"{int(scaled)}{suffix}"
    return f"{int((amount * 10**9).to_integral_value(rounding='ROUND_CEILING'))}n"


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value

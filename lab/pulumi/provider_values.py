"""Property values as the engine sends them (a protobuf Struct with signatures) and as plain Python data.

Signatures and the strings for unknown values: pulumi sdk/go/common/resource/plugin/rpc.go.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf.struct_pb2 import Struct, Value

Json = dict[str, Any]

SIGNATURE = "4dabf18193072939515e22adb298388d"
SECRET = "1b47061264138c4ac30d75fd1eb44270"
OUTPUT = "d0e6a833031e9bbcd3f4e8bde6ca49a4"
UNKNOWN_TEXTS = frozenset(
    {
        "04da6b54-80e4-46f7-96ec-b56ff0331ba9",  # string, and what this side sends
        "1c4a061d-8072-4f0a-a4cb-0ff528b18fe7",  # bool
        "3eeb2bf0-c639-47a8-9e75-3b44932eb421",  # number
        "6a19a0b0-7e62-4c92-b797-7f8e31da9cc2",  # array
        "dd056dcd-154b-4c76-9bd3-c8f88648b5ff",  # object
        "030794c1-ac77-496b-92df-f27374a8bd58",  # asset
        "e48ece36-62e2-4504-bad9-02848725956a",  # archive
    }
)
_UNKNOWN_TEXT = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
# The SDK cannot name an attribute with dashes; the plugin's schema writes these keys of a CRD with underscores.
_DASHED = {
    key.replace("-", "_"): key
    for key in (
        "x-kubernetes-embedded-resource", "x-kubernetes-int-or-string", "x-kubernetes-list-map-keys",
        "x-kubernetes-list-type", "x-kubernetes-map-type", "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-validations",
    )
}  # fmt: skip
_UNDERSCORED = {dashed: plain for plain, dashed in _DASHED.items()}


class Unknown:
    """A value that is known only after an update."""

    def __repr__(self) -> str:
        return "unknown"


UNKNOWN = Unknown()


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """A value that the engine encrypts in the state and hides in its output; so does `repr`."""

    value: Any

    def __repr__(self) -> str:
        return "[secret]"


def decode(struct: Struct) -> Json:
    """A Struct as plain data with `Secret` and `UNKNOWN` in it. Null members are left out.

    Raises:
        ValueError: it holds an asset, an archive or a resource, which no Kubernetes object has.
    """
    return {key: _decode(value) for key, value in struct.fields.items() if value.WhichOneof("kind") != "null_value"}


def _decode(value: Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return UNKNOWN if value.string_value in UNKNOWN_TEXTS else value.string_value
    if kind == "number_value":
        # The wire knows only doubles; Kubernetes refuses 3.0 where it wants an integer.
        number = value.number_value
        return int(number) if number.is_integer() else number
    if kind == "bool_value":
        return value.bool_value
    if kind == "list_value":
        return [_decode(item) for item in value.list_value.values]
    if kind == "struct_value":
        return _decode_struct(value.struct_value)
    return None


def _decode_struct(struct: Struct) -> Any:
    signature = struct.fields[SIGNATURE].string_value if SIGNATURE in struct.fields else ""
    if not signature:
        return decode(struct)
    if signature == SECRET:
        return Secret(_decode(struct.fields["value"]))
    if signature == OUTPUT:
        value = _decode(struct.fields["value"]) if "value" in struct.fields else UNKNOWN
        return Secret(value) if "secret" in struct.fields and struct.fields["secret"].bool_value else value
    raise ValueError("assets, archives and resource references are no values of a Kubernetes object")


def encode(values: Json) -> Struct:
    """The reverse of `decode`."""
    struct = Struct()
    for key, value in values.items():
        if value is not None:
            struct.fields[key].CopyFrom(_encode(value))
    return struct


def _encode(value: Any) -> Value:
    if isinstance(value, Unknown):
        return Value(string_value=_UNKNOWN_TEXT)
    if isinstance(value, Secret):
        wrapped = Struct()
        wrapped.fields[SIGNATURE].string_value = SECRET
        wrapped.fields["value"].CopyFrom(_encode(value.value))
        return Value(struct_value=wrapped)
    if isinstance(value, dict):
        return Value(struct_value=encode(value))
    if isinstance(value, list):
        made = Value()
        made.list_value.SetInParent()
        made.list_value.values.extend(_encode(item) for item in value)
        return made
    if isinstance(value, bool):
        return Value(bool_value=value)
    if isinstance(value, int | float):
        return Value(number_value=value)
    return Value(null_value=0) if value is None else Value(string_value=value)


def plain(value: Any) -> Any:
    """`value` without its secret marks, as the API server wants it; a copy."""
    if isinstance(value, Secret):
        return plain(value.value)
    if isinstance(value, dict):
        return {_DASHED.get(key, key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def underscored(value: Any) -> Any:
    """An object of the API server with the keys that the SDK knows; a copy."""
    if isinstance(value, dict):
        return {_UNDERSCORED.get(key, key): underscored(item) for key, item in value.items()}
    return [underscored(item) for item in value] if isinstance(value, list) else value


def leaves(value: Any) -> Iterator[Any]:
    """Each scalar in `value`."""
    if isinstance(value, Secret):
        yield from leaves(value.value)
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from leaves(item)
    else:
        yield value


def has_unknown(value: Any) -> bool:
    """Whether a part of `value` is unknown."""
    return any(isinstance(leaf, Unknown) for leaf in leaves(value))


def secrets(value: Any) -> Iterator[Any]:
    """Each secret in `value`, unwrapped."""
    if isinstance(value, Secret):
        yield value.value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from secrets(item)


def mark_secrets(values: Json, like: Json) -> None:
    """Mark in `values` what is secret in `like`, and all data of a Secret object.

    A list with one secret element becomes secret as a whole: its order may change on the way.
    """
    if values.get("kind") == "Secret":
        for key in ("data", "stringData"):
            if key in values and not isinstance(values[key], Secret):
                values[key] = Secret(values[key])
        return
    for key, model in like.items():
        value = values.get(key)
        if isinstance(value, dict) and isinstance(model, dict):
            mark_secrets(value, model)
        elif key in values and not isinstance(value, Secret) and any(True for _ in secrets(model)):
            values[key] = Secret(value)


def without_secrets(text: str, values: Json) -> str:
    """`text` with each secret of `values` replaced; an API server quotes what it refuses."""
    hidden = {leaf for secret in secrets(values) for leaf in leaves(secret) if isinstance(leaf, str) and leaf}
    for secret in sorted(hidden, key=len, reverse=True):
        for form in (secret, json.dumps(secret)[1:-1]):
            text = text.replace(form, "[secret]")
    return text

"""Server-side apply as the genuine plugin does it: who owns which field, and what is left to others."""

from __future__ import annotations

import os
from typing import Any

from lab.pulumi.provider_api import MANAGER, Api, ApiError
from lab.pulumi.provider_diff import Path, parse_path
from lab.pulumi.provider_inputs import annotations_of
from lab.pulumi.provider_values import Json

HELP = (
    "https://www.pulumi.com/registry/packages/kubernetes/how-to-guides/managing-resources-with-server-side-apply/"
    "#handle-field-conflicts-on-existing-resources"
)
# (prefix of the manager, operation) whose fields the genuine plugin takes over at an update: kubectl's edits, and
# what it created itself, because it creates by POST and updates by server-side apply.
_TAKEN_OVER = (
    ("kubectl", "Apply"), ("kubectl", "Update"), ("before-first-apply", "Update"), (MANAGER, "Update"),
    ("pulumi-resource-kubernetes", "Update"),
)  # fmt: skip
_TRIES = 5


def update(
    api: Api, inputs: Json, live: Json, manager: str, *, ignored: list[str], force: bool, patch: bool, dry_run: bool
) -> Json:
    """Apply `inputs` over `live`.

    Args:
        ignored: property paths that the program leaves to others.
        force: take fields from other managers.
        patch: the resource is a *Patch one, which must not take over what it does not name.

    Raises:
        ApiError: the API server refused; a conflict's text says who owns the field.
        UnreachableError, NoSuchKindError: it could not be asked.
    """
    if not patch and not dry_run:
        live = _taken_over(api, live, manager)
    wanted = _without_ignored(inputs, live, manager, ignored)
    managers = (live.get("metadata") or {}).get("managedFields") or []
    if dry_run and any(entry.get("operation") == "Update" and entry.get("manager") == MANAGER for entry in managers):
        force = True  # the real update takes these fields over first
    try:
        return api.apply(wanted, manager, force=force or not managers, dry_run=dry_run)
    except ApiError as error:
        raise explained(error, manager) from None


def relinquish(api: Api, item: Json, manager: str) -> None:
    """Give up all fields of `manager`; those that nobody else owns go, the object stays. Raises as `update` does."""
    metadata = {key: value for key, value in item["metadata"].items() if key in {"name", "namespace"}}
    empty = {"apiVersion": item["apiVersion"], "kind": item["kind"], "metadata": metadata}
    api.apply(empty, manager, force=False, dry_run=False)


def forced(inputs: Json, *, always: bool) -> bool:
    """Whether a conflict is overridden: the annotation, else the provider's setting, else the environment's."""
    if annotations_of(inputs).get("pulumi.com/patchForce") == "true" or always:
        return True
    return os.environ.get("PULUMI_K8S_ENABLE_PATCH_FORCE") == "true"


def explained(error: ApiError, manager: str) -> ApiError:
    """A conflict with the words of the genuine plugin; any other error as it is."""
    if error.status != 409 or error.reason != "Conflict":
        return error
    text = (
        f"Server-Side Apply field conflict detected. See {HELP} for troubleshooting help.\n"
        f'The resource managed by field manager "{manager}" had an apply conflict: {error}'
    )
    return ApiError(error.status, {"message": text, "reason": error.reason, "details": error.details})


def _taken_over(api: Api, live: Json, manager: str) -> Json:
    """`live` after `_take_over`; again when a controller wrote to it in between."""
    for _ in range(_TRIES - 1):
        try:
            return _take_over(api, live, manager)
        except ApiError as error:
            if error.status != 409:
                raise
            live = api.get(live)
    return _take_over(api, live, manager)


def _take_over(api: Api, live: Json, manager: str) -> Json:
    """Make the fields of the managers in the list ours, as flux' PatchReplaceFieldsManagers does."""
    entries = live["metadata"].get("managedFields") or []
    own = next((dict(e) for e in entries if e.get("manager") == manager and e.get("operation") == "Apply"), None)
    kept, changed = [], False
    for entry in entries:
        if entry.get("manager") == manager and entry.get("operation") == "Apply":
            continue
        if not entry.get("subresource") and any(
            str(entry.get("manager", "")).startswith(prefix) and entry.get("operation") == operation
            for prefix, operation in _TAKEN_OVER
        ):
            changed = True
            if own is None:
                own = {**entry, "manager": manager, "operation": "Apply"}
            else:
                own["fieldsV1"] = _merged(own.get("fieldsV1") or {}, entry.get("fieldsV1") or {})
        else:
            kept.append(entry)
    if not changed or own is None:
        return live
    operations = [
        {"op": "replace", "path": "/metadata/managedFields", "value": [*kept, own]},
        {"op": "replace", "path": "/metadata/resourceVersion", "value": live["metadata"]["resourceVersion"]},
    ]
    return api.patch_json(live, operations)


def _merged(one: Json, other: Json) -> Json:
    return {
        key: _merged(one[key], other[key]) if key in one and key in other else (one | other)[key]
        for key in {**one, **other}
    }


def _without_ignored(inputs: Json, live: Json, manager: str, ignored: list[str]) -> Json:
    """`inputs` with the live value at each ignored path, or without it where only others own it.

    As in the genuine plugin a path through a list is not followed: it keeps what the program says.
    """
    result: Json = inputs
    for text in ignored:
        path = parse_path(text)
        if any(isinstance(part, int) or part == "*" for part in path):
            continue
        entries = live["metadata"].get("managedFields") or []
        ours = any(_owns(entry, path) for entry in entries if entry.get("manager") == manager)
        theirs = any(_owns(entry, path) for entry in entries if entry.get("manager") != manager)
        found, value = _at(live, path)
        if theirs and not ours:
            result = _changed(result, path, None)
        elif found:
            result = _changed(result, path, value)
    return result


def _owns(entry: Json, path: Path) -> bool:
    fields: Any = entry.get("fieldsV1") or {}
    for part in path:
        if not isinstance(fields, dict) or f"f:{part}" not in fields:
            return False
        fields = fields[f"f:{part}"]
    return True


def _at(value: Any, path: Path) -> tuple[bool, Any]:
    for part in path:
        if not isinstance(value, dict) or part not in value:
            return False, None
        value = value[part]
    return True, value


def _changed(value: Json, path: Path, new: Any) -> Json:
    """A copy with `new` at `path`; None takes it away."""
    head, rest = str(path[0]), path[1:]
    copy = dict(value)
    if rest:
        inner = copy.get(head)
        if isinstance(inner, dict) or new is not None:
            copy[head] = _changed(inner if isinstance(inner, dict) else {}, rest, new)
    elif new is None:
        copy.pop(head, None)
    else:
        copy[head] = new
    return copy

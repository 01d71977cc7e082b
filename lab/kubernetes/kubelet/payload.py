"""Files of ConfigMap, Secret, downward API and projected volumes, and how they change in one step."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .client import Json
from .environment import CreateError, Lookup, PodFacts, field, resource

_DATA = "..data"


@dataclass(frozen=True, slots=True)
class File:
    """Content and permissions of one file of a volume."""

    data: bytes
    mode: int


Payload = dict[str, File]


def of_object(kind: str, source: Json, lookup: Lookup, default_mode: int) -> Payload:
    """The entries of a ConfigMap or Secret (`kind` "configmaps" or "secrets"), or those that `items` names.

    Raises:
        CreateError: the object or a key is missing.
    """
    name = source.get("name") or source.get("secretName") or ""
    entries = lookup(kind, name)
    if entries is None:
        if source.get("optional"):
            return {}
        raise CreateError(f'{kind.removesuffix("s")} "{name}" not found')
    if not source.get("items"):
        return {key: File(value, default_mode) for key, value in entries.items()}
    result: Payload = {}
    for item in source["items"]:
        if item["key"] in entries:
            result[_inside(item["path"])] = File(entries[item["key"]], item.get("mode", default_mode))
        elif not source.get("optional"):
            raise CreateError(f"references non-existent {kind.removesuffix('s')} key: {item['key']}")
    return result


def of_downward(items: list[Json], facts: PodFacts, default_mode: int) -> Payload:
    """The files of a downward API volume. Raises: CreateError: there is no such field."""
    result: Payload = {}
    for item in items:
        if "fieldRef" in item:
            text = field(item["fieldRef"]["fieldPath"], facts)
        else:
            text = resource(item.get("resourceFieldRef") or {}, {}, facts)
        result[_inside(item["path"])] = File(text.encode(), item.get("mode") or default_mode)
    return result


def _inside(path: str) -> str:
    if path.startswith("/") or ".." in path.split("/"):
        raise CreateError(f"path {path!r} leads out of the volume")
    return path


def write(target: Path, payload: Mapping[str, File], group: int | None) -> bool:
    """Make the volume hold exactly `payload`, all of it from one moment on: a link to the current directory is
    replaced, as kubelets do it. Returns whether anything changed."""
    current = target / _DATA
    if current.is_symlink() and _content(current) == {path: file.data for path, file in payload.items()}:
        return False
    fresh = Path(tempfile.mkdtemp(dir=target, prefix="..new_"))
    fresh.chmod(0o755)
    for path, file in payload.items():
        place = fresh / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(file.data)
        place.chmod(file.mode | 0o440 if group is not None else file.mode)
        if group is not None:
            os.chown(place, -1, group)
    old = target / current.readlink() if current.is_symlink() else None
    link = target / "..data_new"
    link.unlink(missing_ok=True)
    link.symlink_to(fresh.name)
    link.replace(current)
    heads = {path.split("/")[0] for path in payload}
    for head in heads:
        with contextlib.suppress(FileExistsError):
            (target / head).symlink_to(f"{_DATA}/{head}")
    for stale in target.iterdir():
        if not stale.name.startswith("..") and stale.name not in heads:
            stale.unlink()
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)
    return True


def _content(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }  # fmt: skip

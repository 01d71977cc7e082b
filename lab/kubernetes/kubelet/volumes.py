"""A pod's volumes: made on the node, refreshed while the pod runs, taken down with it."""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from . import kernel, quantity
from .client import ApiError, Client, Json
from .environment import CreateError, PodFacts, expand
from .launch import Mount
from .payload import File, Payload, of_downward, of_object, write

# Shares of a token's life after which it is replaced; kubelets do it at 80 %, and after a day in any case.
_TOKEN_SHARE = 0.8
_TOKEN_DAY_S = 86_400
_CONTENT = ("configMap", "secret", "projected", "downwardAPI")
_HOST_KINDS = {
    "Directory": stat.S_ISDIR, "File": stat.S_ISREG, "Socket": stat.S_ISSOCK, "CharDevice": stat.S_ISCHR,
    "BlockDevice": stat.S_ISBLK,
}  # fmt: skip


class MountError(Exception):
    """A volume can't be given to the pod now: the message of its FailedMount event."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a volume is on the node."""

    path: Path
    read_only: bool


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    renew_at: float


class Objects:
    """ConfigMaps and Secrets of a namespace, as the node may read them for its pods."""

    def __init__(self, client: Client, namespace: str) -> None:
        self._client, self._namespace = client, namespace

    def __call__(self, kind: str, name: str) -> Mapping[str, bytes] | None:
        """Raises: ApiError (other than not found), Unreachable."""
        try:
            found = self._client.get(f"/api/v1/namespaces/{self._namespace}/{kind}/{name}")
        except ApiError as error:
            if error.code == 404:
                return None
            raise
        entries = found.get("data") or {}
        if kind == "secrets":
            return {key: base64.b64decode(value) for key, value in entries.items()}
        binary = {key: base64.b64decode(value) for key, value in (found.get("binaryData") or {}).items()}
        return {key: value.encode() for key, value in entries.items()} | binary


class Volumes:
    """The volumes of one pod, below `directory`."""

    def __init__(self, client: Client, facts: PodFacts, directory: Path) -> None:
        self._client, self.facts, self._directory = client, facts, directory
        self._tokens: dict[tuple[str, str], _Token] = {}

    @property
    def _spec(self) -> Json:
        spec: Json = self.facts.pod["spec"]
        return spec

    @property
    def _group(self) -> int | None:
        group = (self._spec.get("securityContext") or {}).get("fsGroup")
        return None if group is None else int(group)

    def prepare(self) -> dict[str, Source]:
        """Make all volumes, or bring them up to date; what is there already is kept.

        Raises:
            MountError: one can't be made.
            ApiError, Unreachable: the API server did not answer as hoped.
        """
        result = {}
        for volume in self._spec.get("volumes") or []:
            try:
                result[volume["name"]] = self._one(volume)
            except (CreateError, OSError, ValueError) as error:
                message = f'MountVolume.SetUp failed for volume "{volume["name"]}" : {error}'
                raise MountError(message) from error
        return result

    def _one(self, volume: Json) -> Source:
        place = self._directory / volume["name"]
        if "emptyDir" in volume:
            return Source(self._empty(volume["emptyDir"], place), read_only=False)
        for kind in _CONTENT:
            if kind in volume:
                return Source(self._content(kind, volume[kind], place), read_only=True)
        if "persistentVolumeClaim" in volume:
            return self._claim(volume["persistentVolumeClaim"])
        if "hostPath" in volume:
            return Source(_host_path(volume["hostPath"]), read_only=False)
        kinds = ", ".join(key for key in volume if key != "name")
        raise CreateError(f"no volume plugin matched: {kinds}")

    def _empty(self, source: Json, place: Path) -> Path:
        medium = source.get("medium") or ""
        if medium not in {"", "Memory"}:
            raise CreateError(f"unknown storage medium {medium!r}")
        place.mkdir(parents=True, exist_ok=True)
        if medium == "Memory" and not place.is_mount():
            size = f",size={int(quantity.parse(source['sizeLimit']))}" if source.get("sizeLimit") else ""
            kernel.mount("tmpfs", str(place), "tmpfs", options=f"mode=0777{size}")
        place.chmod(0o777 if self._group is None else 0o2777)
        if self._group is not None:
            os.chown(place, -1, self._group)
        return place

    def _content(self, kind: str, source: Json, place: Path) -> Path:
        payload = self._projected(source) if kind == "projected" else self._payload(kind, source, _mode(source))
        place.mkdir(parents=True, exist_ok=True)
        # What is secret never reaches the node's disk.
        if kind in {"secret", "projected"} and not place.is_mount():
            kernel.mount("tmpfs", str(place), "tmpfs", options="mode=0755,size=4m")
        write(place, payload, self._group)
        return place

    def _projected(self, source: Json) -> Payload:
        mode = _mode(source)
        result: Payload = {}
        for part in source.get("sources") or []:
            for kind, each in part.items():
                result |= self._payload(kind, each, mode)
        return result

    def _payload(self, kind: str, source: Json, mode: int) -> Payload:
        if kind in {"configMap", "secret"}:
            return of_object("configmaps" if kind == "configMap" else "secrets", source, self._objects(), mode)
        if kind == "downwardAPI":
            return of_downward(source.get("items") or [], self.facts, mode)
        if kind == "serviceAccountToken":
            return {source["path"]: File(self._token(source).encode(), mode)}
        raise CreateError(f"no volume plugin matched: projected {kind}")

    def _objects(self) -> Objects:
        return Objects(self._client, self.facts.pod["metadata"]["namespace"])

    def _token(self, source: Json) -> str:
        metadata, account = self.facts.pod["metadata"], self._spec.get("serviceAccountName") or "default"
        audience, seconds = source.get("audience") or "", int(source.get("expirationSeconds") or 3600)
        known = self._tokens.get((audience, source["path"]))
        if known is None or known.renew_at < time.time():
            reference = {"kind": "Pod", "apiVersion": "v1", "name": metadata["name"], "uid": metadata["uid"]}
            asked = {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {
                    "audiences": [audience] if audience else [],
                    "expirationSeconds": seconds,
                    "boundObjectRef": reference,
                },
            }
            path = f"/api/v1/namespaces/{metadata['namespace']}/serviceaccounts/{account}/token"
            text = self._client.create(path, asked)["status"]["token"]
            known = _Token(text, time.time() + min(seconds * _TOKEN_SHARE, _TOKEN_DAY_S))
            self._tokens[audience, source["path"]] = known
        return known.text

    def _claim(self, source: Json) -> Source:
        namespace, name = self.facts.pod["metadata"]["namespace"], source["claimName"]
        try:
            claim = self._client.get(f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{name}")
        except ApiError as error:
            if error.code != 404:
                raise
            raise CreateError(f'persistentvolumeclaim "{name}" not found') from error
        if (claim.get("status") or {}).get("phase") != "Bound":
            raise CreateError(f"PVC {namespace}/{name} is not bound")
        volume = self._client.get(f"/api/v1/persistentvolumes/{claim['spec']['volumeName']}")
        spec = volume["spec"]
        if (spec.get("claimRef") or {}).get("uid") != claim["metadata"]["uid"]:
            raise CreateError(f"PV {volume['metadata']['name']} is bound to another claim than {namespace}/{name}")
        if spec.get("volumeMode") == "Block":
            raise CreateError("a volume of mode Block is not supported by the lab's kubelet")
        read_only = bool(source.get("readOnly"))
        if "hostPath" in spec:
            return Source(_host_path(spec["hostPath"]), read_only)
        if "local" not in spec:
            kinds = ", ".join(
                key for key in spec if isinstance(spec[key], dict) and key not in {"capacity", "claimRef"}
            )
            raise CreateError(f"no volume plugin matched: {kinds}")
        path = Path(spec["local"]["path"])
        if not path.exists():
            raise CreateError(f'path "{path}" does not exist')
        if self._group is not None and not read_only:
            self._give(path, self._group)
        return Source(path, read_only)

    def _give(self, path: Path, group: int) -> None:
        """Hand a local volume to the pod's group, as the genuine local plugin does; `OnRootMismatch` looks at the top
        only."""
        context = self._spec.get("securityContext") or {}
        if context.get("fsGroupChangePolicy") == "OnRootMismatch" and path.stat().st_gid == group:
            return
        for directory, _, names in os.walk(path):
            os.chown(directory, -1, group)
            Path(directory).chmod(stat.S_IMODE(Path(directory).stat().st_mode) | 0o2770)
            for name in names:
                file = Path(directory, name)
                if not file.is_symlink():
                    os.chown(file, -1, group)
                    file.chmod(stat.S_IMODE(file.stat().st_mode) | 0o660)

    def tear_down(self) -> None:
        """Unmount and remove what was made here; claims and the node's own paths stay as they are.

        Raises:
            OSError: something is still mounted.
        """
        if self._directory.is_dir():
            for place in self._directory.iterdir():
                while place.is_mount():
                    kernel.unmount(str(place), kernel.MNT_DETACH)
            shutil.rmtree(self._directory)


def mounts(container: Json, sources: Mapping[str, Source], known: Mapping[str, str]) -> list[Mount]:
    """What a container sees of the pod's volumes.

    Raises:
        CreateError: a subPath leads out of its volume, or a volume is missing.
    """
    result = []
    for wanted in container.get("volumeMounts") or []:
        source = sources.get(wanted["name"])
        if source is None:
            raise CreateError(f"cannot find volume {wanted['name']!r} to mount into container {container['name']!r}")
        path = source.path
        if below := wanted.get("subPath") or expand(wanted.get("subPathExpr") or "", known):
            path = _below(source, below)
        read_only = bool(wanted.get("readOnly")) or source.read_only
        result.append(Mount(str(path), wanted["mountPath"], read_only))
    return result


def _below(source: Source, sub_path: str) -> Path:
    path = source.path / sub_path
    if sub_path.startswith("/") or not path.resolve().is_relative_to(source.path.resolve()):
        raise CreateError(f"subPath {sub_path!r} leads out of its volume")
    if not source.read_only and not path.exists():
        path.mkdir(parents=True)
    return path


def _mode(source: Json) -> int:
    mode = source.get("defaultMode")
    return 0o644 if mode is None else int(mode)


def _host_path(source: Json) -> Path:
    path, kind = Path(source["path"]), source.get("type") or ""
    # A runtime makes what is not there and of no declared type.
    if kind == "DirectoryOrCreate" or (not kind and not path.exists()):
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
    elif kind == "FileOrCreate" and not path.exists():
        path.touch(mode=0o644)
    check = _HOST_KINDS.get(kind.removesuffix("OrCreate"))
    with contextlib.suppress(FileNotFoundError):
        if check is None or check(path.stat().st_mode):
            return path
    raise CreateError(f"hostPath type check failed: {path} is not a {kind.removesuffix('OrCreate').lower()}")

"""Reads a kubeconfig: where the API server is and how to prove who asks."""

from __future__ import annotations

import base64
import binascii
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError


class KubeconfigError(Exception):
    """The kubeconfig cannot be used; the text says why and what to do, on one line."""


@dataclass(frozen=True, slots=True, repr=False)
class Access:
    """One cluster as one user. Certificates and keys are PEM."""

    server: str
    namespace: str = "default"
    authority: bytes | None = None
    server_name: str | None = None
    verify: bool = True
    certificate: bytes | None = None
    key: bytes | None = None
    token: str | None = None

    def __repr__(self) -> str:
        return f"Access({self.server!r})"

    def expired(self, now: datetime) -> str | None:
        """Why the client certificate is refused at `now`, when its own dates say so."""
        if self.certificate is None:
            return None
        # Only on the way to an error: the import takes longer than all else here.
        from cryptography import x509

        valid_to = x509.load_pem_x509_certificate(self.certificate).not_valid_after_utc
        return f"the client certificate expired on {valid_to:%Y-%m-%d %H:%M} UTC" if valid_to < now else None


def load(text_or_path: str | None, *, context: str = "", cluster: str = "", namespace: str = "") -> Access:
    """The access that a kubeconfig gives.

    Args:
        text_or_path: its text or its path; None for the files of `KUBECONFIG`, else `~/.kube/config`.
        context: the context to use instead of the current one.
        cluster: the cluster to use instead of the context's.
        namespace: the default namespace instead of the context's.

    Raises:
        KubeconfigError: there is none, or it cannot be used.
    """
    config = _read(text_or_path)
    chosen = context or str(config.get("current-context") or "")
    if not chosen:
        raise KubeconfigError("the kubeconfig names no current context. Fix: kubectl config use-context NAME")
    found = _entry(config, "contexts", "context", chosen)
    place = _entry(config, "clusters", "cluster", cluster or str(found.get("cluster") or ""))
    user = _entry(config, "users", "user", str(found["user"])) if found.get("user") else {}
    unsupported = sorted({"exec", "auth-provider", "username"} & set(user))
    if unsupported:
        raise KubeconfigError(
            f"the lab's plugin knows certificates and tokens, not `{unsupported[0]}` of the kubeconfig. "
            "Fix: install the genuine Kubernetes plugin, or give a certificate or a token"
        )
    if not place.get("server"):
        raise KubeconfigError("the kubeconfig gives no server for its cluster. Fix: kubectl config set-cluster")
    token = user.get("token") or None
    if user.get("tokenFile") and not token:
        token = _file(Path(str(config["folder"]), str(user["tokenFile"]))).decode().strip()
    return Access(
        server=str(place["server"]).rstrip("/"),
        namespace=namespace or str(found.get("namespace") or "default"),
        authority=_pem(config, place, "certificate-authority"),
        server_name=place.get("tls-server-name") or None,
        verify=not place.get("insecure-skip-tls-verify"),
        certificate=_pem(config, user, "client-certificate"),
        key=_pem(config, user, "client-key"),
        token=token,
    )


def active_cluster(text_or_path: str | None, *, context: str = "", cluster: str = "") -> Any:
    """The entry of the cluster that a kubeconfig points to, to see whether it has changed; None when there is none."""
    try:
        config = _read(text_or_path)
        chosen = _entry(config, "contexts", "context", context or str(config.get("current-context") or ""))
        found = _entry(config, "clusters", "cluster", cluster or str(chosen.get("cluster") or ""))
        return {key: value for key, value in found.items() if key != "folder"}
    except KubeconfigError:
        return None


def _read(text_or_path: str | None) -> dict[str, Any]:
    """One kubeconfig, or several merged: of two entries with one name the first counts."""
    if text_or_path and ("\n" in text_or_path or text_or_path.lstrip().startswith("{")):
        return _parsed(text_or_path, "the kubeconfig in kubernetes:kubeconfig", Path())
    paths = [Path(text_or_path).expanduser()] if text_or_path else _default_paths()
    merged: dict[str, Any] = {}
    for path in paths:
        if not path.is_file() and not text_or_path:
            continue
        # Not resolved: a path in it is relative to the folder of the name that was given, as client-go has it.
        config = _parsed(_file(path).decode(), str(path), path.absolute().parent)
        for key in ("clusters", "users", "contexts"):
            for entry in config.get(key) or []:
                merged.setdefault(key, []).append({**entry, "folder": config["folder"]})
        merged.setdefault("folder", config["folder"])
        if config.get("current-context"):
            merged.setdefault("current-context", config["current-context"])
    if not merged:
        listed = ", ".join(map(str, paths))
        raise KubeconfigError(f"there is no kubeconfig at {listed}. Fix: set KUBECONFIG to the file of your cluster")
    return merged


def _default_paths() -> list[Path]:
    named = [part for part in os.environ.get("KUBECONFIG", "").split(":") if part]
    return [Path(part) for part in named] or [Path("~/.kube/config").expanduser()]


def _parsed(text: str, name: str, folder: Path) -> dict[str, Any]:
    try:
        data = YAML(typ="safe", pure=False).load(text)
    except YAMLError as error:
        # Not the error's own text: it quotes the file, which may hold a key.
        mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
        line = f" line {mark.line + 1}" if mark else ""
        raise KubeconfigError(f"{name}{line} is not YAML. Fix: write it anew") from None
    if not isinstance(data, dict):
        raise KubeconfigError(f"{name} is not a kubeconfig. Fix: give the file that kubectl uses")
    return {**data, "folder": folder}


def _entry(config: dict[str, Any], plural: str, key: str, name: str) -> dict[str, Any]:
    for entry in config.get(plural) or []:
        if isinstance(entry, dict) and entry.get("name") == name:
            return {"folder": entry.get("folder", config.get("folder")), **(entry.get(key) or {})}
    raise KubeconfigError(f"the kubeconfig has no {key} {name!r}. Fix: kubectl config get-{plural} lists them")


def _pem(config: dict[str, Any], entry: dict[str, Any], key: str) -> bytes | None:
    if entry.get(f"{key}-data"):
        try:
            return base64.b64decode(entry[f"{key}-data"], validate=True)
        except (binascii.Error, ValueError, TypeError):
            raise KubeconfigError(f"{key}-data of the kubeconfig is not base64. Fix: write it anew") from None
    if entry.get(key):
        return _file(Path(str(entry["folder"]), str(entry[key])))
    return None


def _file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise KubeconfigError(f"{path}: {error.strerror}. Fix: correct the path in the kubeconfig") from None

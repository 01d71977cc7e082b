"""A dossier's folder: dossier.json, seal.json, dossier.html, signatures.json and raw/<sha256>.txt."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ValidationError

from benchmarks.dossier.model import Dossier, Seal, Signatures
from medllm.errors import user_error
from medllm.files import state_dir, write_atomic
from medllm.manifest import load_or_create_private_key, public_key_pem
from medllm.remote import Result

JSON, HTML, SIGNATURES, RAW, LATEST = "dossier.json", "dossier.html", "signatures.json", "raw", "latest"
SEAL = "seal.json"


def raw_text(result: Result) -> str:
    """A result as the text that is kept and hashed."""
    parts = [f"$ {result.command}", f"# host {result.host}, exit status {result.rc}"]
    if result.error:
        parts.append(f"# {result.error}")
    parts.append(result.stdout.rstrip("\n"))
    if result.stderr.strip():
        parts += ["# stderr", result.stderr.rstrip("\n")]
    return "\n".join(parts) + "\n"


def sha256(text: str | bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()


def root() -> Path:
    """Where this machine keeps dossiers."""
    return state_dir() / "dossiers"


def own_key() -> Path:
    """The key of this machine, which seals dossiers and signs them when no other is given."""
    return state_dir() / "keys" / "acceptance.pem"


def new_folder(site: str, created: datetime) -> Path:
    """An empty folder for a run that began at this time."""
    name = f"{site}-{created:%Y%m%dT%H%M%SZ}"
    for suffix in ("", *(f"-{number}" for number in range(2, 100))):
        folder = root() / (name + suffix)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise FileExistsError(folder)


def write(folder: Path, dossier: Dossier, raw: Mapping[str, str]) -> None:
    """Write the raw texts, then dossier.json and its seal; then let `latest` point to the folder."""
    (folder / RAW).mkdir(exist_ok=True)
    for digest, text in raw.items():
        write_atomic(folder / RAW / f"{digest}.txt", text)
    payload, key = dumps(dossier).encode(), load_or_create_private_key(own_key())
    write_atomic(folder / JSON, payload)
    seal = Seal(
        public_key=public_key_pem(key.public_key()).decode(), signature=base64.b64encode(key.sign(payload)).decode()
    )
    write_atomic(folder / SEAL, dumps(seal))
    link = folder.parent / f".{LATEST}.{os.getpid()}"
    link.unlink(missing_ok=True)
    link.symlink_to(folder.name)
    link.replace(folder.parent / LATEST)


def read(folder: Path) -> Dossier:
    """Read a dossier. Raises UserError when there is none, or one of another schema."""
    return read_bytes(folder)[0]


def read_bytes(folder: Path) -> tuple[Dossier, bytes]:
    """A dossier and the very bytes that it was read from. Raises as `read`."""
    path = folder / JSON
    try:
        payload = path.read_bytes()
        return Dossier.model_validate_json(payload), payload
    except OSError:
        raise user_error("there is no dossier", "run `medllm accept run`, or give its folder", file=path) from None
    except ValidationError as error:
        first = error.errors()[0]
        raise user_error(
            f"not a dossier of this version: {first['msg']}",
            "write it again with `medllm accept run`",
            file=path,
            key=".".join(map(str, first["loc"])),
        ) from None


def read_seal(folder: Path) -> Seal | None:
    """The seal; None when the file is not there. Raises UserError."""
    path = folder / SEAL
    if not path.exists():
        return None
    try:
        return Seal.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise user_error(
            f"not a seal: {error.errors()[0]['msg']}", "run `medllm accept run` again", file=path
        ) from None


def read_signatures(folder: Path) -> Signatures:
    """The signatures so far; none when the file is not there. Raises UserError."""
    path = folder / SIGNATURES
    if not path.exists():
        return Signatures(signatures=[])
    try:
        return Signatures.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise user_error(
            f"not a list of signatures: {error.errors()[0]['msg']}", "sign the dossier again", file=path
        ) from None


def raw_of(folder: Path, digest: str) -> str | None:
    """A raw text, or None when its file is gone."""
    try:
        return (folder / RAW / f"{digest}.txt").read_bytes().decode("utf-8", "replace")
    except OSError:
        return None


def dumps(model: BaseModel) -> str:
    """Canonical JSON: sorted keys, two spaces, UTF-8, one line break at the end."""
    return json.dumps(model.model_dump(mode="json"), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def load_raw(folder: Path, dossier: Dossier) -> dict[str, str]:
    """All raw texts that are still there, by hash."""
    found = {artifact.sha256: raw_of(folder, artifact.sha256) for artifact in dossier.artifacts}
    return {digest: text for digest, text in found.items() if text is not None}

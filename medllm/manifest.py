"""Signed manifests: a data set is what its curator signed, to the byte, or it is refused.

A directory's `manifest.json` lists each file with its size and SHA-256, beside the `meta` that the curator states
(counts, split, de-identification report). `manifest.sig` is the Ed25519 signature (RFC 8032) over the exact bytes of
`manifest.json`, in base64. The JSON is canonical (sorted keys and paths, no times): equal data sign to equal bytes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from medllm.errors import Problem, UserError, user_error
from medllm.files import write_atomic

FORMAT = "medllm-manifest-1"
MANIFEST_NAME = "manifest.json"
SIGNATURE_NAME = "manifest.sig"
_REPACK = "pack the data set again (`medllm data pack`) or fetch it again from its publisher"


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One listed file: `size` in bytes, `sha256` in hex."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest whose signature holds.

    sha256: that of `manifest.json` itself, which names this exact version of the data
    files: by relative POSIX path, sorted
    """

    sha256: str
    meta: dict[str, Any]
    files: dict[str, ManifestFile]


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's content, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sign_manifest(directory: Path, private_key: Ed25519PrivateKey, meta: dict[str, Any]) -> str:
    """Hash every file below `directory`, write `manifest.json` and `manifest.sig`; return the manifest's SHA-256.

    Raises:
        UserError: the directory is empty or holds a symbolic link or a special file (neither can be signed).
    """
    files = {
        path: {"size": (directory / path).stat().st_size, "sha256": sha256_file(directory / path)}
        for path in sorted(_walk(directory))
    }
    if not files:
        raise user_error("there is no file to sign", "name the directory that holds the data set", file=directory)
    body = json.dumps(
        {"format": FORMAT, "meta": meta, "files": files}, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False
    )
    payload = (body + "\n").encode()
    # A crash between the two leaves a manifest that does not verify, never a wrong one that does.
    write_atomic(directory / SIGNATURE_NAME, base64.b64encode(private_key.sign(payload)) + b"\n")
    write_atomic(directory / MANIFEST_NAME, payload)
    return hashlib.sha256(payload).hexdigest()


def read_manifest(directory: Path, public_key: Ed25519PublicKey) -> Manifest:
    """The manifest of `directory`, its signature checked, its files **not** (see `verify_manifest`).

    Raises:
        UserError: unsigned, signed by another key, altered, or not of this format.
    """
    path = directory / MANIFEST_NAME
    payload = _read(path, "the data set has no manifest", "pack it with `medllm data pack`, which signs it")
    encoded = _read(
        directory / SIGNATURE_NAME, "the manifest is not signed", "pack it with `medllm data pack`, which signs it"
    )
    try:
        public_key.verify(base64.b64decode(encoded.strip(), validate=True), payload)
    except (InvalidSignature, binascii.Error, ValueError) as error:
        raise user_error(
            "the signature does not fit: the manifest was altered, or another key signed it",
            "use the curator's public key, or " + _REPACK,
            file=path,
        ) from error
    return _parse(payload, path)


def verify_manifest(directory: Path, public_key: Ed25519PublicKey, *, only: Iterable[str] | None = None) -> Manifest:
    """The manifest of `directory` after its signature, sizes and hashes have been checked.

    Without `only` the directory must hold exactly the listed files. With `only` (relative paths) just those are hashed,
    so that a rank checks its own shards; a path that is not listed is refused.

    Raises:
        UserError: one problem for each file that is missing, altered, unlisted or a link, with the fix.
    """
    manifest = read_manifest(directory, public_key)
    listed = manifest.files
    wanted = list(listed) if only is None else sorted(set(only))
    problems = [
        Problem("the file is not listed in the signed manifest", _REPACK, file=directory / path)
        for path in wanted
        if path not in listed
    ]
    if only is None:
        problems += [
            Problem("the file is not listed in the signed manifest", "remove it, or " + _REPACK, file=directory / path)
            for path in sorted(_walk(directory))
            if path not in listed
        ]
    problems += [
        Problem(rule, _REPACK, file=directory / path)
        for path in wanted
        if path in listed and (rule := _fault(directory / path, listed[path]))
    ]
    if problems:
        raise UserError(*problems)
    return manifest


def _fault(path: Path, entry: ManifestFile) -> str | None:
    try:
        status = path.lstat()
    except OSError:
        return "the file is missing"
    if not stat.S_ISREG(status.st_mode):
        return "this is not a plain file"
    if status.st_size != entry.size:
        return f"the file was altered: {status.st_size} bytes, {entry.size} were signed"
    if sha256_file(path) != entry.sha256:
        return "the file was altered: its SHA-256 is not the signed one"
    return None


def _walk(directory: Path) -> Iterator[str]:
    """Relative POSIX paths of all files, without the manifest and its signature."""
    for root, folders, names in os.walk(directory):
        for name in (*folders, *names):
            path = Path(root, name)
            mode = path.lstat().st_mode
            if stat.S_ISDIR(mode):
                continue
            if not stat.S_ISREG(mode):
                raise user_error(
                    "a data set holds plain files only, not links or special files", "copy the content here", file=path
                )
            relative = path.relative_to(directory).as_posix()
            if relative not in {MANIFEST_NAME, SIGNATURE_NAME}:
                yield relative


def _read(path: Path, rule: str, fix: str) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise user_error(rule, fix, file=path) from error


def _parse(payload: bytes, path: Path) -> Manifest:
    """A signed payload as a `Manifest`; a signature does not excuse paths that leave the directory."""
    try:
        data = json.loads(payload)
        if data["format"] != FORMAT:
            raise ValueError(data["format"])
        meta = dict(data["meta"])
        files = {str(path): ManifestFile(int(f["size"]), str(f["sha256"])) for path, f in sorted(data["files"].items())}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise user_error(f"this is not a {FORMAT}", _REPACK, file=path) from error
    for name in files:
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or str(pure) != name:
            raise user_error("a listed path leaves the data set's directory", _REPACK, file=path, key=name)
    return Manifest(hashlib.sha256(payload).hexdigest(), meta, files)


def load_private_key(path: Path) -> Ed25519PrivateKey:
    """The Ed25519 private key in a PEM (PKCS 8) file that only its owner can read.

    Raises:
        UserError: no such file, readable by others, or not such a key.
    """
    payload = _read(path, "there is no private key", "make one: `medllm data pack` does so when --key is not given")
    if path.stat().st_mode & 0o077:
        raise user_error("others can read this private key", "run `chmod 600` on it", file=path)
    try:
        key = serialization.load_pem_private_key(payload, password=None)
    except (ValueError, TypeError) as error:
        raise user_error("this is not a PEM private key without password", "give an Ed25519 key", file=path) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise user_error("this key is not an Ed25519 key", "give an Ed25519 key", file=path)
    return key


def load_or_create_private_key(path: Path) -> Ed25519PrivateKey:
    """As `load_private_key`; a key that does not exist yet is made (mode 0600, in a directory 0700)."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        pem = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_atomic(path, pem, mode=0o600)
    return load_private_key(path)


def load_public_key(path: Path) -> Ed25519PublicKey:
    """The Ed25519 public key in a PEM file. Raises `UserError` if there is none."""
    payload = _read(
        path, "there is no public key", "publish the data set (`medllm data publish`), which installs its key"
    )
    try:
        key = serialization.load_pem_public_key(payload)
    except ValueError as error:
        raise user_error("this is not a PEM public key", "give the curator's Ed25519 public key", file=path) from error
    if not isinstance(key, Ed25519PublicKey):
        raise user_error("this key is not an Ed25519 key", "give the curator's Ed25519 public key", file=path)
    return key


def public_key_pem(key: Ed25519PublicKey) -> bytes:
    """The key as PEM (SubjectPublicKeyInfo), as it is published beside the data."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

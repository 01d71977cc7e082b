"""`medllm data copy`: copies of a data set in the site's object store, from which the loader reads what is lost."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from curation.publish import check_name
from medllm.errors import user_error
from medllm.manifest import MANIFEST_NAME, SIGNATURE_NAME, sha256_file, verify_manifest
from medllm.object_store import open_store
from medllm.site import Site

if TYPE_CHECKING:
    from obstore.store import S3Store

# What one host's link takes at once without the store's answers becoming slow; the store's own clients do so too.
_AT_ONCE = 4


class StoreError(Exception):
    """The store did not take or give what it should. The message holds no credentials."""


@dataclass(frozen=True, slots=True)
class Copied:
    """What was done: files sent (or to be sent, in a dry run), files that were there already, bytes of all."""

    url: str
    sent: int
    there: int
    size: int
    manifest_sha256: str


def copy(
    site: Site,
    directory: Path,
    name: str,
    public_key: Ed25519PublicKey,
    credentials: Path | None = None,
    *,
    dry_run: bool = False,
    tell: Callable[[int], None] = lambda _: None,
) -> Copied:
    """Make `<site_object_store.url>/<name>/…` hold what `directory` holds.

    Each byte is read back, also of what was there. The manifest is sent after all that it names, so that it never
    names what is not there.

    Args:
        credentials: those of this host; by default the file that the site names
        tell: called with the bytes of each finished file

    Raises:
        UserError: no object store is declared, a bad name, bad credentials, or the data set does not verify.
        StoreError: the store does not answer, refuses, or gives back other bytes than were sent.
    """
    check_name(name, "NAME")
    if site.object_store is None:
        fix = "declare where copies go, as in {url: s3://BUCKET/PREFIX, …}"
        raise user_error("the site has no object store", fix, key="site_object_store")
    manifest = verify_manifest(directory, public_key)
    if manifest.meta.get("stage") != "pack":
        raise user_error("this is no packed data set", "run `medllm data pack` first", file=directory)
    store = open_store(site.object_store, credentials)
    hashes = {path: entry.sha256 for path, entry in manifest.files.items()}
    last = {MANIFEST_NAME: manifest.sha256, SIGNATURE_NAME: sha256_file(directory / SIGNATURE_NAME)}

    def one(item: tuple[str, str]) -> bool:
        path, digest = item
        place = f"{name}/{path}"
        sent = _digest(store, place) != digest
        if sent and not dry_run:
            _put(store, place, directory / path)
            if _digest(store, place) != digest:
                raise StoreError(f"the object store gives back other bytes of {path} than were sent")
        tell((directory / path).stat().st_size)
        return sent

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        sent = sum(pool.map(one, hashes.items()))
    sent += sum(map(one, last.items()))
    size = sum((directory / path).stat().st_size for path in [*hashes, *last])
    return Copied(f"{site.object_store.url}/{name}", sent, len(hashes) + len(last) - sent, size, manifest.sha256)


def _put(store: S3Store, place: str, file: Path) -> None:
    import obstore

    try:
        obstore.put(store, place, file)
    except Exception as error:  # its own kinds share no base with Python's, and their messages may show the request
        raise StoreError(f"the object store does not take {place} ({type(error).__name__})") from None


def _digest(store: S3Store, place: str) -> str | None:
    """SHA-256 of what the store has there; None: nothing."""
    import obstore

    digest = hashlib.sha256()
    try:
        for chunk in obstore.get(store, place).stream():
            digest.update(chunk)
    except FileNotFoundError:
        return None
    except Exception as error:  # as above
        raise StoreError(f"the object store does not give {place} ({type(error).__name__})") from None
    return digest.hexdigest()

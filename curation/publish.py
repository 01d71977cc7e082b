"""`medllm data publish`: put a packed data set on the cluster's shared storage, and prove there that it arrived."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from medllm.errors import user_error
from medllm.manifest import MANIFEST_NAME, SIGNATURE_NAME, public_key_pem, sha256_file, verify_manifest
from medllm.remote import Remote, RemoteError
from medllm.site import Site

_DEADLINE_S = 60
# Slow links: at least 5 MB/s are expected of one.
_BYTES_PER_SECOND = 5_000_000


@dataclass(frozen=True, slots=True)
class Published:
    """What was done. `sent` is False when the very same data were there already."""

    host: str
    path: str
    sent: bool
    key_installed: bool
    files: int
    size: int
    manifest_sha256: str


def check_name(name: str, key: str) -> None:
    """Raises UserError unless a data set may be called so; `key` says where the name was given."""
    if not name or not all(part.isalnum() or part in "-_." for part in name) or name.startswith("."):
        raise user_error(
            f"{name!r}: a data set's name is letters, digits, '-', '_' and '.'", "choose another name", key=key
        )


def publish(
    site: Site, directory: Path, name: str, public_key: Ed25519PublicKey, *, dry_run: bool = False
) -> Published:
    """Send `directory` to `<site_paths.datasets>/<name>` and the public key to `<site_paths.app>/keys/data.pub`.

    The data set is verified here before and on the other side after; unchanged data are not sent again.

    Raises:
        UserError: the data set does not verify, a bad name, or another curator's key stands on the cluster.
        RemoteError: the machine can't be reached, or what arrived is not what was sent.
    """
    check_name(name, "NAME")
    manifest = verify_manifest(directory, public_key)
    if manifest.meta.get("stage") != "pack":
        raise user_error("this is no packed data set", "run `medllm data pack` first", file=directory)
    host = next(host for host in site.hosts if "mgmt" in host.groups)
    target, key_path = f"{site.paths.datasets}/{name}", f"{site.paths.app}/keys/data.pub"
    pem = public_key_pem(public_key)
    listing = "".join(
        f"{digest}  {target}/{path}\n"
        for path, digest in [
            *((path, entry.sha256) for path, entry in manifest.files.items()),
            (MANIFEST_NAME, manifest.sha256),
            (SIGNATURE_NAME, sha256_file(directory / SIGNATURE_NAME)),
        ]
    )
    size = sum(entry.size for entry in manifest.files.values())
    patience = _DEADLINE_S + size / _BYTES_PER_SECOND
    with Remote(host) as remote:
        mount = site.lustre.mount_point
        if target.startswith(f"{mount}/"):
            mounted = remote.run(f"mountpoint -q {shlex.quote(mount)}", deadline_s=_DEADLINE_S)
            if not mounted.ok:
                raise RemoteError(
                    host.name, mounted.error or f"{mount} is not mounted: run `ansible-playbook site.yml`"
                )
        # A quiet check against the hashes that were verified here: nothing of ours need be installed there.
        check = (
            "sha256sum --check --quiet --strict --status - && "
            f"test $(find {shlex.quote(target)} -type f | wc -l) -eq {len(manifest.files) + 2}"
        )
        there = remote.run(check, deadline_s=patience, sudo=True, stdin=listing)
        if there.error:
            there.check()
        installed = remote.run(f"cat {shlex.quote(key_path)}", deadline_s=_DEADLINE_S, sudo=True)
        if installed.error:
            installed.check()
        if installed.ok and installed.stdout.encode().strip() != pem.strip():
            raise user_error(
                "another key than ours is trusted on the cluster",
                f"publish with that curator's key, or remove {key_path} on {host.name} to trust this one instead",
                key="site_paths.app",
            )
        if not dry_run:
            if not there.ok:
                remote.put_tree(directory, target, deadline_s=patience, sudo=True)
                remote.run(check, deadline_s=patience, sudo=True, stdin=listing).check()
            if not installed.ok:
                remote.put(pem, key_path, mode=0o644, sudo=True)
    return Published(host.name, target, not there.ok, not installed.ok, len(manifest.files), size, manifest.sha256)

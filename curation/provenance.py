"""What a prepared tree was made of: the chain of signatures from `medllm data deid` over `prepare` to `pack`.

`medllm data prepare` ends with a signature of its own (stage `prepare`), and with copies of the manifest, its signature
and the report of the de-identified tree under `deid/`. So whoever has the two public keys can check, without that tree:
deid signed it, each of its files passed, and each prepared sample was made of exactly those files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from curation.deid.report import PAGE, REPORT
from curation.deid.tree import STAGE as DEID
from curation.prepare.run import INDEX, JOURNAL, RESULTS, result_path
from curation.review.sample import FAIL, PASS
from medllm.errors import user_error
from medllm.files import write_atomic
from medllm.manifest import MANIFEST_NAME, SIGNATURE_NAME, Manifest, read_manifest, sign_manifest, verify_manifest

PREPARED = "prepare"
COPIES = "deid"
_PATIENTS = "patients"
# Characters of a reason: it has to say why, not the story.
_REASON = 200
_AGAIN = "run `medllm data deid` on the raw tree again; nothing else may write into its output"
_ANEW = "prepare into a new directory"


@dataclass(frozen=True, slots=True)
class Trusted:
    """Whose signatures are believed: that of `medllm data deid`, and that of `medllm data prepare`."""

    deid: Ed25519PublicKey
    prepared: Ed25519PublicKey


@dataclass(frozen=True, slots=True)
class Origin:
    """The de-identified tree, all of whose files passed. `summary` is what `deid` states of itself."""

    manifest: Manifest
    summary: dict[str, Any]


@dataclass(frozen=True, slots=True)
class PreparedTree:
    """A verified prepared tree. `done`: id of each sample → its file; `quarantined`: how many have none."""

    manifest: Manifest
    origin: Origin
    done: dict[str, Path]
    quarantined: int


def validated_tree(source: Path, trusted: Ed25519PublicKey) -> Origin:
    """The de-identified tree `source`, every byte of it checked.

    Raises:
        UserError: unsigned, altered, no output of `medllm data deid`, or a file whose validation did not pass.
    """
    return _passed(verify_manifest(source, trusted), source, source)


def seal(destination: Path, source: Path, origin: Origin, signer: Ed25519PrivateKey, meta: dict[str, Any]) -> str:
    """Sign a finished run; return the SHA-256 of its manifest. Called again it changes nothing.

    Raises:
        UserError: the run was sealed with another de-identified tree, or a sample was made of files that differ from
            the signed ones (changed while it was read).
    """
    copies = destination / COPIES
    if (destination / MANIFEST_NAME).is_file():
        sealed = read_manifest(destination, signer.public_key())
        if sealed.meta.get("deid_manifest_sha256") != origin.manifest.sha256:
            rule = "this directory was prepared from another version of the de-identified tree"
            raise user_error(rule, _ANEW, file=destination)
        return sealed.sha256
    _check_inputs(_index(destination), origin.manifest, destination)
    for name in (MANIFEST_NAME, SIGNATURE_NAME, REPORT):
        write_atomic(copies / name, (source / name).read_bytes())
    for left in [
        *copies.glob(".*"),
        *destination.glob(f".{MANIFEST_NAME}.*"),
        *destination.glob(f".{SIGNATURE_NAME}.*"),
    ]:
        left.unlink()  # half-written by a process that was killed
    stated = {"stage": PREPARED, "deid_manifest_sha256": origin.manifest.sha256, **meta}
    return sign_manifest(destination, signer, stated)


def open_prepared(directory: Path, trusted: Trusted) -> PreparedTree:
    """The prepared tree `directory`, every byte of it and its whole chain checked.

    Raises:
        UserError: unfinished, unsigned, altered, no output of `medllm data prepare`, made of a tree that `deid` did not
            sign or that did not pass, or a sample made of other files.
    """
    if not (directory / MANIFEST_NAME).is_file() or (directory / JOURNAL).exists():
        raise user_error("this tree is not finished", "give the same `medllm data prepare` again", file=directory)
    manifest = verify_manifest(directory, trusted.prepared)
    if manifest.meta.get("stage") != PREPARED:
        raise user_error("this tree was not made by `medllm data prepare`", "name its output", file=directory)
    # The copies' names are like those of a tree of its own, so that the signature is checked in the same way.
    origin = _passed(read_manifest(directory / COPIES, trusted.deid), directory / COPIES, directory)
    if manifest.meta.get("deid_manifest_sha256") != origin.manifest.sha256:
        raise user_error("this tree was prepared from another de-identified tree than it holds", _ANEW, file=directory)
    entries = _index(directory)
    _check_inputs(entries, origin.manifest, directory)
    done: dict[str, Path] = {}
    for entry in entries:
        if entry["status"] != "done":
            continue
        path = result_path(directory, entry["id"])
        listed = manifest.files.get(path.relative_to(directory).as_posix())
        if listed is None or listed.sha256 != entry["sha256"]:
            raise user_error("the index and this sample differ", _ANEW, file=path)
        done[entry["id"]] = path
    extra = {name for name in manifest.files if name.startswith(f"{RESULTS}/")} - {
        path.relative_to(directory).as_posix() for path in done.values()
    }
    if extra:
        raise user_error("a sample that the index does not name", _ANEW, file=directory / min(extra))
    return PreparedTree(manifest, origin, done, len(entries) - len(done))


def _passed(manifest: Manifest, folder: Path, shown: Path) -> Origin:
    """The tree of a manifest, after the report in `folder` says of each of its files that it passed."""
    if manifest.meta.get("stage") != DEID:
        raise user_error("this tree was not made by `medllm data deid`", "name its output", file=shown)
    listed = manifest.files.get(REPORT)
    try:
        content = (folder / REPORT).read_bytes()
    except OSError:
        content = b""
    if listed is None or hashlib.sha256(content).hexdigest() != listed.sha256:
        raise user_error("the report of the validation is missing or altered", _AGAIN, file=folder / REPORT)
    entries = json.loads(content)["files"]
    good = {
        f"{_PATIENTS}/{entry['patient']}/{entry['file']}" for entry in entries if entry["validation_passed"] is True
    }
    for path in manifest.files:
        if path not in {REPORT, PAGE} and not path.endswith("/meta.json") and path not in good:
            raise user_error("the validation of this file did not pass", _AGAIN, file=shown / path)
    summary: dict[str, Any] = manifest.meta.get("summary", {})
    if summary.get("validation_passed") is not True:
        raise user_error("the validation of this tree did not pass", _AGAIN, file=shown)
    return Origin(manifest, summary)


def check_review(origin: Origin, unreviewed: str | None, shown: Path) -> None:
    """No tree goes on that nobody has read a sample of, unless somebody says why (`unreviewed`, one line).

    Raises:
        UserError: not reviewed and no reason given, a reason that is none, or a failed review, which no reason mends.
    """
    status = origin.summary.get("review")
    if unreviewed is not None and not (unreviewed.strip() and unreviewed.isprintable() and len(unreviewed) <= _REASON):
        rule = f"the reason is no single line of 1 to {_REASON} characters"
        raise user_error(rule, "say why nobody has to read the sample", key="--unreviewed")
    if status == FAIL:
        fix = "mend the rules or the source, then run `medllm data deid` again"
        raise user_error("the review of this tree's sample failed", fix, file=shown)
    if status != PASS and unreviewed is None:
        fix = "run `medllm data review` on the de-identified tree, or say why none is needed: --unreviewed REASON"
        raise user_error("nobody has read a sample of this tree", fix, file=shown)


def _index(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / INDEX).read_text(encoding="utf-8").splitlines()]


def _check_inputs(entries: Iterable[dict[str, Any]], deid: Manifest, shown: Path) -> None:
    """Each sample that was made was made of just the signed files of its patient."""
    files: dict[str, list[str]] = {}
    for path in sorted(deid.files):
        top, _, rest = path.partition("/")
        patient, _, name = rest.partition("/")
        if top == _PATIENTS and name and "/" not in name:
            files.setdefault(patient, []).append(deid.files[path].sha256)
    for entry in entries:
        # One whose input could not be read has no hash, and no result either.
        if entry["status"] != "done":
            continue
        total = hashlib.sha256(b"".join(bytes.fromhex(digest) for digest in files.get(entry["id"], ())))
        if total.hexdigest() != entry["inputs_sha256"]:
            rule = f"sample {entry['id']} was made of other files than the de-identified tree holds"
            raise user_error(rule, _ANEW, file=shown)

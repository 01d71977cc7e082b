"""The review of a signed de-identified tree: what is to be read, the page to read it on, the outcome signed."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from curation.deid.report import REPORT, page_environment, write_report
from curation.deid.tree import STAGE
from curation.review.estimate import outcome
from curation.review.sample import NOT_DONE
from curation.review.verdicts import Verdicts, blank
from medllm.errors import user_error
from medllm.files import staged_directory, write_atomic
from medllm.manifest import Manifest, read_manifest, sign_manifest, verify_manifest

NOTES_PAGE, VERDICTS = "review.html", "verdicts.json"
_TAG = re.compile(r"\[([A-Z_]+)_REDACTED\]")


@dataclass(frozen=True, slots=True)
class Review:
    """A tree that waits for its review."""

    tree: Path
    files: list[dict[str, Any]]
    part: dict[str, Any]

    @property
    def notes(self) -> list[str]:
        """The sample in reading order; note 1 is the first."""
        return list(self.part["notes"])

    @property
    def sample_id(self) -> str:
        return str(self.part["sample_id"])


def open_review(tree: Path, trusted: Ed25519PublicKey) -> Review:
    """The open review of `tree`, its report and the notes to read checked against the signature.

    Raises:
        UserError: no such tree, altered, without notes, or reviewed already.
    """
    manifest = read_manifest(tree, trusted)
    _check_stage(tree, manifest)
    verify_manifest(tree, trusted, only=[REPORT])
    report = json.loads((tree / REPORT).read_text(encoding="utf-8"))
    part = report.get("review")
    if not isinstance(part, dict):
        raise user_error("no sample was drawn from this tree", "run `medllm data deid` again", file=tree / REPORT)
    if part["status"] != NOT_DONE:
        raise user_error(
            f"this tree was reviewed already: {part['status']}",
            "mend the rules or the source, then run `medllm data deid` with another --review-seed",
            file=tree / REPORT,
        )
    if not part["notes"]:
        raise user_error(
            "the tree has no note to read", "have its pictures and recordings looked at; this can't", file=tree
        )
    verify_manifest(tree, trusted, only=part["notes"])
    return Review(tree, report["files"], part)


def write_page(review: Review, place: Path) -> tuple[Path, Path]:
    """The page and, unless there is one, a file for the verdicts, in a directory that is the owner's alone.

    The text is redacted, but what the reader looks for is what was missed: it is kept as patients' data are.

    Raises:
        UserError: `place` lies in the tree, or is not a directory of ours alone.
    """
    inside, outside = review.tree.resolve(), place.resolve()
    if outside == inside or inside in outside.parents:
        raise user_error("the page would lie inside the published tree", "name a directory elsewhere", file=place)
    if place.is_symlink() or (place.exists() and not place.is_dir()):
        raise user_error("this is no directory", "name a directory", file=place)
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    status = place.stat()
    if status.st_mode & 0o077 or status.st_uid != os.getuid():
        raise user_error("others can read this directory", "run `chmod 700` on one of your own", file=place)
    texts = [(review.tree / path).read_text(encoding="utf-8") for path in review.notes]
    page, verdicts = place / NOTES_PAGE, place / VERDICTS
    write_atomic(page, render(review, texts), mode=0o600)
    if not verdicts.exists():
        write_atomic(verdicts, blank(review.sample_id, len(texts)), mode=0o600)
    return page, verdicts


def render(review: Review, texts: list[str]) -> str:
    """The page of the notes, each cut into plain text and tags."""
    notes = [
        {"number": number, "path": path, "parts": list(_parts(text))}
        for number, (path, text) in enumerate(zip(review.notes, texts, strict=True), 1)
    ]
    template = page_environment(Path(__file__).parent).get_template("review.html.j2")
    return template.render(notes=notes, review=review.part)


def _parts(text: str) -> Iterator[tuple[str, str]]:
    """(kind, text): kind is blank for plain text."""
    place = 0
    for tag in _TAG.finditer(text):
        yield "", text[place : tag.start()]
        yield tag[1].lower(), tag[0]
        place = tag.end()
    yield "", text[place:]


def record(review: Review, verdicts: Verdicts, signer: Ed25519PrivateKey) -> dict[str, Any]:
    """Put the outcome into the report and sign the tree again, in one step; the new `review` part.

    Only totals are kept: which note has a miss would tell a reader of the tree where to look.

    Raises:
        UserError: a file of the tree was altered.
    """
    trusted = signer.public_key()
    manifest = verify_manifest(review.tree, trusted)
    drawn = set(review.notes)
    replaced = sum(
        count["original"]
        for entry in review.files
        if f"patients/{entry['patient']}/{entry['file']}" in drawn and entry["validation_passed"]
        for count in entry["phi_counts"].values()
    )
    part = {
        **review.part,
        **outcome(review.part, verdicts.notes, replaced),
        "reviewer": verdicts.reviewer,
        "reviewed": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
    }
    meta = {**manifest.meta, "summary": {**manifest.meta["summary"], "review": part["status"]}}
    with staged_directory(review.tree) as staging:
        shutil.copytree(review.tree, staging, copy_function=_link, dirs_exist_ok=True)
        write_report(staging, review.files, part)
        sign_manifest(staging, signer, meta)
    return part


def _link(source: str, target: str) -> None:
    """The same file under another name; a copy where the file system has no such links. Both are only read."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _check_stage(tree: Path, manifest: Manifest) -> None:
    if manifest.meta.get("stage") != STAGE:
        raise user_error("this tree was not made by `medllm data deid`", "name its output", file=tree)

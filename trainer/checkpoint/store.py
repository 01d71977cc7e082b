"""Checkpoints on disk: written beside, hashed, marked complete last, renamed; verified before they are loaded.

`<run>/checkpoints/step-000020/` holds DeepSpeed's files, `hashes.json` (sha256 and size of each) and `COMPLETE` (sha256
of hashes.json). DeepSpeed's own save has no fsync, rename or checksum, so what it writes is only a draft here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

DIRECTORY, HASHES, MARKER = "checkpoints", "hashes.json", "COMPLETE"
_NAME = re.compile(r"step-(\d{6,})")
_CHUNK = 1 << 20


class FileHash(TypedDict):
    """One file of a checkpoint."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True, order=True)
class Checkpoint:
    """A published checkpoint; `step` optimizer steps had been done."""

    step: int
    path: Path


def published(run: Path) -> list[Checkpoint]:
    """All published checkpoints of a run, newest first, good or not."""
    found = [
        Checkpoint(int(match[1]), path)
        for path in (run / DIRECTORY).glob("step-*")
        if (match := _NAME.fullmatch(path.name)) and path.is_dir()
    ]
    return sorted(found, reverse=True)


def problem_of(checkpoint: Path, rank: int = 0, world_size: int = 1, *, content: bool = True) -> str | None:
    """Why a checkpoint can't be trusted, or None. A rank of several hashes only its share of the files.

    Without `content` nothing is hashed: the files are there, whole, and the checkpoint was published.
    """
    try:
        recorded = (checkpoint / HASHES).read_bytes()
        marker = (checkpoint / MARKER).read_text(encoding="ascii").strip()
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, UnicodeDecodeError) as error:
        return f"it can't be read ({error})"
    if hashlib.sha256(recorded).hexdigest() != marker:
        return f"{HASHES} does not fit {MARKER}"
    hashes: dict[str, FileHash] = json.loads(recorded)
    for name in sorted(hashes)[rank::world_size]:
        path = checkpoint / name
        try:
            if path.stat().st_size != hashes[name]["bytes"]:
                return f"{name} has another size"
            if content and _sha256(path) != hashes[name]["sha256"]:
                return f"{name} has another sha256"
        except OSError as error:
            return f"{name} can't be read ({error.strerror})"
    return None


def new_draft(run: Path, step: int) -> Path:
    """An empty directory to write the checkpoint of `step` into; left-overs of a crash are removed."""
    parent = run / DIRECTORY
    parent.mkdir(parents=True, exist_ok=True)
    for leftover in parent.glob(".draft-*"):
        shutil.rmtree(leftover)
    draft = draft_path(run, step)
    draft.mkdir()
    return draft


def draft_path(run: Path, step: int) -> Path:
    """Where the draft for `step` lies (the same for all ranks)."""
    return run / DIRECTORY / f".draft-step-{step:06d}"


def seal(draft: Path, files: Iterable[Path]) -> dict[str, FileHash]:
    """Flush these files to the disk and hash them. To be called by the process that wrote them."""
    sealed: dict[str, FileHash] = {}
    for path in files:
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
        sealed[str(path.relative_to(draft))] = {"sha256": _sha256(path), "bytes": path.stat().st_size}
    return sealed


def commit(run: Path, step: int, hashes: Mapping[str, FileHash]) -> Checkpoint:
    """Publish the draft of `step`, all of whose files are sealed. One process calls this.

    One of the same step that stands there already (a bad one, which the run had to go back behind) is replaced.
    """
    draft, final = draft_path(run, step), run / DIRECTORY / f"step-{step:06d}"
    present = {str(path.relative_to(draft)) for path in draft.rglob("*") if path.is_file()}
    if present != set(hashes):
        raise RuntimeError(f"files of the draft without a hash, or the reverse: {sorted(present ^ set(hashes))}")
    recorded = json.dumps(dict(sorted(hashes.items())), indent=1).encode()
    _write(draft / HASHES, recorded)
    for directory in [draft, *(path for path in draft.rglob("*") if path.is_dir())]:
        _sync_directory(directory)
    _write(draft / MARKER, hashlib.sha256(recorded).hexdigest().encode() + b"\n")
    _sync_directory(draft)
    if final.exists():
        _remove(final)
    draft.rename(final)
    _sync_directory(final.parent)
    return Checkpoint(step, final)


def prune(
    run: Path, keep: int, keep_best: int = 0, loss_of: Callable[[Path], float | None] = lambda _: None
) -> list[Checkpoint]:
    """Delete all but the newest `keep` good checkpoints and the `keep_best` good ones of the least loss.

    Bad ones newer than the last of those `keep` stay for a post-mortem. Nothing is deleted unless `keep` checkpoints
    were just verified, so the only good one is never lost.

    Args:
        loss_of: the held-out loss of a good checkpoint, None where it was not measured at its step
    """
    newest: list[Checkpoint] = []
    older: list[Checkpoint] = []
    for checkpoint in published(run):
        if len(newest) >= keep:
            older.append(checkpoint)
        elif problem_of(checkpoint.path) is None:
            newest.append(checkpoint)
    good = newest + [one for one in older if keep_best and problem_of(one.path) is None]
    measured = [(loss, one) for one in good if (loss := loss_of(one.path)) is not None]
    # Of two with the same loss the newer one.
    best = [one for _, one in sorted(measured, key=lambda pair: (pair[0], -pair[1].step))[:keep_best]]
    deleted = [one for one in older if one not in best]
    for one in deleted:
        _remove(one.path)
    return deleted


def _remove(directory: Path) -> None:
    # Renamed first: a crash in the middle must not leave half a checkpoint under a checkpoint's name.
    doomed = directory.with_name(f".deleted-{directory.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    directory.rename(doomed)
    shutil.rmtree(doomed)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

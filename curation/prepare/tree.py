"""A signed de-identified tree → prepared samples, by processes of this machine or by another executor."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from curation.prepare.patient import Parameters, prepare_patient, tasks_of
from curation.prepare.run import Summary, run
from curation.prepare.workers import Executor, local_processes
from curation.provenance import seal, validated_tree
from curation.room import room_at
from medllm.errors import user_error


def prepare_tree(
    source: Path,
    destination: Path,
    trusted: Ed25519PublicKey,
    signer: Ed25519PrivateKey,
    parameters: Parameters,
    executor: Executor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Prepare every patient of `source`; see `curation.prepare.run.run` for what is in `destination` and resuming.

    Args:
        trusted: the key that signs de-identified trees; nothing else is prepared
        signer: signs the prepared tree, for `medllm data pack`
        executor: a process for each processor by default

    Raises:
        UserError: `source` is unsigned, altered, no de-identified tree or one that did not pass, there is no room, or
            see `run` and `curation.provenance.seal`.
        OSError: a result cannot be written.
    """
    # Absolute: a worker may be on another machine, in another directory.
    source, destination = source.absolute(), destination.absolute()
    patients = _checked(source, destination)
    origin = validated_tree(source, trusted)

    def sign(summary: Summary) -> None:
        facts = {"samples": summary.done, "quarantined": summary.quarantined, "data_version": summary.data_version}
        seal(destination, source, origin, signer, {**facts, "parameters": parameters.as_json()})

    with room_at(destination):
        return run(
            list(tasks_of(patients)),
            prepare_patient,
            parameters.as_json(),
            destination,
            executor or local_processes(os.cpu_count() or 1),
            progress,
            sign,
        )


def _checked(source: Path, destination: Path) -> Path:
    """The folder of patients, after both paths are known to be apart. What is in the destination `run` looks at."""
    patients = source / "patients"
    if not patients.is_dir():
        raise user_error("there is no directory 'patients' here", "name the output of `medllm data deid`", file=source)
    inside, outside = source.resolve(), destination.resolve()
    if outside == inside or inside in outside.parents or outside in inside.parents:
        rule = "source and destination lie inside each other"
        raise user_error(rule, "name two separate directories", file=destination)
    if destination.is_symlink() or (destination.exists() and not destination.is_dir()):
        raise user_error("the destination is no directory", "name a new directory", file=destination)
    return patients


@contextmanager
def progress_bar() -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error with the time that is left; nothing where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("prepared")
        yield lambda done, total: bar.update(task, completed=done, total=total)

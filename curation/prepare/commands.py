"""`medllm data prepare CLEAN PREPARED`: prepare a de-identified tree. Prints counts and reasons only."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from curation.prepare.patient import Parameters
from curation.prepare.run import RUN
from curation.prepare.tree import prepare_tree, progress_bar
from curation.prepare.workers import WorkersError, local_processes
from medllm.errors import user_error
from medllm.files import state_dir
from medllm.manifest import MANIFEST_NAME, load_or_create_private_key, load_private_key, load_public_key

# No rich tracebacks: they would print local variables, and those hold patients' data.
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def prepare(
    source: Path,
    destination: Path,
    key: Annotated[
        Path | None, typer.Option(help="Public key (PEM) of `medllm data deid`; the host's own by default.")
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="Worker processes.")] = os.cpu_count() or 1,
    ray: Annotated[
        str, typer.Option(help="Prepare on the Ray cluster at auto or HOST:PORT; --processes is then not used.")
    ] = "",
    timeout: Annotated[float, typer.Option(min=1, help="Seconds for a sample, then it is quarantined.")] = 600,
    spacing: Annotated[str, typer.Option(help="Slices,rows,columns in mm, as 2.5,1,1; empty leaves it.")] = "",
    variants: Annotated[int, typer.Option(min=0, max=100, help="Variants of the middle slice.")] = 0,
    mains: Annotated[int, typer.Option(help="Frequency of the mains, 50 or 60 Hz.")] = 50,
    seed: Annotated[int, typer.Option(help="Of the variants.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Prepare a de-identified tree: volumes, waveforms, findings. A run that was stopped goes on where it was.

    Exit code 0 also when samples were quarantined: each is in the index with its reason.
    """
    if mains not in {50, 60}:
        raise user_error("the mains have 50 or 60 Hz", "give --mains 50 or --mains 60", key="--mains")
    settings = Parameters(spacing_mm=_spacing(spacing), variants=variants, mains_hz=float(mains), seed=seed)
    # `medllm data pack` takes nothing that this key has not signed.
    signer = load_or_create_private_key(state_dir() / "keys" / "prepare.key")
    if ray:
        from curation.prepare.ray_cluster import ray_cluster

        shared = [(source / MANIFEST_NAME).absolute(), (destination / RUN).absolute()]
        executor = ray_cluster(ray, shared, timeout)
    else:
        executor = local_processes(processes, timeout)
    try:
        with progress_bar() as progress:
            done = prepare_tree(source, destination, _trusted(key), signer, settings, executor, progress)
    except WorkersError as error:
        fix = "look at the nodes (`ray status`), then give this command again" if ray else "give fewer --processes"
        print(f"error: {error}. Fix: {fix}; what is finished is kept", file=sys.stderr)
        raise typer.Exit(1) from None
    if as_json:
        facts = {
            "samples": done.done, "quarantined": done.quarantined, "data_version": done.data_version,
            "reasons": dict(done.reasons), "parts_left_out": dict(done.rejected),
        }  # fmt: skip
        print(json.dumps(facts))
        return
    print(f"{destination}: {done.done} samples, {done.quarantined} quarantined; data version {done.data_version}")
    for what, reasons in (("quarantined", done.reasons), ("parts left out", done.rejected)):
        for reason, count in sorted(reasons.items()):
            print(f"{what}: {count} x {reason}")


def _trusted(key: Path | None) -> Ed25519PublicKey:
    return load_public_key(key) if key else load_private_key(state_dir() / "keys" / "deid.key").public_key()


def _spacing(text: str) -> tuple[float, ...]:
    if not text:
        return ()
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != 3 or not all(0 < value < 1000 for value in values):
        rule = "a spacing is three numbers of millimetres above 0"
        raise user_error(rule, "give slices,rows,columns, as 2.5,1,1", key="--spacing")
    return values

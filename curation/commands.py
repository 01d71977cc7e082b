"""`medllm data`: make patients' data safe and ready. Counts and pseudonyms are printed, never a patient's data."""

from __future__ import annotations

import json
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from curation.deid.commands import reid
from curation.review.commands import review
from curation.review.sample import LIMIT, Sampling
from medllm.errors import UserError, user_error
from medllm.files import state_dir
from medllm.manifest import load_or_create_private_key, load_private_key, load_public_key, verify_manifest

# No rich tracebacks: they would print local variables, and those hold patients' data.
app = typer.Typer(
    help="Make patients' data safe and ready: sample, deid, review, prepare, pack, verify, publish, copy.",
    epilog="`medllm data prepare` makes volumes, waveforms and findings of a de-identified tree; "
    "`medllm data monitor` says where the time of a run that reads a data set goes; "
    "`medllm data tune` finds threads and batch size.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Inventory = Annotated[
    Path, typer.Option("--inventory", "-i", help="The site's directory.", envvar="MEDLLM_INVENTORY", show_default=True)
]
Key = Annotated[Path | None, typer.Option("--key", help="Ed25519 private key (PEM); the host's own by default.")]


def _data_key() -> Path:
    return state_dir() / "keys" / "data.key"


def _deid_key() -> Path:
    return state_dir() / "keys" / "deid.key"


def _prepare_key() -> Path:
    return state_dir() / "keys" / "prepare.key"


def _print(as_json: bool, facts: dict[str, Any], *lines: str) -> None:
    print(json.dumps(facts, ensure_ascii=False) if as_json else "\n".join(lines))


@app.command()
def sample(destination: Path, as_json: Json = False) -> None:
    """Write a raw tree of fictional patients: notes, CT and MR pictures, ECG recordings."""
    from curation.sample import write_sample

    counts = write_sample(destination)
    words = ", ".join(f"{count} {what}" for what, count in counts.items())
    _print(as_json, counts, f"{destination}: {words}")


app.command()(reid)
app.command()(review)


@app.command()
def deid(
    source: Path,
    destination: Path,
    reid_table: Annotated[
        Path | None,
        typer.Option("--reid-table", metavar="FILE", help="Keep who is who here, encrypted for --reid-key."),
    ] = None,
    reid_key: Annotated[
        Path | None,
        typer.Option("--reid-key", metavar="PUBLIC", help="X25519 public key (PEM); its owner can look up."),
    ] = None,
    review_limit: Annotated[
        float,
        typer.Option(help="Share of notes with a miss that a review accepts; sample 3/limit."),
    ] = LIMIT,
    review_seed: Annotated[int, typer.Option(help="Another seed draws another sample for the review.")] = 0,
    blank_pixels: Annotated[
        bool,
        typer.Option(
            "--blank-pixels", help="Blank text in pictures that may show some, not hold them back. Misses some."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """De-identify a raw tree and validate the result; what does not pass is held back, with a reason.

    Exit code 0 also when files were held back: none of them is in DESTINATION, each still is in SOURCE.
    """
    from curation.deid.keys import load_pseudonym_key
    from curation.deid.reid import Table, load_recipient
    from curation.deid.tree import deidentify_tree

    if (reid_table is None) != (reid_key is None):
        raise user_error(
            "--reid-table and --reid-key go together", "give both, or none", key="--reid-table, --reid-key"
        )
    sampling = Sampling(review_limit, review_seed)
    table = Table(reid_table, load_recipient(reid_key)) if reid_table and reid_key else None
    pseudonyms, signer = load_pseudonym_key(), load_or_create_private_key(_deid_key())
    try:
        done = deidentify_tree(source, destination, pseudonyms, signer, table, sampling, blank_pixels=blank_pixels)
    except (UserError, OSError):
        raise  # made without the patients' data
    except Exception as error:  # any other message may quote them, and so may a traceback
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{type(error).__name__} in {Path(place.filename).name}:{place.lineno}"
        print(f"error: stopped by {where}; {destination} was not written. Fix: report this line", file=sys.stderr)
        raise typer.Exit(1) from None
    facts = {**done.as_json(), "seconds": round(done.seconds, 2), "manifest_sha256": done.manifest_sha256}
    replaced = sum(count["original"] for count in facts["phi_counts"].values())
    _print(
        as_json,
        facts,
        f"{destination}: {done.passed} files of {done.patients} patients passed, {replaced} identifiers replaced, "
        f"{done.seconds:.1f} s",
        *(f"held back: {count} x {reason}" for reason, count in done.quarantined.most_common()),
        f"review {done.review}: `medllm data review {destination}`",
    )


@app.command()
def pack(
    source: Path,
    destination: Path,
    key: Key = None,
    name: Annotated[str | None, typer.Option(help="The data set's name; DESTINATION's last part by default.")] = None,
    image_size: Annotated[int, typer.Option(min=8, max=4096, help="Pixels a side.")] = 64,
    ecg_rate: Annotated[int, typer.Option(min=10, max=2000, help="ECG samples a second.")] = 100,
    ecg_samples: Annotated[int, typer.Option(min=8, max=100_000, help="ECG samples a lead.")] = 500,
    vocabulary: Annotated[int, typer.Option(min=512, max=65536, help="Tokenizer ids at most.")] = 2048,
    heldout: Annotated[int, typer.Option(min=1, max=999, help="Patients of a thousand that are held out.")] = 100,
    samples_per_shard: Annotated[int, typer.Option(min=1)] = 1000,
    slices: Annotated[
        int, typer.Option(min=0, max=4096, help="Of a prepared volume at most, beside the picture; 0 stores none.")
    ] = 16,
    unreviewed: Annotated[
        str | None,
        typer.Option(metavar="REASON", help="Pack though nobody has read the sample; the reason is signed with it."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Pack a de-identified or a prepared tree into WebDataset shards with tokenizer, index and signed manifest.

    Takes only what a person has reviewed (`medllm data review`: PASS), or what --unreviewed says needs no review.

    Of a de-identified tree each note becomes a sample, with the patient's first picture and ECG. Of a prepared one
    (`medllm data prepare`) each study does, and each finding that lies in known slices, with its sentence.
    """
    from curation.pack.dataset import Shape
    from curation.pack.dataset import pack as run
    from curation.provenance import Trusted
    from curation.publish import check_name

    name = destination.name if name is None else name
    check_name(name, "--name")
    signer = load_private_key(key) if key else load_or_create_private_key(_data_key())
    trusted = Trusted(*(load_or_create_private_key(path).public_key() for path in (_deid_key(), _prepare_key())))
    shape = Shape(image_size, ecg_rate, ecg_samples, vocabulary, heldout, samples_per_shard, slices)
    done = run(source, destination, name, trusted, signer, shape, unreviewed=unreviewed)
    facts = {
        "counts": dict(done.counts), "skipped": dict(done.skipped), "data_version": done.data_version,
        "manifest_sha256": done.manifest_sha256, "seconds": round(done.seconds, 2),
    }  # fmt: skip
    _print(
        as_json,
        facts,
        f"{destination}: {done.counts['train']} train, {done.counts['heldout']} held-out samples, {done.seconds:.1f} s",
        f"data version {done.data_version}",
    )


@app.command()
def verify(
    directory: Path,
    public_key: Annotated[Path | None, typer.Option("--public-key", help="PEM; the host's own by default.")] = None,
    as_json: Json = False,
) -> None:
    """Check the signature and every byte of a packed data set; exit 2 and name the file when one differs."""
    if public_key is None and not _data_key().is_file():
        raise user_error("this host has no signing key", "give the curator's key with --public-key", file=_data_key())
    key = load_public_key(public_key) if public_key else load_private_key(_data_key()).public_key()
    manifest = verify_manifest(directory, key)
    size = sum(entry.size for entry in manifest.files.values())
    facts = {"files": len(manifest.files), "bytes": size, "manifest_sha256": manifest.sha256, "meta": manifest.meta}
    _print(as_json, facts, f"{directory}: good. {len(manifest.files)} files, {size} bytes, manifest {manifest.sha256}")


@app.command()
def publish(
    directory: Path,
    name: str,
    inventory: Inventory = Path("inventory/lab"),
    key: Key = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent; change nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Send a packed data set to the cluster's shared storage and verify it there; unchanged data are not sent again."""
    from curation.publish import publish as run
    from medllm.remote import RemoteError
    from medllm.site import load_site

    signer = load_private_key(key or _data_key())
    try:
        done = run(load_site(inventory), directory, name, signer.public_key(), dry_run=dry_run)
    except RemoteError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    did = ("would be sent" if dry_run else "sent and verified there") if done.sent else "there already, verified"
    _print(as_json, asdict(done), f"{done.host}:{done.path}: {done.files} files, {done.size} bytes, {did}")


@app.command(name="copy")
def copy_to_store(
    directory: Path,
    name: str,
    inventory: Inventory = Path("inventory/lab"),
    key: Key = None,
    credentials: Annotated[
        Path | None, typer.Option(help="This host's own, in the AWS format; those of site_object_store by default.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent; change nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Put a copy of a packed data set into the site's object store; each byte is read back, unchanged files stay."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    from curation.copies import StoreError, copy
    from medllm.site import load_site

    signer = load_private_key(key or _data_key())
    columns = (BarColumn(), DownloadColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=Console(stderr=True), transient=True, disable=as_json) as bar:
            total = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
            task = bar.add_task("copy", total=total)
            done = copy(
                load_site(inventory), directory, name, signer.public_key(), credentials, dry_run=dry_run,
                tell=lambda size: bar.advance(task, size),
            )  # fmt: skip
    except StoreError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    did = "would be sent" if dry_run else "sent"
    _print(as_json, asdict(done), f"{done.url}: {done.sent} files {did}, {done.there} were there, {done.size} bytes")


@app.command()
def measure(as_json: Json = False) -> None:
    """Measure the detectors on the labelled sample notes: recall by kind, precision."""
    from importlib.resources import files

    from curation.deid.measure import measure as run

    notes = files("curation.sample_notes").joinpath("notes.jsonl").read_text(encoding="utf-8").splitlines()
    score = run(json.loads(line) for line in notes)
    facts = {
        "recall": round(score.recall(), 4),
        "precision": round(score.precision, 4),
        "kinds": {
            kind: {"labelled": count, "found": score.hit[kind]} for kind, count in sorted(score.labelled.items())
        },
    }
    _print(
        as_json,
        facts,
        f"recall {score.recall():.1%}, precision {score.precision:.1%}",
        *(
            f"{kind:<14} {score.hit[kind]:>5} of {count:>5}  {score.recall(kind):.1%}"
            for kind, count in sorted(score.labelled.items())
        ),
    )

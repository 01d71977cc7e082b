"""`medllm accept`: run the checks, show, sign and verify the dossier, waive items."""

from __future__ import annotations

import sys
from collections import Counter
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.acceptance.signing import (
    Refused,
    add_waiver,
    faults,
    one_line,
    read_waivers,
    seal_faults,
    signature_faults,
)
from benchmarks.acceptance.signing import (
    sign as sign_dossier,
)
from benchmarks.dossier import store
from benchmarks.dossier.model import Dossier, Waiver
from medllm.errors import user_error
from medllm.verdict import Outcome

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)

Inventory = Annotated[Path, typer.Option("--inventory", "-i", help="The site's inventory directory.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Folder = Annotated[Path | None, typer.Argument(help="A dossier's folder; default: the latest.", show_default=False)]
LAB = Path("inventory/lab")


@app.command()
def run(
    inventory: Inventory = LAB,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="Only checks with this tag or id; repeatable.")] = None,
    host: Annotated[list[str] | None, typer.Option("--host", help="Only this host; repeatable.")] = None,
    dataset: Annotated[str, typer.Option(help="Name of the data set to accept.")] = "medllm-sample",
    run_name: Annotated[str, typer.Option("--run", help="Name of the training run to accept.")] = "medllm-tiny",
    as_json: Json = False,
) -> None:
    """Run the checks and write the dossier. Exit 0: all PASS or REHEARSED; 1: not; 2: wrong input."""
    from benchmarks.acceptance import suite
    from medllm.checks import CHECKS
    from medllm.checks.base import Subject
    from medllm.site import load_site
    from medllm.thresholds import thresholds_of

    for name, value in (("--dataset", dataset), ("--run", run_name)):
        if not value.strip() or value.startswith(".") or "/" in value or not value.isprintable():
            raise user_error(f"{value!r} is not a name", "give the name of a folder, without slashes", key=name)
    site = load_site(inventory)
    chosen = suite.plan(
        site, thresholds_of(inventory, site), CHECKS, Subject(dataset, run_name), tags=tag or (), hosts=host or ()
    )
    dossier, raw = suite.run(chosen, read_waivers(site.name))
    folder = store.new_folder(site.name, dossier.created)
    store.write(folder, dossier, raw)
    _render(folder, dossier, raw)
    _show(folder, dossier, as_json)


@app.command()
def report(folder: Folder = None, as_json: Json = False) -> None:
    """Show a dossier again and write its HTML page anew. Exit codes as `run`."""
    place = _folder(folder)
    dossier = store.read(place)
    _render(place, dossier, store.load_raw(place, dossier))
    _show(place, dossier, as_json)


@app.command()
def sign(
    signer: Annotated[str, typer.Option(help="Who signs.")],
    role: Annotated[str, typer.Option(help="In which role.")],
    folder: Folder = None,
    key: Annotated[
        Path | None, typer.Option(help="Ed25519 private key (PEM); default: this machine's, made on first use.")
    ] = None,
) -> None:
    """Sign a complete dossier without open items. Simulated evidence is never signed. Exit 1: refused."""
    from medllm.manifest import load_or_create_private_key, load_private_key

    place = _folder(folder)
    private = load_private_key(key) if key else load_or_create_private_key(store.own_key())
    try:
        signature = sign_dossier(place, private, signer, role)
    except Refused as refused:
        for reason in refused.args:
            print(f"not signed: {reason}", file=sys.stderr)
        raise typer.Exit(1) from None
    dossier = store.read(place)
    _render(place, dossier, store.load_raw(place, dossier))
    print(f"signed by {signature.statement.signer} ({signature.statement.role}): {place / store.SIGNATURES}")


@app.command()
def verify(
    folder: Folder = None,
    public_key: Annotated[Path | None, typer.Option(help="The key (PEM) that must have signed it.")] = None,
    as_json: Json = False,
) -> None:
    """Check a dossier's hashes, outcomes and signatures. Exit 0: all hold; 1: not."""
    import json

    from medllm.manifest import load_public_key

    place = _folder(folder)
    dossier, payload = store.read_bytes(place)
    found = seal_faults(place, payload, None) + faults(place, dossier)
    found += signature_faults(place, load_public_key(public_key) if public_key else None)
    if not _page_is_current(place, dossier):
        found.append(f"{store.HTML} is not the page of {store.JSON}: `medllm accept report` writes it anew")
    signers = [signature.statement.signer for signature in store.read_signatures(place).signatures]
    if as_json:
        print(json.dumps({"dossier": str(place), "faults": found, "signers": signers}, indent=2, ensure_ascii=False))
    else:
        for fault in found:
            print(f"FAULT {fault}")
        if not found:
            by = f"signed by {', '.join(signers)}" if signers else "not signed"
            print(f"{place}: {len(dossier.artifacts)} raw texts and {len(dossier.items)} outcomes hold; {by}")
            if signers and public_key is None:
                print("whose key signed was not checked: give it with --public-key")
    raise typer.Exit(1 if found else 0)


@app.command()
def waive(
    check: Annotated[str, typer.Argument(help="The check's id.")],
    reason: Annotated[str, typer.Option(help="Why it may be so; at least ten characters.")],
    approver: Annotated[str, typer.Option(help="Who answers for it.")],
    expires: Annotated[str, typer.Option(help="The last day on which it holds, as 2026-12-31.")],
    host: Annotated[str | None, typer.Option(help="Only on this host.")] = None,
    inventory: Inventory = LAB,
) -> None:
    """Waive FAIL and NOT_RUN of a check until a day, with a reason. Simulated evidence can't be waived."""
    from pydantic import ValidationError

    from medllm.checks import CHECKS
    from medllm.site import load_site

    site = load_site(inventory)
    known = [item.id for item in CHECKS]
    if check not in known:
        raise user_error(f"there is no check {check!r}", f"use one of: {', '.join(known)}", key="CHECK")
    names = [item.name for item in site.hosts]
    if host is not None and host not in names:
        raise user_error(f"the site has no host {host!r}", f"use one of: {', '.join(names)}", key="--host")
    try:
        until = datetime.combine(date.fromisoformat(expires), time.max, UTC)
    except ValueError:
        raise user_error(f"{expires!r} is no day", "write it as 2026-12-31", key="--expires") from None
    now = datetime.now(UTC)
    if until <= now:
        raise user_error(f"{expires} is over", "give a day in the future", key="--expires")
    try:
        waiver = Waiver(
            check=check, host=host, reason=one_line(reason), approver=one_line(approver), created=now, expires=until
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise user_error(first["msg"], "say more", key=f"--{first['loc'][0]}") from None
    add_waiver(site.name, waiver)
    print(f"waived until {expires}: {check}{f' on {host}' if host else ''} ({waiver.approver}: {waiver.reason})")


def _folder(folder: Path | None) -> Path:
    return folder if folder is not None else store.root() / store.LATEST


def _render(folder: Path, dossier: Dossier, raw: dict[str, str]) -> None:
    from benchmarks.dossier.html import render
    from medllm.files import write_atomic

    write_atomic(folder / store.HTML, render(dossier, store.read_signatures(folder), raw))


def _page_is_current(folder: Path, dossier: Dossier) -> bool:
    from benchmarks.dossier.html import render

    page = folder / store.HTML
    wanted = render(dossier, store.read_signatures(folder), store.load_raw(folder, dossier))
    return not page.exists() or page.read_bytes() == wanted.encode()


def _show(folder: Path, dossier: Dossier, as_json: bool) -> None:
    if as_json:
        print(store.dumps(dossier), end="")
    else:
        from benchmarks.acceptance.table import print_table

        print_table(dossier, Console(emoji=False, highlight=False))
        print(f"dossier: {folder / store.HTML}")
    good = Counter(item.outcome for item in dossier.items).keys() == {Outcome.PASS}
    raise typer.Exit(0 if good else 1)

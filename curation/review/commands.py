"""`medllm data review`: a person reads the sample, and the tree says what came of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from medllm.errors import user_error
from medllm.files import state_dir

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def review(
    tree: Annotated[Path, typer.Argument(metavar="DST", help="What `medllm data deid` made.")],
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="DIR", help="Where the page goes; below the state directory by default."),
    ] = None,
    verdicts: Annotated[Path | None, typer.Option("--record", metavar="FILE", help="Record these verdicts.")] = None,
    ask: Annotated[bool, typer.Option("--ask", help="Ask for the verdict on each note here, then record.")] = False,
    reviewer: Annotated[str | None, typer.Option("--reviewer", help="Who has read the notes; with --ask.")] = None,
    as_json: Json = False,
) -> None:
    """Show the redacted sample to a person, then record what was missed and sign the outcome.

    Without --record and --ask it makes the page and a file for the verdicts. Recording happens once; it changes
    DST/report.json, DST/report.html and the signature, so do it before `pack`. Exit code 1 when the outcome is FAIL.
    """
    from curation.review.sample import FAIL
    from curation.review.tree import NOTES_PAGE, open_review, record, write_page
    from curation.review.verdicts import Verdicts, checked_reviewer, read_verdicts
    from medllm.manifest import load_private_key

    if ask and verdicts:
        raise user_error("--ask and --record exclude each other", "give one of them", key="--ask, --record")
    if ask != (reviewer is not None):
        raise user_error("--ask and --reviewer go together", "give both, or a file by --record", key="--reviewer")
    name = checked_reviewer(reviewer) if reviewer is not None else ""
    signer = load_private_key(state_dir() / "keys" / "deid.key")
    waiting = open_review(tree, signer.public_key())
    place = to or state_dir() / "review" / waiting.sample_id[:16]
    size = len(waiting.notes)
    if not ask and not verdicts:
        page, blank = write_page(waiting, place)
        facts: dict[str, Any] = {"page": str(page), "verdicts": str(blank), "notes": size}
        lines = [f"{page}: {size} notes to read, for you alone", f"fill in {blank}, then give it by --record"]
    else:
        given = Verdicts(name, _asked(size)) if ask else read_verdicts(verdicts or Path(), waiting.sample_id, size)
        facts = record(waiting, given, signer)
        # It may show what was missed: it stays no longer than it is needed.
        (place / NOTES_PAGE).unlink(missing_ok=True)
        notes = facts["notes_with_a_miss"]
        lines = [
            f"{tree}: {facts['status']}. {notes['count']} of {notes['of']} notes with a miss, "
            f"upper bound {notes['upper_bound']:.2%}, accepted at most {facts['limit']:.2%}"
        ]
    print(json.dumps(facts, ensure_ascii=False) if as_json else "\n".join(lines))
    if facts.get("status") == FAIL:
        raise typer.Exit(1)


def _asked(size: int) -> dict[int, dict[str, int]]:
    """A verdict for each note from the terminal; leaving early records nothing."""
    from curation.review.verdicts import KINDS, parse_answer

    typer.echo(
        f"0: nothing missed. Otherwise counts, as in: name=1 date=2. Kinds: {', '.join(sorted(KINDS))}", err=True
    )
    found: dict[int, dict[str, int]] = {}
    for number in range(1, size + 1):
        while number not in found:
            answer = parse_answer(typer.prompt(f"note {number} of {size}", err=True))
            if answer is None:
                typer.echo("this is neither 0 nor counts by kind; no text of the note, please", err=True)
            else:
                found[number] = answer
    return found

"""`medllm data reid`: who a pseudonym was, for the holder of the private key, with a line in the log first."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medllm.errors import Problem, UserError, user_error
from medllm.files import state_dir

if TYPE_CHECKING:
    from curation.deid.reid import Identity

_CHANCE = 3
_PSEUDONYM = re.compile(r"p[0-9a-f]{20}")

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def reid(
    table: Annotated[Path, typer.Argument(metavar="FILE", help="What `deid --reid-table` wrote.")],
    pseudonyms: Annotated[list[str], typer.Argument(metavar="PSEUDONYM...")],
    key: Annotated[Path, typer.Option("--key", help="X25519 private key (PEM).")],
    reason: Annotated[str, typer.Option("--reason", help="Why the patient must be known; it is logged.")],
    as_json: Json = False,
) -> None:
    """Tell who a pseudonym was. The log gets who asked, when, for which pseudonym and why, before anything is printed.

    All of the pseudonyms are told or none. The log is <state>/audit/reid.jsonl; it names no patient.
    """
    from curation.deid.reid import load_reader, read_table
    from curation.deid.reid_audit import LOG, checked_reason, record
    from medllm.manifest import sha256_file

    why = checked_reason(reason)
    wrong = [number for number, text in enumerate(pseudonyms, 1) if not _PSEUDONYM.fullmatch(text)]
    if wrong:  # not quoted and not logged: it may be a record number
        fix = "give pseudonyms as in the published tree: p and 20 hexadecimal digits"
        raise UserError(*(Problem("this is no pseudonym", fix, key=f"PSEUDONYM {number}") for number in wrong))
    known = read_table(table, load_reader(key))
    if _names(why, known.values()):
        raise user_error("the reason names a patient of the table", "say why without a record number", key="--reason")
    asked = list(dict.fromkeys(pseudonyms))
    missing = [name for name in asked if name not in known]
    log = state_dir() / "audit" / LOG
    record(log, asked, why, sha256_file(table), "refused" if missing else "shown")
    if missing:
        fix = "name the table of the run that made it; nobody was told"
        raise UserError(*(Problem("the table has no such pseudonym", fix, file=table, key=name) for name in missing))
    rows = [
        {"pseudonym": who.pseudonym, "patient_id": who.patient_id, "mrn": who.mrn, "shift_days": who.shift_days}
        for who in (known[name] for name in asked)
    ]
    lines = (
        f"{row['pseudonym']}: patient {row['patient_id']}, MRN {row['mrn'] or 'unknown'}, "
        f"dates moved by {row['shift_days']} days"
        for row in rows
    )
    print(json.dumps({"patients": rows}, ensure_ascii=False) if as_json else "\n".join(lines))


def _names(reason: str, people: Iterable[Identity]) -> bool:
    """Whether a record number stands in the reason; one of three characters may stand there by chance."""
    text = reason.casefold()
    return any(
        len(value) > _CHANCE and value.casefold() in text for who in people for value in (who.patient_id, who.mrn)
    )

"""What a reviewer found: for each note of the sample the missed identifiers, counted by kind. Never their text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curation.deid.kinds import Kind
from medllm.errors import Problem, UserError, user_error

KINDS = frozenset({*(kind.value for kind in Kind), "other"})
_NAME_CHARACTERS = 80
_TYPING_ERROR = 10_000
_FIX = 'give for each note {} or counts by kind, as in {"name": 1}; kinds: ' + ", ".join(sorted(KINDS))


@dataclass(frozen=True, slots=True)
class Verdicts:
    """reviewer: as it stands in the report; notes: by number, each with counts by kind ({}: nothing was missed)"""

    reviewer: str
    notes: Mapping[int, Mapping[str, int]]


def blank(sample_id: str, size: int) -> str:
    """A file to fill in: null says that a note was not judged yet."""
    notes = {str(number): None for number in range(1, size + 1)}
    return json.dumps({"sample_id": sample_id, "reviewer": "", "notes": notes}, indent=1) + "\n"


def read_verdicts(file: Path, sample_id: str, size: int) -> Verdicts:
    """The verdicts of `file`; each note of the sample must have one.

    Raises:
        UserError: not such a file, of another sample, or incomplete. No value is quoted: it might be a missed name.
    """
    try:
        facts = json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=_no_twins)
    except (FileNotFoundError, NotADirectoryError):
        raise user_error("there is no such file", "fill in the one beside the page", file=file) from None
    except (ValueError, RecursionError):
        facts = None
    if not isinstance(facts, dict) or not isinstance(facts.get("notes"), dict):
        raise user_error("these are no verdicts (JSON, each key once)", "fill in the file beside the page", file=file)
    if facts.get("sample_id") != sample_id:
        raise user_error("these are verdicts on another sample", "make the page again and read that one", file=file)
    reviewer = checked_reviewer(facts.get("reviewer"), file)
    wanted = [str(number) for number in range(1, size + 1)]
    problems = [
        Problem("the note was not judged", _FIX, file=file, key=f"notes.{number}")
        for number in wanted
        if facts["notes"].get(number) is None
    ]
    problems += [
        Problem("this is no count of missed identifiers by kind", _FIX, file=file, key=f"notes.{number}")
        for number in wanted
        if facts["notes"].get(number) is not None and not is_verdict(facts["notes"][number])
    ]
    if set(facts["notes"]) - set(wanted):
        problems.append(Problem(f"there are verdicts on more than the {size} notes", "remove them", file=file))
    if problems:
        raise UserError(*problems)
    return Verdicts(reviewer, {int(number): facts["notes"][number] for number in wanted})


def checked_reviewer(name: object, file: Path | None = None) -> str:
    """The reviewer's name, trimmed. Raises `UserError` unless it is one printable line of 1 to 80 characters."""
    text = name.strip() if isinstance(name, str) else ""
    if not text or len(text) > _NAME_CHARACTERS or not text.isprintable():
        rule = f"the reviewer is no printable line of 1 to {_NAME_CHARACTERS} characters"
        raise user_error(rule, "say who has read the notes", file=file, key="reviewer")
    return text


def is_verdict(value: object) -> bool:
    """Counts by known kinds; a number of five digits is a typing error."""
    return isinstance(value, dict) and all(
        kind in KINDS and type(count) is int and 0 <= count < _TYPING_ERROR for kind, count in value.items()
    )


def parse_answer(text: str) -> dict[str, int] | None:
    """An answer at the prompt: `0`, or `name=1 date=2`; None when it is neither. Blank is no answer."""
    if text.strip() == "0":
        return {}
    found: dict[str, int] = {}
    for part in text.split():
        kind, _, count = part.partition("=")
        if kind in found or not count.isascii() or not count.isdigit() or len(count) > 4:
            return None
        found[kind] = int(count)
    return found if found and is_verdict(found) else None


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of a key that stands twice JSON would keep the last, and a finding would be gone."""
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)

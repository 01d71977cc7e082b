"""What a training run leaves behind: metrics.jsonl, eval.jsonl, run.json, and the answer of a restore."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss in nats after `step` optimizer steps."""

    step: int
    value: float


def parse_losses(text: str, name: str) -> tuple[Loss, ...]:
    """The losses of a JSON Lines file in the order of steps; of a step repeated after a resume the last one counts.

    `name` is the field: `loss` or `val_loss`. A torn line (of a killed writer) is passed over.
    """
    losses: dict[int, float] = {}
    for number, record in _lines(text):
        try:
            step, value = record["step"], record[name]
        except KeyError as error:
            raise ValueError(f"line {number}: the field {error} is missing") from None
        if isinstance(step, bool) or not isinstance(step, int) or isinstance(value, bool):
            raise ValueError(f"line {number}: step {step!r} or {name} {value!r} is not a number")
        if not isinstance(value, int | float):
            raise ValueError(f"line {number}: {name} {value!r} is not a number")
        losses[step] = float(value)
    if not losses:
        raise ValueError("line 1: there is no step")
    return tuple(Loss(step, losses[step]) for step in sorted(losses))


@dataclass(frozen=True, slots=True)
class Restore:
    """A checkpoint that was read back: its step, the seconds that took, whether the state is the recorded one."""

    step: int
    seconds: float
    state_sha256: str
    match: bool


def parse_restore(text: str) -> Restore:
    """Read the JSON that `python -m trainer.verify_restore` prints."""
    record = parse_object(text)
    try:
        step, seconds, digest, match = (record[key] for key in ("step", "seconds", "state_sha256", "match"))
    except KeyError as error:
        raise ValueError(f"line 1: the field {error} is missing") from None
    if type(match) is not bool or type(step) is not int or type(seconds) not in (int, float):
        raise ValueError(f"line 1: step {step!r}, seconds {seconds!r} or match {match!r} is of the wrong type")
    return Restore(step, float(seconds), str(digest), match)


def parse_object(text: str) -> dict[str, Any]:
    """One JSON object."""
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}: not JSON ({error.msg})") from None
    if not isinstance(record, dict):
        raise ValueError("line 1: not a JSON object")
    return record


def _lines(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.splitlines(), 1):
        # A killed writer leaves a torn line: it begins an object and does not end it.
        if not line.strip() or (line.startswith("{") and not line.rstrip().endswith("}")):
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number}: not JSON ({error.msg})") from None
        if not isinstance(record, dict):
            raise ValueError(f"line {number}: not a JSON object")
        yield number, record

"""Which samples of a run are finished: a line for each, so that a killed run goes on there."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from curation.prepare.workers import Outcome

# A power cut loses at most the lines of this time, and their samples are made again.
_SYNC_S = 1.0


class Journal:
    """Append-only; the last line of a sample counts."""

    def __init__(self, path: Path) -> None:
        """Open it for appending after what is whole in it; a torn last line is cut off."""
        self._stream = path.open("ab+")
        self._stream.seek(0)
        content = self._stream.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            self._stream.truncate(whole)
        self.outcomes: dict[str, Outcome] = {}
        for line in content[:whole].splitlines():
            outcome = from_json(json.loads(line))
            self.outcomes[outcome.id] = outcome
        self._synced = time.monotonic()

    def add(self, outcome: Outcome) -> None:
        """Write one line; it survives the death of this process at once."""
        self._stream.write((to_json(outcome) + "\n").encode())
        self._stream.flush()
        self.outcomes[outcome.id] = outcome
        if time.monotonic() - self._synced > _SYNC_S:
            os.fsync(self._stream.fileno())
            self._synced = time.monotonic()

    def close(self) -> None:
        self._stream.close()


def to_json(outcome: Outcome, *, stat: bool = True) -> str:
    """One line. Without `stat` it depends on content alone."""
    entry = {key: value for key, value in asdict(outcome).items() if value and (stat or key != "stat")}
    return json.dumps(entry, sort_keys=True)


def from_json(entry: dict[str, Any]) -> Outcome:
    """The outcome that `to_json` wrote."""
    stat = tuple((int(size), int(changed)) for size, changed in entry.get("stat", ()))
    rejected = tuple((str(name), str(reason)) for name, reason in entry.get("rejected", ()))
    return Outcome(**{**entry, "stat": stat, "rejected": rejected})

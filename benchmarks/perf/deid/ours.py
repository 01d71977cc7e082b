"""Our engine as a worker, as `peer` describes one: `python -m benchmarks.perf.deid.ours`."""

from __future__ import annotations

import sys

from benchmarks.deid.evaluate import ours
from benchmarks.perf.deid.peer import Found, serve


def engine(text: str) -> Found:
    """The spans of the whole engine, replacing included; ours have no scores, all count."""
    return [(span.start, span.end, span.kind, 1.0) for span in ours(text)]


if __name__ == "__main__":
    serve(engine, {"model": "rules, name lists, the LAC tagger and the trained recogniser"}, sys.stdin, sys.stdout)

"""Word lists, one file each under `data/`: names to find, words that only look like names."""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def words(name: str) -> frozenset[str]:
    """The entries of `data/<name>.txt`: blanks and newlines separate them, `#` starts a comment."""
    text = files("curation.deid").joinpath("data", f"{name}.txt").read_text(encoding="utf-8")
    return frozenset(word for line in text.splitlines() for word in line.partition("#")[0].split())

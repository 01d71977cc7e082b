"""Word lists, one file each under `data/`: names to find, words that only look like names."""

from __future__ import annotations

import gzip
from functools import cache
from importlib.resources import files


@cache
def words(name: str) -> frozenset[str]:
    """The entries of `data/<name>.txt`: blanks and newlines separate them, `#` starts a comment."""
    text = files("curation.deid").joinpath("data", f"{name}.txt").read_text(encoding="utf-8")
    return frozenset(word for line in text.splitlines() for word in line.partition("#")[0].split())


@cache
def lexicon(name: str) -> frozenset[str]:
    """The lines of `data/<name>.txt.gz`, which `python -m curation.lexicon` makes."""
    packed = files("curation.deid").joinpath("data", f"{name}.txt.gz").read_bytes()
    return frozenset(gzip.decompress(packed).decode().splitlines())

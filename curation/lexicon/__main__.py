"""Writes the word lists that detectors of names and places need: `python -m curation.lexicon`.

The packages are those of the dependency group `lexicon`; they are needed here alone, the lists are kept in the
repository. The same packages give the same bytes.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterable
from pathlib import Path

from curation.lexicon import sources

DATA = Path(__file__).parents[1] / "deid" / "data"


def main() -> None:
    """Read all sources, write all lists."""
    spelled = sources.spelling()
    medical = sources.medical()
    census = sources.census()
    names = {name.lower() for name in census.given | census.surnames}
    rare = {word for word in spelled.words - medical.words if word in names and sources.is_rare(word)}
    vocabulary = (spelled.words - rare) | medical.words | sources.drugs()
    _write("vocabulary_en", vocabulary)
    _write("surnames_census", census.surnames)
    _write("surnames_frequent", census.frequent)
    _write("given_names_census", census.given)
    # Names that are words, too: names only where what stands around them says so.
    _write("names_and_words", {name for name in census.given | census.frequent if name.lower() in vocabulary})
    _write("towns", sources.towns())
    _write("places_zh", sources.places_zh())
    _write("words_zh", sources.words_zh())
    _write("simplified_zh", sources.simplified())
    # Capitalised in clinical terms and never a plain word: eponyms, among them names that people bear.
    _write("terms_capitalised", {word for word in medical.capitalised if word.lower() not in vocabulary})


def _write(name: str, entries: Iterable[str]) -> None:
    listed = sorted(set(entries))
    buffer = io.BytesIO()
    # No time in the header: the same words are the same file.
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0, compresslevel=9) as file:
        file.write("\n".join(listed).encode() + b"\n")
    (DATA / f"{name}.txt.gz").write_bytes(buffer.getvalue())
    print(f"{name}: {len(listed)} entries, {len(buffer.getvalue()) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()

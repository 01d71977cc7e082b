"""Note text as it is packed: one form of each character, no trailing blanks, no runs of empty lines."""

from __future__ import annotations

import unicodedata


def clean_note(text: str) -> str:
    """NFC, `\\n` line ends, at most one empty line in a row, one line end at the end."""
    lines = [line.rstrip() for line in unicodedata.normalize("NFC", text).replace("\t", " ").splitlines()]
    kept = [line for number, line in enumerate(lines) if line or (number and lines[number - 1])]
    return "\n".join(kept).strip("\n") + "\n"

"""The texts of a recording's annotations, redacted like notes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from curation.deid.kinds import Kind
from curation.deid.text import redact
from curation.deid.unsafe import UnsafeError

Known = Iterable[tuple[Kind, str]]
# Texts of a file that are searched; the longest sleep recordings have some thousands.
_MOST_TEXTS: Final = 100_000


class Redacted:
    """Texts redacted, each once: most of a recording's annotations are the same few words.

    Attributes:
        changed: how many of the texts that were asked for are another one now
    """

    def __init__(self, days: int, known: Known) -> None:
        """`days`: the patient's shift; `known`: identifiers of the patient's structured record."""
        self._days, self._known = days, tuple(known)
        self._done: dict[bytes, bytes] = {}
        self.changed = 0

    def __call__(self, note: bytes) -> bytes:
        """The text of UTF-8 `note` without identifiers.

        Raises:
            UnsafeError: `too_many_annotations`, `unreadable_annotations`.
        """
        if note not in self._done:
            if len(self._done) >= _MOST_TEXTS:
                raise UnsafeError("too_many_annotations")
            try:
                text = note.decode("utf-8")
            except UnicodeDecodeError:
                raise UnsafeError("unreadable_annotations") from None
            self._done[note] = redact(text, self._days, self._known).text.encode()
        self.changed += self._done[note] != note
        return self._done[note]

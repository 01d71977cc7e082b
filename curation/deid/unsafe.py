"""What says that a file is held back, and why."""

from __future__ import annotations


class UnsafeError(Exception):
    """The file can't be made safe here. `reason` is a fixed word, never a value from the file."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)

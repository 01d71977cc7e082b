"""`sha256sum`'s lines."""

from __future__ import annotations

import re

_LINE = re.compile(r"^(\\?)([0-9a-f]{64}) [ *](.+)$")


def parse_sha256sums(text: str) -> dict[str, str]:
    """SHA-256 by path, without a leading `./`. A name with a line break or a backslash is refused."""
    sums = {}
    for number, line in enumerate(text.splitlines(), 1):
        found = _LINE.match(line)
        if not found or found[1]:
            raise ValueError(f"sha256sum, line {number}: {line!r} is not `hash  path`")
        sums[found[3].removeprefix("./")] = found[2]
    if not sums:
        raise ValueError("sha256sum, line 1: the output is empty")
    return sums

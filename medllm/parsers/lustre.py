"""`lfs getname`, `lfs check servers` and the write-and-read-back probe of the readiness check."""

from __future__ import annotations

import re
from dataclasses import dataclass

_NAME = re.compile(r"^(\S{1,8})-([0-9a-f]{8,16}) (/\S*)$")
_SERVER = re.compile(r"^(\S+-(?:MDT|OST)[0-9a-f]{4}-(?:mdc|osc)-[0-9a-f]+|MGC\S+):? (.+?)\.?$")
# llapi_error() of lustre/utils/liblustreapi.c, for a target that does not answer.
_DEAD = re.compile(r"^(?:lfs check: )?error: check '(\S+)': (.+)$")
_WRITTEN = re.compile(r"^written=([0-9a-f]{64}) read=([0-9a-f]{64}) seconds=(\d+\.\d+)$")


def parse_getname(text: str) -> dict[str, str]:
    """File system name by mount point."""
    names = {}
    for number, line in enumerate(text.splitlines(), 1):
        found = _NAME.match(line)
        if not found:
            raise ValueError(f"lfs getname, line {number}: {line!r} is not `name-instance /mount/point`")
        names[found[3]] = found[1]
    if not names:
        raise ValueError("lfs getname, line 1: no Lustre file system is mounted")
    return names


def parse_servers(text: str) -> dict[str, str]:
    """State by server target: `active`, or what the tool says of one that does not answer."""
    servers = {}
    for number, line in enumerate(text.splitlines(), 1):
        found = _DEAD.match(line) or _SERVER.match(line)
        if not found:
            raise ValueError(f"lfs check servers, line {number}: {line!r} names no target")
        servers[found[1]] = found[2]
    if not servers:
        raise ValueError("lfs check servers, line 1: no target at all")
    return servers


@dataclass(frozen=True, slots=True)
class ReadBack:
    """SHA-256 of what was written and of what was read back; seconds for both, the flush included."""

    written: str
    read: str
    seconds: float


def parse_read_back(text: str) -> ReadBack:
    """The last line of the readiness probe."""
    lines = text.strip().splitlines()
    found = _WRITTEN.match(lines[-1]) if lines else None
    if not found:
        raise ValueError(f"write and read back, line {len(lines)}: {(lines or [''])[-1]!r} is no result")
    return ReadBack(found[1], found[2], float(found[3]))

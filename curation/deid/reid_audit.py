"""The log of look-ups in the re-identification table: who asked when for which pseudonym, and why. No identity.

JSON lines; each has the SHA-256 of the line before (`previous`), so that a line changed or removed shows
at the next look-up, which is refused then. Lines cut off at the end don't show: ship the log to another host for that.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pwd
import socket
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from medllm.errors import user_error

LOG = "reid.jsonl"
_START = "0" * 64
_REASON_CHARACTERS = 200
_KEEP = "keep it for the inquiry: move it away, a new one is begun"


def checked_reason(reason: str) -> str:
    """The reason, trimmed. Raises `UserError` unless it is one printable line of 1 to 200 characters."""
    text = reason.strip()
    if not text or len(text) > _REASON_CHARACTERS or not text.isprintable():
        raise user_error(
            f"the reason is no printable line of 1 to {_REASON_CHARACTERS} characters",
            "say why the patient must be known, without naming the patient",
            key="--reason",
        )
    return text


def who() -> str:
    """The account that runs this, and behind `sudo` the one that asked for it."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = str(os.getuid())
    return f"{name} (sudo by {os.environ['SUDO_USER']})" if os.environ.get("SUDO_USER") else name


def record(log: Path, pseudonyms: Iterable[str], reason: str, table_sha256: str, outcome: str) -> None:
    """Append a line for each pseudonym and have it on the disk before returning.

    Raises:
        OSError: it cannot be written; then nothing may be shown. UserError: the log was altered.
    """
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(log, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "r+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        old = stream.read()
        previous = _end(old, log)
        lines = []
        for pseudonym in pseudonyms:
            entry = {
                "time": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", "user": who(), "host": socket.gethostname(),
                "pseudonym": pseudonym, "reason": reason, "table_sha256": table_sha256, "outcome": outcome,
                "previous": previous,
            }  # fmt: skip
            line = json.dumps(entry, ensure_ascii=False, sort_keys=True).encode(errors="backslashreplace")
            previous = hashlib.sha256(line).hexdigest()
            lines.append(line + b"\n")
        stream.write(b"".join(lines))
        stream.flush()
        os.fsync(stream.fileno())


def _end(content: bytes, log: Path) -> str:
    """The hash that the next line carries, after each line was checked against the one before."""
    previous = _START
    if content and not content.endswith(b"\n"):
        raise user_error("the log of look-ups ends in half a line", _KEEP, file=log)
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        try:
            stated = json.loads(line)["previous"]
        except (ValueError, TypeError, KeyError, RecursionError):
            stated = None
        if stated != previous:
            raise user_error("the log of look-ups was altered here or in the line before", _KEEP, file=log, line=number)
        previous = hashlib.sha256(line).hexdigest()
    return previous

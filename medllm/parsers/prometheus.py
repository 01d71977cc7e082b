"""Prometheus's `/api/v1/targets`, after a line with the server's clock."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Target:
    """One scraped endpoint. `age_s`: seconds since its last scrape, by the server's clock."""

    job: str
    host: str
    port: int
    health: str
    age_s: float
    error: str


def parse_targets(text: str) -> tuple[Target, ...]:
    """Read `date -u +%Y-%m-%dT%H:%M:%SZ` followed by the API's answer."""
    clock, _, body = text.partition("\n")
    try:
        now = datetime.fromisoformat(clock.strip())
    except ValueError:
        raise ValueError(f"targets, line 1: {clock.strip()!r} is no time") from None
    try:
        answer = json.loads(body)
    except json.JSONDecodeError as error:
        raise ValueError(f"targets, line {error.lineno + 1}: not JSON ({error.msg})") from None
    try:
        if answer["status"] != "success":
            raise ValueError(f"targets, line 2: Prometheus says {answer.get('error', answer['status'])!r}")
        return tuple(_target(target, now) for target in answer["data"]["activeTargets"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"targets, line 2: the field {error} is missing") from None


def _target(target: dict[str, str | dict[str, str]], now: datetime) -> Target:
    labels = target["labels"]
    assert isinstance(labels, dict)
    url = urlsplit(str(target["scrapeUrl"]))
    # Go prints nanoseconds; datetime takes microseconds at most. A target never scraped has the year 1.
    scraped = datetime.fromisoformat(_microseconds(str(target["lastScrape"])))
    return Target(
        labels.get("job", ""),
        url.hostname or "",
        url.port or (443 if url.scheme == "https" else 80),
        str(target["health"]),
        (now - scraped).total_seconds(),
        str(target.get("lastError", "")),
    )


def _microseconds(stamp: str) -> str:
    head, dot, tail = stamp.partition(".")
    if not dot:
        return stamp
    digits = len(tail) - len(tail.lstrip("0123456789"))
    return f"{head}.{tail[:digits][:6].ljust(6, '0')}{tail[digits:]}"

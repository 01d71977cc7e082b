"""Parser of `systemctl show --timestamp=us+utc`: is a unit enabled, running, and younger than the files it reads?"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

PROPERTIES = (
    "Id", "LoadState", "ActiveState", "UnitFileState", "NeedDaemonReload", "ExecMainStartTimestamp",
    "ActiveEnterTimestamp", "StateChangeTimestamp",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """One systemd unit. Times are seconds since the epoch, UTC; None where systemd knows none."""

    name: str
    loaded: bool
    active: bool
    enabled: bool
    needs_daemon_reload: bool
    started: float | None
    state_changed: float | None


def parse_systemctl_show(text: str) -> Unit:
    """One unit's properties. Raises ValueError, with the line, on anything else than `PROPERTIES` as `key=value`."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        key, separator, value = line.partition("=")
        if not separator or key not in PROPERTIES:
            raise ValueError(f"not a line of systemctl show -p {','.join(PROPERTIES)}: {line!r}")
        values[key] = value
    if not values.get("Id"):
        raise ValueError(f"systemctl show named no unit: {text[:80]!r}")
    return Unit(
        name=values["Id"],
        loaded=values.get("LoadState") == "loaded",
        active=values.get("ActiveState") in {"active", "reloading"},
        enabled=values.get("UnitFileState") in {"enabled", "enabled-runtime", "static", "generated", "alias"},
        needs_daemon_reload=values.get("NeedDaemonReload") == "yes",
        # A timer, a mount or a target has no process.
        started=_seconds(values.get("ExecMainStartTimestamp") or values.get("ActiveEnterTimestamp", "")),
        state_changed=_seconds(values.get("StateChangeTimestamp", "")),
    )


def _seconds(stamp: str) -> float | None:
    """`Sun 2026-11-22 22:26:01.123456 UTC` as seconds since the epoch."""
    if not stamp or stamp == "n/a":
        return None
    try:
        moment = datetime.strptime(stamp, "%a %Y-%m-%d %H:%M:%S.%f UTC")
    except ValueError as error:
        raise ValueError(f"not a time of systemctl show --timestamp=us+utc: {stamp!r}") from error
    return moment.replace(tzinfo=UTC).timestamp()

"""Which alerts speak for a fault class, as their pages say."""

from __future__ import annotations

from pathlib import Path

from runbooks.engine.policy import load_policy


def alerts_by_class(runbooks: Path) -> dict[str, frozenset[str]]:
    """Names of alerts by fault class. Raises UserError: a page or the policy can't be read."""
    alerts = load_policy(runbooks).alerts
    classes = {one for named in alerts.values() for one in named}
    return {one: frozenset(name for name, named in alerts.items() if one in named) for one in sorted(classes)}

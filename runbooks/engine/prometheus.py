"""Firing alerts as Prometheus knows them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from prometheus_api_client import PrometheusConnect
from urllib3.util.retry import Retry

from runbooks.engine.model import Signal

# The value of ALERTS_FOR_STATE is when the alert became active; a firing one may have waited out its `for:` since.
FIRING = 'ALERTS_FOR_STATE and ignoring (alertstate) ALERTS{alertstate="firing"}'
DEADLINE_S = 5


class Alerts:
    """Asks one Prometheus. The next poll is the retry, so that a dead server costs one deadline a time."""

    def __init__(self, url: str) -> None:
        self._connection = PrometheusConnect(url=url, retry=Retry(total=0), timeout=DEADLINE_S)

    def read(self) -> tuple[Signal, ...]:
        """The firing alerts. Raises whatever says that they could not be read."""
        return parse_alerts(self._connection.custom_query(FIRING))


def parse_alerts(result: Any) -> tuple[Signal, ...]:
    """The result of the query above as signals; each alert of a node, GPU and run once, since it first became active.

    Raises:
        ValueError: it is not the result of such a query.
    """
    found: dict[tuple[str, str, str, str], Signal] = {}
    try:
        for series in result:
            labels = series["metric"]
            name = labels["alertname"]
            since = datetime.fromtimestamp(float(series["value"][1]), UTC)
            key = (name, labels.get("node", ""), labels.get("gpu", ""), labels.get("run", ""))
            if key not in found or since < found[key].since:
                found[key] = Signal("alert", name, since, node=key[1], device=key[2], run=key[3])
    except (KeyError, TypeError, IndexError, AttributeError, OverflowError, OSError) as error:
        raise ValueError(f"no list of alerts: {type(error).__name__} {error}") from None
    return tuple(found.values())

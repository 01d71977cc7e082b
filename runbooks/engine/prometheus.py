"""Firing alerts as Prometheus holds them now.

`/api/v1/alerts` and not the series ALERTS: after a restart of Prometheus that one shows for five minutes what was
before (the look-back of an instant query).
"""

from __future__ import annotations

import json
import re
from datetime import datetime

import requests
from prometheus_api_client import PrometheusConnect

from runbooks.engine.http_deadline import DeadlineAdapter
from runbooks.engine.model import Signal

DEADLINE_S = 5
# Ten thousand alerts are a few MiB.
LIMIT = 64 << 20
_NANOSECONDS = re.compile(r"(\.\d{1,6})\d*")


class Alerts:
    """Asks one Prometheus. The next poll is the retry, so that a dead server costs one deadline a time.

    `watchdog`: the alert that always fires. Without it no rule is evaluated, and that nothing fires means nothing.
    """

    def __init__(self, url: str, watchdog: str) -> None:
        self._url, self._watchdog = url.rstrip("/"), watchdog
        self._session = requests.Session()
        # No proxy of the environment stands between us and our own server.
        self._session.trust_env = False
        self._connection = PrometheusConnect(url=self._url, session=self._session, timeout=DEADLINE_S)
        self._adapter = DeadlineAdapter()
        self._session.mount(self._url, self._adapter)

    def read(self) -> tuple[Signal, ...]:
        """The firing alerts. Raises whatever says that they could not be read."""
        # The client has no call for alerts, so its session asks.
        with (
            self._adapter.deadline(DEADLINE_S),
            self._session.get(f"{self._url}/api/v1/alerts", timeout=DEADLINE_S, stream=True) as answer,
        ):
            answer.raise_for_status()
            body = answer.raw.read(LIMIT + 1, decode_content=True)
        if len(body) > LIMIT:
            raise ValueError(f"the list of alerts is longer than {LIMIT} bytes")
        found = parse_alerts(body)
        if not any(one.name == self._watchdog for one in found):
            raise ValueError(f"{self._watchdog} does not fire: Prometheus evaluates no rules")
        return found


def parse_alerts(text: str | bytes) -> tuple[Signal, ...]:
    """The firing alerts as signals; each of a node, GPU and run once, since it first became active.

    Raises:
        ValueError: it is not the answer of /api/v1/alerts.
    """
    found: dict[tuple[str, str, str, str], Signal] = {}
    try:
        answer = json.loads(text)
        if answer["status"] != "success":
            raise ValueError(f"Prometheus says {answer.get('error', answer['status'])!r}")
        for alert in answer["data"]["alerts"]:
            if alert["state"] != "firing":
                continue
            labels = alert["labels"]
            name = labels["alertname"]
            # Go prints nanoseconds; datetime takes microseconds at most.
            since = datetime.fromisoformat(_NANOSECONDS.sub(r"\1", alert["activeAt"], count=1))
            if since.tzinfo is None:
                raise ValueError(f"no list of alerts: {alert['activeAt']!r} has no zone")
            key = (name, labels.get("node", ""), labels.get("gpu", ""), labels.get("run", ""))
            if key not in found or since < found[key].since:
                code = labels.get("err_code", "")
                detail = f"XID {code}" if code else ""
                found[key] = Signal("alert", name, since, node=key[1], device=key[2], run=key[3], detail=detail)
    except (KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise ValueError(f"no list of alerts: {type(error).__name__} {error}") from None
    return tuple(found.values())

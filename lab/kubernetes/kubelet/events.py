"""Events about pods, sent in the background: they inform, and nothing waits for them."""

from __future__ import annotations

import hashlib
import logging
import queue
import threading
import time
from dataclasses import dataclass

from .client import MERGE, ApiError, Client, Json, Unreachable
from .status import timestamp

NORMAL, WARNING = "Normal", "Warning"
_WAITING_EVENTS = 1000
_KNOWN_EVENTS = 4096

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Event:
    pod: Json
    kind: str
    reason: str
    message: str
    field: str


class Events:
    """Sends events as the node's kubelet; one that repeats is counted."""

    def __init__(self, client: Client, node: str) -> None:
        self._client, self._node = client, node
        self._queue: queue.Queue[_Event] = queue.Queue(_WAITING_EVENTS)
        self._known: dict[str, int] = {}

    def emit(self, pod: Json, kind: str, reason: str, message: str, container: str = "") -> None:
        """Queue an event; it is dropped when too many wait."""
        log.info("%s/%s: %s: %s", pod["metadata"]["namespace"], pod["metadata"]["name"], reason, message)
        field = f"spec.containers{{{container}}}" if container else ""
        try:
            self._queue.put_nowait(_Event(pod, kind, reason, message, field))
        except queue.Full:
            log.warning("an event was dropped")

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                event = self._queue.get(timeout=1.0)
            except queue.Empty:
                continue
            try:
                self._send(event)
            except (ApiError, Unreachable) as error:
                log.warning("event %s: %s", event.reason, error)

    def _send(self, event: _Event) -> None:
        metadata = event.pod["metadata"]
        text = "\0".join((metadata["uid"], event.reason, event.message, event.field))
        name = f"{metadata['name'][:200]}.{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        path = f"/api/v1/namespaces/{metadata['namespace']}/events"
        now = timestamp(time.time())
        count = self._known.get(name, 0) + 1
        if count > 1:
            try:
                self._client.patch(f"{path}/{name}", {"count": count, "lastTimestamp": now}, MERGE)
                self._known[name] = count
                return
            except ApiError as error:
                # It has expired.
                if error.code != 404:
                    raise
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": metadata["namespace"]},
            "involvedObject": {
                "apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "namespace": metadata["namespace"],
                "uid": metadata["uid"], "fieldPath": event.field,
            },
            "type": event.kind, "reason": event.reason, "message": event.message[:1024], "count": 1,
            "firstTimestamp": now, "lastTimestamp": now,
            "source": {"component": "kubelet", "host": self._node}, "reportingComponent": "kubelet",
            "reportingInstance": self._node,
        }  # fmt: skip
        if len(self._known) >= _KNOWN_EVENTS:
            self._known.clear()
        self._known[name] = 1
        try:
            self._client.create(path, body)
        except ApiError as error:
            # A kubelet before this one sent it.
            if error.code != 409:
                raise

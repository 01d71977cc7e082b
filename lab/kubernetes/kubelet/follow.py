"""Follow a collection of the API server: list, watch, and list anew, for as long as the process lives."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

from .client import ApiError, Client, Json, Unreachable

# What an interrupted watch or a lost event did to our picture is mended by a full list within this time.
RELIST_S = 60
RETRY_S = 1.0

log = logging.getLogger(__name__)


def follow(
    client: Client,
    path: str,
    parameters: Mapping[str, str],
    on_list: Callable[[list[Json]], None],
    on_event: Callable[[str, Json], None],
    stop: threading.Event,
) -> None:
    """Call `on_list` with all objects, then `on_event` for each change; again each `RELIST_S` seconds, after a
    disconnection, and when the server has forgotten our version (410 Gone)."""
    while not stop.is_set():
        try:
            listed = client.get(path, parameters)
            on_list(listed.get("items") or [])
            # A watch that is asked for less than the time left ends by itself: then the list comes again.
            version = listed["metadata"]["resourceVersion"]
            for kind, item in client.watch(path, {**parameters, "resourceVersion": version}, RELIST_S):
                on_event(kind, item)
                if stop.is_set():
                    return
        except ApiError as error:
            if error.code != 410:
                log.warning("%s: %s", path, error)
                stop.wait(RETRY_S)
        except Unreachable as error:
            log.warning("%s: %s", path, error)
            stop.wait(RETRY_S)

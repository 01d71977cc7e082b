"""All pods that are bound to this node: one worker each."""

from __future__ import annotations

import logging
import threading

from .client import Json
from .follow import follow
from .keeper import Shared
from .record import load
from .status import TERMINAL
from .worker import Worker

log = logging.getLogger(__name__)


class Pods:
    """Follows the node's pods, and keeps a worker for each that has something to do."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._workers: dict[str, Worker] = {}
        self._lock = threading.Lock()
        self._adopted = False

    def run(self, stop: threading.Event) -> None:
        selector = {"fieldSelector": f"spec.nodeName={self._shared.config.node_name}"}
        follow(self._shared.client, "/api/v1/pods", selector, self._listed, self._event, stop)

    def wake(self) -> None:
        """Something changed that all pods see."""
        with self._lock:
            workers = list(self._workers.values())
        for worker in workers:
            worker.wake()

    def _listed(self, items: list[Json]) -> None:
        pods = {str(item["metadata"]["uid"]): item for item in items}
        if not self._adopted:
            self._adopt(pods)
            self._adopted = True
        for pod in sorted(items, key=lambda each: str(each["metadata"]["creationTimestamp"])):
            self._changed(pod)
        with self._lock:
            missing = [worker for uid, worker in self._workers.items() if uid not in pods]
        for worker in missing:
            worker.gone()

    def _adopt(self, pods: dict[str, Json]) -> None:
        """What an earlier kubelet left: it is counted before anything new is taken in. A pod that the API server has
        forgotten meanwhile ends."""
        left = [(uid, load(self._shared.runtime.pod_directory(uid))) for uid in self._shared.runtime.pods()]
        workers = [
            Worker(self._shared, pods.get(uid, record.pod), self._finished)
            for uid, record in left
            if record is not None
        ]
        log.info("found %d pods of an earlier kubelet", len(workers))
        with self._lock:
            self._workers = {worker.uid: worker for worker in workers}
        for worker in workers:
            if worker.uid not in pods:
                worker.gone()
            worker.start()

    def _event(self, kind: str, pod: Json) -> None:
        self._changed(pod)
        if kind == "DELETED":
            with self._lock:
                worker = self._workers.get(str(pod["metadata"]["uid"]))
            if worker is not None:
                worker.gone()

    def _changed(self, pod: Json) -> None:
        uid = str(pod["metadata"]["uid"])
        with self._lock:
            worker = self._workers.get(uid)
            if worker is None:
                over = (pod.get("status") or {}).get("phase") in TERMINAL
                if over and not pod["metadata"].get("deletionTimestamp"):
                    return
                worker = self._workers[uid] = Worker(self._shared, pod, self._finished)
                worker.start()
                return
        worker.update(pod)

    def _finished(self, uid: str) -> None:
        with self._lock:
            self._workers.pop(uid, None)

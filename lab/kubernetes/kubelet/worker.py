"""One pod on this node, from its admission to its end: a thread that compares what is wanted with what is there.

Whatever it does is repeated until it is so: it can be stopped at any line and begun anew by another kubelet.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import select
import shutil
import threading
import time
from collections.abc import Callable, Mapping

from .admission import Refused
from .client import ApiError, Json, Unreachable
from .environment import PodFacts
from .events import NORMAL, WARNING
from .keeper import Keeper, Shared, pod_logs
from .names import hosts_file, rewrite
from .record import Record, load
from .status import (
    FAILED,
    TERMINAL,
    UNKNOWN,
    Verdict,
    View,
    build,
    differs,
    phase,
    refused,
    seconds,
    terminated,
)
from .volumes import MountError, Source, Volumes

REFRESH_S = 60.0
RETRY_S = 1.0
LONGEST_MOUNT_RETRY_S = 120.0
# kubelet: even a pod that is deleted by force has this long.
SHORTEST_GRACE_S = 1.0

log = logging.getLogger(__name__)


class _Over(Exception):  # noqa: N818
    """Nothing is left to do for the pod."""


class Worker:
    """Keeps one pod, in a thread of its own. `finished` is called when that has nothing left to do, ever."""

    def __init__(self, shared: Shared, pod: Json, finished: Callable[[str], None]) -> None:
        self.name = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
        self.uid = str(pod["metadata"]["uid"])
        self._shared, self._finished = shared, finished
        self._directory = shared.runtime.pod_directory(self.uid)
        self._lock = threading.Lock()
        self._pod, self._gone = pod, False
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._record = load(self._directory)
        self._refused: Refused | None = None
        if self._record is not None and not self._record.ended:
            shared.admission.restore(self._record.pod, self._record.gpus)
        self._volumes = Volumes(shared.client, self._facts(pod), self._directory / "volumes")
        self._sources: dict[str, Source] | None = None
        self._mounted_at, self._mount_wait = -math.inf, 0.5
        self._init = [self._keeper(each, init=True) for each in pod["spec"].get("initContainers") or []]
        self._main = [self._keeper(each, init=False) for each in pod["spec"]["containers"]]

    # --- what the pod's owner calls ----------------------------------------------------------------------------------

    def update(self, pod: Json) -> None:
        """The API server shows the pod like this now."""
        self._learn(pod)
        self.wake()

    def _learn(self, pod: Json) -> None:
        with self._lock:
            if _version(pod) >= _version(self._pod):
                self._pod = pod

    def gone(self) -> None:
        """The API server does not know the pod any more."""
        with self._lock:
            self._gone = True
        self.wake()

    def wake(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):
            os.eventfd_write(self._bell, 1)

    # --- the loop ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        threading.Thread(target=self._run, daemon=True, name=f"pod {self.name}").start()

    def _run(self) -> None:
        while True:
            try:
                pause = self._look()
            except _Over:
                break
            except (ApiError, Unreachable) as error:
                log.warning("%s: %s", self.name, error)
                pause = RETRY_S
            except Exception:
                log.exception("%s", self.name)
                pause = RETRY_S
            self._wait(pause)
        for keeper in self._everyone():
            keeper.forget_probes()
        self._finished(self.uid)
        os.close(self._bell)

    def _wait(self, pause: float) -> None:
        """Until a container ends, somebody wakes us, or `pause` seconds are over."""
        handles = [handle for keeper in self._everyone() if (handle := keeper.handle()) is not None]
        poll = select.poll()
        for handle in (self._bell, *handles):
            poll.register(handle, select.POLLIN)
        poll.poll(max(0.0, min(pause, REFRESH_S)) * 1000)
        for handle in handles:
            os.close(handle)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)

    def _look(self) -> float:
        """One comparison. Returns the seconds until the next at the latest. Raises: ApiError, Unreachable, _Over."""
        with self._lock:
            pod, gone = self._pod, self._gone
        facts = self._volumes.facts = self._facts(pod)
        if self._record is None:
            if gone:
                raise _Over
            if not self._take_in(pod):
                return self._turn_away(pod)
        assert self._record is not None
        if self._must_end(pod, gone, self._record):
            return self._end(facts, gone, self._record)
        return self._keep(facts, self._record)

    def _take_in(self, pod: Json) -> bool:
        """Admit the pod, once. Returns whether it was."""
        if self._refused is not None:
            return False
        shares = {}
        if not self._over(pod):
            try:
                shares = self._shared.admission.admit(pod)
            except Refused as error:
                self._refused = error
                self._shared.events.emit(pod, WARNING, error.reason, error.message)
                return False
        started = (pod.get("status") or {}).get("startTime")
        record = Record(
            {"metadata": pod["metadata"], "spec": pod["spec"]}, seconds(started) if started else time.time(), shares
        )
        # Containers that the API server knows and we do not ran under a kubelet whose records are lost.
        status = pod.get("status") or {}
        for each in (*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])):
            if each.get("containerID") and self._shared.runtime.last(self.uid, each["name"]) is None:
                self._shared.runtime.record(self.uid, each["name"], int(each.get("restartCount") or 0), UNKNOWN)
        record.save(self._directory)
        self._record = record
        return True

    def _turn_away(self, pod: Json) -> float:
        assert self._refused is not None
        if (pod.get("status") or {}).get("phase") not in TERMINAL:
            self._publish(pod, refused(pod, self._refused.reason, self._refused.message, time.time()))
        self._delete(pod)
        return REFRESH_S

    @staticmethod
    def _over(pod: Json) -> bool:
        """Whether the API server says that the pod is at its end, or must come to it."""
        return bool(pod["metadata"].get("deletionTimestamp")) or (pod.get("status") or {}).get("phase") in TERMINAL

    def _must_end(self, pod: Json, gone: bool, record: Record) -> bool:
        limit = pod["spec"].get("activeDeadlineSeconds")
        if record.verdict is None and limit is not None and time.time() >= record.started_at + limit:
            message = "Pod was active on the node longer than the specified deadline"
            record.verdict = {"reason": "DeadlineExceeded", "message": message}
            record.save(self._directory)
            self._shared.events.emit(pod, NORMAL, "DeadlineExceeded", message)
        return gone or record.ended or record.verdict is not None or self._over(pod)

    # --- a pod that is to run ----------------------------------------------------------------------------------------

    def _keep(self, facts: PodFacts, record: Record) -> float:
        pod, spec = facts.pod, facts.pod["spec"]
        policy, grace = spec.get("restartPolicy", "Always"), self._spec_grace(pod)
        self._write_hosts(pod)
        pause = self._mount(facts)
        if self._sources is not None:
            pause = min(pause, self._advance(facts, record, policy, grace, self._sources))
        init, main = self._views(facts)
        verdict = phase(policy, init, main)
        if verdict in TERMINAL:
            # It is told only when nothing of the pod runs or is mounted any more.
            record.verdict = {"reason": "", "message": ""}
            record.save(self._directory)
            return 0.0
        self._publish(pod, build(pod, init, main, facts.address, record.started_at, time.time(), Verdict(verdict)))
        if spec.get("activeDeadlineSeconds") is not None:
            pause = min(pause, record.started_at + spec["activeDeadlineSeconds"] - time.time())
        return pause

    def _mount(self, facts: PodFacts) -> float:
        """Volumes, at first and each `REFRESH_S` seconds. Returns the seconds until they want to be looked at."""
        left = self._mounted_at - time.monotonic()
        if left > 0:
            return left
        try:
            self._sources = self._volumes.prepare()
        except (MountError, ApiError, Unreachable) as error:
            self._shared.events.emit(facts.pod, WARNING, "FailedMount", str(error))
            self._mounted_at = time.monotonic() + self._mount_wait
            self._mount_wait = min(2 * self._mount_wait, LONGEST_MOUNT_RETRY_S)
            return self._mounted_at - time.monotonic()
        self._mounted_at, self._mount_wait = time.monotonic() + REFRESH_S, 0.5
        return REFRESH_S

    def _advance(
        self, facts: PodFacts, record: Record, policy: str, grace: float, sources: Mapping[str, Source]
    ) -> float:
        """Init containers one after the other, then the main ones together."""
        hosts = self._directory / "hosts"

        def step(keeper: Keeper) -> float:
            return keeper.advance(facts, policy, sources, record.gpus.get(keeper.name, []), hosts, grace)

        for keeper in self._init:
            last = keeper.last()
            if last is None or last.ended is None or last.ended.exit_code != 0:
                return step(keeper)
        return min(step(keeper) for keeper in self._main)

    # --- a pod that is to end ----------------------------------------------------------------------------------------

    def _end(self, facts: PodFacts, gone: bool, record: Record) -> float:
        pod = facts.pod
        running = [keeper for keeper in self._everyone() if keeper.running()]
        if running:
            grace = self._grace(pod, gone)
            for keeper in running:
                keeper.stop(facts, grace)
            if not gone:
                init, main = self._views(facts)
                status = build(
                    pod, init, main, facts.address, record.started_at, time.time(), Verdict(self._known_phase(pod))
                )
                self._publish(pod, status)
            return min(keeper.enforce() for keeper in running)
        if not record.ended:
            self._volumes.tear_down()
            self._sources = None
            record.ended = True
            record.save(self._directory)
            self._shared.admission.release(self.uid)
        if gone:
            shutil.rmtree(pod_logs(self._shared.config, pod), ignore_errors=True)
            shutil.rmtree(self._directory)
            raise _Over
        self._tell_end(facts, record)
        self._delete(pod)
        return REFRESH_S

    def _tell_end(self, facts: PodFacts, record: Record) -> None:
        pod, known = facts.pod, facts.pod.get("status") or {}
        init, main = self._views(facts)
        # Who never ran, or was waiting to run again, ends here all the same.
        main = [_closed(view) for view in main]
        decided = phase("Never", init, main)
        verdict = Verdict(decided if decided in TERMINAL else FAILED, **(record.verdict or {}))
        if verdict.reason:
            verdict = Verdict(FAILED, verdict.reason, verdict.message)
        if known.get("phase") in TERMINAL:
            verdict = Verdict(known["phase"], known.get("reason") or "", known.get("message") or "")
        self._publish(pod, build(pod, init, main, facts.address, record.started_at, time.time(), verdict))

    def _delete(self, pod: Json) -> None:
        """Tell the API server that a deleted pod is really over; an object that a finalizer holds stays."""
        metadata = pod["metadata"]
        if not metadata.get("deletionTimestamp"):
            return
        body: Json = {
            "apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "preconditions": {"uid": self.uid},
        }  # fmt: skip
        self._unless_gone(lambda: self._shared.client.delete(_path(pod), body))

    def _grace(self, pod: Json, gone: bool) -> float:
        given = pod["metadata"].get("deletionGracePeriodSeconds")
        if given is None:
            return self._spec_grace(pod)
        return max(float(given), SHORTEST_GRACE_S)

    @staticmethod
    def _spec_grace(pod: Json) -> float:
        given = pod["spec"].get("terminationGracePeriodSeconds")
        return 30.0 if given is None else max(float(given), SHORTEST_GRACE_S)

    # --- shared ------------------------------------------------------------------------------------------------------

    def _everyone(self) -> list[Keeper]:
        return [*self._init, *self._main]

    def _keeper(self, container: Json, *, init: bool) -> Keeper:
        return Keeper(self._shared, container, self._directory, init=init, wake=self.wake)

    def _facts(self, pod: Json) -> PodFacts:
        config = self._shared.config
        return PodFacts(pod, config.node_name, config.address, config.capacity)

    def _views(self, facts: PodFacts) -> tuple[list[View], list[View]]:
        init = [keeper.view(facts, "PodInitializing") for keeper in self._init]
        idle = "PodInitializing" if self._init else "ContainerCreating"
        return init, [keeper.view(facts, idle) for keeper in self._main]

    @staticmethod
    def _known_phase(pod: Json) -> str:
        return str((pod.get("status") or {}).get("phase") or "Pending")

    def _write_hosts(self, pod: Json) -> None:
        config = self._shared.config
        text = hosts_file(pod, config.node_name, config.address, self._shared.names())
        rewrite(self._directory / "hosts", text)

    def _publish(self, pod: Json, status: Json) -> None:
        if not differs(pod.get("status") or {}, status):
            return
        # A merge would keep the addresses that the node had before.
        whole: Json = {key: [{"$patch": "replace"}, *status[key]] for key in ("hostIPs", "podIPs") if key in status}
        body = {"metadata": {"uid": self.uid}, "status": {**status, **whole}}
        self._unless_gone(lambda: self._learn(self._shared.client.patch(f"{_path(pod)}/status", body)))

    def _unless_gone(self, call: Callable[[], object]) -> None:
        """A pod that is not there, or of another UID, needs nothing more; the watch will say so."""
        try:
            call()
        except ApiError as error:
            if error.code not in {404, 409}:
                raise


def _closed(view: View) -> View:
    if view.exit_code is not None:
        return view
    if "terminated" in view.last_state:
        return View(view.name, view.image, view.last_state, {}, view.restarts, identifier=view.identifier)
    return View(view.name, view.image, terminated(UNKNOWN, None, ""), {}, view.restarts)


def _path(pod: Json) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


def _version(pod: Json) -> int:
    return int(pod["metadata"].get("resourceVersion") or 0)

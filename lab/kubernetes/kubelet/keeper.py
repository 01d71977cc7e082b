"""Keeps one container of a pod as its manifest wants it: starts, restarts, probes and stops it."""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from . import probes
from .admission import Admission
from .backoff import FIRST_S, BackOff
from .client import Client, Json
from .config import Config
from .containers import ImageError, Surroundings, build, check_image, message_of
from .environment import CreateError, PodFacts
from .events import NORMAL, WARNING, Events
from .launch import START_ERROR_CODE, Launch
from .names import Name
from .runtime import Attempt, Runtime
from .status import View, state_of, waiting
from .volumes import Objects, Source

# kubelet: a preStop hook that used up the grace leaves the container this much.
AFTER_HOOK_S = 2.0
CONFIG_RETRY_S = 10.0
PULL_SHOWN_S = 2.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Shared:
    """What all pods of the node have in common."""

    config: Config
    client: Client
    runtime: Runtime
    events: Events
    admission: Admission
    names: Callable[[], list[Name]]


@dataclass(slots=True)
class _Stop:
    """A container on its way out. `deadline` is monotonic; at it the container is killed."""

    attempt: int
    deadline: float


class Keeper:
    """One container of one pod. Not thread-safe: the pod's worker calls it."""

    def __init__(
        self, shared: Shared, container: Json, directory: Path, *, init: bool, wake: Callable[[], None]
    ) -> None:
        self._shared, self._container, self._directory, self._init, self._wake = (
            shared,
            container,
            directory,
            init,
            wake,
        )
        self.name = str(container["name"])
        self._uid = directory.name
        self._crashes, self._pulls = BackOff(), BackOff(FIRST_S)
        self._counted: int | None = None
        self._retry_at = self._back_off_shown_at = 0.0
        self._problem: Json | None = None
        self._prober: probes.Prober | None = None
        self._probed: int | None = None
        self._stop: _Stop | None = None

    def last(self) -> Attempt | None:
        return self._shared.runtime.last(self._uid, self.name)

    def running(self) -> Attempt | None:
        """The attempt that runs, if one does."""
        last = self.last()
        return last if last is not None and last.ended is None else None

    def log_file(self, facts: PodFacts, number: int) -> Path:
        return pod_logs(self._shared.config, facts.pod) / self.name / f"{number}.log"

    def view(self, facts: PodFacts, idle: str) -> View:
        """The container as the status shows it; `idle` is why it waits where nothing else is known."""
        attempts = self._shared.runtime.attempts(self._uid, self.name)
        image = str(self._container.get("image") or "")
        if not attempts:
            return View(self.name, image, self._problem or waiting(idle))
        last = attempts[-1]
        states = [state_of(each, self._message(facts, each)) for each in attempts[-2:]]
        state, before = states[-1], states[-2] if len(states) > 1 else {}
        if last.ended is not None and self._problem is not None:
            state, before = self._problem, state
        live = self._prober.result if self._prober and last.ended is None else None
        return View(
            self.name,
            image,
            state,
            before,
            last.number,
            ready=live.ready if live else self._init and last.ended is not None and last.ended.exit_code == 0,
            started=live.started if live else False,
            identifier=last.identifier,
        )

    def _message(self, facts: PodFacts, attempt: Attempt) -> str:
        if attempt.ended is None:
            return ""
        log_file = self.log_file(facts, attempt.number)
        return message_of(self._container, attempt.directory, attempt.ended.exit_code, log_file)

    def advance(
        self, facts: PodFacts, policy: str, sources: Mapping[str, Source], gpus: list[int], hosts: Path, grace: float
    ) -> float:
        """Bring the container on its way. Returns the seconds after which to look again (infinite: when it ends)."""
        last = self.last()
        if last is not None and last.ended is None:
            return self._tend(facts, last, grace)
        self.forget_probes()
        self._stop = None
        if last is not None and last.ended is not None:
            if not self._restarts(policy, last.ended.exit_code):
                self._problem = None
                return math.inf
            if self._counted != last.number:
                self._counted = last.number
                ran = last.ended.finished_at - (last.started_at or last.ended.finished_at)
                self._retry_at = last.ended.finished_at + self._crashes.failed(ran)
                if self._retry_at > time.time():
                    self._crash_loop(facts)
        if (left := self._retry_at - time.time()) > 0:
            return min(left, self._hold_back(facts))
        return self._start(facts, sources, gpus, hosts)

    def _restarts(self, policy: str, exit_code: int) -> bool:
        if self._init:
            return exit_code != 0 and policy != "Never"
        return policy == "Always" or (policy == "OnFailure" and exit_code != 0)

    def _crash_loop(self, facts: PodFacts) -> None:
        seconds = math.ceil(self._retry_at - time.time())
        metadata = facts.pod["metadata"]
        place = f"{metadata['name']}_{metadata['namespace']}({metadata['uid']})"
        message = f"back-off {seconds}s restarting failed container={self.name} pod={place}"
        self._problem = waiting("CrashLoopBackOff", message)
        self._emit(facts, WARNING, "BackOff", f"Back-off restarting failed container {self.name} in pod {place}")

    def _hold_back(self, facts: PodFacts) -> float:
        """A kubelet shows for a moment that an image can't be had, then that it backs off. Returns the seconds until
        that (infinite: there is no such change)."""
        if (self._problem or {}).get("waiting", {}).get("reason") == "ErrImagePull":
            if (left := self._back_off_shown_at - time.time()) > 0:
                return left
            message = f'Back-off pulling image "{self._container.get("image")}"'
            self._problem = waiting("ImagePullBackOff", message)
            self._emit(facts, NORMAL, "BackOff", message)
        return math.inf

    def _start(self, facts: PodFacts, sources: Mapping[str, Source], gpus: list[int], hosts: Path) -> float:
        objects = Objects(self._shared.client, facts.pod["metadata"]["namespace"])

        def launch(number: int, directory: Path) -> Launch:
            around = Surroundings(
                self._shared.config, facts, sources, gpus, hosts, self.log_file(facts, number),
                (self._shared.client.host, self._shared.client.port),
            )  # fmt: skip
            return build(self._container, around, objects, directory)

        try:
            check_image(self._container, self._shared.config.images)
            attempt = self._shared.runtime.start(self._uid, self.name, launch)
        except ImageError as error:
            self._problem = waiting(error.reason, error.message)
            self._retry_at = time.time() + self._pulls.failed()
            self._back_off_shown_at = time.time() + PULL_SHOWN_S
            self._emit(facts, WARNING, "Failed", f"Error: {error.reason}: {error.message}")
            return PULL_SHOWN_S
        except CreateError as error:
            return self._failed(facts, error.reason, str(error))
        except OSError as error:
            return self._failed(facts, "CreateContainerError", str(error))
        self._problem = None
        self._shared.runtime.prune(self._uid, self.name)
        if attempt.ended is not None and attempt.ended.exit_code == START_ERROR_CODE:
            self._emit(facts, WARNING, "Failed", f"Error: {attempt.ended.message}")
            return 0.0
        self._emit(facts, NORMAL, "Started", "Container started")
        return 0.0

    def _failed(self, facts: PodFacts, reason: str, message: str) -> float:
        self._problem = waiting(reason, message)
        self._retry_at = time.time() + CONFIG_RETRY_S
        self._emit(facts, WARNING, "Failed", f"Error: {message}")
        return CONFIG_RETRY_S

    def _tend(self, facts: PodFacts, attempt: Attempt, grace: float) -> float:
        if self._init:
            return math.inf
        prober = self._prober
        if prober is None or self._probed != attempt.number:
            prober = self._probe(facts, attempt)
        if prober.result.failed and self._stop is None:
            kind = prober.result.failed_kind
            probe = self._container[f"{kind}Probe"]
            own = probe.get("terminationGracePeriodSeconds")
            message = f"Container {self.name} failed {kind} probe, will be restarted"
            self._emit(facts, NORMAL, "Killing", message)
            self.stop(facts, grace if own is None else float(own))
        return self.enforce()

    def _probe(self, facts: PodFacts, attempt: Attempt) -> probes.Prober:
        self.forget_probes()

        def report(kind: str, problem: str) -> None:
            self._emit(facts, WARNING, "Unhealthy", f"{kind.capitalize()} probe failed: {problem}")

        self._prober = probes.Prober(
            self._container,
            facts.address,
            attempt.started_at or time.time(),
            lambda argv, seconds: self._shared.runtime.execute(attempt.directory, argv, seconds),
            report,
            self._wake,
            _known(facts.pod, self.name, attempt.identifier),
        )
        self._probed = attempt.number
        self._prober.start()
        return self._prober

    def forget_probes(self) -> None:
        if self._prober is not None:
            self._prober.stop()
            self._prober = None

    def stop(self, facts: PodFacts, grace: float) -> None:
        """Begin to end the running attempt: preStop, SIGTERM, and SIGKILL `grace` seconds from now. Again with a
        shorter grace: sooner."""
        attempt = self.running()
        if attempt is None:
            return
        deadline = time.monotonic() + grace
        if self._stop is not None and self._stop.attempt == attempt.number:
            self._stop.deadline = min(self._stop.deadline, deadline)
            return
        hook = (self._container.get("lifecycle") or {}).get("preStop") if grace > 0 else None
        self._stop = stop = _Stop(attempt.number, deadline + (AFTER_HOOK_S if hook else 0.0))
        name = f"end of {self.name}"
        threading.Thread(
            target=self._terminate, args=(facts, attempt, stop, hook, grace), daemon=True, name=name
        ).start()

    def _terminate(self, facts: PodFacts, attempt: Attempt, stop: _Stop, hook: Json | None, grace: float) -> None:
        if hook:
            deadline = stop.deadline - AFTER_HOOK_S
            problem = self._hook(hook, facts, attempt, grace)
            if problem is not None:
                self._emit(facts, WARNING, "FailedPreStopHook", f"PreStopHook failed: {problem}")
            stop.deadline = min(stop.deadline, max(deadline, time.monotonic() + AFTER_HOOK_S))
        self._shared.runtime.signal(attempt.directory, signal.SIGTERM)
        self._wake()

    def _hook(self, hook: Json, facts: PodFacts, attempt: Attempt, grace: float) -> str | None:
        if "sleep" in hook:
            time.sleep(min(float(hook["sleep"].get("seconds") or 0), grace))
            return None
        execute = self._shared.runtime.execute
        return probes.attempt(
            hook, self._container, facts.address, grace, lambda argv, limit: execute(attempt.directory, argv, limit)
        )

    def enforce(self) -> float:
        """Kill the container where its time is up. Returns the seconds until then (infinite: nothing ends it)."""
        attempt = self.running()
        if attempt is None or self._stop is None:
            return math.inf
        left = self._stop.deadline - time.monotonic()
        if left <= 0:
            self._shared.runtime.signal(attempt.directory, signal.SIGKILL)
            return 1.0
        return left

    def handle(self) -> int | None:
        """A handle that becomes readable when the running attempt ends."""
        attempt = self.running()
        return None if attempt is None else self._shared.runtime.process(attempt.directory)

    def _emit(self, facts: PodFacts, kind: str, reason: str, message: str) -> None:
        self._shared.events.emit(facts.pod, kind, reason, message, self.name)


def pod_logs(config: Config, pod: Json) -> Path:
    """Where the logs of a pod's containers are."""
    metadata = pod["metadata"]
    return config.log_directory / f"{metadata['namespace']}_{metadata['name']}_{metadata['uid']}"


def _known(pod: Json, name: str, identifier: str) -> tuple[bool, bool]:
    """What the status of a pod says of an attempt that an earlier kubelet started: started, ready."""
    for each in (pod.get("status") or {}).get("containerStatuses") or []:
        if each["name"] == name and each.get("containerID") == identifier:
            return bool(each.get("started")), bool(each.get("ready"))
    return False, False

"""A pod's status from what its containers do: pure functions, as the genuine kubelet decides it."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .client import Json
from .launch import Ended
from .runtime import Attempt

PENDING, RUNNING, SUCCEEDED, FAILED = "Pending", "Running", "Succeeded", "Failed"
TERMINAL = frozenset({SUCCEEDED, FAILED})
# kubelet: the container can't be found when the pod ends.
UNKNOWN_CODE = 137
UNKNOWN = Ended(
    UNKNOWN_CODE, "ContainerStatusUnknown", 0.0, "The container could not be located when the pod was terminated"
)


@dataclass(frozen=True, slots=True)
class View:
    """One container as its pod's status shows it."""

    name: str
    image: str
    state: Json
    last_state: Json = field(default_factory=dict)
    restarts: int = 0
    ready: bool = False
    started: bool = False
    identifier: str = ""

    @property
    def exit_code(self) -> int | None:
        """The exit code of a container that has ended, else None."""
        ended = self.state.get("terminated")
        return None if ended is None else int(ended["exitCode"])

    def as_status(self) -> Json:
        image_id = self.image if self.identifier else ""
        return {
            "name": self.name, "image": self.image, "imageID": image_id, "containerID": self.identifier,
            "state": self.state, "lastState": self.last_state, "restartCount": self.restarts, "ready": self.ready,
            "started": self.started,
        }  # fmt: skip


def timestamp(seconds: float) -> str:
    """Seconds since the epoch as the API writes a time."""
    return datetime.datetime.fromtimestamp(int(seconds), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds(text: str) -> float:
    """The reverse of `timestamp`. Raises: ValueError."""
    return datetime.datetime.fromisoformat(text).timestamp()


def waiting(reason: str, message: str = "") -> Json:
    return {"waiting": {"reason": reason, **({"message": message} if message else {})}}


def state_of(attempt: Attempt, message: str = "") -> Json:
    """Running or terminated. `message` is the container's own termination message."""
    if attempt.ended is None:
        return {"running": {"startedAt": timestamp(attempt.started_at)}} if attempt.started_at else waiting("Created")
    return terminated(attempt.ended, attempt.started_at, attempt.identifier, message)


def terminated(ended: Ended, started_at: float | None, identifier: str, message: str = "") -> Json:
    text = ended.message or message
    return {
        "terminated": {
            "exitCode": ended.exit_code,
            "reason": ended.reason,
            "startedAt": timestamp(started_at) if started_at else None,
            "finishedAt": timestamp(ended.finished_at) if ended.finished_at else None,
            **({"message": text} if text else {}),
            **({"containerID": identifier} if identifier else {}),
        }
    }


def phase(restart_policy: str, init: Sequence[View], main: Sequence[View]) -> str:
    """The phase that the containers of a pod make."""
    for view in init:
        if view.exit_code == 0:
            continue
        failed = view.exit_code is not None and restart_policy == "Never"
        return FAILED if failed else PENDING
    if any("waiting" in view.state and "terminated" not in view.last_state for view in main):
        return PENDING
    if any("running" in view.state for view in main):
        return RUNNING
    codes = [view.exit_code for view in main]
    if restart_policy == "Always":
        return RUNNING
    if all(code == 0 for code in codes):
        return SUCCEEDED
    return FAILED if restart_policy == "Never" else RUNNING


@dataclass(frozen=True, slots=True)
class Verdict:
    """What makes a pod end otherwise than by its containers (`DeadlineExceeded`, a refused admission)."""

    phase: str
    reason: str = ""
    message: str = ""


def build(
    pod: Json, init: Sequence[View], main: Sequence[View], address: str, started_at: float, now: float, verdict: Verdict
) -> Json:
    """The whole status of a pod on this node, as a strategic merge patch wants it."""
    status: Json = {
        "phase": verdict.phase,
        "hostIP": address,
        "hostIPs": [{"ip": address}],
        "podIP": address,
        "podIPs": [{"ip": address}],
        "startTime": timestamp(started_at),
        "conditions": _conditions(pod, init, main, verdict.phase, now),
        "containerStatuses": [view.as_status() for view in main],
    }
    if init:
        status["initContainerStatuses"] = [view.as_status() for view in init]
    if verdict.reason:
        status |= {"reason": verdict.reason, "message": verdict.message}
    if generation := pod["metadata"].get("generation"):
        status["observedGeneration"] = generation
    return status


def refused(pod: Json, reason: str, message: str, now: float) -> Json:
    """The status of a pod that this node does not take."""
    known = (pod.get("status") or {}).get("startTime")
    return {"phase": FAILED, "reason": reason, "message": message, "startTime": known or timestamp(now)}


def _conditions(pod: Json, init: Sequence[View], main: Sequence[View], phase: str, now: float) -> list[Json]:
    initialized = all(view.exit_code == 0 for view in init)
    unready = [view.name for view in main if not view.ready]
    gates = [gate["conditionType"] for gate in pod["spec"].get("readinessGates") or []]
    held = [each.get("type") for each in (pod.get("status") or {}).get("conditions") or [] if each["status"] == "True"]
    ended = {SUCCEEDED: "PodCompleted", FAILED: "PodFailed"}.get(phase, "")
    wanted: list[tuple[str, bool, str, str]] = [
        ("PodReadyToStartContainers", not ended and any(view.identifier for view in (*init, *main)), "", ""),
        (
            "Initialized",
            initialized,
            "PodCompleted" if initialized and phase == SUCCEEDED else "" if initialized else "ContainersNotInitialized",
            ""
            if initialized
            else _names("containers with incomplete status", [v.name for v in init if v.exit_code != 0]),
        ),
    ]
    message = _names("containers with unready status", unready) if unready and not ended else ""
    reason = ended or ("ContainersNotReady" if unready else "")
    wanted.append(("ContainersReady", not reason, reason, message))
    missing = [gate for gate in gates if gate not in held]
    if not reason and missing:
        reason, message = (
            "ReadinessGatesNotReady",
            f"corresponding condition of pod readiness gates {missing} is not True",
        )
    wanted.append(("Ready", not reason, reason, message))
    known = {each["type"]: each for each in (pod.get("status") or {}).get("conditions") or []}
    return [_condition(known.get(kind, {}), kind, good, why, text, now) for kind, good, why, text in wanted]


def _condition(known: Json, kind: str, good: bool, reason: str, message: str, now: float) -> Json:
    status = "True" if good else "False"
    changed = known.get("status") != status
    return {
        "type": kind,
        "status": status,
        # A merge keeps what is not named: null takes it away.
        "reason": reason or None,
        "message": message or None,
        "lastProbeTime": None,
        "lastTransitionTime": timestamp(now) if changed else known["lastTransitionTime"],
    }


def _names(what: str, names: Sequence[str]) -> str:
    return f"{what}: [{' '.join(names)}]"


def differs(known: Any, wanted: Any) -> bool:
    """Whether a patch by `wanted` would change `known`; lists of conditions and addresses merge by their keys."""
    if isinstance(wanted, dict):
        if not isinstance(known, dict):
            return known is not None or any(differs(None, value) for value in wanted.values())
        return any(differs(known.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        if not isinstance(known, list):
            return bool(wanted)
        if wanted and isinstance(wanted[0], dict) and "type" in wanted[0]:
            by_type = {each["type"]: each for each in known}
            return any(differs(by_type.get(each["type"]), each) for each in wanted)
        return len(known) != len(wanted) or any(differs(a, b) for a, b in zip(known, wanted, strict=True))
    return bool((known or None) != (wanted or None))

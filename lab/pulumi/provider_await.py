"""When a resource counts as ready, as the genuine plugin has it (pulumi-kubernetes provider/pkg/await).

The genuine one watches; this one asks every half second, which a lab's API server does not feel.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlencode

from lab.pulumi.provider_api import Api, ApiError
from lab.pulumi.provider_inputs import annotations_of, named
from lab.pulumi.provider_values import Json

DEFAULT_SECONDS = 600.0
_SHORTER_SECONDS = {"PersistentVolume": 300.0, "PersistentVolumeClaim": 300.0, "ResourceQuota": 60.0, "Secret": 5.0}
_POLL_SECONDS = 0.5
# The kinds for which the genuine plugin lets `skipAwait` skip the wait for a deletion too.
_UNAWAITED_DELETION = frozenset(
    {"Namespace", "Pod", "ReplicationController", "DaemonSet", "Deployment", "StatefulSet", "Job"}
)
_WAIT_FOR = "pulumi.com/waitFor"
_FIELD = re.compile(r"jsonpath=\{((?:\.\w+)+)\}(?:=(.+))?")
# The kinds whose readiness a refresh looks at too.
_READ = frozenset({"DaemonSet", "Deployment", "Job", "Pod", "Service", "StatefulSet"})


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a resource is. `missing` says what it lacks; `failed` that it never gets there."""

    ready: bool
    missing: tuple[str, ...] = ()
    failed: bool = False


class NotReadyError(Exception):
    """The object is there and not ready. `live` is its last state, `reasons` say what it lacks."""

    def __init__(self, text: str, live: Json, reasons: tuple[str, ...]) -> None:
        super().__init__(text)
        self.live = live
        self.reasons = reasons


def skips_await(inputs: Json) -> bool:
    """Whether the object's annotations ask not to wait for it."""
    return annotations_of(inputs).get("pulumi.com/skipAwait") == "true"


def waited_field(inputs: Json) -> tuple[list[str], str | None] | None:
    """The field that `pulumi.com/waitFor` names instead of the kind's own rule, and the value it must have; None for
    any. None when there is no such annotation.

    Raises:
        ValueError: it is none of the forms that the stand-in knows.
    """
    text = annotations_of(inputs).get(_WAIT_FOR)
    if text is None:
        return None
    found = _FIELD.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError(
            f"the lab's plugin knows `{_WAIT_FOR}` as jsonpath={{.field.field}} or jsonpath={{.field}}=VALUE only. "
            "Fix: install the genuine plugin"
        )
    return found[1].strip(".").split("."), found[2]


def limit_seconds(inputs: Json, requested: float) -> float:
    """How long to wait: the resource option, else the annotation, else the kind's own limit."""
    text = annotations_of(inputs).get("pulumi.com/timeoutSeconds", "")
    if requested:
        return requested
    if isinstance(text, str) and text.isdecimal():
        return float(text)
    return _SHORTER_SECONDS.get(inputs.get("kind", ""), DEFAULT_SECONDS)


def until_ready(
    api: Api, live: Json, inputs: Json, seconds: float, cancelled: threading.Event, say: Callable[[str], None]
) -> Json:
    """Wait until `live` is ready; returns its last state. `say` gets what it waits for.

    Raises:
        NotReadyError: time is over, or it failed, or the operation was cancelled.
        UnreachableError, ApiError: the API server could not be asked.
    """
    field = waited_field(inputs)
    if skips_await(inputs) or (field is None and live.get("kind") not in _RULES):
        return live
    end = time.monotonic() + seconds
    said: tuple[str, ...] = ()
    while True:
        state = progress(api, live) if field is None else _has_field(live, *field)
        if state.ready:
            return live
        name = named(live)[1]
        if state.failed:
            raise NotReadyError(f"resource '{name}' was created but failed to initialize", live, state.missing)
        if time.monotonic() > end:
            raise NotReadyError(f"'{name}' timed out waiting to be Ready", live, state.missing)
        if state.missing != said:
            said = state.missing
            say("; ".join(said))
        if cancelled.wait(_POLL_SECONDS):
            raise NotReadyError(f"resource operation was cancelled for '{name}'", live, state.missing)
        live = api.get(live)


def as_read(api: Api, live: Json, inputs: Json) -> Progress:
    """What a refresh says of the readiness of `live`; raises as `progress` does."""
    field = waited_field(inputs)
    if skips_await(inputs) or (field is None and live.get("kind") not in _READ):
        return Progress(ready=True)
    return progress(api, live) if field is None else _has_field(live, *field)


def _has_field(live: Json, path: list[str], wanted: str | None) -> Progress:
    found: object = live
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    ready = found is not None if wanted is None else str(found) == wanted
    return Progress(ready, (f".{'.'.join(path)} is {found if found is not None else 'not there'}",))


def until_gone(api: Api, item: Json, name: str, inputs: Json, seconds: float, cancelled: threading.Event) -> None:
    """Wait until the object is away.

    Raises:
        NotReadyError: time is over or the operation was cancelled, and it is still there.
        UnreachableError, ApiError: the API server could not be asked.
    """
    if skips_await(inputs) and item.get("kind") in _UNAWAITED_DELETION:
        return
    end = time.monotonic() + seconds
    uid = (item.get("metadata") or {}).get("uid")
    while True:
        try:
            live = api.get(item, name)
        except ApiError as error:
            if error.status != 404:
                raise
            return
        metadata = live["metadata"]
        if uid and metadata.get("uid") != uid:
            return  # another one with the same name
        if time.monotonic() > end:
            held = ", ".join(metadata.get("finalizers") or []) or "none"
            raise NotReadyError(
                f"timed out waiting for deletion of {item['kind']} {name!r} (finalizers: {held})", live, ()
            )
        if cancelled.wait(_POLL_SECONDS):
            raise NotReadyError(f"the deletion of {item['kind']} {name!r} was cancelled; it may go on", live, ())


def progress(api: Api, live: Json) -> Progress:
    """How far `live` is by its kind's rule; a kind without a rule is ready as soon as it exists.

    Raises:
        UnreachableError, ApiError: the API server could not be asked.
    """
    rule = _RULES.get(live.get("kind", ""))
    return rule(api, live) if rule else Progress(ready=True)


def job_ready(live: Json) -> bool:
    """Whether a Job is complete."""
    return _condition(live, "Complete") is not None


def _condition(live: Json, kind: str) -> Json | None:
    for condition in (live.get("status") or {}).get("conditions") or []:
        if condition.get("type") == kind and condition.get("status") == "True":
            return dict(condition)
    return None


def _observed(live: Json) -> bool:
    return int((live.get("status") or {}).get("observedGeneration", 0)) >= int(live["metadata"].get("generation", 0))


def _workload(api: Api, live: Json, done: bool, text: str) -> Progress:
    if done and _observed(live):
        return Progress(ready=True)
    stated = [
        f"[{condition['reason']}] {condition.get('message', '')}"
        for condition in (live.get("status") or {}).get("conditions") or []
        if condition.get("reason") in {"ProgressDeadlineExceeded", "FailedCreate", "ReplicaFailure"}
    ]
    return Progress(ready=False, missing=(text, *stated, *_pod_reasons(api, live)))


def _deployment(api: Api, live: Json) -> Progress:
    status, wanted = live.get("status") or {}, live["spec"].get("replicas", 1)
    updated, available = status.get("updatedReplicas", 0), status.get("availableReplicas", 0)
    done = updated >= wanted and status.get("replicas", 0) <= updated and available >= updated
    return _workload(api, live, done, f"{available} of {wanted} replicas are available, {updated} are updated")


def _stateful_set(api: Api, live: Json) -> Progress:
    status, wanted = live.get("status") or {}, live["spec"].get("replicas", 1)
    ready = status.get("readyReplicas", 0)
    current = status.get("currentRevision") == status.get("updateRevision")
    on_delete = (live["spec"].get("updateStrategy") or {}).get("type") == "OnDelete"
    return _workload(api, live, ready >= wanted and (current or on_delete), f"{ready} of {wanted} replicas are ready")


def _daemon_set(api: Api, live: Json) -> Progress:
    status = live.get("status") or {}
    wanted, available = status.get("desiredNumberScheduled", 0), status.get("numberAvailable", 0)
    done = available >= wanted and status.get("updatedNumberScheduled", 0) >= wanted
    return _workload(api, live, done, f"{available} of {wanted} pods are available")


def _job(api: Api, live: Json) -> Progress:
    failed = _condition(live, "Failed")
    if failed is not None:
        text = f"[{failed.get('reason', '')}] {failed.get('message', '')}"
        return Progress(ready=False, missing=(text, *_pod_reasons(api, live)), failed=True)
    if job_ready(live):
        return Progress(ready=True)
    return Progress(ready=False, missing=("the Job is not complete", *_pod_reasons(api, live)))


def _pod(api: Api, live: Json) -> Progress:
    phase = (live.get("status") or {}).get("phase")
    if phase == "Succeeded" or (phase == "Running" and _condition(live, "Ready")):
        return Progress(ready=True)
    return Progress(ready=False, missing=(f"the Pod is {phase}", *_waiting(live)), failed=phase == "Failed")


def _service(api: Api, live: Json) -> Progress:
    spec = live["spec"]
    if spec.get("type") == "LoadBalancer" and not ((live.get("status") or {}).get("loadBalancer") or {}).get("ingress"):
        return Progress(ready=False, missing=("the Service was not allocated an IP address",))
    if spec.get("type") == "ExternalName" or spec.get("clusterIP") == "None" or not spec.get("selector"):
        return Progress(ready=True)
    query = {"labelSelector": f"kubernetes.io/service-name={live['metadata']['name']}"}
    kind = api.kind("discovery.k8s.io/v1", "EndpointSlice")
    slices = api.request("GET", kind.url(live["metadata"]["namespace"]), query).get("items") or []
    ready = any(
        (point.get("conditions") or {}).get("ready") for part in slices for point in part.get("endpoints") or []
    )
    return Progress(
        ready=ready,
        missing=(
            "the Service does not target any Pods: selected Pods may not be ready, or spec.selector matches none",
        ),
    )


def _volume(api: Api, live: Json) -> Progress:
    phase = (live.get("status") or {}).get("phase")
    return Progress(phase in {"Available", "Bound"}, (f"the volume is {phase}",), failed=False)


def _claim(api: Api, live: Json) -> Progress:
    phase, name = (live.get("status") or {}).get("phase"), live["spec"].get("storageClassName")
    if phase == "Pending" and name:
        try:
            item = {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name}}
            if api.get(item).get("volumeBindingMode") == "WaitForFirstConsumer":
                return Progress(ready=True)
        except ApiError as error:
            if error.status != 404:
                raise
            return Progress(ready=False, missing=(f"the claim is Pending and there is no StorageClass {name!r}",))
    return Progress(phase == "Bound", (f"the claim is {phase}",))


def _quota(api: Api, live: Json) -> Progress:
    same = (live.get("status") or {}).get("hard") == live["spec"].get("hard")
    return Progress(same, ("the quota is not in force yet",))


def _secret(api: Api, live: Json) -> Progress:
    waits = live.get("type") == "kubernetes.io/service-account-token" and not live.get("data")
    return Progress(not waits, ("the token has not been made yet",))


_RULES: dict[str, Callable[[Api, Json], Progress]] = {
    "DaemonSet": _daemon_set,
    "Deployment": _deployment,
    "Job": _job,
    "PersistentVolume": _volume,
    "PersistentVolumeClaim": _claim,
    "Pod": _pod,
    "ResourceQuota": _quota,
    "Secret": _secret,
    "Service": _service,
    "StatefulSet": _stateful_set,
}


def _pod_reasons(api: Api, live: Json) -> tuple[str, ...]:
    """What holds the pods of a workload back, each reason once."""
    labels = (live["spec"].get("selector") or {}).get("matchLabels") or {}
    if not labels:
        return ()
    query = urlencode({"labelSelector": ",".join(f"{key}={value}" for key, value in sorted(labels.items()))})
    pods = api.request("GET", f"{api.kind('v1', 'Pod').url(live['metadata']['namespace'])}?{query}").get("items") or []
    return tuple(dict.fromkeys(reason for pod in pods for reason in _waiting(pod)))


def _waiting(pod: Json) -> tuple[str, ...]:
    """Why a pod is not scheduled or its containers do not run."""
    status, found = pod.get("status") or {}, []
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            found.append(f"[{condition.get('reason', '')}] {condition.get('message', '')}")
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        state = container.get("state") or {}
        for held in (state.get("waiting"), state.get("terminated")):
            if held and (held.get("exitCode") or "exitCode" not in held):
                found.append(f"[{held.get('reason', '')}] {container['name']}: {held.get('message', '')}".rstrip(": "))
    return tuple(found)

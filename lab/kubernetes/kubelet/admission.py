"""Which pods this node takes, and which of its GPUs each container gets."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from . import quantity
from .client import Json
from .config import Config

GpuShares = dict[str, list[int]]
# What a genuine kubelet does and this one does not: a pod that asks for it is refused, not run wrongly.
_POD_FIELDS = ("hostPID", "hostIPC", "shareProcessNamespace", "ephemeralContainers")
_CONTAINER_FIELDS = ("restartPolicy", "restartPolicyRules", "volumeDevices")


class Refused(Exception):  # noqa: N818
    """The node does not take the pod; `reason` is the pod's status reason."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason, self.message = reason, message


def containers(pod: Json) -> list[Json]:
    """All containers, init containers first."""
    spec = pod["spec"]
    return [*(spec.get("initContainers") or []), *spec["containers"]]


def requests(pod: Json) -> dict[str, Fraction]:
    """What a pod takes of its node: all containers at once, or the greediest init container, whichever is more."""
    spec = pod["spec"]
    result = quantity.total(_requests(each) for each in spec["containers"])
    for each in spec.get("initContainers") or []:
        for name, value in _requests(each).items():
            result[name] = max(value, result.get(name, Fraction(0)))
    return result | {"pods": Fraction(1)}


def _requests(container: Json) -> dict[str, Fraction]:
    resources = container.get("resources") or {}
    asked = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {name: quantity.parse(value) for name, value in asked.items()}


def unsupported(pod: Json) -> list[str]:
    """Fields that this kubelet would not honour."""
    spec = pod["spec"]
    found = [f"spec.{name}" for name in _POD_FIELDS if spec.get(name)]
    if spec.get("hostUsers") is False:
        found.append("spec.hostUsers")
    for container in containers(pod):
        place = f"containers[{container['name']}]"
        found += [f"{place}.{name}" for name in _CONTAINER_FIELDS if container.get(name)]
        if (container.get("lifecycle") or {}).get("postStart"):
            found.append(f"{place}.lifecycle.postStart")
        found += [
            f"{place}.{kind}Probe.grpc"
            for kind in ("startup", "readiness", "liveness")
            if "grpc" in (container.get(f"{kind}Probe") or {})
        ]
        found += [
            f"{place}.volumeMounts[{mount['mountPath']}].mountPropagation"
            for mount in container.get("volumeMounts") or []
            if mount.get("mountPropagation", "None") != "None"
        ]
    return found


@dataclass(slots=True)
class _Admitted:
    requests: dict[str, Fraction]
    gpus: set[int] = field(default_factory=set)


class Admission:
    """What is taken on this node. Thread-safe."""

    def __init__(self, config: Config) -> None:
        self._capacity = {name: quantity.parse(value) for name, value in config.capacity.items()}
        self._gpu_resource, self._gpus = config.gpu_resource, config.gpus
        self._admitted: dict[str, _Admitted] = {}
        self._lock = threading.Lock()

    def admit(self, pod: Json) -> GpuShares:
        """Take a pod in. Returns the GPU indexes of each container that asked for some.

        Raises:
            Refused: it does not fit, or asks for what this kubelet can't do.
        """
        if fields := unsupported(pod):
            raise Refused("UnsupportedByLab", f"the lab's kubelet does not support {', '.join(fields)}")
        wanted = requests(pod)
        with self._lock:
            used = quantity.total(each.requests for each in self._admitted.values())
            for name, value in sorted(wanted.items()):
                capacity, taken = self._capacity.get(name, Fraction(0)), used.get(name, Fraction(0))
                if value and taken + value > capacity:
                    raise Refused(
                        f"OutOf{name}",
                        f"Node didn't have enough resource: {name}, requested: {quantity.show(value)}, "
                        f"used: {quantity.show(taken)}, capacity: {quantity.show(capacity)}",
                    )
            busy = set().union(*(each.gpus for each in self._admitted.values()))
            free = [index for index in self._gpus if index not in busy]
            own = free[: int(wanted.get(self._gpu_resource, 0))]
            self._admitted[pod["metadata"]["uid"]] = _Admitted(wanted, set(own))
        return self._share(pod, own)

    def _share(self, pod: Json, own: list[int]) -> GpuShares:
        """Main containers have GPUs of their own; init containers, which run before them, use the same ones."""
        shares: GpuShares = {}
        rest = list(own)
        for container in pod["spec"]["containers"]:
            if count := int(_requests(container).get(self._gpu_resource, 0)):
                shares[container["name"]], rest = rest[:count], rest[count:]
        for container in pod["spec"].get("initContainers") or []:
            if count := int(_requests(container).get(self._gpu_resource, 0)):
                shares[container["name"]] = own[:count]
        return shares

    def restore(self, pod: Json, shares: Mapping[str, list[int]]) -> None:
        """Count a pod that an earlier kubelet took in."""
        gpus = {index for indexes in shares.values() for index in indexes}
        with self._lock:
            self._admitted[pod["metadata"]["uid"]] = _Admitted(requests(pod), gpus)

    def release(self, uid: str) -> None:
        """The pod runs nothing any more."""
        with self._lock:
            self._admitted.pop(uid, None)

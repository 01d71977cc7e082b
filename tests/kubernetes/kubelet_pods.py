"""Pods for the tests of the kubelet: made by an administrator, bound to a node, waited for."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lab.kubernetes.kubelet.client import ApiError, Client
from lab.kubernetes.local_nodes import LocalNodes

Json = dict[str, Any]
IMAGE = "registry.internal/medllm:test"
# Other work may have the processors for a while.
PATIENCE_S = 60.0
POLL_S = 0.05


def shell(script: str, **more: object) -> Json:
    """A container that runs a script."""
    return {"name": "main", "image": IMAGE, "command": ["sh", "-c", script], **more}


@dataclass(frozen=True, slots=True)
class Pods:
    """Pods of one namespace."""

    client: Client
    namespace: str
    nodes: LocalNodes

    @property
    def path(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods"

    def create(self, name: str, *containers: Json, node: str | None = "node1", **spec: object) -> Json:
        """A pod that is bound already, unless `node` is None; nothing is restarted unless the spec says so."""
        body = {
            "metadata": {"name": name},
            "spec": {
                "restartPolicy": "Never",
                "automountServiceAccountToken": False,
                "terminationGracePeriodSeconds": 5,
                "tolerations": [{"operator": "Exists"}],
                **({"nodeName": node} if node else {}),
                "containers": list(containers),
                **spec,
            },
        }
        return self.client.create(self.path, body)

    def get(self, name: str) -> Json:
        return self.client.get(f"{self.path}/{name}")

    def wait(self, name: str, good: Callable[[Json], object], seconds: float = PATIENCE_S) -> Json:
        """The pod, once `good` holds for it."""
        deadline = time.monotonic() + seconds
        while True:
            pod = self.get(name)
            if good(pod):
                return pod
            if time.monotonic() > deadline:
                raise AssertionError(f"{name} is still {pod.get('status')}")
            time.sleep(POLL_S)

    def ended(self, name: str) -> Json:
        """The pod, once it has succeeded or failed."""
        return self.wait(name, lambda pod: pod["status"].get("phase") in {"Succeeded", "Failed"})

    def running(self, name: str) -> Json:
        return self.wait(name, lambda pod: pod["status"].get("phase") == "Running")

    def waiting(self, name: str, reason: str) -> Json:
        """The pod, once a container of it waits for that reason."""
        return self.wait(
            name,
            lambda pod: any(
                each["state"].get("waiting", {}).get("reason") == reason
                for each in pod["status"].get("containerStatuses") or []
            ),
        )

    def delete(self, name: str, grace: int | None = None) -> None:
        options = {} if grace is None else {"gracePeriodSeconds": grace}
        self.client.delete(f"{self.path}/{name}", options)

    def gone(self, name: str, seconds: float = PATIENCE_S) -> float:
        """Wait until the pod is not there any more. Returns the seconds that took."""
        began = time.monotonic()
        while time.monotonic() < began + seconds:
            try:
                self.get(name)
            except ApiError as error:
                if error.code == 404:
                    return time.monotonic() - began
                raise
            time.sleep(POLL_S)
        raise AssertionError(f"{name} is still there: {self.get(name)}")

    def log(self, pod: Json, container: str = "main", attempt: int = 0) -> str:
        return self.nodes[pod["spec"]["nodeName"]].log(pod["metadata"]["uid"], container, attempt)

    def printed(self, pod: Json, text: str, container: str = "main", attempt: int = 0) -> str:
        """A container's log, once it has `text` in it."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in (log := self.log(pod, container, attempt)):
            assert time.monotonic() < deadline, f"{text!r} is not in {log!r}"
            time.sleep(POLL_S)
        return log

    def event(self, pod: Json, reason: str) -> str:
        """The message of an event about the pod, once there is one of that reason."""
        uid = pod["metadata"]["uid"]
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            events = self.client.get(
                f"/api/v1/namespaces/{self.namespace}/events",
                {"fieldSelector": f"involvedObject.uid={uid},reason={reason}"},
            )
            if events["items"]:
                return str(events["items"][0]["message"])
            time.sleep(POLL_S)
        raise AssertionError(f"no event {reason}")


def state(pod: Json, container: str = "main", key: str = "containerStatuses") -> Json:
    """The status of one container."""
    found: Json = next(each for each in pod["status"].get(key) or [] if each["name"] == container)
    return found


def conditions(pod: Json) -> dict[str, str]:
    return {each["type"]: each["status"] for each in pod["status"].get("conditions") or []}

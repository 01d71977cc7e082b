"""Nodes on this machine for tests: each is a tree of processes of its own with the lab's kubelet in it.

with LocalNodes(plane, directory, ["node1", "node2"], images={"registry.internal/medllm:1": "host"}) as nodes:
    nodes["node1"].pause()  # hangs: processes stop, nothing is told
    nodes["node2"].power_off()  # all that ran there is gone, without a word

They share this machine's network, so each has an address on the loopback interface; EndpointSlices refuse 127.0.0.0/8.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from lab.host import LabError, run, tied_to_us
from lab.kubernetes.kubelet.client import ApiError, Client, Unreachable
from lab.kubernetes.local import LocalControlPlane

READY_S = 60.0
CAPACITY = {
    "cpu": "96", "memory": "512Gi", "ephemeral-storage": "1Ti", "pods": "110", "nvidia.com/gpu": "8",
    "rdma/hca_shared_devices_a": "8",
}  # fmt: skip
VERSION = "v1.36.1"
# PID 1 of a node: collects what ends there.
_INIT = """
import os, time
while True:
    try:
        os.wait()
    except ChildProcessError:
        time.sleep(0.1)
"""
_IP_SECONDS = 10


@dataclass(frozen=True, slots=True)
class _Kubelet:
    """`entry` is our process that waits for the kubelet, `pid` the kubelet's own number on this machine."""

    entry: subprocess.Popen[bytes]
    pid: int


class LocalNode:
    """One node. What it keeps is below `directory`; `address` is its own and its pods'."""

    def __init__(self, name: str, address: str, directory: Path, config: Mapping[str, object]) -> None:
        self.name, self.address, self.directory = name, address, directory
        self.logs = directory / "logs"
        self._config = directory / "kubelet.json"
        self._machine: subprocess.Popen[bytes] | None = None
        self._kubelet: _Kubelet | None = None
        directory.mkdir(parents=True)
        own = {
            "node_name": name,
            "address": address,
            "state_directory": str(directory / "state"),
            "log_directory": str(self.logs),
        }
        self._config.write_text(json.dumps({**config, **own}))

    def power_on(self) -> None:
        """Start the machine and its kubelet; what pods left on disk is there, their processes are not."""
        command = tied_to_us(
            "unshare", "--fork", "--pid", "--mount", "--mount-proc", "--kill-child=KILL", sys.executable, "-S", "-c",
            _INIT,
        )  # fmt: skip
        with (self.directory / "machine.log").open("ab") as log:
            self._machine = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self.start_kubelet()

    def power_off(self) -> None:
        """End all that runs there at once, as when the power fails."""
        self._wake_entry()
        if self._machine is not None:
            for pid in _children(self._machine.pid):
                os.kill(pid, signal.SIGKILL)
            self._machine.wait()
            self._machine = None
        self._collect()

    def _collect(self) -> None:
        """Wait for a kubelet that was ended."""
        if self._kubelet is not None:
            self._wake_entry()
            self._kubelet.entry.wait()
            self._kubelet = None

    def start_kubelet(self) -> None:
        """Start the kubelet in the machine that runs. Raises: LabError: it does not run."""
        assert self._machine is not None
        enter = ["nsenter", "--target", str(_only_child(self._machine.pid)), "--pid", "--mount", "--wd=/", "--"]
        kubelet = [sys.executable, "-m", "lab.kubernetes.kubelet", "--config", str(self._config)]
        root = str(Path(__file__).resolve().parents[2])
        with (self.directory / "kubelet.log").open("ab") as log:
            entry = subprocess.Popen(
                [*enter, *kubelet], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={"PATH": os.environ["PATH"], "PYTHONPATH": root},
            )  # fmt: skip
        self._kubelet = _Kubelet(entry, _only_child(entry.pid))

    def stop_kubelet(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End the kubelet; its pods go on."""
        assert self._kubelet is not None
        os.kill(self._kubelet.pid, signal.SIGCONT)
        os.kill(self._kubelet.pid, how)
        self._collect()

    def pause_kubelet(self) -> None:
        """Let only the kubelet hang; its pods go on."""
        assert self._kubelet is not None
        os.kill(self._kubelet.pid, signal.SIGSTOP)

    def resume_kubelet(self) -> None:
        assert self._kubelet is not None
        os.kill(self._kubelet.pid, signal.SIGCONT)
        self._wake_entry()

    def _wake_entry(self) -> None:
        """nsenter stops when its child does; a machine can't end before nsenter has collected the child."""
        if self._kubelet is not None:
            self._kubelet.entry.send_signal(signal.SIGCONT)

    def pause(self) -> None:
        """Let the whole machine hang: kubelet, pods and all."""
        for pid in self.processes():
            os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        for pid in self.processes():
            os.kill(pid, signal.SIGCONT)
        self._wake_entry()

    def processes(self) -> list[int]:
        """All processes of the machine but its PID 1, by their numbers here."""
        assert self._machine is not None
        found, left = [], [*_children(_only_child(self._machine.pid))]
        if self._kubelet is not None:
            left.append(self._kubelet.pid)
        while left:
            pid = left.pop()
            found.append(pid)
            left += _children(pid)
        return found

    def log(self, pod_uid: str, container: str = "main", attempt: int = 0) -> str:
        """What a container of a pod on this node has printed."""
        places = [*self.logs.glob(f"*_{pod_uid}/{container}/{attempt}.log")]
        return places[0].read_text(errors="replace") if places else ""


class LocalNodes:
    """Nodes of one control plane, ready when the block begins; nothing of them is left when it ends."""

    def __init__(
        self,
        plane: LocalControlPlane,
        directory: Path,
        names: Sequence[str],
        *,
        images: Mapping[str, str],
        capacity: Mapping[str, str] = CAPACITY,
    ) -> None:
        self._client = Client(plane.kubeconfig())
        self._stack = ExitStack()
        # RFC 2544: addresses for tests of networks, which nobody else has.
        base = f"198.18.{secrets.randbelow(256)}"
        self._nodes = {}
        for number, name in enumerate(names, start=1):
            kubelet, resolver = plane.node_kubeconfigs(name)
            config = {
                "version": VERSION, "kubeconfig": str(kubelet), "names_kubeconfig": str(resolver),
                "gpu_resource": "nvidia.com/gpu", "capacity": dict(capacity), "images": dict(images),
            }  # fmt: skip
            self._nodes[name] = LocalNode(name, f"{base}.{number}", directory / name, config)

    def __getitem__(self, name: str) -> LocalNode:
        return self._nodes[name]

    def __enter__(self) -> LocalNodes:
        """Raises: LabError: a node is not ready in time."""
        with ExitStack() as stack:
            for node in self._nodes.values():
                run(["ip", "address", "add", f"{node.address}/32", "dev", "lo"], timeout=_IP_SECONDS)
                stack.callback(run, ["ip", "address", "del", f"{node.address}/32", "dev", "lo"], timeout=_IP_SECONDS)
                stack.callback(node.power_off)
                node.power_on()
            self._await_ready()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _await_ready(self) -> None:
        deadline = time.monotonic() + READY_S
        for node in self._nodes.values():
            while not self.ready(node.name):
                if time.monotonic() > deadline:
                    said = (node.directory / "kubelet.log").read_text(errors="replace")[-2000:]
                    raise LabError(f"{node.name} is not ready after {READY_S:.0f} s: {said}")
                time.sleep(0.1)

    def ready(self, name: str) -> bool:
        """Whether the API server calls the node ready."""
        try:
            status = self._client.get(f"/api/v1/nodes/{name}").get("status") or {}
        except (ApiError, Unreachable):
            return False
        return any(each["type"] == "Ready" and each["status"] == "True" for each in status.get("conditions") or [])


def _children(pid: int) -> list[int]:
    """Processes that any thread of `pid` has started and that run still."""
    try:
        lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(word) for text in lists for word in text.split()]


def _only_child(pid: int) -> int:
    """Raises: LabError: there is none within five seconds."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if children := _children(pid):
            return children[0]
        time.sleep(0.005)
    raise LabError(f"process {pid} has started nothing")

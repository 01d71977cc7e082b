"""A control plane on this machine's loopback interface, for tests: the same processes and flags as on mgmt.

with LocalControlPlane(build.ensure(COMPONENTS, print), directory) as plane:
    subprocess.run([kubectl, "--kubeconfig", plane.kubeconfig(), "get", "namespaces"])
"""

from __future__ import annotations

import random
import signal
import socket
import subprocess
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from types import TracebackType

from lab.host import LabError, tied_to_us
from lab.kubernetes import pki, probe, users
from lab.kubernetes.arguments import COMPONENTS, STOP_S, ControlPlane

START_S = 120.0
_LOG_TAIL = 2000
# Below what Linux gives to outgoing connections, so that nothing takes a port between its choice and its use.
_PORTS = range(20000, 32000)


class LocalControlPlane:
    """Child processes with everything they keep below `directory`; they end with this process, however it ends.

    `binaries` maps the names of `COMPONENTS` to files. The controller manager and the scheduler may be left out: then
    nothing but the API is there.
    """

    def __init__(self, binaries: Mapping[str, Path], directory: Path) -> None:
        self.binaries = {name: binaries[name] for name in COMPONENTS if name in binaries}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        api, etcd, peer = free_ports(3)
        self.plane = ControlPlane(directory, "127.0.0.1", api_port=api, etcd_port=etcd, etcd_peer_port=peer)
        names = pki.server_names(self.plane.address, self.plane.service_range)
        self._signer = pki.prepare(self.plane.pki, names)
        users.write_controllers(self.plane.pki, self.server, self._signer)
        users.write_people(directory, self.server, self._signer)

    @property
    def server(self) -> str:
        return self.plane.server

    @property
    def authority(self) -> Path:
        """The certificate that the API server's own is checked with."""
        return self.plane.certificate(pki.CA)

    def kubeconfig(self, person: str = users.ADMIN) -> Path:
        """The kubeconfig of one of `users.PEOPLE`."""
        return users.person_file(self.plane.directory, person)

    def node_kubeconfigs(self, name: str) -> tuple[Path, Path]:
        """A node's two kubeconfigs: its kubelet's, and the one that may follow EndpointSlices."""
        directory = self.plane.directory / "nodes" / name
        users.write_node(directory, name, self.server, self._signer)
        return directory / "kubelet.kubeconfig", directory / "names.kubeconfig"

    def issue(self, path: Path, identity: pki.Identity, lifetime: timedelta = pki.LIFETIME) -> Path:
        """Write a kubeconfig of anybody; with a lifetime below zero its certificate has expired."""
        pki.write_kubeconfig(path, self.server, self._signer, self._signer.client(identity, lifetime))
        return path

    def __enter__(self) -> LocalControlPlane:
        """Raises: LabError: a process ended or is not ready in time; carries the end of its log."""
        try:
            for name in self.binaries:
                self.start(name)
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kill()

    def start(self, component: str) -> None:
        """Start one process and wait until it does its work.

        Raises:
            LabError: it ended or is not ready in time; carries the end of its log.
        """
        command = tied_to_us(str(self.binaries[component]), *COMPONENTS[component](self.plane))
        with self._log(component).open("ab") as log:
            self._processes[component] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                cwd=self.plane.directory, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, start_new_session=True,
            )  # fmt: skip
        probe.wait(component, lambda: self._not_ready(component), START_S)

    def stop(self, component: str) -> None:
        """Ask one process to end, and wait until it has: its ports and files are free then."""
        process = self._processes.pop(component)
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def processes(self) -> dict[str, int]:
        """The process id of each component that was started and not stopped."""
        return {name: process.pid for name, process in self._processes.items()}

    def _not_ready(self, component: str) -> str | None:
        code = self._processes[component].poll()
        if code is not None:
            tail = self._log(component).read_text(errors="replace")[-_LOG_TAIL:].strip()
            raise LabError(f"{component} ended with {code}: {tail}")
        if component == "kube-apiserver":
            return probe.not_ready(self.server, self.authority)
        if component == "kube-controller-manager":
            return probe.no_accounts(self.kubeconfig())
        # The API server waits for etcd itself; the scheduler's work shows when there is a pod.
        return None

    def _log(self, component: str) -> Path:
        return self.plane.directory / f"{component}.log"

    def _kill(self) -> None:
        """What it kept goes with the directory, so nothing needs to end in order."""
        for process in self._processes.values():
            process.send_signal(signal.SIGKILL)
        for process in self._processes.values():
            process.wait()
        self._processes.clear()


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface on which nothing listens.

    Raises:
        LabError: there are not so many.
    """
    found: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        with socket.socket() as trial:
            try:
                trial.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise LabError(f"no {count} free ports among {_PORTS.start}-{_PORTS.stop - 1}")

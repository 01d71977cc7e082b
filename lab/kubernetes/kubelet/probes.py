"""Probes of a running container: startup, readiness, liveness."""

from __future__ import annotations

import http.client
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from .client import Json

STARTUP, READINESS, LIVENESS = "startup", "readiness", "liveness"
KINDS = (STARTUP, READINESS, LIVENESS)

log = logging.getLogger(__name__)

# Runs a command in the container within seconds: exit code and output; TimeoutError, OSError.
Execute = Callable[[list[str], float], tuple[int, str]]


def attempt(action: Json, container: Json, address: str, seconds: float, execute: Execute) -> str | None:
    """One try of an exec, httpGet or tcpSocket action. Returns None where it succeeds, else why it did not."""
    try:
        if "exec" in action:
            code, output = execute(action["exec"].get("command") or [], seconds)
            return None if code == 0 else output.strip() or f"exit code {code}"
        if "httpGet" in action:
            return _http(action["httpGet"], container, address, seconds)
        host = action["tcpSocket"].get("host") or address
        with socket.create_connection((host, port(action["tcpSocket"]["port"], container)), seconds):
            return None
    except (OSError, ValueError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__


def _http(action: Json, container: Json, address: str, seconds: float) -> str | None:
    host, number = action.get("host") or address, port(action["port"], container)
    connection: http.client.HTTPConnection
    if action.get("scheme") == "HTTPS":
        # As kubelets: a probe asks for life, not for identity.
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, number, timeout=seconds, context=tls)
    else:
        connection = http.client.HTTPConnection(host, number, timeout=seconds)
    headers = {each["name"]: each["value"] for each in action.get("httpHeaders") or []}
    try:
        connection.request("GET", action.get("path") or "/", headers={"User-Agent": "kube-probe/lab", **headers})
        status = connection.getresponse().status
    finally:
        connection.close()
    return None if 200 <= status < 400 else f"HTTP probe failed with statuscode: {status}"


def port(value: int | str, container: Json) -> int:
    """A port by number, or by its name in the container. Raises: ValueError: there is none of that name."""
    if isinstance(value, int):
        return value
    for each in container.get("ports") or []:
        if each.get("name") == value:
            return int(each["containerPort"])
    raise ValueError(f"couldn't find port: {value}")


@dataclass(slots=True)
class Result:
    """What the probes say of one attempt at a container. `failed` is the message of a probe that wants a restart, and
    `failed_kind` which one it was."""

    started: bool
    ready: bool
    failed: str = ""
    failed_kind: str = ""


class Prober:
    """Probes one attempt at a container until it is stopped, in one thread: startup first, then the other two.

    `report` gets each failure's kind and message; `wake` is called when `result` has changed. `known` is what an
    earlier kubelet had found out (started, ready).
    """

    def __init__(
        self,
        container: Json,
        address: str,
        started_at: float,
        execute: Execute,
        report: Callable[[str, str], None],
        wake: Callable[[], None],
        known: tuple[bool, bool] = (False, False),
    ) -> None:
        self._container, self._address, self._started_at = container, address, started_at
        self._execute, self._report, self._wake = execute, report, wake
        self._probes = {kind: container[f"{kind}Probe"] for kind in KINDS if container.get(f"{kind}Probe")}
        self._streaks = dict.fromkeys(self._probes, 0)
        self._stop = threading.Event()
        self.result = Result(
            started=known[0] or STARTUP not in self._probes,
            ready=known[1] or not self._probes.keys() & {STARTUP, READINESS},
        )

    def start(self) -> None:
        threading.Thread(target=self._run, daemon=True, name=f"probes of {self._container['name']}").start()

    def stop(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        due = {
            kind: self._started_at + _seconds(probe, "initialDelaySeconds", 0) for kind, probe in self._probes.items()
        }
        if self.result.started:
            due.pop(STARTUP, None)
        while due and not self._stop.is_set():
            kind = min(due, key=lambda each: (not self._active(each), due[each]))
            if self._stop.wait(max(0.0, due[kind] - time.time())):
                return
            self._once(kind)
            due[kind] = time.time() + _seconds(self._probes[kind], "periodSeconds", 10)
            if kind == STARTUP and self.result.started:
                del due[STARTUP]
            if self.result.failed:
                return

    def _active(self, kind: str) -> bool:
        return kind == STARTUP or self.result.started

    def _once(self, kind: str) -> None:
        probe = self._probes[kind]
        problem = attempt(probe, self._container, self._address, _seconds(probe, "timeoutSeconds", 1), self._execute)
        if self._stop.is_set():
            return
        # Successes count upwards from 1, failures downwards from -1.
        streak = self._streaks[kind]
        self._streaks[kind] = max(streak, 0) + 1 if problem is None else min(streak, 0) - 1
        before = (self.result.started, self.result.ready, self.result.failed)
        if problem is not None:
            self._report(kind, problem)
        if self._streaks[kind] >= _seconds(probe, "successThreshold", 1):
            self._succeeded(kind)
        elif -self._streaks[kind] >= _seconds(probe, "failureThreshold", 3):
            if kind == READINESS:
                self.result.ready = False
            else:
                self.result.failed_kind = kind
                self.result.failed = problem or ""
        if before != (self.result.started, self.result.ready, self.result.failed):
            self._wake()

    def _succeeded(self, kind: str) -> None:
        if kind == STARTUP:
            self.result.started = True
            self.result.ready = READINESS not in self._probes
        elif kind == READINESS:
            self.result.ready = True


def _seconds(probe: Json, key: str, default: int) -> int:
    value = probe.get(key)
    return default if value is None else int(value)

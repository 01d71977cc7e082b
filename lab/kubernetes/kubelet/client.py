"""The API server over HTTPS: JSON requests and watches, with a client certificate from a kubeconfig."""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
import ssl
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Json = dict[str, Any]

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
REQUEST_S = 10.0
# A watch is silent while nothing changes: a peer that is gone is known by TCP keep-alive, 10 + 3 × 5 s.
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))
_USER_TIMEOUT_MS = 20_000


class ApiError(Exception):
    """The API server refused. `code` is the HTTP status, `reason` the API's own word ("NotFound", "Conflict")."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message


class Unreachable(Exception):  # noqa: N818
    """No answer: refused, cut off or too late."""


class Client:
    """One identity at one API server. Each thread has a connection of its own that stays open."""

    def __init__(self, kubeconfig: Path) -> None:
        """Raises: ValueError: the kubeconfig is not JSON or lacks something. OSError: a file can't be read."""
        server, self._tls = _read(kubeconfig)
        self.host, self.port = server.hostname or "", server.port or 443
        self._local = threading.local()

    def get(self, path: str, parameters: Mapping[str, str] | None = None) -> Json:
        return self.request("GET", path, parameters=parameters)

    def create(self, path: str, body: Json) -> Json:
        return self.request("POST", path, body)

    def update(self, path: str, body: Json) -> Json:
        return self.request("PUT", path, body)

    def patch(self, path: str, body: Json, kind: str = STRATEGIC) -> Json:
        return self.request("PATCH", path, body, content_type=kind)

    def delete(self, path: str, body: Json) -> Json:
        return self.request("DELETE", path, body)

    def request(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        parameters: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Json:
        """One request with a JSON answer.

        Raises:
            ApiError: the server refused.
            Unreachable: no answer within `REQUEST_S` seconds.
        """
        payload = None if body is None else json.dumps(body).encode()
        headers = {"Accept": "application/json", "Content-Type": content_type}
        target = _target(path, parameters)
        # A server may have closed a connection that was idle: once more on a new one, where that can do no harm.
        for last in (method == "POST", True):
            connection = self._connection()
            try:
                connection.request(method, target, payload, headers)
                response = connection.getresponse()
                text = response.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if last or isinstance(error, TimeoutError):
                    raise Unreachable(f"{self.host}:{self.port}: {error or type(error).__name__}") from error
                continue
            if response.status >= 400:
                raise _error(response.status, text)
            return _decoded(text)
        raise AssertionError("the second attempt returns or raises")

    def watch(self, path: str, parameters: Mapping[str, str], seconds: int) -> Iterator[tuple[str, Json]]:
        """Events (`ADDED`, `MODIFIED`, `DELETED`, object) for at most `seconds`.

        Raises:
            ApiError: refused, or the version is too old (410).
            Unreachable: the connection broke.
        """
        connection = self._open(seconds + REQUEST_S)
        query = {**parameters, "watch": "1", "timeoutSeconds": str(seconds)}
        try:
            connection.request("GET", _target(path, query), headers={"Accept": "application/json"})
            response = connection.getresponse()
            if response.status >= 400:
                raise _error(response.status, response.read())
            while line := response.readline():
                event = _decoded(line)
                if event.get("type") == "ERROR":
                    status = event["object"]
                    raise ApiError(status.get("code", 500), status.get("reason", ""), status.get("message", ""))
                if event.get("type") != "BOOKMARK":
                    yield event["type"], event["object"]
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"{self.host}:{self.port}: {error or type(error).__name__}") from error
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPSConnection:
        connection: http.client.HTTPSConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._open(REQUEST_S)
        return connection

    def _open(self, timeout: float) -> http.client.HTTPSConnection:
        return _Connection(self.host, self.port, timeout=timeout, context=self._tls)


class _Connection(http.client.HTTPSConnection):
    def connect(self) -> None:
        super().connect()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            self.sock.setsockopt(socket.IPPROTO_TCP, option, value)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)


def _target(path: str, parameters: Mapping[str, str] | None) -> str:
    return f"{path}?{urllib.parse.urlencode(parameters)}" if parameters else path


def _decoded(text: bytes) -> Json:
    try:
        data = json.loads(text)
    except ValueError as error:
        raise Unreachable(f"an answer is no JSON: {text[:80]!r}") from error
    return data if isinstance(data, dict) else {}


def _error(code: int, text: bytes) -> ApiError:
    try:
        status = json.loads(text)
        return ApiError(code, status.get("reason", ""), status.get("message", ""))
    except (ValueError, AttributeError):
        return ApiError(code, "", text[:200].decode(errors="replace"))


def _read(path: Path) -> tuple[urllib.parse.ParseResult, ssl.SSLContext]:
    """Address and TLS context of a kubeconfig's current context."""
    try:
        data = json.loads(path.read_text())
        context = _named(data["contexts"], data["current-context"])["context"]
        cluster = _named(data["clusters"], context["cluster"])["cluster"]
        user = _named(data["users"], context["user"])["user"]
        server = urllib.parse.urlparse(cluster["server"])
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.minimum_version = ssl.TLSVersion.TLSv1_3
        tls.load_verify_locations(cadata=_content(path, cluster, "certificate-authority").decode())
        certificate, key = _content(path, user, "client-certificate"), _content(path, user, "client-key")
    except (ValueError, KeyError, TypeError, StopIteration) as error:
        raise ValueError(
            f"{path}: {error or type(error).__name__}. Fix: give a kubeconfig in JSON with a client certificate"
        ) from error
    # OpenSSL reads them from a file only; one that has no name leaves no key behind.
    handle = os.memfd_create("client")
    try:
        os.write(handle, certificate + b"\n" + key)
        tls.load_cert_chain(f"/proc/self/fd/{handle}")
    finally:
        os.close(handle)
    return server, tls


def _named(entries: list[Json], name: str) -> Json:
    return next(entry for entry in entries if entry["name"] == name)


def _content(kubeconfig: Path, entry: Json, key: str) -> bytes:
    if f"{key}-data" in entry:
        return base64.b64decode(entry[f"{key}-data"])
    return (kubeconfig.parent / str(entry[key])).read_bytes()

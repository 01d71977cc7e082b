"""The few calls of the Kubernetes API that the plugin makes, on one pool of connections.

Not the `kubernetes` package: importing it takes 2 s, and each plugin process would pay that.
"""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

import urllib3

from lab.pulumi.provider_kubeconfig import Access, KubeconfigError
from lab.pulumi.provider_values import Json

APPLY = "application/apply-patch+yaml"
JSON_PATCH = "application/json-patch+json"
MANAGER = "pulumi-kubernetes"
_CONNECT_SECONDS = 10
# Longer than the API server's own limit of a request, so that its answer is the one that counts.
_READ_SECONDS = 70


class UnreachableError(Exception):
    """No answer from the API server, or none to who asks. One line, with the fix."""


class ApiError(Exception):
    """The API server refused a request."""

    def __init__(self, status: int, body: Json) -> None:
        self.status = status
        self.reason = str(body.get("reason") or "")
        self.details: Json = body.get("details") or {}
        super().__init__(str(body.get("message") or f"HTTP status {status}"))


class NoSuchKindError(Exception):
    """The API server serves no such kind."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Where the objects of one kind are."""

    path: str
    plural: str
    namespaced: bool

    def url(self, namespace: str, name: str = "") -> str:
        """Path of one object, or of the collection."""
        inner = f"/namespaces/{quote(namespace or 'default')}" if self.namespaced else ""
        return f"{self.path}{inner}/{self.plural}" + (f"/{quote(name)}" if name else "")


class Api:
    """One API server as one user; usable by many threads."""

    def __init__(self, access: Access) -> None:
        """
        Raises:
            KubeconfigError: its certificates cannot be used.
        """
        self.access = access
        headers = {"Accept": "application/json", "User-Agent": "pulumi-kubernetes (lab stand-in)"}
        if access.token:
            headers["Authorization"] = f"Bearer {access.token}"
        if not access.verify:
            # The kubeconfig asks for it; a line for each request would say nothing new.
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        options: dict[str, Any] = {"ssl_context": _tls(access)} if access.server.startswith("https:") else {}
        if access.server_name:
            options |= {"server_hostname": access.server_name, "assert_hostname": access.server_name}
        self._pool = urllib3.PoolManager(
            maxsize=64, block=True, headers=headers, timeout=urllib3.Timeout(_CONNECT_SECONDS, _READ_SECONDS), **options
        )
        self._kinds: dict[str, dict[str, Kind]] = {}
        self._lock = threading.Lock()

    def kind(self, api_version: str, kind: str) -> Kind:
        """Where objects of this kind are; asks the server once for each version of a group.

        Raises:
            NoSuchKindError: nowhere.
            UnreachableError, ApiError: the server could not be asked.
        """
        with self._lock:
            known = self._kinds.get(api_version)
        if known is None:
            path = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
            try:
                served = self.request("GET", path)["resources"]
            except ApiError as error:
                if error.status != 404:
                    raise
                served = []
            known = {
                item["kind"]: Kind(path, item["name"], bool(item["namespaced"]))
                for item in served
                if "/" not in item["name"]
            }
            if known:
                with self._lock:
                    self._kinds[api_version] = known
        if kind not in known:
            raise NoSuchKindError(f'no matches for kind "{kind}" in version "{api_version}"')
        return known[kind]

    def forget_kinds(self) -> None:
        """Ask the server anew which kinds it serves: a CustomResourceDefinition has come or gone."""
        with self._lock:
            self._kinds.clear()

    def of(self, item: Json) -> Kind:
        """Where an object like `item` is; raises as `kind` does."""
        return self.kind(str(item.get("apiVersion", "")), str(item.get("kind", "")))

    def get(self, item: Json, name: str = "") -> Json:
        """The live object with the identity of `item`.

        Raises:
            ApiError, NoSuchKindError, UnreachableError: there is none, or it could not be asked for.
        """
        metadata = item.get("metadata") or {}
        url = self.of(item).url(metadata.get("namespace", ""), name or metadata.get("name", ""))
        return self.request("GET", url)

    def create(self, item: Json, *, dry_run: bool) -> Json:
        """Make a new object; raises as `get` does, status 409 `AlreadyExists` among it."""
        query = {"fieldManager": MANAGER} | ({"dryRun": "All"} if dry_run else {})
        return self.request("POST", self.of(item).url(item["metadata"].get("namespace", "")), query, item)

    def apply(self, item: Json, manager: str, *, force: bool, dry_run: bool) -> Json:
        """Server-side apply; raises as `get` does, status 409 for a field of another manager unless forced."""
        query = {"fieldManager": manager, "force": "true" if force else "false"}
        query |= {"dryRun": "All"} if dry_run else {}
        metadata = item["metadata"]
        url = self.of(item).url(metadata.get("namespace", ""), metadata["name"])
        return self.request("PATCH", url, query, item, APPLY)

    def patch_json(self, item: Json, operations: list[Json]) -> Json:
        """Apply JSON patch `operations` to the object with the identity of `item`; raises as `get` does."""
        metadata = item["metadata"]
        url = self.of(item).url(metadata.get("namespace", ""), metadata["name"])
        return self.request("PATCH", url, {}, operations, JSON_PATCH)

    def delete(self, item: Json, name: str, propagation: str) -> None:
        """Ask for the deletion of an object; raises as `get` does."""
        url = self.of(item).url((item.get("metadata") or {}).get("namespace", ""), name)
        options = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": propagation}
        self.request("DELETE", url, {}, options)

    def request(
        self, method: str, path: str, query: dict[str, str] | None = None, body: Any = None, content: str = ""
    ) -> Json:
        """One request.

        Raises:
            ApiError: the answer is an error other than 401.
            UnreachableError: there is no answer, or the server does not know who asks (401).
        """
        url = self.access.server + path + (f"?{urlencode(query)}" if query else "")
        headers = {**self._pool.headers, "Content-Type": content or "application/json"}
        try:
            answer = self._pool.request(
                method, url, headers=headers, body=None if body is None else json.dumps(body).encode(), retries=False
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise UnreachableError(self._why(error)) from None
        data = _parsed(answer.data)
        if answer.status == 401:
            why = self.access.expired(datetime.now(UTC)) or "the kubeconfig's credentials are not valid there"
            raise UnreachableError(f"{self.access.server} answered 401 Unauthorized: {why}. Fix: get a new kubeconfig")
        if answer.status >= 400:
            # A path that is not served is answered in plain text.
            raise ApiError(answer.status, data or {})
        if data is None:
            raise UnreachableError(
                f"{self.access.server} answered {answer.status} and no JSON. Fix: check the server in the kubeconfig"
            )
        return data

    def _why(self, error: BaseException) -> str:
        causes = list(_causes(error))
        certificate = next((cause for cause in causes if isinstance(cause, ssl.SSLCertVerificationError)), None)
        if certificate is not None:
            return (
                f"{self.access.server}: the server's certificate is refused: {certificate.verify_message}. "
                "Fix: renew the certificate, or correct certificate-authority in the kubeconfig"
            )
        system = next((cause for cause in causes if isinstance(cause, OSError) and cause.strerror), None)
        text = system.strerror if system is not None else type(error).__name__
        return f"{self.access.server}: {text}. Fix: start the cluster, or correct the server in the kubeconfig"


def _parsed(text: bytes) -> Json | None:
    try:
        data = json.loads(text)
    except ValueError:
        return None
    return data if isinstance(data, dict) else None


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    waiting: list[Any] = [error]
    while waiting:
        item = waiting.pop(0)
        if not isinstance(item, BaseException) or item in seen:
            continue
        seen.append(item)
        yield item
        waiting += [getattr(item, "reason", None), item.__cause__, item.__context__, *item.args]


def _tls(access: Access) -> ssl.SSLContext:
    try:
        authority = access.authority.decode() if access.authority else None
        context = ssl.create_default_context(cadata=authority)
        context.check_hostname = access.verify
        context.verify_mode = ssl.CERT_REQUIRED if access.verify else ssl.CERT_NONE
        if access.certificate and access.key:
            with _in_memory(access.certificate + b"\n" + access.key) as path:
                context.load_cert_chain(path)
    except (ssl.SSLError, ValueError):
        raise KubeconfigError("a certificate or key of the kubeconfig cannot be read. Fix: write it anew") from None
    return context


@contextlib.contextmanager
def _in_memory(data: bytes) -> Iterator[str]:
    """A path with `data` that no disk sees: the TLS library takes a key by its file name only."""
    handle = os.memfd_create("client-key")
    try:
        os.write(handle, data)
        yield f"/proc/self/fd/{handle}"
    finally:
        os.close(handle)

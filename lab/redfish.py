"""The BMCs of the lab: one small Redfish service over TLS, which answers for each node on the network's gateway.

Resources and messages follow DMTF's Redfish specification DSP0266 1.20 and schema ComputerSystem v1_20.
`python -m lab.redfish` serves until it is stopped; `start` and `stop` manage that process.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import os
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from lab import power
from lab.host import LabError, run
from lab.layout import GATEWAY, NODES, REDFISH_PORT, Node, lab_dir
from medllm.files import write_atomic

ROOT = "/redfish/v1"
RESET_TYPES = ("On", "ForceOff", "GracefulShutdown", "ForceRestart", "GracefulRestart", "PowerCycle")
# <linux/in.h>: bind an address whose bridge comes and goes with the nodes.
IP_FREEBIND = 15
BODY_LIMIT = 64 * 1024
START_SECONDS = 15

Json = dict[str, Any]


def directory() -> Path:
    """Certificate, key, credentials, process file and log."""
    return lab_dir() / "redfish"


def credentials() -> tuple[str, str]:
    """User and password of the BMCs."""
    data = json.loads((directory() / "credentials.json").read_text())
    return data["username"], data["password"]


class Bmc(ThreadingHTTPServer):
    """Serves `nodes`; one power action at a time on a node."""

    daemon_threads = True
    address_family = socket.AF_INET

    def __init__(self, address: tuple[str, int], nodes: Iterable[Node], login: tuple[str, str]) -> None:
        self.nodes = {node.name: node for node in nodes}
        self.locks = {name: threading.Lock() for name in self.nodes}
        self.login = "Basic " + base64.b64encode(":".join(login).encode()).decode()
        super().__init__(address, Handler)

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.SOL_IP, IP_FREEBIND, 1)
        super().server_bind()

    def use_tls(self, certificate: Path, key: Path) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        # The handshake belongs to the request's thread: a silent client must not stop the others.
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that breaks off is no error of the server."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

    def reset(self, node: Node, kind: str) -> None:
        """Do what a ResetType asks; a power cycle is off, then on."""
        with self.locks[node.name]:
            if kind != "On":
                power.off(node, graceful=kind in {"GracefulShutdown", "GracefulRestart"})
            if kind not in {"ForceOff", "GracefulShutdown"}:
                power.on(node)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Bmc
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].rstrip("/")
        if path == "/redfish":
            self._answer(HTTPStatus.OK, {"v1": f"{ROOT}/"})
        elif path == ROOT:
            self._answer(HTTPStatus.OK, _service_root())
        elif not self._authorised():
            self._refuse(HTTPStatus.UNAUTHORIZED, "NoValidSession", "There is no valid session established.")
        elif path == f"{ROOT}/Systems":
            self._answer(HTTPStatus.OK, _collection(self.server.nodes))
        elif (node := self._system(path)) is not None:
            self._answer(HTTPStatus.OK, _system(node))
        else:
            self._missing(path)

    def do_POST(self) -> None:
        path = self.path.partition("?")[0].rstrip("/")
        length = int(self.headers.get("Content-Length") or 0)
        if length > BODY_LIMIT:
            self.close_connection = True
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "GeneralError", "The request's body is too large.")
            return
        body = self.rfile.read(length)
        node = self._system(path.removesuffix("/Actions/ComputerSystem.Reset"))
        if not self._authorised():
            self._refuse(HTTPStatus.UNAUTHORIZED, "NoValidSession", "There is no valid session established.")
        elif node is None or not path.endswith("/Actions/ComputerSystem.Reset"):
            self._missing(path)
        else:
            self._reset(node, body)

    def _reset(self, node: Node, body: bytes) -> None:
        try:
            request = json.loads(body)
            kind = request.get("ResetType") if isinstance(request, dict) else None
        except ValueError:
            self._refuse(HTTPStatus.BAD_REQUEST, "MalformedJSON", "The request body could not be parsed as JSON.")
            return
        if kind is None:
            text = "The action ComputerSystem.Reset requires the parameter ResetType to be present in the request body."
            self._refuse(HTTPStatus.BAD_REQUEST, "ActionParameterMissing", text)
        elif kind not in RESET_TYPES:
            text = f"The value '{kind}' for the parameter ResetType is not in the list of acceptable values."
            self._refuse(HTTPStatus.BAD_REQUEST, "ActionParameterValueNotInList", text)
        else:
            try:
                self.server.reset(node, kind)
            except LabError as error:
                self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, "InternalError", str(error))
                return
            self.send_response(HTTPStatus.NO_CONTENT)
            self.send_header("OData-Version", "4.0")
            self.end_headers()

    def _system(self, path: str) -> Node | None:
        return self.server.nodes.get(path.removeprefix(f"{ROOT}/Systems/")) if "/Systems/" in path else None

    def _authorised(self) -> bool:
        return hmac.compare_digest(self.headers.get("Authorization", "").encode(), self.server.login.encode())

    def _missing(self, path: str) -> None:
        self._refuse(HTTPStatus.NOT_FOUND, "ResourceMissingAtURI", f"The resource at the URI '{path}' was not found.")

    def _refuse(self, status: HTTPStatus, message: str, text: str) -> None:
        identity = f"Base.1.18.{message}"
        extended = [{"@odata.type": "#Message.v1_2_0.Message", "MessageId": identity, "Message": text}]
        self._answer(status, {"error": {"code": identity, "message": text, "@Message.ExtendedInfo": extended}})

    def _answer(self, status: HTTPStatus, body: Json) -> None:
        payload = json.dumps(body, indent=1).encode()
        self.send_response(status)
        if status == HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", 'Basic realm="Redfish"')
        self.send_header("OData-Version", "4.0")
        self.send_header("Content-Type", "application/json;charset=utf-8")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)


def _service_root() -> Json:
    return {
        "@odata.id": f"{ROOT}/",
        "@odata.type": "#ServiceRoot.v1_16_0.ServiceRoot",
        "Id": "RootService",
        "Name": "Root Service",
        "RedfishVersion": "1.20.0",
        "Systems": {"@odata.id": f"{ROOT}/Systems"},
    }


def _collection(names: Iterable[str]) -> Json:
    members = [{"@odata.id": f"{ROOT}/Systems/{name}"} for name in names]
    return {
        "@odata.id": f"{ROOT}/Systems",
        "@odata.type": "#ComputerSystemCollection.ComputerSystemCollection",
        "Name": "Computer System Collection",
        "Members@odata.count": len(members),
        "Members": members,
    }


def _system(node: Node) -> Json:
    on = power.is_on(node)
    uri = f"{ROOT}/Systems/{node.name}"
    return {
        "@odata.id": uri,
        "@odata.type": "#ComputerSystem.v1_20_0.ComputerSystem",
        "Id": node.name,
        "Name": node.name,
        "HostName": node.name,
        "SystemType": "Physical",
        "PowerState": "On" if on else "Off",
        # A BMC sees power, not whether the operating system answers: a hung machine is "On".
        "Status": {"State": "Enabled" if on else "StandbyOffline", "Health": "OK"},
        "Actions": {
            "#ComputerSystem.Reset": {
                "target": f"{uri}/Actions/ComputerSystem.Reset",
                "ResetType@Redfish.AllowableValues": list(RESET_TYPES),
            }
        },
    }


def make_secrets() -> None:
    """Certificate for the gateway's address and a password; made once."""
    folder = directory()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not (folder / "credentials.json").exists():
        login = {"username": "administrator", "password": secrets.token_urlsafe(18)}
        write_atomic(folder / "credentials.json", json.dumps(login) + "\n", mode=0o600)
    if not (folder / "cert.pem").exists():
        run(
            [
                "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                "-days", "3650", "-subj", "/CN=medllm-lab BMC", "-addext", f"subjectAltName=IP:{GATEWAY}",
                "-keyout", folder / "key.pem", "-out", folder / "cert.pem",
            ],
            timeout=30,
        )  # fmt: skip
        (folder / "key.pem").chmod(0o600)


def start() -> str:
    """Start the service unless this very version of it runs. Returns what was done.

    Raises:
        LabError: it does not answer; its log is beside its certificate.
    """
    make_secrets()
    sources = sorted(Path(__file__).parent.glob("*.py"))
    version = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    running = _running()
    if running is not None and running[1] == version:
        return "kept"
    stop()
    with (directory() / "log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "lab.redfish"], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True, cwd=Path(__file__).parents[1],
        )  # fmt: skip
    write_atomic(directory() / "process.json", json.dumps({"pid": process.pid, "version": version}))
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection((GATEWAY, REDFISH_PORT), timeout=1):
            return "started"
        time.sleep(0.1)
    raise LabError(f"the Redfish service does not answer; see {directory() / 'log'}")


def stop() -> None:
    """End the service's process, if it runs."""
    running = _running()
    if running is not None:
        os.kill(running[0], signal.SIGTERM)
        deadline = time.monotonic() + START_SECONDS
        while _running() is not None and time.monotonic() < deadline:
            time.sleep(0.05)
    (directory() / "process.json").unlink(missing_ok=True)


def _running() -> tuple[int, str] | None:
    """(pid, version) of our process; a pid that another program has got since does not count."""
    try:
        data = json.loads((directory() / "process.json").read_text())
        command = Path(f"/proc/{data['pid']}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return None
    return (int(data["pid"]), str(data["version"])) if b"lab.redfish" in command else None


def main() -> None:
    """Serve all nodes until SIGTERM."""
    server = Bmc((GATEWAY, REDFISH_PORT), NODES, credentials())
    server.use_tls(directory() / "cert.pem", directory() / "key.pem")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server.serve_forever()


if __name__ == "__main__":
    main()

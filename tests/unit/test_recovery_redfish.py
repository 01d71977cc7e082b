"""A machine's power through its BMC: what the BMC lists is asked for, nothing else; a BMC that misbehaves is told."""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from medllm import redfish
from medllm.redfish import CYCLE, RESTART, SWITCH_ON, Bmc, RedfishError, ResetPlan

SYSTEM = "/redfish/v1/Systems/1"
RESET = f"{SYSTEM}/Actions/ComputerSystem.Reset"
ALL = ["On", "ForceOff", "GracefulShutdown", "GracefulRestart", "ForceRestart", "PowerCycle"]


class Fake(ThreadingHTTPServer):
    """A BMC: `system` is its resource, `resets` what it was asked for; `answer` may take a request over."""

    daemon_threads = True

    def __init__(self, certificate: Path, key: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.power, self.resets = "On", list[str]()
        self.action: dict[str, Any] = {"target": RESET, "ResetType@Redfish.AllowableValues": ALL}
        self.more: dict[str, Any] = {}
        self.answer: Callable[[Handler], bool] = lambda handler: False

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


class Handler(BaseHTTPRequestHandler):
    server: Fake

    def do_GET(self) -> None:
        if self.server.answer(self):
            return
        system = {"PowerState": self.server.power, "Actions": {"#ComputerSystem.Reset": self.server.action}}
        self.say(200, {SYSTEM: system, **self.server.more}.get(self.path, {}))

    def do_POST(self) -> None:
        kind = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["ResetType"]
        if self.server.answer(self):
            return
        self.server.resets.append(kind)
        self.server.power = {"ForceOff": "Off", "On": "On"}.get(kind, self.server.power)
        self.say(204, None)

    def say(self, status: int, body: Any, **headers: str) -> None:
        payload = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=bmc", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    return cert, key


@pytest.fixture
def server(certificate: tuple[Path, Path]) -> Iterator[Fake]:
    fake = Fake(*certificate)
    threading.Thread(target=fake.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield fake
    fake.shutdown()
    fake.server_close()


@pytest.fixture
def login(tmp_path: Path) -> Path:
    path = tmp_path / "bmc.json"
    path.write_text('{"username": "admin", "password": "not-to-be-told"}')
    return path


@pytest.fixture
def bmc(server: Fake, login: Path, certificate: tuple[Path, Path]) -> Bmc:
    return Bmc(f"https://127.0.0.1:{server.server_port}{SYSTEM}", login, certificate[0])


@pytest.mark.parametrize(
    ("wanted", "allowed", "asked"),
    [
        (CYCLE, ALL, ["PowerCycle"]),
        (CYCLE, ["On", "ForceOff", "ForceRestart"], ["ForceOff", "On"]),
        (CYCLE, ["GracefulRestart", "ForceRestart"], ["ForceRestart"]),
        (RESTART, ALL, ["ForceRestart"]),
        (RESTART, ["GracefulRestart", "PowerCycle"], ["PowerCycle"]),
        (RESTART, ["On", "ForceOff", "GracefulRestart"], ["ForceOff", "On"]),
        (SWITCH_ON, ALL, ["On"]),
        (SWITCH_ON, ["PushPowerButton"], ["PushPowerButton"]),
    ],
)
def test_what_is_asked_for_follows_from_what_is_listed(
    server: Fake, bmc: Bmc, wanted: tuple[ResetPlan, ...], allowed: list[str], asked: list[str]
) -> None:
    server.action["ResetType@Redfish.AllowableValues"] = allowed
    bmc.reset(wanted)
    assert server.resets == asked


@pytest.mark.parametrize("allowed", [["GracefulRestart", "GracefulShutdown"], [], None])
def test_force_is_never_replaced_by_grace(server: Fake, bmc: Bmc, allowed: list[str] | None) -> None:
    """community.general.redfish_command swaps GracefulRestart and ForceRestart when one of them is not listed."""
    server.action = {"target": RESET} if allowed is None else {"ResetType@Redfish.AllowableValues": allowed}
    for wanted in (CYCLE, RESTART):
        with pytest.raises(RedfishError, match="needed is one of"):
            bmc.reset(wanted)
    assert server.resets == []


def test_values_in_an_action_info_count_too(server: Fake, bmc: Bmc) -> None:
    server.action = {"target": RESET, "@Redfish.ActionInfo": f"{SYSTEM}/ResetActionInfo"}
    server.more[f"{SYSTEM}/ResetActionInfo"] = {
        "Parameters": [{"Name": "Other"}, {"Name": "ResetType", "AllowableValues": ["ForceRestart"]}]
    }
    assert bmc.reset(RESTART) == "ForceRestart"


def test_power_that_does_not_go_off_is_not_switched_on(server: Fake, bmc: Bmc) -> None:
    server.action["ResetType@Redfish.AllowableValues"] = ["On", "ForceOff"]

    def stay_on(handler: Handler) -> bool:
        if handler.command == "POST":
            server.resets.append("asked")
            handler.say(204, None)
        return handler.command == "POST"

    server.answer = stay_on
    with pytest.raises(RedfishError, match="the power is On and not Off"):
        bmc.reset(CYCLE, deadline_s=0.1)
    assert len(server.resets) == 1


def refuse(status: int, body: Any, **headers: str) -> Callable[[Handler], bool]:
    def answer(handler: Handler) -> bool:
        handler.say(status, body, **headers)
        return True

    return answer


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (refuse(401, {"error": {"message": "no", "@Message.ExtendedInfo": [{"Message": "no valid session"}]}}),
         "answers 401 to .*no valid session"),
        (refuse(500, ["what"]), "answers 500"),
        (refuse(302, {}, Location="https://elsewhere.example/"), "answers 302"),
        (lambda handler: handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n<a>") > 0, "is no JSON"),
    ],
)  # fmt: skip
def test_a_bmc_that_refuses_is_quoted_without_the_login(
    server: Fake, bmc: Bmc, answer: Callable[[Handler], bool], told: str
) -> None:
    server.answer = answer
    with pytest.raises(RedfishError, match=told) as caught:
        bmc.power()
    assert "not-to-be-told" not in str(caught.value)


def test_a_silent_bmc_and_a_target_elsewhere(server: Fake, bmc: Bmc, monkeypatch: pytest.MonkeyPatch) -> None:
    server.action["target"] = "https://elsewhere.example/steal"
    with pytest.raises(RedfishError, match="names another server"):
        bmc.reset(CYCLE)
    monkeypatch.setattr(redfish, "_REQUEST_S", 0.3)
    hold = threading.Event()
    server.answer = lambda handler: hold.wait(5)
    with pytest.raises(RedfishError, match="does not answer"):
        bmc.power()
    hold.set()


def test_bad_settings_are_refused_with_the_file(tmp_path: Path, login: Path, certificate: tuple[Path, Path]) -> None:
    for url in ("http://10.0.0.1/redfish/v1/Systems/1", "", "https:///x"):
        with pytest.raises(RedfishError, match="bmc_url"):
            Bmc(url, login, certificate[0])
    with pytest.raises(RedfishError, match=r"none\.json: the BMCs' login can't be read"):
        Bmc("https://10.0.0.1/x", tmp_path / "none.json", certificate[0])
    (tmp_path / "torn.json").write_text('{"username": "x"')
    with pytest.raises(RedfishError, match=r"torn\.json: not"):
        Bmc("https://10.0.0.1/x", tmp_path / "torn.json", certificate[0])
    with pytest.raises(RedfishError, match="certificates can't be read"):
        Bmc("https://10.0.0.1/x", login, tmp_path / "none.pem")


def test_a_certificate_that_is_not_the_known_one_is_refused(server: Fake, login: Path) -> None:
    with pytest.raises(RedfishError, match="CERTIFICATE_VERIFY_FAILED"):
        Bmc(f"https://127.0.0.1:{server.server_port}{SYSTEM}", login, None).power()
    assert server.resets == []

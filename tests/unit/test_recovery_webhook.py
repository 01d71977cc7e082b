"""The HTTPS door: who is let in, what is refused, and what slow, many or hostile clients cost."""

from __future__ import annotations

import json
import logging
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import pytest

from medllm.errors import UserError
from runbooks.engine import webhook
from runbooks.engine.webhook import Door, read_tls, read_token
from tests.unit.recovery_tls import certificate

TOKEN = "0123456789abcdef0123456789abcdef"
# As Alertmanager 0.25 sends it ("Webhook Config", https://prometheus.io/docs/alerting/latest/configuration/).
MESSAGE: dict[str, Any] = {
    "receiver": "recovery",
    "status": "firing",
    "alerts": [
        {
            "status": "firing",
            "labels": {"alertname": "GpuXidCritical", "gpu": "3", "instance": "node3", "severity": "critical"},
            "annotations": {"summary": "XID 79 on node3"},
            "startsAt": "2026-11-23T01:02:03.456Z",
            "endsAt": "0001-01-01T00:00:00Z",
            "generatorURL": "http://mgmt:9090/graph?g0.expr=x",
            "fingerprint": "5ef77f1f8a3ecfcb",
        }
    ],
    "groupLabels": {"alertname": "GpuXidCritical"},
    "commonLabels": {"alertname": "GpuXidCritical"},
    "commonAnnotations": {},
    "externalURL": "http://mgmt:9093",
    "version": "4",
    "groupKey": '{}:{alertname="GpuXidCritical"}',
    "truncatedAlerts": 0,
}


class Fixture:
    """A door on a free port of this machine, and what reached the engine through it."""

    def __init__(self, directory: Path) -> None:
        pem, key = certificate(directory)
        self.client_tls = ssl.create_default_context(cafile=str(pem))
        self.counted: Counter[str] = Counter()
        self.hurried = 0
        self.well = True
        self.door = Door(
            ("127.0.0.1", 0),
            read_tls(pem, key),
            TOKEN,
            known_alerts={"GpuXidCritical", "NodeDown"},
            hurry=self._hurry,
            count=lambda word: self.counted.update([word]),
            metrics=lambda: b"medllm_recovery_tick_timestamp_seconds 1\n",
            healthy=lambda: self.well,
        )
        self.port = int(self.door.server_address[1])
        threading.Thread(target=lambda: self.door.serve_forever(poll_interval=0.05), daemon=True).start()

    def _hurry(self) -> None:
        self.hurried += 1

    def ask(
        self,
        method: str = "POST",
        path: str = "/webhook",
        body: Any = None,
        *,
        token: str | None = TOKEN,
        **headers: str,
    ) -> tuple[int, bytes]:
        connection = HTTPSConnection("127.0.0.1", self.port, context=self.client_tls, timeout=20)
        payload = json.dumps(body).encode() if isinstance(body, dict) else body
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        try:
            connection.request(method, path, payload, {name.replace("_", "-"): text for name, text in headers.items()})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def slow_client(self) -> socket.socket:
        """Connects and says nothing: not even its TLS hello."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Fixture]:
    made = Fixture(tmp_path)
    yield made
    made.door.shutdown()
    made.door.server_close()


def wait_for(fact: Any, seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_alertmanagers_message_hurries_the_engine(door: Fixture) -> None:
    assert door.ask(body=MESSAGE) == (200, b"ok\n")
    assert door.hurried == 1
    assert door.counted == {"accepted": 1}


@pytest.mark.parametrize(
    "token",
    [None, "", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "ü" * 32],
    ids=["none", "empty", "short", "long", "case", "umlaut"],
)
def test_a_wrong_token_is_refused_before_its_message_is_read(door: Fixture, token: str | None) -> None:
    authorization = None if token is None else f"Bearer {token}".encode()
    connection = HTTPSConnection("127.0.0.1", door.port, context=door.client_tls, timeout=20)
    headers = {} if authorization is None else {"Authorization": authorization}
    connection.request("POST", "/webhook", json.dumps(MESSAGE).encode(), headers)
    assert connection.getresponse().status == 401
    connection.close()
    assert door.hurried == 0
    assert door.counted == {"unauthorized": 1}


@pytest.mark.parametrize("scheme", ["Basic", "bearer", "Bearer  "])
def test_another_scheme_is_refused(door: Fixture, scheme: str) -> None:
    assert door.ask(body=MESSAGE, token=None, Authorization=f"{scheme} {TOKEN}")[0] == 401
    assert door.hurried == 0


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in MESSAGE.items() if name != key}


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"null", b"[]", b"\xff\xfe", b'{"version": "4"}', json.dumps([MESSAGE]).encode(),
        without("version"), without("alerts"), without("status"), without("receiver"),
        {**MESSAGE, "version": "3"}, {**MESSAGE, "alerts": []}, {**MESSAGE, "alerts": {}},
        {**MESSAGE, "alerts": [{**MESSAGE["alerts"][0], "startsAt": "yesterday"}]},
        {**MESSAGE, "alerts": [{**MESSAGE["alerts"][0], "labels": {"alertname": 7}}]},
        b"[" * 100_000,
    ],
)  # fmt: skip
def test_a_malformed_message_is_refused(door: Fixture, body: Any) -> None:
    status, says = door.ask(body=body)
    assert status == 400
    assert says.endswith(b"\n")
    assert door.hurried == 0
    assert door.counted == {"malformed": 1}


@pytest.mark.parametrize("name", ["GpuOnFire", "", "nodedown", "x" * 1000, "evil\n\x1b[31mline"])
def test_an_unknown_alert_is_refused_and_named(door: Fixture, name: str, caplog: pytest.LogCaptureFixture) -> None:
    alert = {**MESSAGE["alerts"][0], "labels": {"alertname": name}}
    with caplog.at_level(logging.WARNING):
        status, _ = door.ask(body={**MESSAGE, "alerts": [alert]})
    assert status == 422
    assert door.hurried == 0
    assert door.counted == {"unknown_alert": 1}
    (line,) = [record.getMessage() for record in caplog.records]
    assert name.split("\n")[0][:20] in line
    assert len(line) < 400
    assert line.isprintable()


def test_an_unknown_alert_beside_a_known_one_is_counted_and_does_not_hold_it_up(door: Fixture) -> None:
    unknown = {**MESSAGE["alerts"][0], "labels": {"alertname": "GpuOnFire"}}
    assert door.ask(body={**MESSAGE, "alerts": [unknown, *MESSAGE["alerts"]]})[0] == 200
    assert door.hurried == 1
    assert door.counted == {"accepted": 1, "unknown_alert": 1}


def test_lengths_are_checked_before_the_body_is_read(door: Fixture) -> None:
    for length, status in (("x", 411), ("-1", 411), ("99999999999", 413)):
        assert door.ask(body=b"", Content_Length=length)[0] == status
    assert door.counted == {"malformed": 2, "too_large": 1}
    assert door.hurried == 0


def test_other_paths_and_methods_do_nothing(door: Fixture) -> None:
    assert door.ask("POST", "/metrics", MESSAGE)[0] == 404
    assert door.ask("GET", "/webhook")[0] == 404
    assert door.ask("GET", "/../etc/shadow")[0] == 404
    assert door.ask("PUT", "/webhook", MESSAGE)[0] == 501
    assert door.hurried == 0


def test_metrics_and_health_need_no_token(door: Fixture) -> None:
    assert door.ask("GET", "/metrics", token=None) == (200, b"medllm_recovery_tick_timestamp_seconds 1\n")
    assert door.ask("GET", "/healthz", token=None)[0] == 200
    door.well = False
    assert door.ask("GET", "/healthz", token=None)[0] == 503


def test_ten_thousand_alerts_in_one_message_are_one_hint(door: Fixture) -> None:
    alerts = [{**MESSAGE["alerts"][0], "labels": {"alertname": "NodeDown", "instance": f"n{i}"}} for i in range(10_000)]
    begin = time.monotonic()
    assert door.ask(body={**MESSAGE, "alerts": alerts})[0] == 200
    assert time.monotonic() - begin < 5
    assert door.hurried == 1


def test_a_storm_of_webhooks_is_served_and_logged_in_a_few_lines(
    door: Fixture, caplog: pytest.LogCaptureFixture
) -> None:
    """What 10,000 cost is seen on 400: each is one thread and one handshake, and the engine only hears `hurry`."""
    with caplog.at_level(logging.WARNING), ThreadPoolExecutor(8) as pool:
        good = pool.map(lambda _: door.ask(body=MESSAGE)[0], range(200))
        bad = pool.map(lambda _: door.ask(body=MESSAGE, token="wrong")[0], range(200))
        assert set(good) == {200}
        assert set(bad) == {401}
    assert door.counted == {"accepted": 200, "unauthorized": 200}
    assert len(caplog.records) <= 3
    assert TOKEN not in caplog.text


def test_slow_clients_cost_nothing(door: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some say nothing, some shake hands and stop in the headers, one trickles its body: all places are taken."""
    monkeypatch.setattr(webhook, "PATIENCE_S", 0.3)
    slow: list[socket.socket] = [door.slow_client() for _ in range(webhook.CONNECTIONS - 2)]
    for head in (b"POST /webhook HT", b"POST /webhook HTTP/1.1\r\nContent-Length: 5000\r\n\r\n{"):
        client = door.client_tls.wrap_socket(door.slow_client(), server_hostname="127.0.0.1")
        client.sendall(head)
        slow.append(client)
    time.sleep(0.5)
    begin = time.monotonic()
    assert door.ask(body=MESSAGE)[0] == 200
    assert time.monotonic() - begin < 2
    for held in slow:
        held.close()


def test_a_slow_client_is_ended_at_its_deadline(door: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "CONNECTION_DEADLINE_S", 0.5)
    client = door.client_tls.wrap_socket(door.slow_client(), server_hostname="127.0.0.1")
    begin = time.monotonic()

    def trickle() -> None:
        while time.monotonic() - begin < 10:
            client.sendall(b"POST")
            time.sleep(0.1)

    with pytest.raises(OSError):  # noqa: PT011 - reset, end of file or broken pipe, as it happens
        trickle()
    assert time.monotonic() - begin < 5
    wait_for(lambda: door.counted["slow"] == 1)


def test_noise_that_is_no_tls_is_counted(door: Fixture) -> None:
    with door.slow_client() as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        client.recv(100)
    wait_for(lambda: door.counted["broken"] == 1)


@pytest.mark.parametrize("text", ["", "short", "with a blank in its middle", "naïve-token-naïve-token"])
def test_a_token_that_could_be_guessed_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "webhook.token").write_text(text)
    with pytest.raises(UserError, match=r"webhook\.token"):
        read_token(tmp_path / "webhook.token")


def test_missing_secrets_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Fix:"):
        read_token(tmp_path / "none")
    with pytest.raises(UserError, match="Fix:"):
        read_tls(tmp_path / "none.pem", tmp_path / "none.key")

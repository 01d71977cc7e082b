"""The HTTPS door: Alertmanager's webhook as a hint, metrics for Prometheus, a health answer.

A webhook never says what to do; it only makes the engine look at the alerts now. So whatever is refused, lost or sent
ten thousand times costs nothing: the engine would have looked a few seconds later anyway.
"""

from __future__ import annotations

import contextlib
import hmac
import logging
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from medllm.errors import user_error
from runbooks.engine.step_files import one_line

log = logging.getLogger("medllm.recover.webhook")

# Ten thousand alerts in one message are below this; more is nobody's alert.
BODY_LIMIT = 8 << 20
# From the connection's first byte to the answer's last, TLS included.
CONNECTION_DEADLINE_S = 10.0
CONNECTIONS = 32
# A connection older than this gives way to a new one when all places are taken.
PATIENCE_S = 2.0
# One line of the journal for each kind of refusal in so many seconds.
LOG_PERIOD_S = 10.0
TOKEN_MIN_LENGTH = 16


class _Alert(BaseModel):
    status: Literal["firing", "resolved"]
    labels: dict[str, str]
    startsAt: datetime  # noqa: N815 - Alertmanager's name


class Message(BaseModel):
    """Alertmanager's webhook message, version 4, as its documentation on `webhook_config` has it; fields that are not
    read here may come and go.
    """

    version: Literal["4"]
    status: Literal["firing", "resolved"]
    receiver: str
    alerts: Annotated[list[_Alert], Field(min_length=1)]

    @property
    def names(self) -> set[str]:
        """The alerts' names; "" for one without."""
        return {alert.labels.get("alertname", "") for alert in self.alerts}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request gets: a status, a word for the count of webhooks (none for the others), a body."""

    status: int
    result: str
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"


class Door(ThreadingHTTPServer):
    """The server. `hurry` must return at once; `count` gets one word a webhook or refused request.

    Every client has a place, a thread and a deadline of its own: a slow one delays nobody, TLS handshake included
    (a wrapped listening socket would shake hands in the one thread that accepts).
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    allow_reuse_address = True

    def __init__(
        self,
        address: tuple[str, int],
        tls: ssl.SSLContext,
        token: str,
        *,
        known_alerts: Collection[str],
        hurry: Callable[[], None],
        count: Callable[[str], None],
        metrics: Callable[[], bytes],
        healthy: Callable[[], bool],
    ) -> None:
        self.tls = tls
        self.bearer = f"Bearer {token}".encode()
        self.known_alerts = frozenset(known_alerts)
        self.hurry, self.count, self.metrics, self.healthy = hurry, count, metrics, healthy
        self._refusals = _Refusals()
        self._lock = threading.Lock()
        self._places: dict[int, _Place] = {}
        super().__init__(address, _Handler)

    def refuse(self, result: str, detail: str) -> None:
        """Count a refusal, and log it unless its kind was logged just now."""
        self.count(result)
        self._refusals.note(result, detail)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give the connection a place, one that was held for too long if need be."""
        now = time.monotonic()
        with self._lock:
            if len(self._places) >= CONNECTIONS:
                oldest = min(self._places.values(), key=lambda place: place.since)
                if now - oldest.since < PATIENCE_S:
                    self.refuse("busy", f"{CONNECTIONS} connections are open")
                    self.shutdown_request(request)
                    return
                self._end(oldest)
            place = _Place(request, now)
            self._places[id(place)] = place
        threading.Thread(target=self._serve, args=(place, client_address), daemon=True).start()

    def service_actions(self) -> None:
        """Called twice a second: end the connections that had their time."""
        with self._lock:
            late = time.monotonic() - CONNECTION_DEADLINE_S
            for place in [place for place in self._places.values() if place.since < late]:
                self._end(place)

    def _end(self, place: _Place) -> None:
        self._places.pop(id(place), None)
        with contextlib.suppress(OSError):
            socket.socket.shutdown(place.socket, socket.SHUT_RDWR)
        self.refuse("slow", "a client took too long")

    def _serve(self, place: _Place, client_address: Any) -> None:
        try:
            place.socket.settimeout(CONNECTION_DEADLINE_S)
            place.socket = self.tls.wrap_socket(place.socket, server_side=True, do_handshake_on_connect=False)
            place.socket.do_handshake()
            _Handler(place.socket, client_address, self)
        except (OSError, ValueError) as error:
            if id(place) in self._places:
                self.refuse("broken", f"{client_address[0]}: {one_line(str(error), 100)}")
        finally:
            with self._lock:
                self._places.pop(id(place), None)
            self.shutdown_request(place.socket)

    def webhook(self, body: bytes) -> Answer:
        """Judge a webhook whose sender is known."""
        try:
            message = Message.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "message"
            return Answer(400, "malformed", f"{place}: {first['msg']}\n".encode())
        unknown = sorted(message.names - self.known_alerts)
        named = ", ".join(repr(one_line(name, 60)) for name in unknown[:3])
        if len(unknown) == len(message.names):
            return Answer(422, "unknown_alert", f"no page of the runbooks has {named}\n".encode())
        if unknown:
            self.refuse("unknown_alert", f"no page of the runbooks has {named}; {len(message.names)} alerts came")
        self.hurry()
        return Answer(200, "accepted", b"ok\n")


class _Place:
    """A client's connection; its socket is replaced by the one that speaks TLS."""

    def __init__(self, connection: Any, since: float) -> None:
        self.socket = connection
        self.since = since


class _Handler(BaseHTTPRequestHandler):
    """One request, one connection (HTTP/1.0). Who it is comes first, what it says only then."""

    server: Door
    server_version = "medllm-recover"
    sys_version = ""

    def do_POST(self) -> None:
        if self.path != "/webhook":
            return self._answer(Answer(404, "not_found"))
        authorised = hmac.compare_digest(
            self.headers.get("Authorization", "").encode("utf-8", "surrogateescape"), self.server.bearer
        )
        length = self.headers.get("Content-Length", "")
        if not authorised:
            # Read a little, or the close would take the answer with it.
            if re.fullmatch(r"\d{1,5}", length):
                self.rfile.read(int(length))
            return self._answer(Answer(401, "unauthorized", b"wrong token\n"))
        if not re.fullmatch(r"\d{1,12}", length):
            return self._answer(Answer(411, "malformed", b"Content-Length: not a number\n"))
        if int(length) > BODY_LIMIT:
            return self._answer(Answer(413, "too_large", f"more than {BODY_LIMIT} bytes\n".encode()))
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            return self._answer(Answer(400, "malformed", b"the body ended early\n"))
        return self._answer(self.server.webhook(body))

    def do_GET(self) -> None:
        if self.path == "/metrics":
            text = "text/plain; version=0.0.4; charset=utf-8"
            return self._answer(Answer(200, "", self.server.metrics(), text))
        if self.path == "/healthz":
            good = self.server.healthy()
            return self._answer(Answer(200 if good else 503, "", b"ok\n" if good else b"the engine does not tick\n"))
        return self._answer(Answer(404, "not_found"))

    def _answer(self, answer: Answer) -> None:
        if answer.status >= 400 and answer.result:
            detail = one_line(answer.body.decode("utf-8", "replace"), 200)
            self.server.refuse(answer.result, f"{self.client_address[0]}: {answer.status} {detail}")
        elif answer.result:
            self.server.count(answer.result)
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What http.server itself refuses: an unknown method, an overlong line. No page, and nothing echoed."""
        self.server.refuse("malformed", f"{self.client_address[0]}: {code} {one_line(message or '', 100)}")
        self.send_response(code)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name that http.server has
        """Nothing: a line a request would fill the journal."""


class _Refusals:
    """The journal's lines on refusals: one a kind and period, with the number of those not told."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told: dict[str, float] = {}
        self._untold: dict[str, int] = {}

    def note(self, kind: str, detail: str) -> None:
        with self._lock:
            now = time.monotonic()
            if now - self._told.get(kind, -LOG_PERIOD_S) < LOG_PERIOD_S:
                self._untold[kind] = self._untold.get(kind, 0) + 1
                return
            self._told[kind] = now
            more = self._untold.pop(kind, 0)
        log.warning("refused (%s): %s%s", kind, detail, f"; {more} more before" if more else "")


def read_token(path: Path) -> str:
    """The webhook's token. Raises UserError: no such file, or a token that could be guessed."""
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise user_error(
            f"the webhook's token can't be read ({error})", "run playbooks/recovery.yml", file=path
        ) from None
    if len(token) < TOKEN_MIN_LENGTH or not token.isprintable() or " " in token:
        rule = f"the webhook's token has fewer than {TOKEN_MIN_LENGTH} characters, or blanks in it"
        raise user_error(rule, "run playbooks/recovery.yml", file=path)
    return token


def read_tls(certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.2 or later with the site's certificate. Raises UserError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        rule = f"the certificate and its key {key.name} can't be used ({error})"
        raise user_error(rule, "run playbooks/recovery.yml", file=certificate) from None
    return context

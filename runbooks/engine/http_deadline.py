"""Requests that end at their deadline, whatever the server does.

The timeouts of `requests` begin anew with every byte, so a server that trickles holds its client for ever.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool


class DeadlineAdapter(HTTPAdapter):
    """To be mounted on a session that one thread uses."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        super().__init__(max_retries=0)

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        """See HTTPAdapter: pools whose connections tell their sockets."""
        super().init_poolmanager(*arguments, **options)
        keep = self._keep

        class Plain(HTTPConnection):
            def _new_conn(self) -> socket.socket:
                return keep(super()._new_conn())

        class Secure(HTTPSConnection):
            def _new_conn(self) -> socket.socket:
                return keep(super()._new_conn())

        plain = type("PlainPool", (HTTPConnectionPool,), {"ConnectionCls": Plain})
        secure = type("SecurePool", (HTTPSConnectionPool,), {"ConnectionCls": Secure})
        self.poolmanager.pool_classes_by_scheme = {"http": plain, "https": secure}

    @contextlib.contextmanager
    def deadline(self, seconds: float) -> Iterator[None]:
        """What is asked inside ends after so many seconds; the request then fails with the library's own exceptions."""
        timer = threading.Timer(seconds, self._end)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            with self._lock:
                # The pool may keep its connection; the next request begins with a new one.
                self.poolmanager.clear()
                while self._sockets:
                    self._sockets.pop().close()

    def _keep(self, connection: socket.socket) -> socket.socket:
        # A duplicate reaches the connection also after TLS has taken the first one over.
        with self._lock:
            self._sockets.append(connection.dup())
        return connection

    def _end(self) -> None:
        with self._lock:
            for one in self._sockets:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

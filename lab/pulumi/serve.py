"""How the engine starts, finds and ends a plugin: a port on stdout, a pipe on stdin, signals."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc

# As in the SDK: a state may be large.
MESSAGE_BYTES = 400 * 1024 * 1024
# Calls that wait for a resource hold a thread each; the engine's own limit is the number of parallel steps.
THREADS = 128
OPTIONS = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    # A call that finds all threads busy waits for one, as it would in the genuine plugin.
    ("grpc.server_max_unrequested_time_in_server", 1800),
]


def new_server() -> grpc.Server:
    """A server with the engine's limits, not started."""
    return grpc.server(ThreadPoolExecutor(THREADS), options=OPTIONS)


def serve(server: grpc.Server, stop: Callable[[], None]) -> None:
    """Serve on a free port of the loopback, print the port, and end with the engine.

    `stop` ends what the plugin started. The process exits without clean-up when it gets SIGINT or SIGTERM and when
    stdin ends: threads in a call would hold a normal exit back, and an engine that was killed sends nothing else.
    """

    def end(*_: object) -> None:
        stop()
        os._exit(0)

    signal.signal(signal.SIGINT, end)
    signal.signal(signal.SIGTERM, end)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    threading.Thread(target=_end_with_stdin, args=(end,), daemon=True).start()
    # In slices, so that the main thread runs the signal handlers.
    while server.wait_for_termination(timeout=0.5):
        pass


def _end_with_stdin(end: Callable[[], None]) -> None:
    while os.read(0, 4096):
        pass
    end()

"""The engine's loop: observe, diagnose, tick, for ever. Whatever ends it, the next one goes on from the store.

It is built to be killed: nothing lives here alone. An error that nobody foresaw ends it too, loudly, and systemd
starts it anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import select
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from medllm.errors import user_error
from runbooks.engine.engine import Engine
from runbooks.engine.metrics import Metrics, Tally, tally
from runbooks.engine.model import Event, Finding, Incident, State, Step, World
from runbooks.engine.step_files import one_line
from runbooks.engine.store import Store

log = logging.getLogger("medllm.recover")

TICK_S = 2.0
# While a step is under way its end is seen sooner, and so is what a webhook hurried.
BUSY_TICK_S = 0.5
HURRIED_S = 3.0
# Without a tick for so long the engine is not well.
HEALTHY_S = 30.0


class Source(Protocol):
    """What is asked of an observer."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def hurry(self) -> None: ...
    def world(self) -> World: ...
    def ages(self) -> dict[str, float]: ...


class JournalStore(Store):
    """A store that tells the journal what it has committed, and counts it when it changed."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._counted: Tally | None = None

    def save(self, incident: Incident, steps: Sequence[Step] = (), events: Sequence[Event] = ()) -> None:
        super().save(incident, steps, events)
        self._counted = None
        for event in events:
            place = incident.node or incident.run
            log.info("%s %s %s: %s: %s", incident.id, incident.fault_class, place, event.kind, one_line(event.text))

    def counts(self) -> Tally:
        """All incidents and steps, counted."""
        if self._counted is None:
            incidents = self.incidents()
            self._counted = tally(incidents, (step for incident in incidents for step in self.steps(incident.id)))
        return self._counted


class Loop:
    """The engine's one thread of decisions."""

    def __init__(
        self,
        engine: Engine,
        store: JournalStore,
        observer: Source,
        find: Callable[[World], list[Finding]],
        metrics: Metrics,
    ) -> None:
        self._engine, self._store, self._observer, self._find, self._metrics = engine, store, observer, find, metrics
        # A pipe, because a signal handler and other threads may write to it at any time.
        self._ear, self._mouth = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._stopped = False
        self._hurried_until = 0.0
        self._ticked_at = time.monotonic()

    def hurry(self) -> None:
        """Look at the alerts now. Returns at once, however often it is called."""
        self._observer.hurry()
        self._hurried_until = time.monotonic() + HURRIED_S
        self._wake()

    def stop(self) -> None:
        """End after the tick that is under way. May be called in a signal handler."""
        self._stopped = True
        self._wake()

    def healthy(self) -> bool:
        """Whether it went round lately."""
        return time.monotonic() - self._ticked_at < HEALTHY_S

    def run(self) -> None:
        """Tick until stopped."""
        self._observer.start()
        try:
            while not self._stopped:
                busy = self._tick()
                notify("READY=1\nWATCHDOG=1")
                # A storm of hurries must not make a busy loop.
                self._wait(BUSY_TICK_S / 2, wakes=False)
                soon = busy or time.monotonic() < self._hurried_until
                self._wait((BUSY_TICK_S if soon else TICK_S) - BUSY_TICK_S / 2)
        finally:
            notify("STOPPING=1")
            self._observer.stop()

    def _tick(self) -> bool:
        """One round; True while some incident's step is under way."""
        world = self._observer.world()
        self._engine.tick(world, self._find(world))
        self._metrics.ticked(datetime.now(UTC), self._observer.ages(), self._store.counts())
        self._ticked_at = time.monotonic()
        return any(
            incident.state in (State.ACTING, State.REVALIDATING) for incident in self._store.incidents(open_only=True)
        )

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._mouth, b"\0")

    def _wait(self, seconds: float, *, wakes: bool = True) -> None:
        end = time.monotonic() + seconds
        while not self._stopped and (left := end - time.monotonic()) > 0:
            heard, _, _ = select.select([self._ear], [], [], left)
            if heard:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._ear, 65536)
                if wakes:
                    return


def notify(text: str) -> None:
    """Tell systemd, as sd_notify(3) describes: a datagram to $NOTIFY_SOCKET, where `@` stands for an abstract name."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stream:
        stream.settimeout(1)
        stream.connect(address)
        stream.sendall(text.encode())


@contextlib.contextmanager
def only_one(state: Path) -> Iterator[None]:
    """Hold the state directory: the kernel lets it go with the process, however that ends.

    Raises:
        UserError: another engine holds it, or it can't be written.
    """
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(state / "engine.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise user_error(f"it can't be written ({error.strerror})", "name another with --state", file=state) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            rule = "another engine runs on this state directory"
            raise user_error(rule, "end it first: systemctl stop medllm-recover", file=state) from None
        yield
    finally:
        os.close(handle)

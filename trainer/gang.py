"""The pods of a run: they meet, start their ranks together, and learn at once how the others ended.

The first pod listens where its name leads; each other keeps a connection to it while its ranks run. So a pod that
starts too early waits for the rest, ranks of two attempts never mix (each has a port of its own, known only to those
that met), and when one pod's ranks end, a node dies or hangs, all know it within `LOST_S` seconds, where a collective
would wait for its own, much longer timeout. torchrun does this too, but it turns every status into 1, leaves ranks 30 s
for their checkpoint after SIGTERM, and loads torch in each pod beside the ranks.

Lines of ASCII words: `join INDEX DIGEST`, `go PORT`, `ended STATUS`, `alive`.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from trainer.request import REFUSED, STOPPED

BROKE = 1
# A hung machine still acknowledges packets: only words count as a sign of life.
LOST_S = 30.0
_BEAT_S = 3.0
# The first pod to end may be a victim of another whose own word is still on its way.
_SETTLE_S = 2.5
_CONNECT_S, _RETRY_S = 3.0, 1.0
_LONGEST_LINE = 256


class LostError(Exception):
    """The other side is gone; says how."""


@dataclass(frozen=True, slots=True)
class Meeting:
    """Where the ranks of this attempt open their process group: the address as this pod reaches it."""

    address: str
    port: int


class Gang(Protocol):
    """One pod's place in one attempt. To be asked every few tenths of a second."""

    def meet(self, ready: Callable[[], bool]) -> Meeting | None:
        """The meeting, once all pods are there and the first one finds the run `ready`."""

    def report(self, status: int) -> None:
        """Tell the others how this pod's ranks ended: 0, or the first bad exit status."""

    def verdict(self) -> int | None:
        """How the attempt ended for all, once that is known: 0, `REFUSED`, `STOPPED` or another bad status."""

    def waits_for(self) -> str:
        """Who is missing, for the log."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class _Link:
    """A connection with lines of words."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = connection
        self._read = b""
        self._over = ""
        self._heard = self._spoke = time.monotonic()

    def words(self) -> list[list[str]]:
        """The lines that have come since; says `alive` when it is time.

        Raises:
            LostError: nobody is there any more, and all that was said before has been returned.
        """
        if time.monotonic() - self._spoke > _BEAT_S:
            self.say("alive")
        try:
            while not self._over and len(self._read) < 16 * _LONGEST_LINE:
                part = self._connection.recv(4096)
                self._heard = time.monotonic()
                self._read += part
                self._over = "" if part else "it closed the connection"
        except BlockingIOError:
            pass
        except OSError as error:
            self._over = error.strerror or str(error)
        *lines, self._read = self._read.split(b"\n")
        if lines:
            return [line.decode("ascii", "replace").split() for line in lines]
        if len(self._read) > _LONGEST_LINE:
            self._over = "what it says is no word of ours"
        if time.monotonic() - self._heard > LOST_S:
            self._over = f"not a word for {LOST_S:.0f} s"
        if self._over:
            raise LostError(self._over)
        return []

    def say(self, *words: object) -> None:
        """A line. One that can't be sent is dropped: the silence, or the next read, tells the rest."""
        self._spoke = time.monotonic()
        with contextlib.suppress(OSError):
            self._connection.send(" ".join(map(str, words)).encode("ascii") + b"\n")

    def close(self, *, linger_until: float = 0.0) -> None:
        """End it. Unread words would make the system throw away what was said last, so the other side gets until then
        (of the monotonic clock) to hang up first."""
        with self._connection, contextlib.suppress(OSError):
            if linger_until:
                self._connection.shutdown(socket.SHUT_WR)
            while (left := linger_until - time.monotonic()) > 0:
                self._connection.settimeout(left)
                if not self._connection.recv(4096):
                    break


class Leader:
    """The pod with index 0. `digest` names what is trained: a pod with another order does not join."""

    def __init__(self, port: int, size: int, digest: str) -> None:
        self._port, self._size, self._digest = port, size, digest
        self._listener: socket.socket | None = None
        self._guests: list[_Link] = []
        self._members: dict[int, _Link] = {}
        self._met: Meeting | None = None
        self._reports: dict[int, int] = {}
        self._first_report = 0.0
        self._trouble = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._listener:
            self._listener.close()
        for link in self._guests:
            link.close()
        end = time.monotonic() + _SETTLE_S if self._met else 0.0
        for link in self._members.values():
            link.close(linger_until=end)

    def meet(self, ready: Callable[[], bool]) -> Meeting | None:
        """See `Gang`."""
        if self._met:
            return self._met
        self._listen()
        self._welcome()
        for index, link in list(self._members.items()):
            try:
                link.words()
            except LostError:
                link.close()
                del self._members[index]
        if len(self._members) < self._size - 1 or not ready():
            return None
        with socket.socket() as probe:
            probe.bind(("", 0))
            self._met = Meeting("127.0.0.1", probe.getsockname()[1])
        for link in self._members.values():
            link.say("go", self._met.port)
        # Whoever comes now belongs to the next attempt.
        if self._listener:
            self._listener.close()
            self._listener = None
        return self._met

    def waits_for(self) -> str:
        """See `Gang`."""
        missing = [str(index) for index in range(1, self._size) if index not in self._members]
        return self._trouble or (f"index {', '.join(missing)}" if missing else "the run to be free")

    def report(self, status: int) -> None:
        """See `Gang`."""
        self._note(0, status)

    def verdict(self) -> int | None:
        """See `Gang`."""
        for index, link in list(self._members.items()):
            try:
                for words in link.words():
                    match words:
                        case ["ended", status] if status.isdecimal():
                            self._note(index, int(status))
            except LostError as error:
                if index not in self._reports:
                    print(f"index {index} is lost: {error}", flush=True)
                    self._note(index, BROKE)
        whole = len(self._reports) == self._size
        if not self._reports or not (whole or time.monotonic() - self._first_report > _SETTLE_S):
            return None
        verdict = verdict_of(list(self._reports.values()))
        for link in self._members.values():
            link.say("ended", verdict)
        return verdict

    def _note(self, index: int, status: int) -> None:
        self._first_report = self._first_report or time.monotonic()
        self._reports.setdefault(index, status)

    def _listen(self) -> None:
        if self._listener or self._size == 1:
            return
        dual = socket.has_dualstack_ipv6()
        try:
            self._listener = socket.create_server(
                ("", self._port), family=socket.AF_INET6 if dual else socket.AF_INET, dualstack_ipv6=dual, backlog=1024
            )
        except OSError as error:
            # An earlier pod that shares this one's network may take a moment to leave it.
            self._trouble = f"port {self._port} ({error.strerror})"
            return
        self._trouble = ""
        self._listener.setblocking(False)

    def _welcome(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._listener:
                connection, _ = self._listener.accept()
                self._guests.append(_Link(connection))
        for link in list(self._guests):
            try:
                lines = link.words()
            except LostError:
                lines = [["leave"]]
            if not lines:
                continue
            self._guests.remove(link)
            match lines[0]:
                case ["join", index, self._digest] if index.isdecimal() and 0 < int(index) < self._size:
                    # The newest pod of an index is the one that lives: the Job replaces none that still runs.
                    if older := self._members.pop(int(index), None):
                        older.close()
                    self._members[int(index)] = link
                case ["join", index, _]:
                    print(f"index {index[:8]} does not belong to this run as it is ordered here", flush=True)
                    link.close()
                case _:
                    link.close()


class Member:
    """A pod with another index. `host` is the first pod's name; what it leads to may change while this one waits."""

    def __init__(self, host: str, port: int, index: int, digest: str) -> None:
        self._host, self._port, self._index, self._digest = host, port, index, digest
        self._link: _Link | None = None
        self._address = ""
        self._tried = 0.0
        self._trouble = "not tried yet"
        self._met: Meeting | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._link:
            self._link.close()

    def meet(self, ready: Callable[[], bool]) -> Meeting | None:
        """See `Gang`. A first pod that leaves before all were there is looked for again."""
        if self._met:
            return self._met
        if self._link is None and not self._connect():
            return None
        assert self._link
        try:
            for words in self._link.words():
                match words:
                    case ["go", port] if port.isdecimal():
                        self._met = Meeting(self._address, int(port))
        except LostError as error:
            self._link.close()
            self._link, self._trouble = None, str(error)
        return self._met

    def waits_for(self) -> str:
        """See `Gang`."""
        return "the other pods" if self._link else f"index 0 at {self._host}:{self._port} ({self._trouble})"

    def report(self, status: int) -> None:
        """See `Gang`."""
        if self._link:
            self._link.say("ended", status)

    def verdict(self) -> int | None:
        """See `Gang`."""
        assert self._link
        try:
            for words in self._link.words():
                match words:
                    case ["ended", status] if status.isdecimal():
                        self._link.close()
                        return int(status)
        except LostError as error:
            print(f"index 0 is lost: {error}", flush=True)
            return BROKE
        return None

    def _connect(self) -> bool:
        if time.monotonic() - self._tried < _RETRY_S:
            return False
        self._tried = time.monotonic()
        try:
            connection = socket.create_connection((self._host, self._port), timeout=_CONNECT_S)
        except OSError as error:
            self._trouble = error.strerror or str(error)
            return False
        self._address = connection.getpeername()[0]
        self._link = _Link(connection)
        self._link.say("join", self._index, self._digest)
        return True


def verdict_of(statuses: list[int]) -> int:
    """One status for all pods, from theirs in the order in which they became known.

    Refused input outweighs the rest, since it will be refused again; then a stop that was asked for, after which the
    others' ranks may have ended badly for want of a peer.
    """
    for weighty in (REFUSED, STOPPED):
        if weighty in statuses:
            return weighty
    return next((status for status in statuses if status), 0)

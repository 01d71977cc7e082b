"""How the pods of a run meet, and how each learns of the others' end: leader and members over the loopback."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress

import pytest

from trainer import gang
from trainer.gang import Gang, Leader, Meeting, Member, verdict_of

DIGEST = "d" * 64


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def places() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gang, "_RETRY_S", 0.01)
    monkeypatch.setattr(gang, "_SETTLE_S", 0.3)


def until(come: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not come():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


def meetings(pods: Sequence[Gang], ready: Callable[[], bool] = lambda: True) -> list[Meeting | None]:
    return [pod.meet(ready) for pod in pods]


def meet(pods: Sequence[Gang]) -> list[Meeting]:
    until(lambda: None not in meetings(pods))
    return [meeting for meeting in meetings(pods) if meeting]


def start(places: ExitStack, port: int, size: int) -> tuple[Leader, list[Member]]:
    """A gang of that size that has met."""
    leader = places.enter_context(Leader(port, size, DIGEST))
    members = [places.enter_context(Member("localhost", port, index, DIGEST)) for index in range(1, size)]
    meet([leader, *members])
    return leader, members


def verdicts(pods: Sequence[Gang]) -> list[int]:
    known: dict[int, int] = {}

    def all_known() -> bool:
        for number, pod in enumerate(pods):
            if number not in known and (verdict := pod.verdict()) is not None:
                known[number] = verdict
        return len(known) == len(pods)

    until(all_known)
    return [known[number] for number in range(len(pods))]


def joined(leader: Leader, members: Sequence[Gang], missing: str) -> None:
    """Let them speak until the leader waits for `missing` alone."""
    until(lambda: not any(meetings([leader, *members])) and leader.waits_for() == missing)


def test_nobody_starts_before_all_are_there_and_then_all_know_one_place(places: ExitStack, port: int) -> None:
    leader = places.enter_context(Leader(port, 3, DIGEST))
    first = places.enter_context(Member("localhost", port, 1, DIGEST))
    for _ in range(20):
        assert meetings([leader, first]) == [None, None]
        time.sleep(0.01)
    assert leader.waits_for() == "index 2"
    second = places.enter_context(Member("localhost", port, 2, DIGEST))
    found = meet([leader, first, second])
    assert len({meeting.port for meeting in found}) == 1
    assert found[1].address == found[2].address
    assert found[0].port != port, "a port of this attempt alone"


def test_a_pod_alone_meets_at_once(places: ExitStack, port: int) -> None:
    assert places.enter_context(Leader(port, 1, DIGEST)).meet(lambda: True)


def test_all_wait_while_somebody_else_writes_the_run(places: ExitStack, port: int) -> None:
    leader = places.enter_context(Leader(port, 2, DIGEST))
    member = places.enter_context(Member("localhost", port, 1, DIGEST))
    until(lambda: meetings([leader, member], lambda: False) == [None, None] and "to be free" in leader.waits_for())
    meet([leader, member])


def test_members_find_a_first_pod_that_comes_later_or_elsewhere(
    places: ExitStack, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = ["127.0.0.1"]
    resolve = socket.getaddrinfo

    def lookup(host: str, *rest: int) -> object:
        if host != "run-0.run.training.svc":
            return resolve(host, *rest)
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return resolve(addresses[0], *rest)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    member = places.enter_context(Member("run-0.run.training.svc", port, 1, DIGEST))
    assert member.meet(lambda: True) is None
    assert "Connection refused" in member.waits_for()
    addresses.clear()
    time.sleep(0.02)
    assert member.meet(lambda: True) is None
    assert "Name or service not known" in member.waits_for()
    with Leader(port, 3, DIGEST) as gone:
        addresses.append("127.0.0.1")
        joined(gone, [member], "index 2")
    addresses[0] = "127.0.0.2"
    new = places.enter_context(Leader(port, 2, DIGEST))
    assert meet([new, member])[1].address.endswith("127.0.0.2")


def test_the_newest_pod_of_an_index_takes_its_place(places: ExitStack, port: int) -> None:
    leader = places.enter_context(Leader(port, 3, DIGEST))
    # Its node was cut off: no end of its connection ever arrives.
    old = places.enter_context(Member("localhost", port, 1, DIGEST))
    joined(leader, [old], "index 2")
    new, other = (places.enter_context(Member("localhost", port, index, DIGEST)) for index in (1, 2))
    meet([leader, new, other])
    assert old.meet(lambda: True) is None


def test_a_pod_that_leaves_while_waiting_is_not_counted(places: ExitStack, port: int) -> None:
    leader = places.enter_context(Leader(port, 3, DIGEST))
    with Member("localhost", port, 1, DIGEST) as leaving:
        joined(leader, [leaving], "index 2")
    joined(leader, [], "index 1, 2")


@pytest.mark.parametrize(("index", "digest"), [(1, "e" * 64), (0, DIGEST), (2, DIGEST), (10**30, DIGEST)])
def test_a_pod_of_another_order_does_not_join(
    places: ExitStack, port: int, index: int, digest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    leader = places.enter_context(Leader(port, 2, DIGEST))
    stranger = places.enter_context(Member("localhost", port, index, digest))
    for _ in range(30):
        assert meetings([leader, stranger]) == [None, None]
        time.sleep(0.01)
    assert "does not belong to this run" in capsys.readouterr().out
    meet([leader, places.enter_context(Member("localhost", port, 1, DIGEST))])


@pytest.mark.parametrize(
    "words", [b"", b"GET / HTTP/1.1\r\n\r\n", b"join\n", b"join x y\n", b"\0" * 100_000, b"\xff\n"]
)
def test_noise_is_hung_up_on_and_disturbs_nobody(places: ExitStack, port: int, words: bytes) -> None:
    leader = places.enter_context(Leader(port, 2, DIGEST))
    leader.meet(lambda: True)
    with socket.create_connection(("localhost", port), timeout=10) as noise:
        noise.setblocking(False)
        if words:
            assert noise.send(words)
        for _ in range(30):
            assert leader.meet(lambda: True) is None
            time.sleep(0.01)
        if words:
            noise.setblocking(True)
            noise.settimeout(10)
            with suppress(ConnectionResetError):
                assert noise.recv(1) == b""
        meet([leader, places.enter_context(Member("localhost", port, 1, DIGEST))])


def test_the_port_is_taken_as_soon_as_it_is_free(places: ExitStack, port: int) -> None:
    leader = places.enter_context(Leader(port, 2, DIGEST))
    member = places.enter_context(Member("localhost", port, 1, DIGEST))
    with socket.create_server(("", port)):
        assert meetings([leader, member]) == [None, None]
        assert leader.waits_for().startswith(f"port {port} (Address already in use")
    meet([leader, member])


def test_who_comes_to_an_attempt_that_runs_waits_for_the_next(places: ExitStack, port: int) -> None:
    leader, members = start(places, port, 2)
    late = places.enter_context(Member("localhost", port, 1, DIGEST))
    for _ in range(20):
        assert late.meet(lambda: True) is None
        assert leader.verdict() is None
        time.sleep(0.01)
    assert "Connection refused" in late.waits_for()
    members[0].report(1)
    assert verdicts([leader, *members]) == [1, 1]
    new = places.enter_context(Leader(port, 2, DIGEST))
    meet([new, late])


@pytest.mark.parametrize(
    ("statuses", "verdict"),
    [
        ([0, 0, 0], 0),
        ([0, 137, 0], 137),
        ([1, 137, 1], 1),
        ([1, 1, 2], 2),
        ([1, 143, 1], 143),
        ([143, 2, 1], 2),
        ([143, 143, 143], 143),
    ],
)
def test_one_status_stands_for_all(places: ExitStack, port: int, statuses: list[int], verdict: int) -> None:
    leader, members = start(places, port, 3)
    for pod, status in zip([leader, *members], statuses, strict=True):
        pod.report(status)
    assert verdicts([leader, *members]) == [verdict] * 3
    assert verdict_of(statuses) == verdict


@pytest.mark.parametrize("who", [0, 1])
def test_one_pods_end_is_told_to_those_whose_ranks_run(places: ExitStack, port: int, who: int) -> None:
    leader, members = start(places, port, 3)
    [leader, *members][who].report(139)
    assert verdicts([leader, *members]) == [139] * 3


def test_a_member_that_vanishes_ends_the_attempt(
    places: ExitStack, port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    leader, [gone, other] = start(places, port, 3)
    gone.__exit__(None, None, None)
    assert verdicts([leader, other]) == [1, 1]
    assert "index 1 is lost: it closed the connection" in capsys.readouterr().out


def test_a_first_pod_that_vanishes_ends_the_attempt(places: ExitStack, port: int) -> None:
    leader, members = start(places, port, 3)
    for link in leader._members.values():
        link.close()
    assert verdicts(members) == [1, 1]


@pytest.mark.parametrize("frozen", [0, 1])
def test_a_pod_that_hangs_is_lost_although_its_system_answers(
    places: ExitStack, port: int, frozen: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    leader, members = start(places, port, 2)
    monkeypatch.setattr(gang, "_BEAT_S", 0.1)
    monkeypatch.setattr(gang, "LOST_S", 1.0)
    pods = [leader, *members]
    end = time.monotonic() + 2
    while time.monotonic() < end:
        assert [pod.verdict() for pod in pods] == [None, None], "beats keep them together"
        time.sleep(0.02)
    del pods[frozen]
    assert verdicts(pods) == [1]
    assert "not a word for 1 s" in capsys.readouterr().out


def test_those_who_are_done_may_leave_before_the_others(places: ExitStack, port: int) -> None:
    leader, [first, second] = start(places, port, 3)
    first.report(0)
    first.__exit__(None, None, None)
    second.report(0)
    leader.report(0)
    assert verdicts([leader, second]) == [0, 0]

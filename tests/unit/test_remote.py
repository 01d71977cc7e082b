"""Every call on another machine ends at its deadline; commands, streams and files cross unaltered.

The server is paramiko's own, running commands of this machine: the same protocol, no account needed.
"""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest

from medllm.checks.base import Probe
from medllm.checks.batch import parse_frames, run_probes, script
from medllm.remote import Remote, RemoteError, each, run_many
from medllm.site.model import Host
from tests.unit.acceptance_inputs import NOW


class Server(paramiko.ServerInterface):
    """Takes one key and runs what it is told."""

    def __init__(self, key: paramiko.PKey) -> None:
        self.key = key

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return paramiko.AUTH_SUCCESSFUL if key == self.key else paramiko.AUTH_FAILED

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        threading.Thread(target=self.execute, args=(channel, command.decode()), daemon=True).start()
        return True

    def execute(self, channel: paramiko.Channel, command: str) -> None:
        process = subprocess.Popen(
            ["sh", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        )
        assert process.stdin
        assert process.stdout
        assert process.stderr

        def pump(source: object, send: object) -> None:
            while chunk := source.read(65536):  # type: ignore[attr-defined]
                send(chunk)  # type: ignore[operator]

        def feed() -> None:
            try:
                while chunk := channel.recv(65536):
                    process.stdin.write(chunk)  # type: ignore[union-attr]
                process.stdin.close()  # type: ignore[union-attr]
            except OSError:
                pass

        threads = [
            threading.Thread(target=pump, args=(process.stdout, channel.sendall), daemon=True),
            threading.Thread(target=pump, args=(process.stderr, channel.sendall_stderr), daemon=True),
        ]
        threading.Thread(target=feed, daemon=True).start()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        try:
            channel.send_exit_status(process.wait())
            channel.close()
        except OSError:
            pass


class Machine:
    """A listening socket, an SSH server behind it, and the Host that leads there."""

    def __init__(self, folder: Path, *, speaks: bool = True) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.host_key = paramiko.RSAKey.generate(2048)
        user_key = paramiko.RSAKey.generate(2048)
        user_key.write_private_key_file(str(folder / "key"))
        port = self.listener.getsockname()[1]
        known = folder / "known_hosts"
        known.write_text(f"[127.0.0.1]:{port} {self.host_key.get_name()} {self.host_key.get_base64()}\n")
        self.user_key = user_key
        self.host = Host(
            name="machine",
            address="127.0.0.1",
            port=port,
            user="ops",
            groups=("mgmt",),
            private_key_file=str(folder / "key"),
            known_hosts_file=str(known),
        )
        self.open: list[object] = []
        threading.Thread(target=self.serve, args=(speaks,), daemon=True).start()

    def serve(self, speaks: bool) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.open.append(connection)
            if speaks:
                transport = paramiko.Transport(connection)
                transport.add_server_key(self.host_key)
                transport.start_server(event=threading.Event(), server=Server(self.user_key))
                self.open.append(transport)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    running = Machine(tmp_path_factory.mktemp("machine"))
    yield running
    running.listener.close()


@pytest.fixture(scope="module")
def hung(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """As a paused container: the kernel takes the connection, nobody ever speaks."""
    running = Machine(tmp_path_factory.mktemp("hung"), speaks=False)
    yield running
    running.listener.close()


def test_streams_status_and_input(machine: Machine) -> None:
    with Remote(machine.host) as remote:
        result = remote.run("cat; echo err >&2; exit 3", deadline_s=10, stdin="täxt\n")
        assert (result.rc, result.stdout, result.stderr, result.error) == (3, "täxt\n", "err\n", None)
        assert not result.ok
        with pytest.raises(RemoteError, match=r"machine: exit status 3: cat.*: err"):
            result.check()
        again = remote.run("echo second", deadline_s=10).check()
        assert again.stdout == "second\n"
        assert 0 < again.duration_s < 5


def test_large_output_on_both_streams_does_not_block(machine: Machine) -> None:
    with Remote(machine.host) as remote:
        result = remote.run(
            "head -c 3000000 /dev/zero | tr '\\0' a; head -c 3000000 /dev/zero | tr '\\0' b >&2", deadline_s=20
        )
    assert (len(result.stdout), len(result.stderr), result.rc) == (3000000, 3000000, 0)


def test_a_slow_command_ends_at_its_deadline(machine: Machine) -> None:
    begin = time.monotonic()
    with Remote(machine.host) as remote:
        result = remote.run("echo partly; sleep 60", deadline_s=1)
        assert time.monotonic() - begin < 3
        assert (result.rc, result.stdout, result.error) == (None, "partly\n", "timed out after 1 s")
        assert remote.run("echo again", deadline_s=10).stdout == "again\n"


def test_a_hung_host_ends_at_the_deadline(hung: Machine) -> None:
    begin = time.monotonic()
    with Remote(hung.host) as remote:
        result = remote.run("true", deadline_s=1.5)
    assert time.monotonic() - begin < 4
    assert result.rc is None
    assert "says nothing" in str(result.error) or "timed out" in str(result.error)


def test_a_hung_host_does_not_delay_the_others(machine: Machine, hung: Machine) -> None:
    hosts = [
        machine.host,
        hung.host.model_copy(update={"name": "hung"}),
        machine.host.model_copy(update={"name": "third"}),
    ]
    begin = time.monotonic()
    results = run_many(hosts, "echo here", deadline_s=2)
    assert time.monotonic() - begin < 5
    assert [results[name].stdout for name in ("machine", "hung", "third")] == ["here\n", "", "here\n"]
    assert results["hung"].error


def test_a_dead_port_and_an_unknown_key_are_told(machine: Machine, hung: Machine, tmp_path: Path) -> None:
    closed = machine.host.model_copy(update={"port": 1})
    assert "unreachable" in str(Remote(closed).run("true", deadline_s=5).error)
    empty = tmp_path / "known_hosts"
    empty.write_text("")
    unknown = machine.host.model_copy(update={"known_hosts_file": str(empty)})
    assert "not found in known_hosts" in str(Remote(unknown).run("true", deadline_s=5).error)
    missing = machine.host.model_copy(update={"known_hosts_file": str(tmp_path / "none")})
    assert "known hosts can't be read" in str(Remote(missing).run("true", deadline_s=5).error)


def test_files_cross_unaltered(machine: Machine, tmp_path: Path) -> None:
    content = bytes(range(256)) * 4000
    target = tmp_path / "new folder" / "file"
    with Remote(machine.host) as remote:
        remote.put(content, str(target), mode=0o640)
        assert target.read_bytes() == content
        assert target.stat().st_mode & 0o777 == 0o640
        assert [path.name for path in target.parent.iterdir()] == ["file"]
        assert remote.get(str(target)) == content
        with pytest.raises(RemoteError, match="there is no file"):
            remote.get(str(tmp_path / "none"))
        with pytest.raises(RemoteError, match="larger than 10 bytes"):
            remote.get(str(target), limit=10)
        (tmp_path / "blocked").write_text("a file, not a folder")
        with pytest.raises(RemoteError):
            remote.put(b"x", str(tmp_path / "blocked" / "file"))


def test_a_tree_replaces_the_old_one_as_a_whole(machine: Machine, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "shards").mkdir(parents=True)
    (source / "shards" / "a.tar").write_bytes(b"a" * 200_000)
    (source / "manifest.json").write_text("{}")
    target = tmp_path / "target"
    target.mkdir()
    (target / "old").write_text("old")
    with Remote(machine.host) as remote:
        remote.put_tree(source, str(target))
        found = {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}
        assert found == {"shards/a.tar": b"a" * 200_000, "manifest.json": b"{}"}
        assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]
        with pytest.raises(RemoteError, match="not a directory"):
            remote.put_tree(tmp_path / "none", str(target))


def test_each_keeps_names_and_raises_what_fails(machine: Machine) -> None:
    assert each([], lambda host: host.name) == {}
    assert each([machine.host], lambda host: host.port) == {"machine": machine.host.port}
    with pytest.raises(ZeroDivisionError):
        each([machine.host], lambda host: 1 / 0)


PROBES = [
    Probe("text", "printf 'a\\nb'; echo err >&2"),
    Probe("status", "exit 7"),
    Probe("slow", "echo begun; sleep 30", deadline_s=1),
    Probe("stubborn", "trap '' TERM; sleep 30", deadline_s=1),
    Probe("quoted", "echo \"it's $((1 + 1)) 'x'\""),
    Probe("looks like a frame", "echo '@@ 0 0 1'; echo '@@ end'"),
    Probe("same", "exit 7"),
    Probe("timed", "date +%s%N; sleep 0.3; date +%s%N", timed=True),
    Probe("timed too", "date +%s%N; sleep 0.2; date +%s%N", timed=True),
]


def test_probes_share_a_session_and_end_alone(machine: Machine) -> None:
    begin = time.monotonic()
    results = run_probes(machine.host, PROBES)
    assert time.monotonic() - begin < 8
    by_name = {probe.name: results[probe.command] for probe in PROBES}
    assert (by_name["text"].stdout, by_name["text"].stderr, by_name["text"].rc) == ("a\nb", "err\n", 0)
    assert by_name["status"].rc == 7
    assert (by_name["slow"].rc, by_name["slow"].error) == (None, "timed out after 1 s")
    assert by_name["stubborn"].rc is None
    assert by_name["quoted"].stdout == "it's 2 'x'\n"
    assert by_name["looks like a frame"].stdout == "@@ 0 0 1\n@@ end\n"
    first, second = ([int(time) for time in by_name[name].stdout.split()] for name in ("timed", "timed too"))
    assert first[1] < second[0]  # one after the other


def test_probes_on_a_hung_host_all_carry_the_reason(hung: Machine) -> None:
    results = run_probes(
        hung.host, [Probe("a", "true", deadline_s=0.1), Probe("b", "false", deadline_s=0.1)], connect_deadline_s=1
    )
    assert {result.rc for result in results.values()} == {None}
    assert all(result.error for result in results.values())


def test_half_a_transfer_gives_no_results_beyond_it() -> None:
    answer = subprocess.run(
        ["sh", "-s"], input=script(PROBES[:2]), capture_output=True, text=True, timeout=20, check=True
    )
    whole = parse_frames(answer.stdout, PROBES[:2], "h", NOW)
    assert {result.rc for result in whole.values()} == {0, 7}
    for cut in range(len(answer.stdout)):
        for command, result in parse_frames(answer.stdout[:cut], PROBES[:2], "h", NOW).items():
            same = (result.rc, result.stdout) == (whole[command].rc, whole[command].stdout)
            assert same or result.error, (cut, command)

"""Commands and files on other machines, over SSH; each call ends at its deadline, whatever the other side does.

A paused or dead machine may accept a TCP connection and then say nothing for ever, so no single timeout of the SSH
library is trusted: a timer closes the socket at the deadline, which ends any wait in it.
"""

from __future__ import annotations

import base64
import io
import logging
import os
import posixpath
import shlex
import socket
import tarfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import paramiko

from medllm.site.model import Host

# paramiko prints stack traces of its own threads when a peer vanishes; every failure is in the Result instead.
logging.getLogger("paramiko").setLevel(logging.CRITICAL)

T = TypeVar("T")
CHUNK = 65536
# Threads wait on the network; more than this at once only contends for the interpreter.
PARALLEL = 64


@dataclass(frozen=True, slots=True)
class Result:
    """What one command did. `rc` is None when it did not end by itself; `error` then says why."""

    host: str
    command: str
    rc: int | None
    stdout: str
    stderr: str
    started: datetime
    duration_s: float
    error: str | None = None

    @property
    def ok(self) -> bool:
        """It ran to its end and exited with 0."""
        return self.rc == 0

    def check(self) -> Result:
        """Itself, when it is ok. Raises RemoteError otherwise."""
        if not self.ok:
            last = (self.stderr.strip() or self.stdout.strip() or "no output").splitlines()[-1]
            raise RemoteError(self.host, f"{self.error or f'exit status {self.rc}'}: {_brief(self.command)}: {last}")
        return self


class RemoteError(Exception):
    """A machine could not be reached or did not do what was asked. The command line reports it and exits with 1."""

    def __init__(self, host: str, reason: str) -> None:
        self.host, self.reason = host, reason
        super().__init__(f"{host}: {reason}")


class Remote:
    """One SSH session to one host; use it as a context manager. Opened on the first call.

    Host keys must be known: an unknown key is an error, never a question.
    """

    def __init__(self, host: Host, *, connect_deadline_s: float = 10) -> None:
        self.host = host
        self.connect_deadline_s = connect_deadline_s
        self._client: paramiko.SSHClient | None = None

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the session; it is opened again by the next call."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def run(self, command: str, *, deadline_s: float, sudo: bool = False, stdin: str | bytes | None = None) -> Result:
        """Run a shell command and wait for its end, at most `deadline_s` seconds (connecting included).

        Never raises for what the other side does: see `Result.error`. At the deadline the session is dropped; what the
        command started may go on, so give commands that must end there a `timeout` of their own.
        """
        started, begin = datetime.now(UTC), time.monotonic()
        out, err = io.BytesIO(), io.BytesIO()
        full = f"sudo -n -- sh -c {shlex.quote(command)}" if sudo else command
        rc: int | None = None
        error: str | None = None
        try:
            with self._guarded(deadline_s) as guard:
                channel = self._open(min(deadline_s, self.connect_deadline_s)).open_session(timeout=deadline_s)
                guard.watch(channel)
                channel.exec_command(full)
                payload = stdin.encode() if isinstance(stdin, str) else stdin
                _exchange(channel, payload, out, err, guard)
                rc = channel.recv_exit_status() if channel.exit_status_ready() else None
                channel.close()
                if guard.expired:
                    rc, error = None, f"timed out after {deadline_s:g} s"
                elif rc is None or rc < 0:
                    rc, error = None, "the connection broke before the command ended"
        except (OSError, EOFError, paramiko.SSHException) as problem:
            spent = time.monotonic() - begin
            error = f"timed out after {deadline_s:g} s" if spent >= deadline_s else f"unreachable: {_say(problem)}"
            self.close()
        if error is not None:
            self.close()
        return Result(self.host.name, command, rc, _decode(out), _decode(err), started, time.monotonic() - begin, error)

    def get(self, path: str, *, deadline_s: float = 60, sudo: bool = False, limit: int = 256 << 20) -> bytes:
        """Contents of a remote file, at most `limit` bytes. Raises RemoteError."""
        result = self.run(
            f"test -f {shlex.quote(path)} && head -c {limit + 1} {shlex.quote(path)} | base64 -w0",
            deadline_s=deadline_s,
            sudo=sudo,
        )
        if result.rc == 1 and not result.stderr:
            raise RemoteError(self.host.name, f"there is no file {path}")
        data = base64.b64decode(result.check().stdout)
        if len(data) > limit:
            raise RemoteError(self.host.name, f"{path} is larger than {limit} bytes")
        return data

    def put(
        self, data: bytes | Path, path: str, *, mode: int = 0o644, deadline_s: float = 60, sudo: bool = False
    ) -> None:
        """Write a remote file in one step: a crash leaves the old one or the new one. Raises RemoteError."""
        content = data.read_bytes() if isinstance(data, Path) else data
        partial = posixpath.join(posixpath.dirname(path), f".{posixpath.basename(path)}.partial-{os.getpid()}")
        quoted, target = shlex.quote(partial), shlex.quote(path)
        self.run(
            f"mkdir -p {shlex.quote(posixpath.dirname(path) or '.')} && (umask 077; cat > {quoted}) "
            f'&& test "$(wc -c < {quoted})" -eq {len(content)} && chmod {mode:o} {quoted} && sync {quoted} '
            f"&& mv -T {quoted} {target} || {{ rm -f {quoted}; exit 1; }}",
            deadline_s=deadline_s,
            sudo=sudo,
            stdin=content,
        ).check()

    def put_tree(self, source: Path, path: str, *, deadline_s: float = 600, sudo: bool = False) -> None:
        """Copy a directory's regular files to a remote directory, replacing it as a whole. Raises RemoteError.

        The tree is written beside its place and renamed when it is complete, so a reader never sees half of it.
        """
        if not source.is_dir():
            raise RemoteError(self.host.name, f"{source} is not a directory")
        target, partial = shlex.quote(path), shlex.quote(f"{path}.partial-{os.getpid()}")
        replaced = shlex.quote(f"{path}.replaced-{os.getpid()}")
        script = (
            f"set -e; rm -rf {partial}; mkdir -p {partial}; trap 'rm -rf {partial}' EXIT; tar -x -f - -C {partial}; "
            f"sync -f {partial}; if [ -e {target} ]; then mv -T {target} {replaced}; fi; "
            f"mv -T {partial} {target}; rm -rf {replaced}"
        )
        begin = time.monotonic()
        error: str | None = None
        err = io.BytesIO()
        rc: int | None = None
        full = f"sudo -n -- sh -c {shlex.quote(script)}" if sudo else f"sh -c {shlex.quote(script)}"
        try:
            with self._guarded(deadline_s) as guard:
                channel = self._open(min(deadline_s, self.connect_deadline_s)).open_session(timeout=deadline_s)
                guard.watch(channel)
                channel.exec_command(full)
                with channel.makefile_stdin("wb", CHUNK) as stream, tarfile.open(mode="w|", fileobj=stream) as archive:
                    for file in sorted(item for item in source.rglob("*") if item.is_file() and not item.is_symlink()):
                        archive.add(file, arcname=str(file.relative_to(source)), filter=_anonymous)
                _exchange(channel, None, io.BytesIO(), err, guard)
                rc = channel.recv_exit_status() if channel.exit_status_ready() else None
                channel.close()
                error = f"timed out after {deadline_s:g} s" if guard.expired else None
        except (OSError, EOFError, paramiko.SSHException) as problem:
            error = f"timed out after {deadline_s:g} s" if time.monotonic() - begin >= deadline_s else _say(problem)
            self.close()
        if rc != 0 or error:
            last = (_decode(err).strip() or "no output").splitlines()[-1]
            raise RemoteError(self.host.name, f"copying {source} to {path}: {error or f'exit status {rc}'}: {last}")

    def _open(self, deadline_s: float) -> paramiko.Transport:
        if self._client is not None:
            transport = self._client.get_transport()
            if transport is not None and transport.is_active():
                return transport
            self.close()
        client = paramiko.SSHClient()
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        known = Path(self.host.known_hosts_file or "~/.ssh/known_hosts").expanduser()
        try:
            client.load_host_keys(str(known))
        except OSError as problem:
            raise paramiko.SSHException(
                f"known hosts can't be read ({problem.strerror}: {known}); put the machines' keys there"
            ) from None
        key_file = self.host.private_key_file
        self._client = client
        client.connect(
            self.host.address,
            port=self.host.port,
            username=self.host.user,
            key_filename=str(Path(key_file).expanduser()) if key_file else None,
            look_for_keys=key_file is None,
            allow_agent=key_file is None,
            timeout=deadline_s,
            banner_timeout=deadline_s,
            auth_timeout=deadline_s,
            channel_timeout=deadline_s,
        )
        transport = client.get_transport()
        assert transport is not None
        return transport

    def _guarded(self, deadline_s: float) -> _Guard:
        return _Guard(self, deadline_s)


class _Guard:
    """Drops a session's socket at the deadline, so that no call in it can wait longer."""

    def __init__(self, remote: Remote, deadline_s: float) -> None:
        self._remote = remote
        self._timer = threading.Timer(deadline_s, self._end)
        self._timer.daemon = True
        self._channel: paramiko.Channel | None = None
        self.expired = False

    def __enter__(self) -> _Guard:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def watch(self, channel: paramiko.Channel) -> None:
        """Also end the waits on this channel."""
        self._channel = channel

    def _end(self) -> None:
        self.expired = True
        if self._channel is not None:
            self._channel.shutdown(2)
        client = self._remote._client
        if client is not None:
            transport = client.get_transport()
            if transport is not None:
                # `close` would first wait for the transport's thread; a shut socket ends that thread at once.
                try:
                    transport.sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    transport.sock.close()


def run_many(
    hosts: Iterable[Host], command: str, *, deadline_s: float, sudo: bool = False, stdin: str | bytes | None = None
) -> dict[str, Result]:
    """The same command on many hosts at once; one result a host, by name."""

    def work(host: Host) -> Result:
        with Remote(host) as remote:
            return remote.run(command, deadline_s=deadline_s, sudo=sudo, stdin=stdin)

    return each(hosts, work)


def each(hosts: Iterable[Host], work: Callable[[Host], T]) -> dict[str, T]:
    """`work` on each host, many at once; what it returned, by the host's name. The first exception is raised."""
    listed: Sequence[Host] = list(hosts)
    if not listed:
        return {}
    with ThreadPoolExecutor(max_workers=min(PARALLEL, len(listed))) as pool:
        return dict(zip((host.name for host in listed), pool.map(work, listed), strict=True))


def _exchange(channel: paramiko.Channel, stdin: bytes | None, out: io.BytesIO, err: io.BytesIO, guard: _Guard) -> None:
    """Feed stdin and drain both streams until the command ends; both at once, or a full pipe would block it."""

    def feed() -> None:
        try:
            if stdin:
                channel.sendall(stdin)
            channel.shutdown_write()
        except OSError:
            pass  # the command ended before it read everything

    def drain() -> None:
        while chunk := channel.recv_stderr(CHUNK):
            err.write(chunk)

    helpers = [threading.Thread(target=feed, daemon=True), threading.Thread(target=drain, daemon=True)]
    for helper in helpers:
        helper.start()
    while chunk := channel.recv(CHUNK):
        out.write(chunk)
    for helper in helpers:
        helper.join()
    while not (guard.expired or channel.closed or channel.exit_status_ready()):
        channel.status_event.wait(0.5)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """No owner of this machine in the archive."""
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


def _decode(stream: io.BytesIO) -> str:
    return stream.getvalue().decode("utf-8", errors="replace")


def _brief(command: str) -> str:
    line = command.strip().splitlines()[0] if command.strip() else command
    return line if len(line) <= 100 else line[:97] + "..."


def _say(problem: BaseException) -> str:
    if isinstance(problem, paramiko.BadHostKeyException):
        return "its host key is not the known one"
    if isinstance(problem, paramiko.AuthenticationException):
        return "it refuses our key"
    if isinstance(problem, TimeoutError):
        return "no answer"
    # What paramiko says of a machine whose kernel takes the connection while its SSH server is stuck.
    if "No existing session" in str(problem) or "banner" in str(problem):
        return "it takes the connection and then says nothing"
    errors: Any = getattr(problem, "errors", None)
    if isinstance(errors, dict) and errors:
        problem = next(iter(errors.values()))
    return str(problem) or type(problem).__name__

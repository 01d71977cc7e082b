"""The shell steps of role recovery_engine: its line at a host, a host's lines at the engine, its directories."""

from __future__ import annotations

import base64
import grp
import os
import pwd
import subprocess
from io import BytesIO
from pathlib import Path
from tarfile import TarInfo
from tarfile import open as open_tar

import pytest

from tests.unit.test_trainer_environment_script import COMMON, ROOT, Environment

FILES = ROOT / "roles/recovery_engine/files"
USER = pwd.getpwuid(os.getuid()).pw_name
LINE = 'restrict,from="10.0.0.1" ssh-ed25519 AAAAnew medllm-recover'


def run(script: str, step: str, settings: dict[str, str], programs: Path) -> subprocess.CompletedProcess[str]:
    """One step, with `programs` found before the machine's own."""
    text = "".join(f"{key}='{value}'\n" for key, value in settings.items())
    return subprocess.run(
        ["/bin/sh", "-c", f"set -- {step}\n{text}{script}"], capture_output=True, text=True, timeout=60,
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"},
    )  # fmt: skip


def program(directory: Path, name: str, body: str) -> None:
    (directory / name).write_text(f"#!/bin/sh\n{body}\n")
    (directory / name).chmod(0o755)


class Home:
    """A user's home of our own, which `getent passwd` names."""

    def __init__(self, directory: Path) -> None:
        self.programs = directory
        self.home = directory / "home"
        self.home.mkdir()
        self.file = self.home / ".ssh/authorized_keys"
        program(directory, "getent", f"echo '{USER}:x:1:1::{self.home}:/bin/sh'")

    def step(self, name: str, line: str = LINE) -> subprocess.CompletedProcess[str]:
        return run((FILES / "authorise").read_text(), name, {"user": USER, "line": line}, self.programs)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_a_user_without_any_key_gets_the_engines(home: Home) -> None:
    assert home.step("has_key").returncode
    assert home.step("make_key").returncode == 0
    assert home.file.read_text() == f"{LINE}\n"
    assert home.file.stat().st_mode & 0o777 == 0o600
    assert home.file.parent.stat().st_mode & 0o777 == 0o700
    assert (home.file.owner(), home.file.group()) == (USER, grp.getgrgid(os.getgid()).gr_name)
    assert home.step("has_key").returncode == 0


def test_other_keys_stay_and_the_engines_old_one_goes(home: Home) -> None:
    home.file.parent.mkdir()
    # No newline at its end, as an editor may leave it.
    home.file.write_text(
        "ssh-rsa AAAAold medllm-recover\nssh-ed25519 AAAA person@desk\nssh-rsa AAAA not-medllm-recovery"
    )
    assert home.step("has_key").returncode
    assert home.step("make_key").returncode == 0
    assert home.file.read_text() == f"ssh-ed25519 AAAA person@desk\nssh-rsa AAAA not-medllm-recovery\n{LINE}\n"
    assert home.step("has_key").returncode == 0


@pytest.mark.parametrize("other", ["", LINE.replace("AAAAnew", "AAAAother"), LINE.replace("restrict,", "")])
def test_another_line_is_not_the_engines(home: Home, other: str) -> None:
    home.step("make_key", LINE)
    assert home.step("has_key", other).returncode


def test_without_a_key_of_the_engine_nothing_is_written(home: Home) -> None:
    done = home.step("make_key", "")
    assert done.returncode
    assert "run this stage for mgmt" in done.stderr
    assert not home.file.exists()


class Known:
    """The engine's known_hosts, and an `ssh` that answers as told and notes how it was called."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.file = directory / "known_hosts"
        self.answer(0)

    def answer(self, code: int, said: str = "") -> None:
        program(self.directory, "ssh", f'printf "%s\\n" "$*" > {self.directory}/called; echo "{said}" >&2; exit {code}')

    def step(self, name: str, /, **other: str) -> subprocess.CompletedProcess[str]:
        settings = {
            "secrets": str(self.directory), "user": "ops", "address": "10.0.0.2", "name": "node1", "port": "22",
            "keys": "ssh-ed25519 AAAA1 root@node1\necdsa-sha2-nistp256 AAAA2",
        }  # fmt: skip
        return run((FILES / "known-host").read_text(), name, settings | other, self.directory)


@pytest.fixture
def known(tmp_path: Path) -> Known:
    return Known(tmp_path)


def test_a_host_is_known_by_all_its_keys_and_others_stay(known: Known) -> None:
    assert known.step("has_host").returncode
    assert known.step("make_host", name="node2", address="10.0.0.3", keys="ssh-ed25519 AAAA3").returncode == 0
    assert known.step("make_host").returncode == 0
    assert known.file.read_text().splitlines() == [
        "10.0.0.3,node2 ssh-ed25519 AAAA3",
        "10.0.0.2,node1 ssh-ed25519 AAAA1",
        "10.0.0.2,node1 ecdsa-sha2-nistp256 AAAA2",
    ]
    assert known.file.stat().st_mode & 0o777 == 0o600
    assert known.step("has_host").returncode == 0


def test_a_replaced_machine_and_a_moved_address_leave_no_old_key(known: Known) -> None:
    known.step("make_host", keys="ssh-ed25519 AAAAbroken")
    known.step("make_host", name="spare", address="10.0.0.9", keys="ssh-ed25519 AAAAspare")
    known.step("make_host", address="10.0.0.9")
    assert {line.split()[0] for line in known.file.read_text().splitlines()} == {"10.0.0.9,node1"}


def test_names_are_compared_whole(known: Known) -> None:
    known.step("make_host", name="node11", address="10.0.0.21", keys="ssh-ed25519 AAAA11")
    known.step("make_host")
    assert "10.0.0.21,node11 ssh-ed25519 AAAA11" in known.file.read_text().splitlines()


def test_another_port_is_written_as_ssh_writes_it(known: Known) -> None:
    known.step("make_host", port="2222")
    assert known.file.read_text().startswith("[10.0.0.2]:2222,[node1]:2222 ssh-ed25519 ")


def test_known_but_shut_is_not_enough_and_ssh_says_why(known: Known) -> None:
    known.step("make_host")
    known.answer(255, "ops@10.0.0.2: Permission denied (publickey).")
    done = known.step("has_host")
    assert done.returncode
    assert "Permission denied" in done.stderr


def test_it_is_opened_as_the_engine_will_with_no_question_and_no_unknown_key(known: Known) -> None:
    known.step("make_host")
    known.step("has_host")
    called = (known.directory / "called").read_text()
    for option in (
        "StrictHostKeyChecking=yes",
        "BatchMode=yes",
        "IdentitiesOnly=yes",
        f"UserKnownHostsFile={known.file}",
    ):
        assert option in called
    assert called.endswith("ops@10.0.0.2 sudo -n true\n")
    known.step("has_host", user="root")
    assert (known.directory / "called").read_text().endswith("root@10.0.0.2 true\n")


def test_many_hosts_at_once_lose_no_line(known: Known) -> None:
    script = (FILES / "known-host").read_text()
    text = f"secrets='{known.directory}' user=ops port=22 keys='ssh-ed25519 AAAA'\n"
    running = [
        subprocess.Popen(["/bin/sh", "-c", f"set -- make_host\n{text}address=10.0.1.{number} name=n{number}\n{script}"])
        for number in range(20)
    ]
    assert [process.wait(timeout=60) for process in running] == [0] * 20
    assert len(known.file.read_text().splitlines()) == 20


class Engine(Environment):
    """An environment with content, as the engine's."""

    content = "content-aaaaaaaaaaaa"
    text = "here"

    def step(self, name: str) -> subprocess.CompletedProcess[str]:
        stream = BytesIO()
        with open_tar(fileobj=stream, mode="w:gz") as tar:
            member = TarInfo("playbooks/x.yml")
            member.size = len(self.text)
            tar.addfile(member, BytesIO(self.text.encode()))
        settings = {
            "wheelhouse": str(self.wheelhouse), "packages": str(self.wheelhouse), "root": str(self.root),
            "python_version": self.version(), "commands": "medllm python", "content": self.content,
            "uncompiled": "/ansible_collections/", "archive": base64.b64encode(stream.getvalue()).decode(),
        }  # fmt: skip
        return run(COMMON + (FILES / "engine-content").read_text(), name, settings, self.root)

    @staticmethod
    def version() -> str:
        code = "import sys; print('%d.%d' % sys.version_info[:2])"
        return subprocess.check_output(["/usr/bin/python3", "-c", code], text=True).strip()


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    made = Engine(tmp_path)
    for name in ("deps", "app", "content", "current"):
        made.make(name)
    return made


def test_the_engines_directory_has_its_content_and_its_commands(engine: Engine) -> None:
    current = engine.root / "current"
    assert (current / "content/playbooks/x.yml").read_text() == "here"
    assert (current / "medllm").read_text().splitlines()[-1].endswith('/bin/python -m cli.main "$@"')
    assert engine.python("import torch, trainer; print(trainer.VERSION)") == "1"
    assert list(engine.root.glob("deps-*/lib/python3*/site-packages/__pycache__/torch.*.pyc"))


def test_new_content_is_a_new_directory_and_a_new_time_of_use(engine: Engine) -> None:
    before = (engine.root / "current/medllm").stat().st_ctime_ns
    for number in (1, 2):
        engine.content, engine.text = f"content-bbbbbbbbbbb{number}", f"text {number}"
        engine.make("content")
        engine.make("current")
    assert (engine.root / "current/content/playbooks/x.yml").read_text() == "text 2"
    # What restarts the service: the command is younger than the running one.
    assert (engine.root / "current/medllm").stat().st_ctime_ns > before
    engine.make("only_recent")
    assert engine.entries("content") == {"content-bbbbbbbbbbb1", "content-bbbbbbbbbbb2"}
    assert len(engine.entries("run")) == 2
    # Back to the one before: the same directories, in use again.
    engine.content, engine.text = "content-bbbbbbbbbbb1", "text 1"
    assert engine.has("content")
    engine.make("current")
    assert (engine.root / "current/content/playbooks/x.yml").read_text() == "text 1"


def test_content_changed_on_the_spot_is_noticed_and_repaired(engine: Engine) -> None:
    file = engine.root / engine.content / "playbooks/x.yml"
    file.write_text("tampered")
    engine.make("content")
    assert file.read_text() == "here"

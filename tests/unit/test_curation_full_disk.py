"""No room to write: one line, exit code 2, nothing half-written, the source as it was; with room it works again."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.test_curation_tree import OPTIONS, SECRETS, medllm, raw_tree

pytestmark = pytest.mark.slow


def digest(root: Path) -> str:
    """Of all names, contents and times below `root`."""
    found = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        found.update(f"{path} {path.lstat().st_mtime_ns}".encode())
        found.update(path.read_bytes() if path.is_file() else b"")
    return found.hexdigest()


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw tree and its de-identified one."""
    base = tmp_path_factory.mktemp("room")
    raw_tree(base / "raw", 12)
    done = medllm(base, "deid", base / "raw", base / "clean")
    assert done.returncode == 0, done.stderr
    return base


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of 128 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root mounts a small disk")
    yield place
    subprocess.run(["umount", str(place)], check=True)


COMMANDS = {"deid": ("raw", ()), "prepare": ("clean", ("--processes", "1")), "pack": ("clean", OPTIONS)}


def check_refusal(done: subprocess.CompletedProcess[str], destination: Path, words: str) -> None:
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {destination}: there is no room to write it ({words}). Fix: make room there")
    assert not [secret for secret in SECRETS if secret in done.stdout + done.stderr]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_leaves_nothing_half_written(trees: Path, small: Path, command: str) -> None:
    source, options = COMMANDS[command]
    before = digest(trees / source)
    done = medllm(trees, command, trees / source, small / "out", *options)
    check_refusal(done, small / "out", "No space left on device")
    assert digest(trees / source) == before
    if command != "prepare":
        assert not list(small.iterdir())
        return
    # A run of hours goes on where it was: what is there is whole, and nothing says that it is complete.
    assert not (small / "out" / "index.jsonl").exists()
    assert not list(small.rglob(".*"))
    subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
    assert medllm(trees, command, trees / source, small / "out", *options).returncode == 0
    assert len((small / "out" / "index.jsonl").read_text().splitlines()) == 12


def limited(home: Path, size: int, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command where no file may become larger than `size` bytes."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return subprocess.run(
        [sys.executable, "-m", "cli.main", "data", *map(str, arguments)], capture_output=True, text=True, timeout=300,
        env={**os.environ, "XDG_STATE_HOME": str(home / "state")}, check=False, preexec_fn=limit,
    )  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_a_limit_on_the_size_of_a_file_is_told_as_well(trees: Path, tmp_path: Path, command: str) -> None:
    source, options = COMMANDS[command]
    before = digest(trees / source)
    done = limited(trees, 8192, command, trees / source, tmp_path / "out", *options)
    check_refusal(done, tmp_path / "out", "File too large")
    assert digest(trees / source) == before
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size >= 8192]
    assert command == "prepare" or not list(tmp_path.iterdir())

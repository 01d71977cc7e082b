"""A node's modprobe: a module that several processes ask for at once is loaded once and listed once."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "lab/image/files/usr/lib/lab/modprobe"


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A directory in place of the node's root, with modules `lower` and `upper`, which asks for the lower one."""
    for name in ("run/lab", "usr/lib/lab/modules", "sys/module"):
        (tmp_path / name).mkdir(parents=True)
    text = SOURCE.read_text()
    for place in ("/usr/lib/lab/modules", "/run/lab/modules", "/sys/module"):
        assert place in text
        text = text.replace(place, f"{tmp_path}{place}")
    modprobe = tmp_path / "modprobe"
    bodies = {
        "modprobe": text,
        "usr/lib/lab/modules/lower": f"#!/bin/sh\nsleep 0.3\necho lower $1 >> {tmp_path}/done\n",
        "usr/lib/lab/modules/upper": f"#!/bin/sh\n{modprobe} -q lower\necho upper $1 >> {tmp_path}/done\n",
    }
    for name, body in bodies.items():
        (tmp_path / name).write_text(body)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "lsmod").symlink_to("modprobe")
    return tmp_path


def together(node: Path, *calls: tuple[str, ...]) -> list[int]:
    running = [subprocess.Popen([node / "modprobe", *call]) for call in calls]
    return [process.wait(timeout=20) for process in running]


def listed(node: Path) -> list[str]:
    done = subprocess.run([node / "lsmod"], capture_output=True, text=True, check=True, timeout=20)
    return sorted(line.split()[0] for line in done.stdout.splitlines()[1:])


def test_modules_asked_for_at_once_are_listed_once(node: Path) -> None:
    assert together(node, ("upper",), ("lower",), ("upper",), ("lower",)) == [0, 0, 0, 0]
    assert listed(node) == ["lower", "upper"]
    assert sorted((node / "done").read_text().splitlines()) == ["lower load", "upper load"]
    assert (node / "sys/module/lower/initstate").read_text() == "live\n"


def test_a_module_that_is_removed_twice_at_once_is_removed_once(node: Path) -> None:
    assert together(node, ("lower",)) == [0]
    assert together(node, ("-r", "lower"), ("-r", "lower")) == [0, 0]
    assert listed(node) == []
    assert (node / "done").read_text().splitlines() == ["lower load", "lower unload"]


def test_a_module_that_stays_in_the_background_holds_no_lock(node: Path) -> None:
    (node / "usr/lib/lab/modules/lower").write_text("#!/bin/sh\nsleep 7 >/dev/null 2>&1 &\n")
    assert together(node, ("lower",)) == [0]
    subprocess.run([node / "modprobe", "-r", "lower"], timeout=5, check=True)

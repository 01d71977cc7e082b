"""The command line: what a user meets before any work is done."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from cli.main import SUMMARIES
from medllm.errors import system_error
from medllm.files import write_atomic

REPOSITORY = Path(__file__).parents[2]
MEDLLM = Path(sys.executable).parent / "medllm"


def medllm(*arguments: str, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    return subprocess.run([MEDLLM, *arguments], capture_output=True, text=True, timeout=120, check=False, cwd=cwd)


def test_the_summary_lists_exactly_the_commands_that_exist() -> None:
    assert set(SUMMARIES) == {entry.name.partition(".")[0] for entry in entry_points(group="medllm.commands")}


@pytest.mark.parametrize("part", ["monitor", "prepare", "tune"])
def test_a_part_that_another_module_brings_is_told_beside_the_others(part: str) -> None:
    done = medllm("data", part, "--help")
    assert done.returncode == 0
    assert f"Usage: medllm data {part}" in done.stdout
    assert f"medllm data {part}" in medllm("data", "--help").stdout


def test_help_names_every_command_and_loads_none_of_them() -> None:
    done = medllm("--help")
    assert done.returncode == 0
    for name in SUMMARIES:
        assert f"  {name} " in done.stdout
    code = (
        "import sys; sys.argv = ['medllm', '--help']\nfrom cli.main import main\ntry: main()\nexcept SystemExit: pass\n"
    )
    code += "print([m for m in ('torch', 'typer', 'pydantic', 'rich', 'fabric') if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert loaded.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", sorted(SUMMARIES))
def test_each_command_has_help(name: str) -> None:
    done = medllm(name, "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


@pytest.mark.parametrize("arguments", [(), ("nonsense",), ("site", "nonsense"), ("site", "check", "--nonsense")])
def test_wrong_usage_exits_with_2_and_no_traceback(arguments: tuple[str, ...]) -> None:
    done = medllm(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_missing_inventory_says_what_to_do(tmp_path: Path) -> None:
    done = medllm("site", "check", "-i", "nowhere", cwd=tmp_path)
    assert done.returncode == 2
    assert "nowhere" in done.stderr
    assert "Fix:" in done.stderr


@pytest.mark.parametrize("output", ["{file}/site.json", "{folder}", "/proc/nowhere/site.json", "{folder}/" + "x" * 300])
def test_a_path_that_can_not_be_written_is_one_line_and_exit_code_2(tmp_path: Path, output: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    path = output.format(file=tmp_path / "file", folder=tmp_path / "folder")
    done = medllm("site", "export", "-o", path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {path}: ")
    assert "Fix:" in line
    assert sorted(found.name for found in tmp_path.rglob("*")) == ["file", "folder"]


def test_a_full_disk_is_a_failure_that_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomic(tmp_path / "made.json", "text")
    text, code = system_error(caught.value)
    assert code == 1
    assert text.startswith(f"{tmp_path}/made.json: No space left on device. Fix: ")
    assert not list(tmp_path.iterdir())


def test_output_that_can_not_be_written_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "site.json").touch()
    with (tmp_path / "site.json").open() as only_read:
        done = subprocess.run(
            [MEDLLM, "site", "export"], stdout=only_read, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
            cwd=REPOSITORY,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "error: Bad file descriptor. Fix: mend what it names, then do it again\n"


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    line = f"set -o pipefail; {MEDLLM} site export | true"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60, check=False, cwd=REPOSITORY)
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--data", ""),
        ("--data", "../set"),
        ("--data", "a\nb"),
        ("--nodes", "0"),
        ("--nodes", "-2"),
        ("--steps", "9" * 30),
    ],
)
def test_train_refuses_what_no_launcher_can_take(option: str, value: str) -> None:
    given = {"--data": "set", "--run": "a", "--steps": "6", "--launcher": "local"} | {option: value}
    done = medllm("train", "--dry-run", *(word for pair in given.items() for word in pair))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert option in done.stderr

"""The repository's own Pulumi program, in a copy of its folder, against a control plane of the tests."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.kubernetes.environment import Environment
from medllm.site import load_site, site_json

REPOSITORY = Path(__file__).parents[2]
NAMESPACE = "medllm-training"
SECONDS = 600
Json = dict[str, Any]


@dataclass(frozen=True)
class Program:
    """A stack `lab` of the program. `root` holds what a clone holds: pulumi/, inventory/, .venv."""

    root: Path
    environment: Environment

    @property
    def folder(self) -> Path:
        return self.root / "pulumi"

    @property
    def inventory(self) -> Path:
        return self.root / "inventory" / "lab"

    @property
    def export_file(self) -> Path:
        return self.folder / "site-lab.json"

    def export(self) -> None:
        """What `medllm site export` does."""
        self.export_file.write_text(site_json(load_site(self.inventory)))

    def declare(self, file: str, change: Callable[[str], str]) -> None:
        """Edit a file of the inventory, and export the site anew."""
        path = self.inventory / file
        before = path.read_text()
        after = change(before)
        assert after != before
        path.write_text(after)
        self.export()

    def run(self, *arguments: str, status: int | None = 0, **changed: str) -> str:
        """What `pulumi ARGUMENTS` prints; `status` is the exit status it must have, None for any but 0."""
        found, said = self.attempt(*arguments, **changed)
        assert found == status if status is not None else found != 0, said
        return said

    def attempt(self, *arguments: str, **changed: str) -> tuple[int, str]:
        """The exit status of `pulumi ARGUMENTS`, and what it prints."""
        done = subprocess.run(
            ["pulumi", *arguments, "--non-interactive", "--color=never"], cwd=self.folder,
            env=self.variables(**changed), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout

    def up(self, *arguments: str, status: int | None = 0, **changed: str) -> str:
        return self.run("up", "--yes", "--skip-preview", *arguments, status=status, **changed)

    def variables(self, **changed: str) -> dict[str, str]:
        base = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(self.root), "LANG": "C.UTF-8"}
        return self.environment.over(base) | changed

    def kubectl(self, *arguments: str, text: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`kubectl` as the administrator."""
        done = subprocess.run(
            ["kubectl", *arguments], env=self.variables(), input=text, capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0 or not check, done.stderr
        return done

    def object(self, *words: str) -> Json:
        """One object of the namespace, as `kubectl get WORDS` has it."""
        found: Json = json.loads(self.kubectl("get", *words, "--namespace", NAMESPACE, "--output=json").stdout)
        return found

    @property
    def state_file(self) -> Path:
        return self.folder / "state" / ".pulumi" / "stacks" / "medllm" / "lab.json"

    def state(self) -> str:
        """What the stack's state file holds."""
        return self.state_file.read_text()


def lay_out(root: Path, environment: Environment) -> Program:
    """A copy of the program with an empty stack `lab` and the lab's site."""
    ignored = shutil.ignore_patterns("state", "__pycache__", "site-*.json")
    shutil.copytree(REPOSITORY / "pulumi", root / "pulumi", ignore=ignored)
    shutil.copytree(REPOSITORY / "inventory", root / "inventory")
    (root / ".venv").symlink_to(sys.prefix)
    made = Program(root, environment)
    (made.folder / "state").mkdir()
    made.export()
    made.run("stack", "init", "lab")
    return made


def counts(output: str) -> dict[str, int]:
    """The summary of an operation: {"created": 2, "unchanged": 3}."""
    summary = output[output.rindex("Resources:") :]
    found = re.findall(r"^\s+[^\w\s]*\s*(\d+) (?:to )?([a-z]+)", summary, re.MULTILINE)
    return {word: int(number) for number, word in found}


def told(output: str) -> list[str]:
    """The lines in which Pulumi tells an error."""
    return [line.strip() for line in output.splitlines() if line.strip().startswith("error: ")]


def own_processes(root: Path) -> list[int]:
    """Processes whose environment names `root` as HOME."""
    mark, found = f"HOME={root}".encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in path.read_bytes().split(b"\0") and int(path.parent.name) != os.getpid():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found

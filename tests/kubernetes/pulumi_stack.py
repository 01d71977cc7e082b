"""A Pulumi project in a folder of its own, for tests that run the real command line."""

from __future__ import annotations

import json
import re
import subprocess
import textwrap
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.pulumi.provider_values import Json

SECONDS = 600
_HEAD = """
import pulumi
from pulumi import ResourceOptions as Options
from pulumi_kubernetes.core.v1 import ConfigMap, Namespace, NodePatch, ResourceQuota, Secret
"""


@dataclass(frozen=True)
class Stack:
    """One project with one stack, in a folder of its own; `space` is a name for its namespace."""

    folder: Path
    environment: dict[str, str]
    space: str = field(default_factory=lambda: f"cli-{uuid.uuid4().hex[:8]}")

    def program(self, text: str) -> None:
        """Make `text` the program; SPACE in it is the namespace's name."""
        body = _HEAD + textwrap.dedent(text).replace("SPACE", json.dumps(self.space))
        (self.folder / "__main__.py").write_text(body)

    def pulumi(self, *arguments: str, status: int | None = 0, **environment: str) -> str:
        """What `pulumi ARGUMENTS` prints; `status` is the exit status that it must have, None for any but 0."""
        done = subprocess.run(
            ["pulumi", *arguments, "--non-interactive"], cwd=self.folder, env=self.environment | environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SECONDS,
            check=False,
        )  # fmt: skip
        assert done.returncode == status if status is not None else done.returncode != 0, done.stdout
        return done.stdout

    def up(self, *arguments: str, status: int | None = 0, **environment: str) -> str:
        return self.pulumi("up", "--yes", "--skip-preview", *arguments, status=status, **environment)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """`pulumi ARGUMENTS` in a process group of its own, as a shell starts it."""
        return subprocess.Popen(
            ["pulumi", *arguments, "--non-interactive"], cwd=self.folder, env=self.environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0,
        )  # fmt: skip

    @property
    def state_file(self) -> Path:
        return self.folder / "state" / ".pulumi" / "stacks" / "medllm" / "lab.json"

    def resources(self) -> dict[str, Json]:
        """The state's resources of Kubernetes, by the name in the program."""
        deployment = json.loads(self.state_file.read_text())["checkpoint"]["latest"]
        listed = [item for item in deployment.get("resources") or [] if item["type"].startswith("kubernetes:")]
        return {item["urn"].rsplit("::", 1)[1]: item for item in listed}


def counts(output: str) -> dict[str, int]:
    """The summary of an operation: {"created": 2, "unchanged": 3}."""
    summary = output[output.rindex("Resources:") :]
    found = re.findall(r"^\s+[^\w\s]*\s*(\d+) (?:to )?([a-z]+)", summary, re.MULTILINE)
    return {word: int(number) for number, word in found}


def own_processes(stack: Stack) -> list[int]:
    """Processes whose environment names the stack's folder as HOME."""
    found = []
    mark = f"HOME={stack.folder}".encode()
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def eventually(probe: Callable[[], Any], what: str, seconds: float = 120) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = probe()
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError(f"not within {seconds} s: {what}")


def error_lines(output: str) -> list[str]:
    return [line.strip() for line in output.splitlines() if line.strip().startswith("error:")]

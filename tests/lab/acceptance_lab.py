"""Helpers of the acceptance tests: the command itself, its own state folder, and ways to break one thing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lab import faults, hardware, nodes
from lab.layout import NODES, Node, hardware_file
from medllm.checks.base import Subject
from medllm.remote import Remote
from medllm.site import load_site

ROOT = Path(__file__).parents[2]
SITE = load_site(ROOT / "inventory" / "lab")
SAMPLE = Subject("medllm-sample", "medllm-tiny")
BY_NAME = {node.name: node for node in NODES}


def accept(state: Path, *arguments: str, timeout: float = 500) -> subprocess.CompletedProcess[str]:
    """`medllm accept …` as a user runs it; dossiers go to `state`."""
    return subprocess.run(
        [sys.executable, "-m", "cli.main", "accept", *arguments],
        cwd=ROOT,
        env={**os.environ, "XDG_STATE_HOME": str(state)},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def items(state: Path, *arguments: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Run and read the items of the dossier, by check and host; the exit code must fit them."""
    done = accept(state, "run", "--json", *arguments)
    assert done.stdout, done.stderr
    found = {(item["check"], item["host"]): item for item in json.loads(done.stdout)["items"]}
    assert done.returncode == (0 if {item["outcome"] for item in found.values()} == {"PASS"} else 1)
    return found


def node(name: str) -> Node:
    """A node of the lab."""
    return BY_NAME[name]


def on(name: str, command: str) -> str:
    """Run a command as root on a machine."""
    with Remote(SITE.host(name)) as remote:
        return remote.run(command, deadline_s=60, sudo=True).check().stdout


@contextmanager
def fault(kind: str, name: str, gpu: int | None = None) -> Iterator[None]:
    """A fault of the lab, healed afterwards."""
    faults.inject(node(name), kind, gpu)
    try:
        yield
    finally:
        faults.heal(node(name))
        nodes.execute(node(name), "true")


@contextmanager
def silicon(name: str, *path: str | int, value: object) -> Iterator[None]:
    """One value of a node's hardware is different."""

    def put(new: object) -> object:
        with hardware.edit(hardware_file(node(name))) as current:
            place: Any = current
            for key in path[:-1]:
                place = place[key]
            before: object = place[path[-1]]
            place[path[-1]] = new
            return before

    before = put(value)
    try:
        yield
    finally:
        put(before)


@contextmanager
def changed(name: str, breaking: str, mending: str) -> Iterator[None]:
    """Two commands on a machine: one breaks something, one mends it."""
    on(name, breaking)
    try:
        yield
    finally:
        on(name, mending)


@contextmanager
def without(name: str, *paths: str) -> Iterator[None]:
    """Files of a machine are out of the way."""
    with changed(
        name,
        "; ".join(f"mv {path} {path}.away" for path in paths),
        "; ".join(f"mv {path}.away {path}" for path in paths),
    ):
        yield

"""A node's file tree for the simulators' tests: sample hardware, installed versions, and a way to run a command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from lab import hardware
from lab.vendor.packages import RECIPES, SIMULATORS, packages

REPOSITORY = Path(__file__).parents[2]


class Node:
    """A directory that looks like a node with every package installed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write(hardware.healthy("node1"))
        seen: set[str] = set()
        for package in packages():
            if package.name not in seen:
                seen.add(package.name)
                self.set_version(package.name, package.upstream)
                static = SIMULATORS / package.name
                for path in static.rglob("*"):
                    if path.is_file():
                        target = root / path.relative_to(static)
                        target.parent.mkdir(parents=True, exist_ok=True)
                        target.write_bytes(path.read_bytes())

    def set_version(self, package: str, version: str) -> None:
        """As dpkg does when it unpacks another version."""
        file = self.root / "usr/lib/lab/versions" / package
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(version + "\n")

    @property
    def hardware(self) -> Path:
        return self.root / "run/lab/hw/hardware.json"

    def read(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads(self.hardware.read_text())
        return data

    def write(self, hardware: dict[str, Any]) -> None:
        self.hardware.parent.mkdir(parents=True, exist_ok=True)
        self.hardware.write_text(json.dumps(hardware))

    def python(self, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run code that uses the simulators' library, below this root."""
        environment = {**os.environ, "LABSIM_ROOT": str(self.root), "PYTHONPATH": str(REPOSITORY), "TZ": "UTC"}
        command = [sys.executable, "-B", "-c", code, *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=30, check=False)

    def run(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command by its name, for example `nvidia-smi`, as its script does."""
        entries = {Path(path).name: entry for recipe in RECIPES.values() for path, entry in recipe.commands.items()}
        module, function = entries[command].split(":")
        code = f"import sys; from lab.vendor.labsim.{module} import {function} as f; sys.exit(f(sys.argv[1:]))"
        return self.python(code, *arguments)

    def modprobe(self, module: str, action: str = "load") -> subprocess.CompletedProcess[str]:
        """As the lab's modprobe calls a module."""
        code = "import sys; from lab.vendor.labsim.kmod import main; sys.exit(main(*sys.argv[1:]))"
        return self.python(code, module, action)

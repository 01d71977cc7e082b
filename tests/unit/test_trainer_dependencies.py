"""What runs on GPU nodes imports with the dependencies of extra `train` alone, for all of it that is imported late.

A node's environment has nothing else (roles/trainer_env). Whatever uv.lock does not lead to from that extra is as good
as not installed here, so that libraries' own optional imports behave as on a node.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
# The operator's side: it starts the trainer and is no part of it.
OPERATORS = {
    "trainer.commands", "trainer.data.gpu_utilisation", "trainer.data.monitor", "trainer.data.tune", "trainer.estimate",
    "trainer.launch", "trainer.launch_local", "trainer.launch_slurm",
}  # fmt: skip
OURS = {"medllm", "planner", "trainer"}

IMPORT = """
import importlib, json, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            raise ModuleNotFoundError(f"No module named {name!r}: not a dependency of extra train", name=name)

modules, refused = json.load(sys.stdin)
refused = set(refused)
sys.meta_path.insert(0, Refuse())
for module in modules:
    importlib.import_module(module)
"""


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(extra: str) -> set[str]:
    """Distributions that the lock leads to from the project and this extra, under any marker."""
    packages: dict[str, list[dict[str, object]]] = {}
    for package in tomllib.loads((REPOSITORY / "uv.lock").read_text())["package"]:
        packages.setdefault(package["name"], []).append(package)
    seen: set[str] = set()
    waiting = [("medllm-cluster", (extra,))]
    while waiting:
        name, extras = waiting.pop()
        for package in packages[name]:
            optional = package.get("optional-dependencies", {})
            assert isinstance(optional, dict)
            listed = [package.get("dependencies", []), *(optional.get(choice, []) for choice in extras)]
            for needed in (item for part in listed for item in part):
                key = needed["name"], tuple(needed.get("extra", ()))
                if str(key) not in seen:
                    seen |= {str(key), needed["name"]}
                    waiting.append(key)
    return {name for name in seen if name in packages}


def refused() -> set[str]:
    """Top-level modules that are installed here and would not be on a GPU node."""
    allowed = closure("train") | {"medllm-cluster"}
    return {
        module
        for module, names in packages_distributions().items()
        if module not in OURS and not any(normal(name) in allowed for name in names)
    }


def imported(modules: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", IMPORT], input=json.dumps([modules, sorted(refused())]),
        cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_the_extra_leads_to_what_it_needs_and_not_to_the_operators_tools() -> None:
    reached = closure("train")
    assert {"torch", "deepspeed", "numpy", "pydantic", "pydantic-core", "cryptography"} <= reached
    assert not reached & {"typer", "paramiko", "ansible-core", "pydicom", "pytest"}
    assert {"typer", "paramiko", "ansible", "pytest"} <= refused()


def test_a_tool_of_the_operator_is_refused() -> None:
    done = imported(["trainer.commands"])
    assert done.returncode != 0
    assert "No module named 'typer': not a dependency of extra train" in done.stderr


def named(source: str) -> set[str]:
    """Modules that a file imports, also those that a function imports when it is called."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="the trainer's extra is not installed")
def test_the_trainer_imports_with_its_own_extra_alone() -> None:
    files = {
        ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (REPOSITORY / "trainer").rglob("*.py")
    }
    assert files.keys() > OPERATORS
    modules = files.keys() - OPERATORS
    modules |= set().union(*(named(files[module].read_text()) for module in modules))
    assert {"trainer.worker", "deepspeed", "tokenizers", "medllm.files"} <= modules
    done = imported(sorted(modules))
    assert done.returncode == 0, done.stderr[-2000:]

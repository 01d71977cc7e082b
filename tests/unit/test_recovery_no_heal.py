"""Nothing that mends the cluster may use the lab's way to take a fault out: then a drill would prove nothing."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What installs, watches or mends machines. `cli` only names `medllm lab heal` in a list of commands.
PRODUCT = (
    "roles",
    "playbooks",
    "plugins",
    "runbooks",
    "medllm",
    "trainer",
    "benchmarks",
    "planner",
    "curation",
    "site.yml",
)
# The command, its function, the lab's packages, and its files on a node and on its host.
HEALING = re.compile(
    r"lab['\"\s,\]]+heal\b|\bfaults\.heal\b|\bclear_faults\b|hardware\.json|/run/lab\b|/usr/lib/lab\b|\bon_node\.py\b"
    r"|^\s*(?:from|import)\s+lab\b",
    re.MULTILINE,
)


def product_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *PRODUCT],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\0")  # fmt: skip
    # A page or README may tell of it; only what runs can do it.
    files = [ROOT / name for name in listed if name and not name.endswith((".md", ".png"))]
    return [path for path in files if path.is_file() and "benchmarks/results" not in path.as_posix()]


def healing_lines(text: str) -> list[str]:
    return [found[0].strip() for found in HEALING.finditer(text)]


def test_no_role_playbook_or_engine_file_takes_a_fault_out() -> None:
    files = product_files()
    kinds = {path.relative_to(ROOT).parts[0] for path in files}
    assert {"roles", "playbooks", "runbooks", "medllm"} <= kinds, "the search must see what it is about"
    found = {str(path.relative_to(ROOT)): healing_lines(path.read_text(errors="replace")) for path in files}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "text",
    [
        "ansible.builtin.command: medllm lab heal node2",
        'run(["medllm", "lab", "heal", node])',
        "argv: [medllm, lab, heal, node2]",
        "from lab import faults\nfaults.heal(node)",
        "    import lab.hardware",
        "path: /run/lab/hw/hardware.json",
        "clear_faults(current, lambda fault: True)",
    ],
)
def test_the_search_would_find_it(text: str) -> None:
    assert healing_lines(text)


@pytest.mark.parametrize("text", ["the label heals", "from labels import x", "a lab, healthy", "available health"])
def test_the_search_takes_other_words_for_nothing(text: str) -> None:
    assert not healing_lines(text)

"""The gate: what `make check`, `make test` and `make test-all` run, with a table of where the time went."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from medllm.files import cache_dir, write_atomic

REPOSITORY = Path(__file__).parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results"
BIN = Path(sys.executable).parent
PYTEST = [BIN / "pytest", "-q", "--durations=15"]


@dataclass(frozen=True)
class Step:
    """One command of the gate."""

    name: str
    command: list[str | Path]


@dataclass(frozen=True)
class Done:
    """How a step went: wall time in seconds."""

    name: str
    ok: bool
    seconds: float


def _shell_files() -> list[str]:
    """Everything that git tracks and a shell runs."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    return [name for name in listed if name and not name.endswith(".j2") and _is_shell(REPOSITORY / name)]


def _is_shell(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        first = stream.readline(80)
    return first.startswith(b"#!") and (b"bash" in first or first.split()[0].endswith(b"/sh"))


def static_steps() -> list[Step]:
    """Lint and types: independent of each other."""
    return [
        Step("ansible-lint", [BIN / "ansible-lint", "--offline", "-q", "--profile", "production"]),
        Step("mypy", [BIN / "mypy"]),
        Step("ruff check", [BIN / "ruff", "check", "."]),
        Step("ruff format", [BIN / "ruff", "format", "--check", "."]),
        Step("import contracts", [BIN / "lint-imports"]),
        Step("shellcheck", ["shellcheck", *_shell_files()]),
    ]


def unit_steps(*, slow: bool) -> list[Step]:
    """No root, no lab. promtool's rule tests are among them; the slow ones start whole processes."""
    selection = [] if slow else ["-m", "not slow"]
    return [Step("unit tests", [*PYTEST, "-n", "auto", "tests/unit", *selection])]


def lab_steps(*, everything: bool) -> list[Step]:
    """The main job from nothing, then the tests on the lab that it leaves."""
    medllm = BIN / "medllm"
    down = Step("lab down", [medllm, "lab", "down", "--purge"])
    if not everything:
        return [
            down,
            Step("main job, virgin", [medllm, "lab", "run"]),
            Step("lab tests", [*PYTEST, "tests/lab", "-m", "not long"]),
        ]
    return [
        down,
        Step("main job, virgin", [medllm, "lab", "run", "--record", RESULTS / "main-job-virgin.json"]),
        Step("main job, again", [medllm, "lab", "run", "--record", RESULTS / "main-job-again.json"]),
        Step("lab tests", [*PYTEST, "tests/lab"]),
        Step(
            "drills",
            [medllm, "recover", "drill", "--all", "--runs", "3", "--record", RESULTS / "recovery-drills.json"],
        ),
    ]


def run(step: Step, *, capture: bool) -> Done:
    """Run one step in a clean environment; a captured one prints its output only when it fails."""
    started = time.monotonic()
    environment = {
        **os.environ,
        "PATH": f"{BIN}:{cache_dir() / 'tools' / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": "",
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [str(word) for word in step.command], cwd=REPOSITORY, env=environment, stdin=subprocess.DEVNULL, text=True,
        stdout=subprocess.PIPE if capture else None, stderr=subprocess.STDOUT if capture else None, check=False,
    )  # fmt: skip
    result = Done(step.name, done.returncode == 0, round(time.monotonic() - started, 1))
    if capture and not result.ok:
        print(f"--- {step.name} ---\n{done.stdout}", flush=True)
    print(f"{'ok  ' if result.ok else 'FAIL'} {result.name:<18} {result.seconds:7.1f} s", flush=True)
    return result


def main() -> int:
    """Exit code 0 when every step was good, 1 otherwise; lab steps stop at the first failure."""
    level = sys.argv[1]
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        results = list(pool.map(lambda step: run(step, capture=True), static_steps()))
    for step in unit_steps(slow=level != "check") + (
        lab_steps(everything=level == "test-all") if level != "check" else []
    ):
        if step.name not in {"unit tests"} and not all(result.ok for result in results):
            print(f"left out: {step.name} (something before it failed)")
            break
        results.append(run(step, capture=False))
        if level == "test-all":
            # After each step: an hour's proofs are not lost with the last one.
            _write_report(results)
    print("\nWhere the time went:")
    for result in sorted(results, key=lambda result: -result.seconds):
        print(f"  {result.seconds:7.1f} s  {result.name}{'' if result.ok else '  FAILED'}")
    return 0 if all(result.ok for result in results) else 1


def _write_report(results: list[Done]) -> None:
    commit = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.strip()
    report = {
        "commit": commit,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {"cpus": os.cpu_count(), "system": platform.platform()},
        "command": "make test-all",
        "steps": [asdict(result) for result in results],
    }
    path = RESULTS / f"test-all-{commit}.json"
    write_atomic(path, json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())

"""The gate: what `make check`, `make test` and `make test-all` run, with a table of where the time went."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from medllm.files import cache_dir, write_atomic

REPOSITORY = Path(__file__).parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results"
BIN = Path(sys.executable).parent
PYTEST: list[str | Path] = [BIN / "pytest", "-q", "--durations=15"]
KUBERNETES_ON_LAB = "tests/lab/test_kubernetes_lab.py"


@dataclass(frozen=True)
class Step:
    """One command of the gate."""

    name: str
    command: list[str | Path]


TOOLS = Step("Kubernetes tools", [sys.executable, "-m", "lab.kubernetes.build"])


@dataclass(frozen=True)
class Done:
    """How a step went: wall time in seconds.

    `beside_s`: of one that ran beside the others, all of it; `seconds` is then what was waited for it.
    """

    name: str
    ok: bool
    seconds: float
    beside_s: float | None = None


class Beside:
    """A step that runs with the processor time that the others leave, from its construction on; it prints to `output`,
    which is shown only when it fails.
    """

    def __init__(self, step: Step, output: IO[bytes]) -> None:
        self.step = step
        self._output = output
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            [str(word) for word in step.command], cwd=REPOSITORY, env=_environment(), stdin=subprocess.DEVNULL,
            stdout=self._output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self._ended: float | None = None
        self._watch = threading.Thread(target=self._note_its_end, daemon=True)
        self._watch.start()
        # Both are needed: the kernel shares out among sessions first (sched(7), autogroups), then within one.
        with suppress(OSError):
            Path(f"/proc/{self._process.pid}/autogroup").write_text("19")
        with suppress(OSError):
            os.sched_setscheduler(self._process.pid, os.SCHED_IDLE, os.sched_param(0))

    def _note_its_end(self) -> None:
        self._process.wait()
        self._ended = time.monotonic()

    def wait(self) -> Done:
        """Wait for its end."""
        begin = time.monotonic()
        self._watch.join()
        ok = self._process.returncode == 0
        waited, ended = time.monotonic() - begin, self._ended or time.monotonic()
        if not ok:
            self._output.seek(0)
            print(f"--- {self.step.name} ---\n{self._output.read().decode(errors='replace')}", flush=True)
        result = Done(self.step.name, ok, round(waited, 1), round(ended - self._started, 1))
        _tell(result)
        return result

    def end(self) -> None:
        """Nobody waits for it any more."""
        if self._ended is None:
            self._process.terminate()
            self._watch.join()


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
            Step("lab tests", [*PYTEST, "tests/lab", f"--ignore={KUBERNETES_ON_LAB}", "-m", "not long"]),
            TOOLS,
            Step("Kubernetes tests", [*PYTEST, "tests/kubernetes", "-m", "gate"]),
        ]
    runs = os.environ.get("DRILL_RUNS") or "3"
    return [
        down,
        Step("main job, virgin", [medllm, "lab", "run", "--record", RESULTS / "main-job-virgin.json"]),
        Step("main job, again", [medllm, "lab", "run", "--record", RESULTS / "main-job-again.json"]),
        Step("lab tests", [*PYTEST, "tests/lab", f"--ignore={KUBERNETES_ON_LAB}"]),
        TOOLS,
        Step("Kubernetes tests", [*PYTEST, "tests/kubernetes", KUBERNETES_ON_LAB]),
        Step(
            "Kubernetes figures",
            [sys.executable, "-m", "tests.kubernetes.measure", "--record", RESULTS / "kubernetes.json"],
        ),
        Step(
            "drills",
            [medllm, "recover", "drill", "--all", "--runs", runs, "--record", RESULTS / "recovery-drills.json"],
        ),
    ]


def _environment() -> dict[str, str]:
    """That of a step: the virtual environment's programs first, nothing of the caller's Python settings."""
    path = f"{BIN}:{cache_dir() / 'tools' / 'bin'}:{os.environ['PATH']}"
    changed = {**os.environ, "PATH": path, "PYTHONPATH": ""}
    changed.pop("PYTHONDONTWRITEBYTECODE", None)
    return changed


def _tell(result: Done) -> None:
    beside = f", {result.beside_s:.1f} s in all" if result.beside_s is not None else ""
    print(f"{'ok  ' if result.ok else 'FAIL'} {result.name:<18} {result.seconds:7.1f} s{beside}", flush=True)


def run(step: Step, *, capture: bool) -> Done:
    """Run one step in a clean environment; a captured one prints its output only when it fails."""
    started = time.monotonic()
    done = subprocess.run(
        [str(word) for word in step.command], cwd=REPOSITORY, env=_environment(), stdin=subprocess.DEVNULL, text=True,
        stdout=subprocess.PIPE if capture else None, stderr=subprocess.STDOUT if capture else None, check=False,
    )  # fmt: skip
    result = Done(step.name, done.returncode == 0, round(time.monotonic() - started, 1))
    if capture and not result.ok:
        print(f"--- {step.name} ---\n{done.stdout}", flush=True)
    _tell(result)
    return result


def main() -> int:
    """Exit code 0 when every step was good, 1 otherwise; lab steps stop at the first failure."""
    level = sys.argv[1]
    # The Go programs take two cores for a quarter of an hour at the first time; the lab's steps mostly wait.
    if level == "check":
        return _steps(level, None)
    with tempfile.TemporaryFile() as output:
        tools = Beside(TOOLS, output)
        try:
            return _steps(level, tools)
        finally:
            tools.end()


def _steps(level: str, tools: Beside | None) -> int:
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        results = list(pool.map(lambda step: run(step, capture=True), static_steps()))
    for step in unit_steps(slow=level != "check") + (
        lab_steps(everything=level == "test-all") if level != "check" else []
    ):
        if step.name not in {"unit tests"} and not all(result.ok for result in results):
            print(f"left out: {step.name} (something before it failed)")
            break
        results.append(tools.wait() if tools and step is TOOLS else run(step, capture=False))
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
        "command": "make test-all" + (f" DRILL_RUNS={runs}" if (runs := os.environ.get("DRILL_RUNS")) else ""),
        "steps": [asdict(result) for result in results],
    }
    path = RESULTS / f"test-all-{commit}.json"
    write_atomic(path, json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())

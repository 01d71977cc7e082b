"""`medllm lab run`: the main job on the embedded lab, with the very commands that a user types on a real site."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.status import Status
from rich.table import Table

from medllm.errors import user_error
from medllm.files import state_dir, write_atomic
from medllm.site import load_site

INVENTORY = "inventory/lab"
DATASET = "medllm-sample"
RUN = "medllm-tiny"
STEPS = 60
KILL_AFTER_STEP = 25


@dataclass
class StageResult:
    """One stage's outcome: wall time in seconds, and what is worth showing of it."""

    name: str
    seconds: float
    note: str = ""


@dataclass
class RunReport:
    """What one `lab run` measured. Memory is the host's use above what it was at the start, at its peak, in MiB."""

    started: str
    stages: list[StageResult] = field(default_factory=list)
    peak_memory_mib: int = 0
    dossier: str | None = None


class Pipeline:
    """Runs stages in order, each with its log; stops at the first that fails and says where its log is."""

    def __init__(self, repository: Path, console: Console) -> None:
        self.repository = repository
        self.console = console
        self.logs = state_dir() / "lab" / "logs"
        self.work = state_dir() / "data"
        self.bin = Path(sys.executable).parent
        self._show: Callable[[str], None] = lambda text: None
        self.report = RunReport(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))

    def stages(self) -> dict[str, tuple[str, Callable[[], str]]]:
        """Stage name → what a person reads while it runs, and the work; the work returns a note."""
        return {
            "lab": ("five machines, a vendor repository, four BMCs", self._lab),
            "bring-up": ("ansible-playbook site.yml", self._bring_up),
            "data": ("de-identify, pack, sign, publish", self._data),
            "training": ("train, lose a rank, resume, finish", self._training),
            "acceptance": ("checks and dossier", self._acceptance),
        }

    def run(self, first: str | None = None) -> RunReport:
        """All stages, or those from `first` on.

        Raises:
            UserError: there is no such stage.
            StageFailedError: a stage failed; its log has why.
        """
        stages = self.stages()
        if first is not None and first not in stages:
            raise user_error(f"there is no stage {first!r}", f"use one of: {', '.join(stages)}")
        names = list(stages)[list(stages).index(first) if first else 0 :]
        with self._memory_watch():
            for name in names:
                title, work = stages[name]
                started = time.monotonic()
                with self.console.status(f"[bold]{name}[/]: {title}") as status:
                    self._show = _shower(status, name)
                    note = work()
                result = StageResult(name, round(time.monotonic() - started, 1), note)
                self.report.stages.append(result)
                self.console.print(
                    f"[green]✓[/] [bold]{name:<10}[/] {result.seconds:7.1f} s  {note}", highlight=False, soft_wrap=True
                )
        return self.report

    def _lab(self) -> str:
        with _in_background(lambda: self._call("wheelhouse", [sys.executable, "-m", "lab.wheelhouse"])):
            self._call("lab", [self.bin / "medllm", "lab", "up"])
        return "mgmt and node1-node4 answer over SSH"

    def _bring_up(self) -> str:
        # The lab made new machines after the wheelhouse was mounted; nothing else is needed here.
        output = self._call(
            "bring-up", [self.bin / "ansible-playbook", "site.yml", "-i", INVENTORY], environment=self._ansible()
        )
        changed = sum(int(count) for count in re.findall(r"\bchanged=(\d+)", output))
        named = changed_tasks(output)
        return f"changed={changed}" + (f" ({'; '.join(named)})" if 0 < len(named) <= 3 else "")

    def _data(self) -> str:
        raw, clean, packed = (self.work / name for name in ("raw", "deid", DATASET))
        # Made anew each time: same input and keys give the same bytes, so an unchanged data set is not sent again.
        shutil.rmtree(self.work, ignore_errors=True)
        medllm = self.bin / "medllm"
        commands: list[list[str | Path]] = [
            [medllm, "data", "sample", raw],
            [medllm, "data", "deid", raw, clean],
            [medllm, "data", "pack", clean, packed, "--unreviewed", "the patients are invented"],
            [medllm, "data", "verify", packed],
            [medllm, "data", "publish", packed, DATASET, "-i", INVENTORY],
        ]
        output = ""
        for command in commands:
            output = self._call("data", command, append=command is not commands[0])
        return _last_line(output)

    def _training(self) -> str:
        """Train; half-way kill one rank. The recovery engine submits the run again, and the command that waits for it
        goes on; where the engine may not act, the same command once more resumes it.
        """
        command: list[str | Path] = [
            self.bin / "medllm", "train", "--config", "medllm-tiny", "--data", DATASET, "--run", RUN,
            "--steps", str(STEPS), "-i", INVENTORY, "--json",
        ]  # fmt: skip
        if _last_step(self._metrics()) >= KILL_AFTER_STEP:
            summary = _summary(self._call("training", command))
            lost = ""
        else:
            victim = load_site(self.repository / INVENTORY).gpu_nodes[-1].name
            with _in_background(lambda: self._kill_rank(victim)):
                try:
                    summary, mended = _summary(self._call("training", command)), "the engine resumed it"
                except StageFailedError:
                    summary, mended = {}, "resumed"
            if not summary:
                summary = _summary(self._call("training", command, append=True))
            if not summary["restarts"]:
                raise StageFailedError("training", 0, self.logs / "training.log", ["the killed rank was not noticed\n"])
            lost = f", lost the rank on {victim}, {mended}"
        first, last = summary["first_val_loss"], summary["last_val_loss"]
        return f"{summary['steps']} steps, held-out loss {first:.3f} → {last:.3f}{lost}"

    def _metrics(self) -> Path:
        # What the nodes see as the run's directory on Lustre; the lab's storage is a directory of this machine.
        return state_dir() / "lab" / "shared" / "lustre" / "checkpoints" / RUN / "metrics.jsonl"

    def _kill_rank(self, node: str) -> None:
        """Once training is under way, SIGKILL the rank on `node`, as the kernel's OOM killer would."""
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline:
            if _last_step(self._metrics()) >= KILL_AFTER_STEP:
                kill = "sudo pkill -KILL -f '[t]rainer.worker'"
                self._call("kill-rank", [self.bin / "medllm", "lab", "shell", node, "--", "sh", "-c", kill])
                return
            time.sleep(0.2)

    def _acceptance(self) -> str:
        command: list[str | Path] = [
            self.bin / "medllm", "accept", "run", "-i", INVENTORY, "--dataset", DATASET, "--run", RUN,
        ]  # fmt: skip
        output = self._call("acceptance", command)
        self.report.dossier = _last_line(output).removeprefix("dossier: ")
        items = json.loads(Path(self.report.dossier).with_name("dossier.json").read_text())["items"]
        words = Counter(_word(item["outcome"], item["evidence"]) for item in items)
        return ", ".join(f"{count} {word}" for word, count in sorted(words.items()))

    def _ansible(self) -> dict[str, str]:
        environment = {"ANSIBLE_CONFIG": str(self.repository / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
        plugins = next(self.bin.parent.glob("lib/python3*/site-packages/ansible_mitogen/plugins/strategy"), None)
        if plugins is not None:
            # Three times faster on few cores; plain linear works as well and is what other sites use by default.
            environment |= {"ANSIBLE_STRATEGY_PLUGINS": str(plugins), "ANSIBLE_STRATEGY": "mitogen_linear"}
        return environment

    def _call(
        self, stage: str, command: list[str | Path], *, append: bool = False, environment: dict[str, str] | None = None
    ) -> str:
        """Run one command; its output goes to the stage's log and, a line at a time, to the screen."""
        log = self.logs / f"{stage}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        words = [str(word) for word in command]
        lines: list[str] = []
        with log.open("a" if append else "w") as stream:
            stream.write(f"$ {' '.join(words)}\n")
            process = subprocess.Popen(
                words, cwd=self.repository, env={**os.environ, **(environment or {})}, text=True, errors="replace",
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            assert process.stdout is not None
            for line in process.stdout:
                stream.write(line)
                stream.flush()
                lines.append(line)
                if line.strip():
                    self._show(line.strip()[:100].replace("[", r"\["))
        if process.wait():
            raise StageFailedError(stage, process.returncode, log, lines[-30:])
        return "".join(lines)

    @contextmanager
    def _memory_watch(self) -> Iterator[None]:
        base, stop = _used_memory_mib(), threading.Event()

        def watch() -> None:
            while not stop.wait(1.0):
                self.report.peak_memory_mib = max(self.report.peak_memory_mib, _used_memory_mib() - base)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


class StageFailedError(Exception):
    """A stage's command ended with an error; `tail` is the end of its log."""

    def __init__(self, stage: str, code: int, log: Path, tail: list[str]) -> None:
        super().__init__(f"stage {stage} failed with exit code {code}; its log is {log}")
        self.tail = "".join(tail)


def run_main_job(repository: Path, *, first: str | None, as_json: bool, record: Path | None) -> int:
    """The command behind `make lab`. Returns the exit code: 0 good, 1 a stage failed."""
    console = Console(stderr=as_json)
    pipeline = Pipeline(repository, console)
    try:
        report = pipeline.run(first)
    except StageFailedError as error:
        console.print(error.tail, markup=False, highlight=False)
        console.print(f"[red]✗[/] {error}", highlight=False)
        return 1
    text = json.dumps(asdict(report), indent=1) + "\n"
    write_atomic(state_dir() / "lab" / "last-run.json", text)
    if record is not None:
        # Figures only: where this machine keeps its dossier is no result.
        figures = {key: value for key, value in asdict(report).items() if key != "dossier"}
        write_atomic(record, json.dumps(figures, indent=1) + "\n")
    if as_json:
        print(text, end="")
        return 0
    table = Table(title="The main job on the embedded lab", title_justify="left")
    for heading in ("stage", "seconds", "what came of it"):
        table.add_column(heading, justify="right" if heading == "seconds" else "left")
    for stage in report.stages:
        table.add_row(stage.name, f"{stage.seconds:.1f}", stage.note)
    table.add_section()
    table.add_row(
        "all", f"{sum(stage.seconds for stage in report.stages):.1f}", f"{report.peak_memory_mib} MiB at most"
    )
    console.print(table)
    if report.dossier:
        console.print(f"Dossier: {report.dossier}", highlight=False, soft_wrap=True)
    return 0


@contextmanager
def _in_background(work: Callable[[], object]) -> Iterator[None]:
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:  # handed to the main thread below
            failures.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if failures:
        raise failures[0]


def changed_tasks(output: str) -> list[str]:
    """The tasks that changed something, each as "host: role : task", from what ansible-playbook printed."""
    task, found = "", []
    for line in output.splitlines():
        if line.startswith("TASK ["):
            task = line.removeprefix("TASK [").rpartition("]")[0]
        elif match := re.match(r"changed: \[([^\]]+)\]", line):
            found.append(f"{match[1]}: {task}")
    return found


def _shower(status: Status, stage: str) -> Callable[[str], None]:
    return lambda text: status.update(f"[bold]{stage}[/]: {text}")


def _summary(output: str) -> dict[str, Any]:
    """The JSON object in what `medllm train --json` printed."""
    summary: dict[str, Any] = json.loads(output[output.index("{") : output.rindex("}") + 1])
    return summary


def _last_step(metrics: Path) -> int:
    """The step of the last whole line of a metrics file; 0 when there is none."""
    try:
        lines = metrics.read_text().splitlines(keepends=True)
    except FileNotFoundError:
        return 0
    whole = [line for line in lines if line.endswith("\n")]
    return int(json.loads(whole[-1])["step"]) if whole else 0


def _word(outcome: str, evidence: str) -> str:
    """As the dossier prints it: a pass on simulated evidence rehearsed the procedure and proves no hardware."""
    return "REHEARSED" if (outcome, evidence) == ("PASS", "simulated") else outcome


def _last_line(output: str) -> str:
    return next((line.strip() for line in reversed(output.splitlines()) if line.strip()), "")


def _used_memory_mib() -> int:
    values = dict(re.findall(r"^(\w+):\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE))
    return (int(values["MemTotal"]) - int(values["MemAvailable"])) // 1024

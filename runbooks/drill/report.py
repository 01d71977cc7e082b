"""Drills' figures over several runs, against the goals; for machines and for people."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from medllm.site import Site
from runbooks.drill.drill import Outcome
from runbooks.drill.prove import Figures

FIGURES = ("detect_s", "alert_to_action_s", "act_s", "recover_s", "steps_lost")


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure must be at most `limit` in every run; of one drill, or of all (empty)."""

    figure: str
    limit: float
    drill: str = ""


# What the site asks of recovery: seconds from an alert to the first action, from a node's loss to the next step.
GOALS = (Goal("alert_to_action_s", 30), Goal("recover_s", 120, "node_gone"))


def spread(values: Iterable[Figures]) -> dict[str, dict[str, float]]:
    """Median, minimum, maximum and count of each figure, over the runs that have it."""
    runs = list(values)
    found = {}
    for name in dict.fromkeys(name for run in runs for name in run):
        numbers = [number for run in runs if (number := run.get(name)) is not None]
        if numbers:
            found[name] = {
                "median": round(statistics.median(numbers), 1),
                "min": min(numbers),
                "max": max(numbers),
                "runs": len(numbers),
            }
    return found


def judged(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Each goal that a drill of these could reach or miss, with the worst run."""
    answers = []
    for goal in GOALS:
        concerned = [outcome for outcome in outcomes if goal.drill in {"", outcome.drill}]
        numbers = [number for outcome in concerned if (number := outcome.figures.get(goal.figure)) is not None]
        if numbers:
            worst = max(numbers)
            answers.append({**asdict(goal), "worst": worst, "runs": len(numbers), "met": worst <= goal.limit})
    return answers


def report(site: Site, outcomes: Sequence[Outcome], command: str) -> dict[str, Any]:
    """All that a reader needs to judge the figures, and to get them again."""
    names = list(dict.fromkeys(outcome.drill for outcome in outcomes))
    by_name = {name: [outcome for outcome in outcomes if outcome.drill == name] for name in names}
    return {
        "commit": commit(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "site": {"name": site.name, "profile": site.profile, "nodes": len(site.gpu_nodes), "sha256": site.sha256},
        "command": command,
        "good": all(outcome.good for outcome in outcomes) and all(goal["met"] for goal in judged(outcomes)),
        "goals": judged(outcomes),
        "drills": {
            name: {
                "fault_class": runs[0].fault_class,
                "runs": len(runs),
                "good": sum(outcome.good for outcome in runs),
                "figures": spread(outcome.figures for outcome in runs),
            }
            for name, runs in by_name.items()
        },
        "runs": [
            {
                "drill": outcome.drill,
                "fault_class": outcome.fault_class,
                "number": outcome.number,
                "node": outcome.node,
                "began": outcome.began.isoformat(timespec="milliseconds"),
                "incident": outcome.incident,
                "good": outcome.good,
                "problem": outcome.problem,
                "figures": outcome.figures,
                "proofs": [asdict(proof) for proof in outcome.proofs],
                "timeline": [{"at_s": at, "what": what} for at, what in outcome.timeline],
            }
            for outcome in outcomes
        ],
    }


def table(answer: dict[str, Any]) -> Table:
    """The figures for people: median, and the span where there were several runs."""
    shown = Table(title="Recovery drills", title_justify="left", caption_justify="left")
    shown.add_column("drill")
    shown.add_column("good", justify="right")
    for name in FIGURES:
        shown.add_column(name.replace("_s", " s") if name.endswith("_s") else name.replace("_", " "), justify="right")
    for name, drill in answer["drills"].items():
        cells = []
        for figure in FIGURES:
            span = drill["figures"].get(figure)
            text = "-" if span is None else f"{span['median']:g}"
            cells.append(text if span is None or span["runs"] == 1 else f"{text} ({span['min']:g} to {span['max']:g})")
        shown.add_row(name, f"{drill['good']}/{drill['runs']}", *cells)
    words = [
        f"{goal['figure']}{' of ' + goal['drill'] if goal['drill'] else ''} at most {goal['limit']:g}: "
        f"{'met' if goal['met'] else 'MISSED'} (worst {goal['worst']:g})"
        for goal in answer["goals"]
    ]
    shown.caption = "; ".join(words)
    return shown


def commit() -> str:
    """The commit of this code, with "+changes" where files differ from it; "" when it is not a working tree."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return ""
    git = ["git", "-C", str(root)]
    head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    # Results are written while others are recorded: they change no behaviour.
    differs = [*git, "status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results"]
    changes = subprocess.run(differs, capture_output=True, text=True, check=False).stdout.strip()
    return head.stdout.strip() + ("+changes" if changes else "")


def machine() -> dict[str, Any]:
    """What the drills ran on, without its name."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"cpus": os.cpu_count(), "memory_gib": round(memory / 2**30), "system": platform.platform()}

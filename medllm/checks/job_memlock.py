"""May a job lock all its memory? A low limit makes NCCL fall back to TCP without a word."""

from __future__ import annotations

from math import inf

from medllm.checks import slurm
from medllm.checks.base import Check, NotRun, Reading, View
from medllm.parsers.slurm import parse_answers


def _read(view: View) -> list[Reading]:
    wanted = slurm.nodes(view.site)
    answers = {answer.node: answer for answer in parse_answers(view.text(slurm.JOB))}
    silent = [name for name in wanted if name not in answers]
    if silent:
        raise NotRun(f"no answer from {', '.join(silent)}")
    declared = _kib(str(view.site.limits.memlock))
    limited = [f"{name} {answers[name].memlock} KiB" for name in wanted if _kib(answers[name].memlock) < declared]
    return [Reading("", len(wanted) - len(limited), f"limited: {', '.join(limited)}" if limited else "")]


def _kib(limit: str) -> float:
    return inf if limit == "unlimited" else float(limit)


CHECK = Check(
    id="job_memlock",
    title="Jobs may lock memory",
    proves="Inside a job the limit of locked memory is at least the declared one on every node.",
    group="software",
    tags=slurm.CLUSTER,
    where="mgmt",
    probes=slurm.job,
    read=_read,
    clears=("memlock_limited",),
    binaries=("srun",),
)

"""`sinfo` and the lines that our probe job prints on each node."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ANSWER = re.compile(r"^node=(\S+) memlock=(unlimited|\d+) gpus=(\d*)$")


@dataclass(frozen=True, slots=True)
class NodeState:
    """A node's state as `sinfo` prints it, without its flag characters; the reason is "none" when there is none."""

    state: str
    gres: str
    reason: str


def parse_sinfo(text: str) -> dict[str, NodeState]:
    """Read `sinfo -h -N -o '%N|%T|%G|%E'`, by node name."""
    nodes = {}
    for number, line in enumerate(text.splitlines(), 1):
        parts = line.split("|", 3)
        if len(parts) != 4 or not parts[0]:
            raise ValueError(f"sinfo, line {number}: {line!r} is not `node|state|gres|reason`")
        nodes[parts[0]] = NodeState(parts[1].rstrip("*~#!%$@^-"), parts[2], parts[3])
    if not nodes:
        raise ValueError("sinfo, line 1: no node at all")
    return nodes


@dataclass(frozen=True, slots=True)
class JobAnswer:
    """What one node said inside a job. `memlock` in KiB or "unlimited"; `gpus` is what Slurm gave, 0 when none."""

    node: str
    memlock: str
    gpus: int


def parse_answers(text: str) -> tuple[JobAnswer, ...]:
    """Read the probe job's output: one line a node."""
    answers = []
    for number, line in enumerate(text.splitlines(), 1):
        found = _ANSWER.match(line)
        if not found:
            raise ValueError(f"srun, line {number}: {line!r} is not a node's answer")
        answers.append(JobAnswer(found[1], found[2], int(found[3] or 0)))
    if not answers:
        raise ValueError("srun, line 1: no node answered")
    return tuple(answers)

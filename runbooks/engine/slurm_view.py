"""Slurm's nodes and jobs, from `scontrol --oneliner show`."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from runbooks.engine.model import Job, SchedulerNode

# TZ: scontrol prints local time without saying which.
COMMAND = (
    "export TZ=UTC; timeout 8 scontrol --oneliner show node && echo @@ && "
    "timeout 8 scontrol --oneliner --all --details show job"
)
# The job's name is its user's and may hold anything, `JobState=RUNNING` too: what follows it is taken as the sequence
# that it is. Jobs of arrays have more fields before the name.
_JOB = re.compile(
    r"JobId=(?P<id>\d+)(?: (?!JobName=)\w+=\S+)* JobName=(?P<name>.*?) UserId=(?P<user>[^\s()]+)\(\d+\) GroupId=\S+ "
    r"(?P<rest>MCS_label=\S* Priority=\d+ .*?JobState=(?P<state>[A-Z_]+) .*)$"
)
# Suffixes of a state, man sinfo "NODE STATE CODES"; * alone means something here.
_SUFFIX = re.compile(r"[*~#!%$@^-]+$")
_NAMES = re.compile(r"([^,\[]+(?:\[[^\]]*\])?)(?:,|$)")


def parse_slurm(text: str) -> tuple[dict[str, SchedulerNode], tuple[Job, ...]]:
    """Nodes by name, and jobs.

    Raises:
        ValueError: not what scontrol prints.
    """
    nodes_text, mark, jobs_text = text.partition("@@\n")
    if not mark:
        raise ValueError("scontrol's answer is cut off")
    return parse_nodes(nodes_text), parse_jobs(jobs_text)


def parse_nodes(text: str) -> dict[str, SchedulerNode]:
    """Read `scontrol --oneliner show node`. Raises ValueError."""
    nodes = {}
    for line in filter(str.strip, text.splitlines()):
        name, states = _field(line, "NodeName"), _field(line, "State")
        if not name or not states:
            raise ValueError(f"no node: {line[:80]!r}")
        nodes[name] = SchedulerNode(name, _states(states), _reason(line))
    if not nodes:
        raise ValueError("scontrol knows no node")
    return nodes


def parse_jobs(text: str) -> tuple[Job, ...]:
    """Read `scontrol --oneliner --all --details show job`. Raises ValueError.

    A name with a line break makes two lines of one: the second is passed over, and a job's first line counts.
    """
    jobs: dict[str, Job] = {}
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("No jobs in the system")]
    for line in lines:
        found = _JOB.match(line)
        if found is None:
            continue
        rest, pending = found["rest"], found["state"] == "PENDING"
        jobs.setdefault(
            found["id"],
            Job(
                found["id"], found["name"], found["user"], found["state"], _nodes_of(rest),
                # Of a waiting job it is a guess.
                None if pending else _time(_field(rest, "StartTime")), _time(_field(rest, "EndTime")),
            ),
        )  # fmt: skip
    if lines and not jobs:
        raise ValueError(f"no job: {lines[0][:80]!r}")
    return tuple(jobs.values())


def _nodes_of(rest: str) -> tuple[str, ...]:
    """All nodes that a job has or had.

    While it ends, NodeList names only those that are not cleaned up yet, so a run would seem to have left its first
    node; what `--details` tells of the allocation stays whole.
    """
    details = re.findall(r"\sNodes=(\S+) CPU_IDs=", rest.partition(" MinCPUsNode=")[0])
    return tuple(name for part in details or [_field(rest, "NodeList")] for name in expand(part))


def expand(listed: str) -> tuple[str, ...]:
    """`node[1-3,7]` as names; nothing for `(null)`. Raises ValueError."""
    if not listed or listed.startswith("("):
        return ()
    names: list[str] = []
    for part in _NAMES.findall(listed):
        head, bracket, body = part.partition("[")
        if not bracket:
            names.append(part)
            continue
        for piece in body.rstrip("]").split(","):
            first, dash, last = piece.partition("-")
            numbers = range(int(first), int(last if dash else first) + 1)
            names += [f"{head}{number:0{len(first)}d}" for number in numbers]
    return tuple(names)


def _field(line: str, name: str) -> str:
    found = re.search(rf"(?:^|\s){name}=(\S*)", line)
    return found[1] if found else ""


def _reason(line: str) -> str:
    """The reason without "[user@time]"; it is the last field, and may hold spaces."""
    found = re.search(r"\sReason=(.*?)\s*(?:\[[^\[\]]*@[^\[\]]*\])?\s*(?:Comment=.*)?$", line)
    return found[1].strip() if found else ""


def _states(text: str) -> frozenset[str]:
    states = set()
    for word in text.split("+"):
        if "*" in word:
            states.add("NOT_RESPONDING")
        states.add(_SUFFIX.sub("", word).replace("DRAINED", "DRAIN").replace("DRAINING", "DRAIN"))
    return frozenset(states)


def _time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        return None

"""Take a node out of Slurm for an incident, end or await its jobs, and give it back; never against a person.

Runs short shell texts on the controller of Slurm. Who holds a node follows from its state and reason alone: ours is
`medllm-recover:<incident>`; Slurm's own are those that roles/slurm/files/slurm-ready knows; all else is a person's.
The text that changes a node's state asks again, in the same command, whose it is.
"""

from __future__ import annotations

import json
import re
import shlex
import time
from dataclasses import dataclass
from typing import Any

from ansible.plugins.action import ActionBase

MARK = "medllm-recover:"
GONE = {"COMPLETING", "COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"}
POLL_S = 0.5

# Sets $state, $reason and $holder of the node $1 for the incident $2; every command of Slurm's has a time limit, since
# a controller that hangs answers nothing.
HOLDER = r"""
line=$(timeout 10 scontrol --oneliner show node "$1" 2>&1) || { echo "scontrol: $line" >&2; exit 3; }
state=$(printf '%s\n' "$line" | sed -n 's/.*[[:space:]]State=\([^[:space:]]*\).*/\1/p')
reason=$(printf '%s\n' "$line" | sed -n 's/.*[[:space:]]Reason=\(.*\)/\1/p')
case "$state" in
    *MAINT* | *REBOOT*) holder=person; reason="${reason:-$state}" ;;
    *DRAIN* | *DOWN* | *FAIL*)
        case "$reason" in
            "medllm-recover:$2" | "medllm-recover:$2 "*) holder=ours ;;
            medllm-recover:*) holder=incident ;;
            "Not responding"* | "Node unexpectedly rebooted"*)
                case "$state" in *DRAIN*) holder=person ;; *) holder=slurm ;; esac ;;
            *) holder=person ;;
        esac ;;
    *) holder=nobody ;;
esac
"""
# The jobs in $jobs and those of the run $4, and what the launch.json of each one's run in $3 says; storage that hangs
# must not hold the recovery up.
JOBS = r"""
[ -z "$4" ] || more=$(timeout 10 squeue --noheader --name="medllm-$4" --format='%i|%j|%u|%T') || exit 3
printf '%s\n%s\n--\n' "$jobs" "${more:-}" | sed '/^$/d'
printf '%s\n%s\n' "$jobs" "${more:-}" | sed -n 's/^[^|]*|medllm-\([a-z0-9][a-z0-9._-]*\)|.*/\1/p' | sort -u |
timeout 10 sh -c '
    cd "$1" || exit 0
    while read -r run; do
        [ -f "$run/launch.json" ] && printf "%s|" "$run" && head -c 65536 "$run/launch.json" | tr -d "\n" && echo
    done' look "$3"
exit 0
"""
LOOK = (
    HOLDER
    + r"""
printf '%s\n%s\n%s\n--\n' "$holder" "$state" "$reason"
jobs=$(timeout 10 squeue --noheader --nodelist="$1" --format='%i|%j|%u|%T') || exit 3
"""
    + JOBS
)
LOOK_AT_RUN = (
    r"""
printf 'nobody\nnone\n\n--\n'
jobs=
"""
    + JOBS
)
SET = (
    HOLDER
    + r"""
case "$holder" in person | incident) printf '%s\n%s\n%s\n' "$holder" "$state" "$reason"; exit 4 ;; esac
timeout 10 scontrol update nodename="$1" state="$3" reason="medllm-recover:$2"
"""
)
RESUME = (
    HOLDER
    + r"""
case "$holder" in person | incident) printf '%s\n%s\n%s\n' "$holder" "$state" "$reason"; exit 4 ;; esac
[ "$holder" = nobody ] || timeout 10 scontrol update nodename="$1" state=resume
"""
)

# Step by step: a KILL for a whole job is a TERM to its ranks and a KILL 30 s later (KillWait), `--full` or not (seen on
# 22.05), and ranks that wait for a dead one do nothing with that time. The plain scancel ends the job script, and a job
# that waits in the queue again.
KILL_JOBS = r"""
for job; do
    steps=$(timeout 10 squeue --steps --noheader --jobs="$job" --format=%i | grep -E '\.[0-9]+$')
    [ -z "$steps" ] || timeout 20 scancel --signal=KILL $steps
done
timeout 20 scancel --signal=KILL --full "$@"
timeout 20 scancel "$@"
"""
# As the run's owner: root must not write through links in a directory that another user owns. With a time limit, since
# storage that hangs must not hold the recovery up.
MARK_RUNS = r"""
timeout 10 sh -c '
    cd "$1" || exit 0
    export note="$2"
    shift 2
    for run in "$@"; do
        owner=$(stat -c %U "$run/launch.json") && runuser -u "$owner" -- sh -c '\''
            printf "%s\n" "$note" > "$1/.recovery.new" && mv -fT "$1/.recovery.new" "$1/recovery.json"
        '\'' mark "$run"
    done' mark "$@"
true
"""


@dataclass(frozen=True, slots=True)
class Job:
    """A job that Slurm has on the node, or one of the run's. `run` is empty when it is not ours to end."""

    id: str
    name: str
    user: str
    state: str
    run: str


@dataclass(frozen=True, slots=True)
class Look:
    """The node and its jobs at one moment."""

    holder: str
    state: str
    reason: str
    jobs: tuple[Job, ...]

    @property
    def alive(self) -> list[Job]:
        """Jobs that have ranks, or will have them again."""
        return [job for job in self.jobs if job.state not in GONE]


class HeldError(Exception):
    """Somebody else holds the node. `refused_by`: who, where nothing was done to it or to its jobs before."""

    def __init__(self, message: str, refused_by: str = "") -> None:
        super().__init__(message)
        self.refused_by = refused_by


class ActionModule(ActionBase):
    """`slurm_node: {node, incident, state, …}`; see plugins/modules/slurm_node.py."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        _, options = self.validate_argument_spec(
            {
                "node": {"type": "str", "default": ""},
                "incident": {"type": "str", "required": True},
                "run": {"type": "str", "default": ""},
                "runs_directory": {"type": "str", "required": True},
                "state": {
                    "type": "str",
                    "required": True,
                    "choices": ["drained", "down", "in_service", "held", "any"],
                },
                "jobs": {"type": "str", "default": "leave", "choices": ["leave", "terminate", "kill"]},
                "grace_s": {"type": "float", "default": 60.0},
                "deadline_s": {"type": "float", "default": 120.0},
            }
        )
        self.options, self.end = options, time.monotonic() + options["deadline_s"]
        return {**result, **self.answer()}

    def answer(self) -> dict[str, Any]:
        """What the task reports."""
        try:
            return self._bring()
        except HeldError as error:
            return {"failed": True, "msg": str(error)} | ({"refused_by": error.refused_by} if error.refused_by else {})
        except (TimeoutError, OSError, ValueError) as error:
            return {"failed": True, "msg": str(error)}

    def _bring(self) -> dict[str, Any]:
        wanted, look = self.options["state"], self._look()
        before = {"state_before": look.state, "reason_before": look.reason}
        if wanted == "held":
            return {**before, "changed": False, **self._require_held(look)}
        if wanted != "any" and look.holder in {"person", "incident"}:
            raise HeldError(self._told(look.holder, look.state, look.reason), refused_by=look.holder)
        foreign = [job for job in look.alive if not job.run]
        # DOWN would end the jobs of others; they are waited for, so it must be a drain first.
        target = "drain" if wanted == "drained" or foreign else "down"
        out = look.holder == "ours" and ("DRAIN" in look.state if target == "drain" else "DOWN" in look.state)
        there = {"in_service": _serves(look), "any": True}.get(wanted, out)
        ending = [job for job in look.alive if job.run] if self.options["jobs"] != "leave" else []
        changed = not there or bool(ending)
        if self._task.check_mode or (not changed and self.options["jobs"] == "leave"):
            return {**before, "changed": changed, "ended_jobs": []}
        if not there:
            # DOWN sends the node's jobs back to the queue; ours are ended before that.
            self._set("drain" if target == "down" and ending else target, first=True)
        if wanted == "in_service":
            after = self._wait(_serves, "it is not back in service for Slurm (see journalctl -u slurmd there)")
            return {**before, "changed": changed, "state": after.state}
        ended = self._end_jobs() if self.options["jobs"] != "leave" else []
        if not there and target == "down" and ending:
            self._set(target)
        after = self._look()
        return {**before, "changed": changed, "state": after.state, "ended_jobs": ended}

    def _set(self, target: str, *, first: bool = False) -> None:
        """Change the node's state, unless somebody has taken it meanwhile. Raises HeldError.

        `first`: nothing was done before.
        """
        options = self.options
        if options["state"] == "in_service":
            ran = self._shell(RESUME, options["node"], options["incident"])
        else:
            ran = self._shell(SET, options["node"], options["incident"], target)
        if ran["rc"] == 4:
            told = [*ran["stdout"].splitlines(), "", "", ""][:3]
            raise HeldError(self._told(*told), refused_by=told[0] if first else "")
        if ran["rc"] != 0:
            raise OSError(f"scontrol update {options['node']}: {_said(ran)}")

    def _end_jobs(self) -> list[str]:
        """End ours (politely first, where asked), then wait for those of others. Returns the numbers of those ended."""
        ours = {job.id: job for job in self._look().alive if job.run}
        self._mark({job.run for job in ours.values()} | ({self.options["run"]} - {""}))
        if ours and self.options["jobs"] == "terminate":
            # To the ranks alone: they write a checkpoint and leave, and the job script ends after them.
            self._shell('timeout 20 scancel --signal=TERM "$@"', *ours)
            polite = time.monotonic() + self.options["grace_s"]
            while any(job.id in ours for job in self._look().alive) and time.monotonic() < min(polite, self.end):
                time.sleep(POLL_S)
        while left := [job for job in self._look().alive if job.run]:
            if time.monotonic() > self.end:
                raise TimeoutError(f"jobs of ours do not end: {_listed(left)}")
            ours |= {job.id: job for job in left}
            names = [job.id for job in left]
            self._shell(KILL_JOBS, *names)
            time.sleep(POLL_S)
        if self.options["node"]:
            self._wait(lambda look: not [job for job in look.alive if not job.run], "others' jobs still run on it")
        return sorted(ours)

    def _mark(self, runs: set[str]) -> None:
        """Say in the runs' directories that recovery works on them: `medllm train` then waits for the next job."""
        note = json.dumps({"incident": self.options["incident"], "time": time.time()})
        self._shell(MARK_RUNS, self.options["runs_directory"], note, *sorted(runs))

    def _require_held(self, look: Look) -> dict[str, Any]:
        problem = ""
        if look.holder != "ours":
            problem = (
                f"{self.options['node']} is not held by {self.options['incident']} (state {look.state}, reason "
                f"{look.reason or 'none'}); nothing was done. Fix: run drain.yml or take_down.yml first"
            )
        elif look.alive:
            problem = f"jobs still run on {self.options['node']}: {_listed(look.alive)}; nothing was done"
        # In check mode nothing took the node out before.
        if problem and not self._task.check_mode:
            raise HeldError(problem)
        return {"state": look.state, "held": not problem}

    def _wait(self, holds: Any, what: str) -> Look:
        while not holds(look := self._look()):
            if time.monotonic() > self.end:
                left = _listed(look.alive)
                raise TimeoutError(f"{self.options['node']}: {what} (state {look.state}{'; ' + left if left else ''})")
            time.sleep(POLL_S)
        return look

    def _look(self) -> Look:
        options = self.options
        place = (options["node"], options["incident"], options["runs_directory"], options["run"])
        ran = self._shell(LOOK if options["node"] else LOOK_AT_RUN, *place)
        if ran["rc"] != 0:
            raise OSError(f"Slurm does not answer on {options['node'] or 'its controller'}: {_said(ran)}")
        return parse_look(ran["stdout"])

    def _told(self, holder: str, state: str, reason: str) -> str:
        node, why = self.options["node"], f"(state {state}, reason {reason or 'none'})"
        if holder == "incident":
            return f"{node} is held by another incident {why}; nothing was done. Fix: end that one first"
        return (
            f"{node} was taken out of service by a person {why}; nothing was done. "
            f"Fix: when it may be used again: scontrol update nodename={node} state=resume"
        )

    def _shell(self, script: str, *arguments: str) -> dict[str, Any]:
        # As standard input: with an empty one SSH would ask for a terminal, which mixes errors into the output.
        ran: dict[str, Any] = self._low_level_execute_command(
            'LC_ALL=C /bin/sh -c "$(cat)" </dev/null', in_data=f"set -- {shlex.join(arguments)}\n{script}".encode()
        )
        return ran


def parse_look(text: str) -> Look:
    """Read what LOOK prints. Raises ValueError with the line.

    A job is ours when its name is `medllm-<run>` and that run's launch.json names this very job, or none that can be
    read does: a job of the same name that somebody else submitted is theirs.
    """
    head, jobs, launches = [*re.split(r"(?m)^--\n", text, maxsplit=2), "", ""][:3]
    lines = [*head.splitlines(), "", ""][:3]
    if lines[0] not in {"nobody", "ours", "incident", "slurm", "person"}:
        raise ValueError(f"slurm, line 1: {lines[0]!r} holds no node")
    recorded: dict[str, str] = {}
    for line in launches.splitlines():
        run, _, record = line.partition("|")
        try:
            recorded[run] = str(json.loads(record)["job"])
        except (ValueError, KeyError, TypeError):
            continue
    found: dict[str, Job] = {}
    for number, line in enumerate(jobs.splitlines(), 1):
        parts = line.strip().split("|")
        if len(parts) != 4 or not re.fullmatch(r"\d+(_\S+)?", parts[0]):
            raise ValueError(f"squeue, line {number}: {line!r} is not `job|name|user|state`")
        run = parts[1].removeprefix("medllm-")
        ours = run != parts[1] and recorded.get(run) == parts[0]
        found[parts[0]] = Job(parts[0], parts[1], parts[2], parts[3], run if ours else "")
    return Look(lines[0], lines[1], lines[2], tuple(found.values()))


def _serves(look: Look) -> bool:
    return look.holder == "nobody" and not re.search(r"\*|NOT_RESPONDING|UNKNOWN|DOWN|DRAIN|POWER", look.state)


def _listed(jobs: list[Job]) -> str:
    return ", ".join(f"{job.id} ({job.name} of {job.user}, {job.state.lower()})" for job in jobs)


def _said(ran: dict[str, Any]) -> str:
    lines = (ran["stderr"].strip() or ran["stdout"].strip() or f"exit status {ran['rc']}").splitlines()
    return str(lines[-1])

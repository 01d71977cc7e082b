"""Does the scheduler give all nodes with all their GPUs to one job?"""

from __future__ import annotations

from medllm.checks import slurm
from medllm.checks.base import Check, NotRun, Reading, View, last_line
from medllm.parsers.slurm import parse_answers, parse_sinfo

_BUSY = {"allocated", "mixed", "completing"}
_GOOD = {"idle", *_BUSY}


def _read(view: View) -> list[Reading]:
    wanted = slurm.nodes(view.site)
    states = parse_sinfo(view.text(slurm.STATES.name))
    bad = [
        f"{name} {states[name].state} ({states[name].reason})" if name in states else f"{name} is unknown to Slurm"
        for name in wanted
        if name not in states or states[name].state not in _GOOD
    ]
    if bad:
        return [Reading("", len(wanted) - len(bad), refuted="; ".join(bad))]
    result = view.result(slurm.JOB)
    if result.rc == 127:
        raise NotRun("srun is not installed")
    if result.rc != 0:
        said = last_line(result.stderr or result.stdout)
        busy = [name for name in wanted if states[name].state in _BUSY]
        if busy:
            return [Reading("", 0, unsure=f"{', '.join(busy)} busy with other jobs: {said}")]
        return [Reading("", 0, refuted=f"the job did not run: {said}")]
    answers = {answer.node: answer for answer in parse_answers(result.stdout)}
    short = [
        f"{name} got {answers[name].gpus} GPUs"
        for name in wanted
        if name in answers and answers[name].gpus != view.site.gpu.per_node
    ]
    detail = f"{view.site.gpu.per_node} GPUs on each"
    return [Reading("", len(set(answers) & set(wanted)), detail, "; ".join(short) or None)]


CHECK = Check(
    id="scheduler",
    title="The scheduler runs a job on all nodes",
    proves="One job gets every node with all its GPUs, and each node answers in it.",
    group="software",
    tags=slurm.CLUSTER,
    where="mgmt",
    probes=slurm.states_and_job,
    read=_read,
    clears=("scheduler_down", "node_drained"),
    binaries=("srun", "sinfo"),
)

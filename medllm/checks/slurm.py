"""What the scheduler's checks share: one job over all nodes and all GPUs, in which each node speaks once."""

from __future__ import annotations

import shlex

from medllm.checks.base import NotRun, Probe, Subject
from medllm.site.model import Host, Site

STATES = Probe("sinfo", "sinfo -h -N -o '%N|%T|%G|%E'", deadline_s=10)
JOB = "srun"
CLUSTER = frozenset({"cluster", "slurm"})


def nodes(site: Site) -> list[str]:
    """Names of the GPU nodes that Slurm schedules; NotRun when there is none."""
    found = [host.name for host in site.gpu_nodes if host.scheduler == "slurm"]
    if not found:
        raise NotRun("no node is declared under Slurm")
    return found


def job(site: Site, _host: Host, _subject: Subject) -> tuple[Probe, ...]:
    """The job alone. As an ordinary user: that is who trains."""
    count = sum(host.scheduler == "slurm" for host in site.gpu_nodes)
    say = 'echo "node=$(hostname -s) memlock=$(ulimit -l) gpus=${SLURM_GPUS_ON_NODE:-}"'
    command = (
        f"srun --job-name=medllm-accept --partition={shlex.quote(site.slurm.partition)} --nodes={count} "
        f"--ntasks-per-node=1 --gres=gpu:{site.gpu.per_node} --immediate=10 --time=1 --chdir=/ "
        f"sh -c {shlex.quote(say)}"
    )
    return (Probe(JOB, command, deadline_s=25),)


def states_and_job(site: Site, host: Host, subject: Subject) -> tuple[Probe, ...]:
    """The states of the nodes, and the job."""
    return (STATES, *job(site, host, subject))

"""Starting a run: an order becomes a plan, a launcher carries it out, the end is summed up."""

from __future__ import annotations

import re
import shlex
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from medllm.errors import Problem, user_error
from medllm.files import state_dir
from medllm.site import Site
from medllm.thresholds import PEAK_BF16_TFLOPS
from trainer.config import TrainConfig
from trainer.estimate import estimate
from trainer.request import RUN_NAME, Request

TRAINER_PYTHON = "trainer/current/python"
PUBLIC_KEY = "keys/data.pub"
SAMPLES = "samples"
CANN = "/usr/local/Ascend/ascend-toolkit/set_env.sh"


@dataclass(frozen=True, slots=True)
class Order:
    """What `medllm train` was asked for."""

    config: TrainConfig
    data: str
    run: str
    steps: int
    nodes: int | None
    public_key: Path | None
    fresh: bool
    must_resume: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What a launcher will do: the ranks' request, the hosts, and for Slurm the job script."""

    launcher: str
    request: Request
    hosts: tuple[str, ...]
    ranks_per_node: int
    fresh: bool
    must_resume: bool
    script: str = ""
    # What the run would need and reach (`trainer.estimate`).
    estimate: dict[str, Any] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """For `--dry-run`."""
        return {
            "launcher": self.launcher,
            "run": self.request.run,
            "steps": self.request.steps,
            "hosts": list(self.hosts),
            "ranks_per_node": self.ranks_per_node,
            "world_size": self.request.world_size,
            "accelerator": self.request.accelerator,
            "data": str(self.request.data_directory),
            "run_directory": str(self.request.run_directory),
            "fresh": self.fresh,
            **self.estimate,
            "script": self.script,
        }


@dataclass(slots=True)
class Ended:
    """How a launch ended: the ranks' exit status, what they refused (status 2), and the run's records."""

    status: int
    refused: list[Problem] = field(default_factory=list)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)


class Launcher(Protocol):
    """Carries a plan out and waits for its end."""

    def launch(self, plan: Plan, progress: ProgressLine) -> Ended:
        """Raises UserError when the input is refused before a rank is started."""


def make_plan(site: Site, order: Order, launcher: str) -> Plan:
    """Check an order against the site and turn it into a plan. Touches no machine.

    Raises:
        UserError: a bad run name, more nodes than there are, a batch that can't be shared out.
    """
    if not re.fullmatch(RUN_NAME, order.run):
        raise user_error(
            f"{order.run!r} is no name for a run", "use lower-case letters, digits, dots, dashes", key="--run"
        )
    if launcher == "local":
        return _local_plan(site, order)
    candidates = tuple(host for host in site.gpu_nodes if host.scheduler == "slurm")
    count = len(candidates) if order.nodes is None else order.nodes
    if not 1 <= count <= len(candidates):
        raise user_error(
            f"{count} nodes were asked for, Slurm has {len(candidates)}",
            "give --nodes within that, or set `scheduler: slurm` for more nodes in hosts.yml",
            key="--nodes",
        )
    request = cluster_request(
        site, order, count, Path(site.paths.datasets), Path(site.paths.checkpoints), Path(site.paths.cache)
    )
    return Plan(
        "slurm",
        request,
        tuple(host.name for host in candidates),
        ranks_per_node(site),
        order.fresh,
        order.must_resume,
        job_script(site, request, count, ranks_per_node(site)),
        estimate(order.config, site, request.world_size),
    )


def ranks_per_node(site: Site) -> int:
    """One rank a GPU; on the CPU one rank a node."""
    return 1 if site.trainer_accelerator == "cpu" else site.gpu.per_node


def cluster_request(site: Site, order: Order, nodes: int, datasets: Path, checkpoints: Path, cache: Path) -> Request:
    """What the ranks on so many nodes are told; the directories as these ranks see them.

    Raises:
        UserError: the global batch can't be shared out.
    """
    world_size = nodes * ranks_per_node(site)
    order.config.batch.accumulation(world_size)
    return Request(
        run=order.run,
        run_directory=checkpoints / order.run,
        data_directory=datasets / order.data if "/" not in order.data else Path(order.data),
        public_key=order.public_key or Path(site.paths.app, PUBLIC_KEY),
        cache_directory=cache / SAMPLES,
        object_store=site.object_store,
        config=order.config,
        steps=order.steps,
        world_size=world_size,
        accelerator=site.trainer_accelerator,
        metrics_port=site.ports.trainer,
        peak_flops=peak_flops(site, world_size),
    )


def peak_flops(site: Site, ranks: int) -> float | None:
    """What so many GPUs of the site can do in a second in BF16; None on CPUs and for a model that is not known."""
    if site.trainer_accelerator != "cuda" or site.gpu.model not in PEAK_BF16_TFLOPS:
        return None
    return PEAK_BF16_TFLOPS[site.gpu.model] * 1e12 * ranks


def _local_plan(site: Site, order: Order) -> Plan:
    world_size = order.nodes or 1
    order.config.batch.accumulation(world_size)
    return Plan(
        "local",
        Request(
            run=order.run,
            run_directory=state_dir() / "runs" / order.run,
            data_directory=Path(order.data).absolute(),
            public_key=(order.public_key or state_dir() / PUBLIC_KEY).absolute(),
            cache_directory=state_dir() / SAMPLES,
            config=order.config,
            steps=order.steps,
            world_size=world_size,
            accelerator=site.trainer_accelerator,
            metrics_port=site.ports.trainer,
            peak_flops=peak_flops(site, world_size),
        ),
        ("localhost",),
        world_size,
        order.fresh,
        order.must_resume,
        estimate=estimate(order.config, site, world_size),
    )


def rank_environment(threads: int, accelerator: str) -> dict[str, str]:
    """Environment that every rank needs before it imports torch."""
    return {
        "OMP_NUM_THREADS": str(threads), "DS_ACCELERATOR": accelerator, "PYTHONUNBUFFERED": "1",
        # A heap for each loader thread grows for days: 40 bytes a sample (`python -m benchmarks.perf.loader leak`).
        "MALLOC_ARENA_MAX": "1",
    }  # fmt: skip


def interface_environment(interface: str) -> dict[str, str]:
    """The network interface on which ranks find each other."""
    return {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface}


def ascend_environment(interface: str, timeout_s: int) -> dict[str, str]:
    """HCCL's settings (CANN's reference of environment variables).

    Waiting for the others' sockets and for a collective takes as long as the run allows, within what HCCL accepts
    (120 to 7200 s). No list of allowed addresses is kept: the fabric is the cluster's own.
    """
    patience = str(min(max(timeout_s, 120), 7200))
    return {
        "HCCL_WHITELIST_DISABLE": "1", "HCCL_SOCKET_IFNAME": interface, "HCCL_CONNECT_TIMEOUT": patience,
        "HCCL_EXEC_TIMEOUT": patience,
    }  # fmt: skip


def fabric_environment(site: Site) -> dict[str, str]:
    """What NCCL must know of the network between the nodes."""
    if site.trainer_accelerator != "cuda" or not site.fabric.hcas:
        return {}
    # `=`: exactly these; NCCL else takes a name as a prefix (mlx5_1 would match mlx5_10).
    return {"NCCL_IB_HCA": "=" + ",".join(site.fabric.hcas), "NCCL_IB_TIMEOUT": str(site.fabric.ib_timeout)}


def job_script(site: Site, request: Request, nodes: int, ranks_per_node: int) -> str:
    """The batch script. `$1` is the request's file.

    A dead rank ends the step at once (--kill-on-bad-exit) and the script starts it again, from the newest checkpoint; a
    dead node sends the whole job back to the queue (--requeue). Refused input (2) is not tried again.
    """
    logs = request.run_directory / "logs"
    environment = {
        **rank_environment(request.config.engine.threads_per_rank, request.accelerator),
        **interface_environment(site.fabric.socket_interface),
        **fabric_environment(site),
    }
    if site.trainer_accelerator == "npu":
        environment |= ascend_environment(site.fabric.socket_interface, request.config.engine.collective_timeout_s)
    exports = "\n".join(f"export {name}={shlex.quote(value)}" for name, value in environment.items())
    if site.trainer_accelerator == "npu":
        # Sets the paths of CANN's libraries and kernels; it reads variables that need not be set.
        exports += f"\nset +u\n. {CANN}\nset -u"
    python = shlex.quote(f"{site.paths.app}/{TRAINER_PYTHON}")
    return f"""#!/bin/bash
#SBATCH --job-name={job_name(request.run)}
#SBATCH --partition={site.slurm.partition}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node={ranks_per_node}
#SBATCH --gres=gpu:{site.gpu.per_node}
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time={request.config.launch.time_limit_minutes}
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={logs}/job-%j.log
set -u
request=$1
{exports}
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR
stopping=
trap 'stopping=1' TERM
for attempt in $(seq 0 {request.config.launch.max_restarts}); do
  export MASTER_PORT=$((20000 + (SLURM_JOB_ID * 16 + attempt) % 10000))
  status=0
  srun --kill-on-bad-exit=1 --label {python} -m trainer.worker --request "$request" || status=$?
  case $status in 0 | 2) break ;; esac
  echo "attempt $attempt ended with status $status"
  [ -z "$stopping" ] || break
done
echo "$status" > {shlex.quote(str(logs))}/job-"$SLURM_JOB_ID".exit
exit "$status"
"""


def job_name(run: str) -> str:
    """Slurm's name for a run's job."""
    return f"medllm-{run}"


def summary(plan: Plan, ended: Ended, seconds: float) -> dict[str, Any]:
    """The run in one JSON object; losses in nats a token, seconds of this launch."""
    losses = [record["val_loss"] for record in ended.evaluations]
    stops = [record for record in ended.events if record["event"] == "stop"]
    step = max((record["step"] for record in ended.events), default=0)
    return {
        "run": plan.request.run,
        "steps": step,
        "finished": ended.status == 0 and step >= plan.request.steps,
        "first_val_loss": losses[0] if losses else None,
        "last_val_loss": losses[-1] if losses else None,
        "restarts": sum(record["event"] == "resume" for record in ended.events),
        "tokens": ended.metrics[-1]["tokens"] if ended.metrics else 0,
        "state_sha256": stops[-1].get("state_sha256") if stops else None,
        "run_directory": str(plan.request.run_directory),
        "seconds": round(seconds, 1),
    }


def refused_problems(log: str) -> list[Problem]:
    """What the ranks refused, from what they printed (srun's label in front, if any); each once."""
    found = (line.partition("error: ") for line in log.splitlines())
    messages = [message for head, mark, message in found if mark and not head.strip(" 0123456789:")]
    problems = []
    for message in dict.fromkeys(messages):
        rule, _, fix = message.partition(". Fix: ")
        problems.append(Problem(rule, fix or "see the job's log"))
    return problems


class ProgressLine:
    """One line on stderr that follows a run; a new line each few seconds where stderr is no terminal."""

    _PERIOD_S = 10.0

    def __init__(self, steps: int, *, quiet: bool = False) -> None:
        self.steps, self.quiet = steps, quiet
        self._terminal = sys.stderr.isatty()
        self._shown, self._last = 0.0, ""

    def show(self, state: str, records: Iterable[dict[str, Any]] = ()) -> None:
        """`records`: the newest lines of metrics.jsonl, if there are any."""
        newest = list(records)[-1:]
        text = state
        for record in newest:
            text = (
                f"{state}: step {record['step']}/{self.steps}, loss {record['loss']:.3f}, "
                f"{record['tokens_per_s']:.0f} tokens/s"
            )
        due = self._terminal or time.monotonic() - self._shown > self._PERIOD_S or not newest
        if self.quiet or text == self._last or not due:
            return
        self._shown, self._last = time.monotonic(), text
        print(
            f"\r{text:<70}" if self._terminal else text, end="" if self._terminal else "\n", file=sys.stderr, flush=True
        )

    def close(self) -> None:
        """End the line."""
        if self._last and self._terminal:
            print(file=sys.stderr)

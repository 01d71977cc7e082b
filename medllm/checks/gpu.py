"""What the GPU checks share: their one query of all GPUs and how a missing GPU is treated."""

from __future__ import annotations

from medllm.checks.base import NotRun, Probe, View
from medllm.parsers.nvidia_smi import Gpu, SmiLog, parse_query

QUERY = Probe("nvidia-smi -q -x", "nvidia-smi -q -x", deadline_s=15)
NODE = frozenset({"node", "gpu"})


def query(view: View) -> SmiLog:
    """The parsed answer of QUERY."""
    return parse_query(view.text(QUERY.name))


def every_gpu(view: View) -> tuple[Gpu, ...]:
    """All declared GPUs, or NotRun: a value of seven out of eight is no value of the node."""
    log = query(view)
    if len(log.gpus) != view.site.gpu.per_node:
        raise NotRun(f"{len(log.gpus)} GPUs answer, {view.site.gpu.per_node} are declared (see gpu_count)")
    return log.gpus


def device(gpu: Gpu) -> str:
    """How a GPU is called in a dossier: its bus address, which a technician finds on the chassis."""
    return f"GPU {gpu.bus_id}"

"""Is persistence mode on, so that the driver keeps each GPU's state between jobs?"""

from __future__ import annotations

from medllm.checks.base import Check, NotRun, Probe, Reading, Subject, View
from medllm.checks.gpu import NODE, QUERY, device, every_gpu
from medllm.site.model import Host, Site


def _probes(_site: Site, _host: Host, _subject: Subject) -> tuple[Probe, ...]:
    return (QUERY,)


def _read(view: View) -> list[Reading]:
    gpus = every_gpu(view)
    for gpu in gpus:
        if gpu.persistence is None:
            raise NotRun(f"{device(gpu)} gives no persistence mode")
    off = [device(gpu) for gpu in gpus if not gpu.persistence]
    return [Reading("", len(gpus) - len(off), f"off: {', '.join(off)}" if off else "")]


CHECK = Check(
    id="gpu_persistence",
    title="Persistence mode is on",
    proves="The driver stays loaded on every GPU when no job runs.",
    group="software",
    tags=NODE,
    where="gpu_nodes",
    probes=_probes,
    read=_read,
    clears=("persistence_off",),
    binaries=("nvidia-smi",),
)

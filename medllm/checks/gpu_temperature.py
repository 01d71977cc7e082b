"""Is every GPU cool?"""

from __future__ import annotations

from medllm.checks.base import Check, NotRun, Probe, Reading, Subject, View
from medllm.checks.gpu import NODE, QUERY, device, every_gpu
from medllm.site.model import Host, Site


def _probes(_site: Site, _host: Host, _subject: Subject) -> tuple[Probe, ...]:
    return (QUERY,)


def _read(view: View) -> list[Reading]:
    readings = []
    for gpu in every_gpu(view):
        if gpu.temperature_c is None:
            raise NotRun(f"{device(gpu)} gives no temperature")
        readings.append(Reading(device(gpu), gpu.temperature_c))
    return readings


CHECK = Check(
    id="gpu_temperature",
    title="GPUs are cool",
    proves="No GPU is hotter than the limit.",
    group="hardware",
    tags=NODE,
    where="gpu_nodes",
    probes=_probes,
    read=_read,
    clears=("gpu_overheat",),
    binaries=("nvidia-smi",),
)

"""Are all NVLinks of every GPU up, at their speed?"""

from __future__ import annotations

from medllm.checks.base import Check, NotRun, Probe, Reading, Subject, View
from medllm.checks.gpu import NODE
from medllm.parsers.nvidia_smi import parse_nvlink
from medllm.site.model import Host, Site

STATUS = Probe("nvidia-smi nvlink -s", "nvidia-smi nvlink -s", deadline_s=15)


def _probes(_site: Site, _host: Host, _subject: Subject) -> tuple[Probe, ...]:
    return (STATUS,)


def _read(view: View) -> list[Reading]:
    gpus = parse_nvlink(view.text(STATUS.name))
    if len(gpus) != view.site.gpu.per_node:
        raise NotRun(f"{len(gpus)} GPUs answer, {view.site.gpu.per_node} are declared (see gpu_count)")
    wanted = view.site.gpu.nvlink_gbs
    readings = []
    for gpu in gpus:
        # The tool prints three decimals.
        good = [number for number, speed in gpu.links if speed is not None and abs(speed - wanted) < 0.001]
        bad = [f"link {number} {'inactive' if speed is None else f'{speed:g} GB/s'}" for number, speed in gpu.links]
        detail = ", ".join(text for text, (number, _) in zip(bad, gpu.links, strict=True) if number not in good)
        readings.append(Reading(f"GPU {gpu.index}", len(good), detail))
    return readings


CHECK = Check(
    id="nvlink",
    title="All NVLinks are up",
    proves="Every NVLink of every GPU is active at the declared speed.",
    group="hardware",
    tags=NODE,
    where="gpu_nodes",
    probes=_probes,
    read=_read,
    clears=("nvlink_down",),
    binaries=("nvidia-smi",),
)

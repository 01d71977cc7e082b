"""Has a GPU uncorrectable memory errors, or a row remapping that waits or failed?"""

from __future__ import annotations

from medllm.checks.base import Check, NotRun, Probe, Reading, Subject, View
from medllm.checks.gpu import NODE, QUERY, device, every_gpu
from medllm.site.model import Host, Site


def _probes(_site: Site, _host: Host, _subject: Subject) -> tuple[Probe, ...]:
    return (QUERY,)


def _read(view: View) -> list[Reading]:
    readings = []
    for gpu in every_gpu(view):
        if gpu.uncorrectable is None or gpu.remap_pending is None or gpu.remap_failure is None:
            raise NotRun(f"{device(gpu)} gives no error counters (is ECC on?)")
        refuted = None
        if gpu.remap_failure:
            refuted = "a row could not be remapped: replace the GPU"
        elif gpu.remap_pending:
            refuted = "a row waits to be remapped: reset the GPU"
        readings.append(Reading(device(gpu), gpu.uncorrectable, refuted=refuted))
    return readings


CHECK = Check(
    id="gpu_ecc",
    title="GPU memory is sound",
    proves="No GPU has counted an uncorrectable memory error since its reset, nor waits for a row to be remapped.",
    group="hardware",
    tags=NODE,
    where="gpu_nodes",
    probes=_probes,
    read=_read,
    clears=("gpu_ecc",),
    binaries=("nvidia-smi",),
)

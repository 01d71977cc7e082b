"""Are all GPUs there, and are they the declared model?"""

from __future__ import annotations

from medllm.checks.base import Check, NotRun, Probe, Reading, Subject, View, last_line
from medllm.checks.gpu import NODE
from medllm.parsers.nvidia_smi import parse_list
from medllm.site.model import Host, Site

LIST = Probe("nvidia-smi -L", "nvidia-smi -L", deadline_s=15)
# nvidia-smi(1), RETURN VALUE: 6 no device found, 15 a GPU fell off the bus. Both are answers.
_ANSWERS = {0, 6, 15}


def _probes(_site: Site, _host: Host, _subject: Subject) -> tuple[Probe, ...]:
    return (LIST,)


def _read(view: View) -> list[Reading]:
    result = view.result(LIST.name)
    text = result.stdout + result.stderr
    if result.rc not in _ANSWERS and "Unable to determine the device handle" not in text:
        raise NotRun(f"nvidia-smi -L: exit status {result.rc}: {last_line(result.stderr or result.stdout)}")
    listing = parse_list(text)
    # The name is compared as a whole: "GH200" contains "H200" (gpud PR 1206).
    declared = [gpu for gpu in listing.gpus if gpu.name == view.site.gpu.model]
    others = sorted({gpu.name for gpu in listing.gpus if gpu.name != view.site.gpu.model})
    if len({gpu.uuid for gpu in declared}) != len(declared):
        raise NotRun("two GPUs have the same UUID")
    refuted = None
    if listing.lost:
        refuted = "lost: " + ", ".join(f"GPU {gpu.bus_id} ({gpu.reason})" for gpu in listing.lost)
    detail = f"other models: {', '.join(others)}" if others else view.site.gpu.model
    return [Reading("", len(declared), detail, refuted)]


CHECK = Check(
    id="gpu_count",
    title="All GPUs answer",
    proves="Every node has the declared number of GPUs of exactly the declared model, and each answers.",
    group="hardware",
    tags=NODE,
    where="gpu_nodes",
    probes=_probes,
    read=_read,
    clears=("gpu_lost", "gpu_missing"),
    binaries=("nvidia-smi",),
)

"""What slows a run down, from its own measurements over a stretch of time; and what to do about it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trainer.data.cache import MEMORY, NVME
from trainer.data.stages import COLLATE, COMMUNICATE, COMPUTE, DECODE, READ, SAVE, WAIT

# The shares and counts below are the specification's, unless a line says why.
READ_SHARE, DECODE_SHARE, STARVED, HIT_SHARE = 0.5, 0.3, 10, 0.6
# "Loading < 10 % of step time" is the asked target: below that, whatever loading is made of costs nothing.
WAIT_SHARE = 0.1
# Ours: collating is work like decoding; threads that are busy for more have no reserve for a slow sample.
COLLATE_SHARE, BUSY_SHARE = 0.3, 0.8
# Ours: what a checkpoint or the slowest rank may cost before somebody should look.
SAVE_SHARE, COMMUNICATE_SHARE = 0.1, 0.2
# The specification's: below it, a larger batch.
GPU_BUSY = 75.0
# Fewer say more of chance than of the run.
BATCHES = 10


@dataclass(frozen=True, slots=True)
class Stretch:
    """What rank 0 did in `seconds` of wall time.

    stages: seconds by stage (`trainer.data.stages`); the loader's summed over its `threads`
    hits: samples by the level that they came from
    """

    seconds: float
    batches: int
    starved: int
    lost: int
    threads: int
    stages: Mapping[str, float]
    hits: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Finding:
    """`name` is for machines; `share` of what, in words, is `says`."""

    name: str
    says: str
    advice: tuple[str, ...]


_ADVICE = {
    "storage": (
        "give the node's own disk more room for samples (loader.nvme_gib), so that the second epoch is read there",
        "look at the file system: the striping of the data set's directory, and its load",
        "more loader threads hide the latency of single reads (loader.threads)",
    ),
    "cache": (
        "raise loader.nvme_gib (or loader.memory_mib) until a node's share of the data set fits",
        "in the first epoch nothing is cached yet: look again in the second",
    ),
    "decoding": (
        "more loader threads, up to 80 % of the cores (loader.threads)",
        "store smaller pictures: `medllm data pack --image-size`",
    ),
    "collating": (
        "more loader threads, up to 80 % of the cores (loader.threads)",
        "shorter notes (data.sequence_length), or batches by tokens (batch.max_tokens): less padding",
    ),
    "threads": ("more loader threads, up to 80 % of the cores (loader.threads)",),
    "look_ahead": (
        "make more batches ahead (loader.ahead_batches × 1.5), so that single slow reads are bridged",
        "look for what comes in bursts: checkpoints, other jobs on the file system",
    ),
    "damaged": (
        "verify the data set where it lies (`medllm data verify`) and publish it again",
        "declare site_object_store, so that damaged samples are read from a copy",
    ),
    "gpu": (
        "give each GPU more at once: `medllm data tune` tries larger micro-batches (batch.micro_size)",
        "look at what runs between the kernels: many small ones, copies to and from the GPU",
    ),
    "communication": (
        "one rank is slower than the others, or the fabric is: look at the checks of `medllm accept run`",
    ),
    "checkpoints": (
        "save less often (checkpoint.every_steps)",
        "look at the write rate of the checkpoints' file system",
    ),
}


def diagnose(stretch: Stretch, gpu_busy: float | None = None) -> list[Finding] | None:
    """What slows the run down, the costliest first; none when it computes. None: too little was measured to say.

    Args:
        gpu_busy: mean utilisation of the GPUs in percent, where it was measured
    """
    stages = stretch.stages
    step = sum(stages.get(name, 0.0) for name in (WAIT, COMPUTE, COMMUNICATE, SAVE))
    work = sum(stages.get(name, 0.0) for name in (READ, DECODE, COLLATE))
    if stretch.batches < BATCHES or step <= 0 or work <= 0 or stretch.seconds <= 0 or stretch.threads < 1:
        return None
    found: list[tuple[float, Finding]] = []

    def add(name: str, weight: float, says: str) -> None:
        found.append((weight, Finding(name, says, _ADVICE[name])))

    if stretch.lost:
        add("damaged", 2.0, f"{stretch.lost} samples could not be read anywhere and were left out")
    for name, stage, limit in (("communication", COMMUNICATE, COMMUNICATE_SHARE), ("checkpoints", SAVE, SAVE_SHARE)):
        share = stages.get(stage, 0.0) / step
        if share > limit:
            add(name, share, f"{share:.0%} of the time goes to {name} (more than {limit:.0%})")
    waited = stages.get(WAIT, 0.0) / step
    if waited > WAIT_SHARE:
        for weight, name, says in _loading(stretch, work):
            # Within the time that was waited, the part that the stage has in making batches.
            add(name, waited * weight, f"{waited:.0%} of the time is waiting for batches; {says}")
    # GPUs that wait for batches, ranks or checkpoints are idle for that reason, which is named already.
    if not found and gpu_busy is not None and gpu_busy < GPU_BUSY:
        add("gpu", 1 - gpu_busy / 100, f"the GPUs are busy for {gpu_busy:.0f} % only, and nothing keeps them waiting")
    return [finding for _, finding in sorted(found, key=lambda pair: -pair[0])]


def _loading(stretch: Stretch, work: float) -> list[tuple[float, str, str]]:
    """(weight, name, words) of what makes batches late."""
    stages, found = stretch.stages, []
    read, decode, collate = (stages.get(name, 0.0) / work for name in (READ, DECODE, COLLATE))
    busy = work / (stretch.threads * stretch.seconds)
    if busy < BUSY_SHARE and stretch.starved > STARVED:
        # The threads have time, on the average; the batches are late all the same.
        found.append(
            (1.0, "look_ahead", f"{stretch.starved} were late though the threads are busy for {busy:.0%} only")
        )
    if read > READ_SHARE:
        all_hits = sum(stretch.hits.values())
        near = (stretch.hits.get(MEMORY, 0) + stretch.hits.get(NVME, 0)) / max(1, all_hits)
        if all_hits and near < HIT_SHARE and stretch.hits.get(NVME, 0):
            found.append((read + 0.01, "cache", f"{near:.0%} of the samples come from memory or the node's disk"))
        found.append((read, "storage", f"{read:.0%} of the loader's time is reading"))
    if decode > DECODE_SHARE:
        found.append((decode, "decoding", f"{decode:.0%} of the loader's time is decompressing and decoding"))
    if collate > COLLATE_SHARE:
        found.append((collate, "collating", f"{collate:.0%} of the loader's time is tokenising and collating"))
    if busy >= BUSY_SHARE and max(read / READ_SHARE, decode / DECODE_SHARE, collate / COLLATE_SHARE) < 1.5:
        found.append(
            (1.0, "threads", f"all {stretch.threads} threads are busy for {busy:.0%} with no one stage to blame")
        )
    return found

"""`medllm data tune`: loader threads, batches ahead and samples a batch for this machine and data set, by trials."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import typer

from medllm.errors import user_error
from medllm.files import state_dir
from trainer.data.advice import WAIT_SHARE

if TYPE_CHECKING:
    from trainer.config import TrainConfig
    from trainer.data.gate import Dataset

# Of the specification: at most this share of the cores; two more threads at a time; half as many batches again; and at
# most so many samples and positions (tokens, image and waveform patches, padding) in a batch.
CORE_SHARE, MORE_THREADS, MORE_AHEAD = 0.8, 2, 1.5
MOST_SAMPLES, MOST_TOKENS = 32, 32768
# Ours: each setting is tried so often, and what differs by less than the trials among themselves is no gain.
TRIALS = 3
MOST_AHEAD = 64

app = typer.Typer(add_completion=False)


@dataclass(frozen=True, slots=True, order=True)
class Setting:
    """What `loader:` and `batch:` of a configuration say. `max_tokens` 0: batches are not made by tokens."""

    threads: int
    ahead_batches: int
    micro_size: int = 1
    max_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be tried: threads up to, the sizes of a micro-batch (ascending), and its positions up to."""

    threads: int
    sizes: tuple[int, ...] = (1,)
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Measured:
    """Of one setting: samples a second (median of the trials), their spread, and the share of the time waited."""

    setting: Setting
    samples_per_s: float
    spread: float
    wait_share: float


Trial = Callable[[Setting], tuple[float, float]]
"""A setting → samples a second, and the share of the consumer's time that it waited for batches."""
Move = Callable[[Setting], Setting]


def measure(trial: Trial, setting: Setting) -> Measured:
    """Several trials of one setting."""
    found = [trial(setting) for _ in range(TRIALS)]
    rates = sorted(rate for rate, _ in found)
    return Measured(setting, median(rates), rates[-1] - rates[0], median(share for _, share in found))


def search(trial: Trial, start: Setting, limits: Limits) -> list[Measured]:
    """All settings tried, in their order; `chosen` picks from them.

    It climbs: more threads, then more batches ahead, then larger batches, as long as that gains more than the trials
    differ by. Threads and batches ahead only while the consumer waits: more would only take cores from others. A batch
    can gain also where it does not: what a GPU takes for a batch of any size is then paid less often.
    """
    tried = [measure(trial, start)]
    best = tried[0]
    gained = True
    while gained:
        gained = False
        for move, while_waiting in _moves(limits):
            while not while_waiting or best.wait_share > WAIT_SHARE:
                setting = move(best.setting)
                if any(found.setting == setting for found in tried):
                    break
                tried.append(measure(trial, setting))
                if not _better(tried[-1], best):
                    break
                best, gained = tried[-1], True
    return tried


def _moves(limits: Limits) -> tuple[tuple[Move, bool], ...]:
    """Each with whether it is only for a consumer that waits; a move that the limits forbid changes nothing."""
    return (
        (lambda at: replace(at, threads=min(limits.threads, at.threads + MORE_THREADS)), True),
        (lambda at: replace(at, ahead_batches=min(MOST_AHEAD, max(at.ahead_batches + 1, _half_more(at)))), True),
        (lambda at: replace(at, micro_size=_larger(at, limits)), False),
        (lambda at: replace(at, max_tokens=max(at.max_tokens, min(limits.tokens, 2 * at.max_tokens))), False),
        # Either limit alone may hold the batch at its size.
        (
            lambda at: replace(
                at,
                micro_size=_larger(at, limits),
                max_tokens=max(at.max_tokens, min(limits.tokens, 2 * at.max_tokens)),
            ),
            False,
        ),
    )


def _half_more(at: Setting) -> int:
    return int(at.ahead_batches * MORE_AHEAD)


def _larger(at: Setting, limits: Limits) -> int:
    """About twice as many samples: the least size of at least that, else the largest."""
    above = [size for size in limits.sizes if size > at.micro_size]
    return next((size for size in above if size >= 2 * at.micro_size), above[-1] if above else at.micro_size)


def _better(new: Measured, old: Measured) -> bool:
    return new.samples_per_s - old.samples_per_s > max(new.spread, old.spread)


def chosen(tried: list[Measured]) -> Measured:
    """The cheapest setting that none beats by more than the trials differ."""
    fastest = max(tried, key=lambda found: found.samples_per_s)
    return min((found for found in tried if not _better(fastest, found)), key=lambda found: found.setting)


def batch_sizes(global_size: int, ranks: int, widest: int | None) -> tuple[int, ...]:
    """Sizes of a micro-batch that share a global batch out evenly and keep to the specification's limits.

    Args:
        widest: positions of the longest sample, to which a batch of so many samples is padded; None where batches are
            made by tokens, which has a limit of its own
    """
    return tuple(
        size
        for size in range(1, MOST_SAMPLES + 1)
        if global_size % (size * ranks) == 0 and (widest is None or size * widest <= MOST_TOKENS)
    )


def most_threads(ranks: int) -> int:
    """Threads that one of `ranks` ranks on this machine may take."""
    return max(1, int((os.cpu_count() or 1) * CORE_SHARE) // ranks)


@app.command()
def tune(
    data: Annotated[Path, typer.Argument(help="A packed data set, where the ranks would read it.")],
    config: Annotated[str, typer.Option(help="A configuration of trainer/configs, or a .yml file.")] = "medllm-tiny",
    overrides: Annotated[list[str] | None, typer.Option("--set", help="SECTION.KEY=VALUE, may be repeated.")] = None,
    key: Annotated[Path | None, typer.Option(help="Public key of the data set; the host's own by default.")] = None,
    step_ms: Annotated[
        float, typer.Option(min=0, help="What a GPU takes for a micro-batch as configured; 0: none waits for it.")
    ] = 0,
    fixed_ms: Annotated[
        float,
        typer.Option(min=0, help="Of --step-ms, what a batch of any size takes; the rest grows with its samples."),
    ] = 0,
    keep_batch: Annotated[bool, typer.Option("--keep-batch", help="Do not try other batch sizes.")] = False,
    ranks: Annotated[int, typer.Option(min=1, max=16, help="Ranks that share this machine.")] = 1,
    seconds: Annotated[float, typer.Option(min=0.2, max=600, help="For each trial.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for machines.")] = False,
) -> None:
    """Find the loader's threads, batches ahead and batch size by trials without caches: the first epoch is the hardest.

    A batch has at most 32 samples and 32768 positions, and shares the global batch out evenly. Another batch size is
    for a new run (a begun one keeps its own), and whether it fits into a GPU's memory is seen only there.

    Exit code 0 when the consumer waits for at most a tenth of its time with them, 1 when it still waits for more.
    """
    from rich.console import Console

    from trainer.config import load_config
    from trainer.data.gate import open_dataset

    settings = load_config(config, overrides or [])
    dataset = open_dataset(data, key or state_dir() / "keys" / "data.pub", settings)
    if len(dataset.train) < settings.batch.micro_size:
        raise user_error("the data set has fewer samples than a micro-batch", "pack more patients", file=data)
    console = Console(stderr=True)

    if fixed_ms > step_ms:
        raise user_error("the fixed part is more than the whole step", "give it at most --step-ms", key="--fixed-ms")
    start, limits = _from(settings, dataset, ranks, keep_batch)
    per_sample_s = (step_ms - fixed_ms) / 1000 / mean_rows(dataset, settings)

    def trial(setting: Setting) -> tuple[float, float]:
        console.print(f"trying {_words(setting)}", highlight=False)
        return run_trial(dataset, with_batch(settings, setting), setting, seconds, fixed_ms / 1000, per_sample_s)

    tried = search(trial, start, limits)
    best = chosen(tried)
    if as_json:
        print(json.dumps({"chosen": asdict(best), "tried": [asdict(found) for found in tried]}))
    else:
        for found in tried:
            mark = "→" if found is best else " "
            print(
                f"{mark} {_words(found.setting)}: {found.samples_per_s:.1f} samples/s ± {found.spread / 2:.1f}, "
                f"waited {found.wait_share:.0%}"
            )
        print(f"loader:\n  threads: {best.setting.threads}\n  ahead_batches: {best.setting.ahead_batches}")
        if (best.setting.micro_size, best.setting.max_tokens) != (start.micro_size, start.max_tokens):
            print(f"batch:\n  micro_size: {best.setting.micro_size}")
            if best.setting.max_tokens:
                print(f"  max_tokens: {best.setting.max_tokens}")
    raise typer.Exit(0 if not step_ms or best.wait_share <= WAIT_SHARE else 1)


def _words(setting: Setting) -> str:
    tokens = f", {setting.max_tokens} tokens" if setting.max_tokens else ""
    return f"{setting.threads} threads, {setting.ahead_batches} ahead, {setting.micro_size} samples{tokens}"


def _from(config: TrainConfig, dataset: Dataset, ranks: int, keep_batch: bool) -> tuple[Setting, Limits]:
    """Where to begin, and how far to go."""
    from trainer.data.collate import positions

    batch, threads = config.batch, most_threads(ranks)
    start = Setting(1, 2, batch.micro_size, batch.max_tokens or 0)
    if keep_batch:
        return start, Limits(threads, (batch.micro_size,), start.max_tokens)
    widest = None if batch.max_tokens else max(positions(entry, config) for entry in dataset.train.entries)
    sizes = tuple(size for size in batch_sizes(batch.global_size, ranks, widest) if size <= max(len(dataset.train), 1))
    if batch.micro_size not in sizes or start.max_tokens > MOST_TOKENS:
        raise user_error(
            f"a micro-batch of {batch.micro_size} samples is beyond {MOST_SAMPLES} samples or {MOST_TOKENS} positions, "
            f"or does not share {batch.global_size} samples out to {ranks} ranks evenly",
            f"--set batch.micro_size to one of {', '.join(map(str, sizes)) or 'none'}, fewer --ranks, or --keep-batch",
            key="batch.micro_size",
        )
    return start, Limits(threads, sizes, MOST_TOKENS if start.max_tokens else 0)


def with_batch(config: TrainConfig, setting: Setting) -> TrainConfig:
    """The configuration with the batch of `setting`."""
    change = {"micro_size": setting.micro_size, "max_tokens": setting.max_tokens or None}
    return config.model_copy(update={"batch": config.batch.model_copy(update=change)})


def mean_rows(dataset: Dataset, config: TrainConfig) -> float:
    """Samples in a micro-batch as configured, on the average over the first ones."""
    from trainer.data.collate import batches_of

    batches = batches_of(dataset.train, config).step(0, 64)
    return sum(map(len, batches)) / len(batches)


def run_trial(
    dataset: Dataset, config: TrainConfig, setting: Setting, seconds: float, fixed_s: float, per_sample_s: float
) -> tuple[float, float]:
    """One trial on a real data set, with a consumer that takes `fixed_s` a batch and `per_sample_s`; see `Trial`."""
    from trainer.data.cache import MemoryCache, SampleReader
    from trainer.data.collate import Collator, batches_of
    from trainer.data.loader import Loader, rank_batches

    train = dataset.train
    waited, count = 0.0, 0
    with Loader(
        SampleReader(train, MemoryCache(0)), Collator(config, dataset.tokenizer),
        lambda: rank_batches(batches_of(train, config), 0, config.batch.per_step, 0, 1),
        threads=setting.threads, ahead=setting.ahead_batches,
    ) as loader:  # fmt: skip
        for _ in range(setting.ahead_batches + setting.threads):
            next(loader)  # what was ready before the trial began
        begin = time.perf_counter()
        while time.perf_counter() - begin < seconds:
            asked = time.perf_counter()
            batch, _ = next(loader)
            waited += time.perf_counter() - asked
            rows = len(batch.tokens)
            count += rows
            time.sleep(fixed_s + per_sample_s * rows)
        spent = time.perf_counter() - begin
    return count / spent, waited / spent

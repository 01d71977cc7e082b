"""`medllm data tune`: how many loader threads and batches ahead this machine and this data set need, by trials."""

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

# Of the specification: at most this share of the cores; two more threads at a time; half as many batches again.
CORE_SHARE, MORE_THREADS, MORE_AHEAD = 0.8, 2, 1.5
# Ours: each setting is tried so often, and what differs by less than the trials among themselves is no gain.
TRIALS = 3
MOST_AHEAD = 64

app = typer.Typer(add_completion=False)


@dataclass(frozen=True, slots=True, order=True)
class Setting:
    """What `loader:` of a configuration says."""

    threads: int
    ahead_batches: int


@dataclass(frozen=True, slots=True)
class Measured:
    """Of one setting: batches a second (median of the trials), their spread, and the share of the time waited."""

    setting: Setting
    batches_per_s: float
    spread: float
    wait_share: float


Trial = Callable[[Setting], tuple[float, float]]
"""A setting → batches a second, and the share of the consumer's time that it waited for them."""


def measure(trial: Trial, setting: Setting) -> Measured:
    """Several trials of one setting."""
    found = [trial(setting) for _ in range(TRIALS)]
    rates = sorted(rate for rate, _ in found)
    return Measured(setting, median(rates), rates[-1] - rates[0], median(share for _, share in found))


def search(trial: Trial, start: Setting, most_threads: int) -> list[Measured]:
    """All settings tried, in their order; `chosen` picks from them.

    It climbs: more threads, then more batches ahead, as long as that gains more than the trials differ by. It stops as
    soon as the consumer hardly waits: more would only take cores from others.
    """
    tried = [measure(trial, start)]
    best = tried[0]
    moves: tuple[Callable[[Setting], Setting], ...] = (
        lambda at: replace(at, threads=min(most_threads, at.threads + MORE_THREADS)),
        lambda at: replace(
            at, ahead_batches=min(MOST_AHEAD, max(at.ahead_batches + 1, int(at.ahead_batches * MORE_AHEAD)))
        ),
    )
    gained = True
    while gained and best.wait_share > WAIT_SHARE:
        gained = False
        for move in moves:
            while best.wait_share > WAIT_SHARE:
                setting = move(best.setting)
                if any(found.setting == setting for found in tried):
                    break
                tried.append(measure(trial, setting))
                if not _better(tried[-1], best):
                    break
                best, gained = tried[-1], True
    return tried


def _better(new: Measured, old: Measured) -> bool:
    return new.batches_per_s - old.batches_per_s > max(new.spread, old.spread)


def chosen(tried: list[Measured]) -> Measured:
    """The cheapest setting that none beats by more than the trials differ."""
    fastest = max(tried, key=lambda found: found.batches_per_s)
    return min((found for found in tried if not _better(fastest, found)), key=lambda found: found.setting)


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
        float, typer.Option(min=0, help="What a GPU takes for a micro-batch; 0: batches are taken as they come.")
    ] = 0,
    ranks: Annotated[int, typer.Option(min=1, max=16, help="Ranks that share this machine.")] = 1,
    seconds: Annotated[float, typer.Option(min=0.2, max=600, help="For each trial.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for machines.")] = False,
) -> None:
    """Find the loader's threads and batches ahead by trials without caches: the first epoch is the hardest.

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

    def trial(setting: Setting) -> tuple[float, float]:
        console.print(f"trying {setting.threads} threads, {setting.ahead_batches} batches ahead", highlight=False)
        return run_trial(dataset, settings, setting, seconds, step_ms / 1000)

    start = Setting(1, 2)
    tried = search(trial, start, most_threads(ranks))
    best = chosen(tried)
    if as_json:
        print(json.dumps({"chosen": asdict(best), "tried": [asdict(found) for found in tried]}))
    else:
        for found in tried:
            mark = "→" if found is best else " "
            print(
                f"{mark} {found.setting.threads:3} threads {found.setting.ahead_batches:3} ahead "
                f"{found.batches_per_s:9.1f} batches/s ± {found.spread / 2:.1f}, waited {found.wait_share:.0%}"
            )
        print(f"loader:\n  threads: {best.setting.threads}\n  ahead_batches: {best.setting.ahead_batches}")
    raise typer.Exit(0 if not step_ms or best.wait_share <= WAIT_SHARE else 1)


def run_trial(
    dataset: Dataset, config: TrainConfig, setting: Setting, seconds: float, step_s: float
) -> tuple[float, float]:
    """One trial on a real data set; see `Trial`."""
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
            next(loader)
            waited += time.perf_counter() - asked
            count += 1
            time.sleep(step_s)
        spent = time.perf_counter() - begin
    return count / spent, waited / spent

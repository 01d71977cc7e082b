"""`medllm data monitor`: where a running training's time goes, and what slows it down."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medllm.errors import user_error
from trainer.data.advice import Finding, Stretch, diagnose
from trainer.data.gpu_utilisation import Utilisation, gpu_utilisation
from trainer.data.stages import STEP, WORK

if TYPE_CHECKING:
    from medllm.site import Site

_TIMEOUT_S = 5.0
# A page of metrics has some ten kilobytes.
_PAGE_BYTES = 4 * 2**20

app = typer.Typer(add_completion=False)


@dataclass(frozen=True, slots=True)
class Scrape:
    """One look at rank 0's metrics; `time` in seconds of any clock that goes on evenly."""

    run: str
    time: float
    step: int
    values: dict[str, float]
    stages: dict[str, float]
    hits: dict[str, int]


def parse(text: str, taken: float) -> list[Scrape]:
    """The runs on a page of metrics.

    Raises:
        ValueError: no such page.
    """
    from prometheus_client.parser import text_string_to_metric_families

    runs: dict[str, Scrape] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            run = sample.labels.get("run")
            if run is None or not sample.name.startswith("training_"):
                continue
            scrape = runs.setdefault(run, Scrape(run, taken, 0, {}, {}, {}))
            if sample.name == "training_stage_seconds":
                scrape.stages[sample.labels.get("stage", "")] = sample.value
            elif sample.name == "training_data_hits":
                scrape.hits[sample.labels.get("level", "")] = int(sample.value)
            else:
                scrape.values[sample.name] = sample.value
    return [
        Scrape(run, taken, int(found.values.get("training_step", 0)), found.values, found.stages, found.hits)
        for run, found in runs.items()
    ]


def between(first: Scrape, last: Scrape) -> Stretch:
    """What happened between two looks at one run.

    Raises:
        ValueError: the run was started anew between them, or the looks are not in order.
    """
    if last.time <= first.time:
        raise ValueError("the second look is not after the first")
    batches = _grown(first, last, "training_data_batches")
    stages = {name: last.stages[name] - first.stages.get(name, 0.0) for name in last.stages}
    if batches < 0 or min(stages.values(), default=0.0) < 0:
        raise ValueError("the run was started anew meanwhile")
    return Stretch(
        last.time - first.time, batches, _grown(first, last, "training_data_starved"),
        int(last.values.get("training_data_lost", 0)), int(last.values.get("training_data_threads", 0)), stages,
        {level: last.hits[level] - first.hits.get(level, 0) for level in last.hits},
    )  # fmt: skip


def _grown(first: Scrape, last: Scrape, name: str) -> int:
    return int(last.values.get(name, 0) - first.values.get(name, 0))


def _fetch(url: str) -> list[Scrape]:
    fix = "give the address of rank 0's metrics with --url, or start the run"
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
            text = answer.read(_PAGE_BYTES).decode("utf-8")
        return parse(text, time.monotonic())
    except (OSError, urllib.error.URLError) as error:
        raise user_error(f"{url} does not answer ({getattr(error, 'reason', error)})", fix, key="--url") from None
    except ValueError:
        raise user_error(f"{url} gives no page of metrics", fix, key="--url") from None


def _choose(scrapes: list[Scrape], run: str | None, url: str) -> Scrape:
    found = [scrape for scrape in scrapes if run in (None, scrape.run)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(sorted(scrape.run for scrape in scrapes)) or "none"
    raise user_error(f"{url} has {len(found)} such runs (there: {names})", "name one with --run", key="--run")


def _rank_0(site: Site) -> str:
    """The address of the first GPU node that serves a trainer's metrics."""
    for host in site.gpu_nodes:
        url = f"http://{host.address}:{site.ports.trainer}/metrics"
        try:
            with urllib.request.urlopen(url, timeout=1):
                return url
        except OSError:
            continue
    raise user_error(
        f"no GPU node answers on the trainer's port {site.ports.trainer}",
        "start a run with `medllm train`, or give --url",
        key="--inventory",
    )


@app.command()
def monitor(
    url: Annotated[str | None, typer.Option(help="Rank 0's metrics (default: those of the site's run).")] = None,
    run: Annotated[str | None, typer.Option(help="The run, if there are several.")] = None,
    prometheus: Annotated[
        str | None, typer.Option(help="Who knows how busy the GPUs are (default: the site's, without --url).")
    ] = None,
    seconds: Annotated[float, typer.Option(min=1, max=3600, help="How long to look.")] = 15,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for machines.")] = False,
    inventory: Annotated[
        Path, typer.Option("--inventory", "-i", envvar="MEDLLM_INVENTORY", help="The site's directory.")
    ] = Path("inventory/lab"),
) -> None:
    """Say where a running training's time goes. Exits 0 when nothing slows it, 1 when something does or too little was
    measured to say, 2 when it can't be reached.
    """
    if url is None:
        from medllm.site import load_site

        site = load_site(inventory)
        url = _rank_0(site)
        prometheus = prometheus or f"http://{site.mgmt.address}:{site.ports.prometheus}"
    first = _choose(_fetch(url), run, url)
    time.sleep(seconds)
    last = _choose(_fetch(url), first.run, url)
    try:
        stretch = between(first, last)
    except ValueError as error:
        raise user_error(str(error), "look again", key="--run") from None
    gpus, unknown = _gpus(prometheus, seconds)
    findings = diagnose(stretch, gpus.mean if gpus else None)
    facts = {
        "run": last.run, "step": last.step, "steps": last.step - first.step, **asdict(stretch),
        "outcome": "NOT_RUN" if findings is None else "FAIL" if findings else "PASS",
        "findings": [asdict(finding) for finding in findings or []],
        "gpus": asdict(gpus) if gpus else None,
    }  # fmt: skip
    if as_json:
        print(json.dumps(facts))
    else:
        _show(facts, stretch, findings, gpus or unknown)
    raise typer.Exit(0 if findings == [] else 1)


def _gpus(prometheus: str | None, seconds: float) -> tuple[Utilisation | None, str]:
    """How busy the GPUs were; or why that is not known."""
    if prometheus is None:
        return None, "no Prometheus was named (--prometheus)"
    try:
        return gpu_utilisation(prometheus, seconds), ""
    except ValueError as error:
        return None, str(error)


def _show(facts: dict[str, Any], stretch: Stretch, findings: list[Finding] | None, gpus: Utilisation | str) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    title = f"{facts['run']}: step {facts['step']}, {facts['steps']} steps in {stretch.seconds:.0f} s"
    table = Table("stage", "seconds", "share", "", title=title, title_justify="left")
    for names, whole in ((STEP, "of the step"), (WORK, "of the loader's work")):
        total = sum(stretch.stages.get(name, 0.0) for name in names)
        for name in names:
            spent = stretch.stages.get(name, 0.0)
            share = spent / total if total else 0.0
            table.add_row(name, f"{spent:.2f}", f"{share:.0%} {whole}", "█" * round(20 * share))
        table.add_section()
    console.print(table)
    all_hits = sum(stretch.hits.values())
    levels = ", ".join(f"{level} {count / all_hits:.0%}" for level, count in stretch.hits.items() if count)
    console.print(f"samples from: {levels or 'nowhere yet'}; {stretch.starved} of {stretch.batches} batches were late")
    if isinstance(gpus, str):
        console.print(f"GPUs: not measured: {gpus}", highlight=False)
    else:
        console.print(
            f"GPUs: busy for {gpus.mean:.0f} % of the last {gpus.seconds} s; least {gpus.lowest}, "
            f"{gpus.lowest_value:.0f} %",
            highlight=False,
        )
    if findings is None:
        console.print("too little was measured to say what slows it: look longer (--seconds)")
    elif not findings:
        console.print("nothing slows it down but the computing itself")
    for finding in findings or []:
        console.print(f"[bold]{finding.name}[/bold]: {finding.says}")
        for advice in finding.advice:
            console.print(f"  - {advice}", highlight=False)

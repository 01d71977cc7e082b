"""Does the run learn: do its training loss and its validation loss fall?"""

from __future__ import annotations

import math
import posixpath
import shlex
from collections.abc import Sequence
from statistics import median

from medllm.checks import dataset
from medllm.checks.base import Check, NotRun, Probe, Reading, Subject, View
from medllm.manifest import MANIFEST_NAME
from medllm.parsers.sums import parse_sha256sums
from medllm.parsers.training import Loss, parse_losses, parse_object
from medllm.site.model import Host, Site

RUN, METRICS, EVALUATIONS, DATA = "run.json", "metrics.jsonl", "eval.jsonl", "sha256sum manifest.json"
# Below this many steps the first and the last tenth are single values, and noise decides.
MINIMUM_STEPS = 10


def _probes(site: Site, _host: Host, subject: Subject) -> tuple[Probe, ...]:
    run = posixpath.join(site.paths.checkpoints, subject.run)
    manifest = posixpath.join(dataset.directory(site, subject), MANIFEST_NAME)
    return (
        *(
            Probe(name, f"cat {shlex.quote(posixpath.join(run, name))}", deadline_s=20, sudo=True)
            for name in (RUN, METRICS, EVALUATIONS)
        ),
        Probe(DATA, f"sha256sum {shlex.quote(manifest)}", deadline_s=20, sudo=True),
    )


def _read(view: View) -> list[Reading]:
    run = parse_object(view.text(RUN))
    (manifest,) = parse_sha256sums(view.text(DATA)).values()
    if run.get("manifest_sha256") != manifest:
        raise NotRun(f"the run {view.subject.run!r} was trained on another data set than {view.subject.dataset!r}")
    training = parse_losses(view.text(METRICS), "loss")
    validation = parse_losses(view.text(EVALUATIONS), "val_loss")
    return [_training(training), _validation(validation)]


def _training(losses: Sequence[Loss]) -> Reading:
    name = "training loss"
    if broken := _broken(losses):
        return Reading(name, 0, refuted=broken)
    if len(losses) < MINIMUM_STEPS:
        return Reading(name, 0, unsure=f"{len(losses)} steps; at least {MINIMUM_STEPS} are needed")
    tenth = max(3, len(losses) // 10)
    first, last = (median(loss.value for loss in part) for part in (losses[:tenth], losses[-tenth:]))
    return Reading(name, round(last - first, 6), f"{first:.3f} to {last:.3f} over {losses[-1].step} steps")


def _validation(losses: Sequence[Loss]) -> Reading:
    name = "validation loss"
    if broken := _broken(losses):
        return Reading(name, 0, refuted=broken)
    if len(losses) < 2:
        return Reading(name, 0, unsure="one evaluation; at least two are needed")
    first, last = losses[0], losses[-1]
    detail = f"{first.value:.3f} at step {first.step} to {last.value:.3f} at step {last.step}"
    return Reading(name, round(last.value - first.value, 6), detail)


def _broken(losses: Sequence[Loss]) -> str | None:
    bad = next((loss for loss in losses if not math.isfinite(loss.value)), None)
    return f"{bad.value} at step {bad.step}" if bad else None


CHECK = Check(
    id="loss_falls",
    title="Loss falls",
    proves="Over the run both the training loss and the validation loss on held-out data fall.",
    group="training",
    tags=frozenset({"training"}),
    where="mgmt",
    probes=_probes,
    read=_read,
    clears=("training_stalled", "training_diverged"),
    node_binaries=("nvidia-smi",),
)

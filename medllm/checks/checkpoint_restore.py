"""Can the newest checkpoint be read back in time, and is it the state that was saved?"""

from __future__ import annotations

import posixpath
import shlex

from medllm.checks.base import Check, NotRun, Probe, Reading, Subject, View, last_line
from medllm.parsers.training import parse_object, parse_restore
from medllm.site.model import Host, Site

RESTORE = "verify_restore"


def _probes(site: Site, _host: Host, subject: Subject) -> tuple[Probe, ...]:
    python = posixpath.join(site.paths.app, "trainer", "current", "python")
    run = posixpath.join(site.paths.checkpoints, subject.run)
    command = f"{shlex.quote(python)} -m trainer.verify_restore --run {shlex.quote(run)}"
    # As long as the threshold and a little: a restore that misses it is a value, not a lost probe.
    return (Probe(RESTORE, command, deadline_s=330, timed=True),)


def _read(view: View) -> list[Reading]:
    result = view.result(RESTORE)
    if result.rc not in (0, 1) or not result.stdout.strip():
        # 2 says that there is no such run or no checkpoint; anything else that the program itself did not run.
        raise NotRun(f"{RESTORE}: exit status {result.rc}: {last_line(result.stderr or result.stdout)}")
    if (result.rc == 1) != (parse_object(result.stdout).get("match") is False):
        raise NotRun(f"{RESTORE}: exit status {result.rc} and its answer disagree")
    restore = parse_restore(result.stdout)
    device = f"{view.subject.run}, step {restore.step}"
    if not restore.match:
        problem = parse_object(result.stdout).get("problem") or "the state read back is not the one saved"
        return [Reading(device, restore.seconds, refuted=str(problem))]
    return [Reading(device, restore.seconds, f"state {restore.state_sha256[:12]} as recorded")]


CHECK = Check(
    id="checkpoint_restore",
    title="A checkpoint restores",
    proves="The newest checkpoint is whole, loads in time, and its state has the recorded digest.",
    group="training",
    tags=frozenset({"training", "checkpoint"}),
    where="mgmt",
    probes=_probes,
    read=_read,
    clears=("checkpoint_unreadable",),
    binaries=("lfs",),
    node_binaries=("nvidia-smi",),
)

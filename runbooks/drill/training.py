"""The training run that a drill disturbs: started when there is none, awaited until it can lose something."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from datetime import timedelta

from medllm.remote import Remote, RemoteError
from medllm.site import Site
from runbooks.drill.look import Look, look
from runbooks.drill.told import EngineTold
from trainer.config import load_config
from trainer.launch import Order, ProgressLine, job_name, make_plan
from trainer.launch_file import LAUNCH
from trainer.launch_slurm import SlurmLauncher

RUN = "drill"
CONFIG, DATASET = "medllm-tiny", "medllm-sample"
# More than any drill takes; saved often, so that what is lost can be counted; a day of time.
STEPS = 1_000_000
SETTINGS = ("checkpoint.every_steps=10", "evaluation.every_steps=100", "launch.time_limit_minutes=1440")
WARM_S = 300.0
QUIET_S = 300.0
POLL_S = 1.0
# A step of the tiny model takes about a second; so old a one is no sign of life.
FRESH = timedelta(seconds=15)
COMMAND_S = 60.0
# Slurm waits KillWait (30 s) before it kills what does not end, and looks for that now and then.
ENDING_S = 180.0


def start(site: Site, mgmt: Remote) -> bool:
    """Submit the run unless a job of it is there already; whether one was submitted. An ending one is awaited.

    Raises:
        UserError: the site lacks the data set, or has too few nodes.
        RemoteError: mgmt or Slurm did not do it.
    """

    def state() -> str:
        return look(mgmt, site, RUN).training.job_state

    await_(lambda: state() != "COMPLETING", ENDING_S, mgmt, f"job {job_name(RUN)} does not end")
    if state():
        return False
    plan = make_plan(site, Order(load_config(CONFIG, SETTINGS), DATASET, RUN, STEPS, None, None, True, False), "slurm")
    ended = SlurmLauncher(site, detach=True).launch(plan, ProgressLine(STEPS, quiet=True))
    if ended.status:
        raise RemoteError(site.mgmt.name, f"the training run {RUN} could not be submitted")
    # The launcher puts an older run of this name aside; nobody needs what a drill has trained.
    aside = f"{shlex.quote(f'{site.paths.checkpoints}/{RUN}')}.old-*"
    mgmt.run(f"rm -rf -- {aside}", deadline_s=COMMAND_S, sudo=True).check()
    return True


def stop(site: Site, mgmt: Remote, engine: EngineTold) -> None:
    """End the run's job as a person does, and wait until it has left its nodes. Raises RemoteError.

    An incident that is still open would let the run go on after that: the engine has its time to end it first. Where
    it does not, the run's submission is taken away, and nobody can repeat it.
    """
    deadline = time.monotonic() + QUIET_S
    while not all(told.over for told in engine.incidents()) and time.monotonic() < deadline:
        time.sleep(2 * POLL_S)
    directory = shlex.quote(f"{site.paths.checkpoints}/{RUN}")
    name = job_name(RUN)
    away = "" if time.monotonic() < deadline else f"rm -f {directory}/{LAUNCH} && "
    mgmt.run(f"{away}scancel --name={name}", deadline_s=COMMAND_S, sudo=True).check()
    await_(lambda: not look(mgmt, site, RUN).training.job, COMMAND_S, mgmt, f"job {name} does not end")


def makes_steps(seen: Look) -> bool:
    """The run's job runs, and its newest step is a young one."""
    training = seen.training
    return training.job_state == "RUNNING" and bool(training.steps) and seen.at - training.steps[-1][1] < FRESH


def is_warm(seen: Look) -> bool:
    """Steps are made, and the newest checkpoint is younger than the last resume: each fault has its own to lose."""
    training = seen.training
    if not makes_steps(seen) or not training.checkpoints:
        return False
    return not training.resumes or training.checkpoints[-1][1] > training.resumes[-1].at


def await_(true: Callable[[], bool], seconds: float, mgmt: Remote, what: str) -> None:
    """Ask once a second until it is so. Raises RemoteError, saying `what`, when it is not in time."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise RemoteError(mgmt.host.name, f"{what} (waited {seconds:.0f} s)")
        time.sleep(POLL_S)

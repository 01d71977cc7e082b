"""Ranks as a Slurm job, submitted on mgmt over SSH."""

from __future__ import annotations

import contextlib
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from medllm.errors import Problem, UserError, user_error
from medllm.remote import Remote, RemoteError
from medllm.site import Site
from trainer.launch import TRAINER_PYTHON, Ended, Plan, ProgressLine, job_name, refused_problems
from trainer.launch_file import LAUNCH, RECOVERY, Launch
from trainer.run_files import EVALUATIONS, EVENTS, METRICS, parse_lines

_POLL_S = 1.0
_COMMAND_S = 30.0
_VERIFY_S = 3600.0  # every byte of the data set is hashed
_UNREACHABLE_S = 120.0
_LEFT_S = 15.0
# Recovery's first action comes within 30 s of a fault; a job's end is seen here some seconds after it.
_NOTICED_S = 20.0
_RECOVERED_S = 1800.0


class SlurmLauncher:
    """Verifies on mgmt, submits there, follows the job; the job goes on if this process ends."""

    def __init__(self, site: Site, *, detach: bool = False) -> None:
        self.site, self.detach = site, detach
        self.python = shlex.quote(f"{site.paths.app}/{TRAINER_PYTHON}")

    def launch(self, plan: Plan, progress: ProgressLine) -> Ended:
        """See `Launcher`. With `detach` it returns once the job is queued, with status 0 and no records."""
        try:
            return self._launch(plan, progress)
        except RemoteError as error:
            progress.close()
            print(f"error: {error}", file=sys.stderr)
            return Ended(1)

    def _launch(self, plan: Plan, progress: ProgressLine) -> Ended:
        with Remote(self.site.mgmt) as mgmt:
            self._refuse_second_job(mgmt, plan)
            self._prepare(mgmt, plan)
            progress.show("verifying the data set")
            logs = plan.request.run_directory / "logs"
            stamp = time.strftime("%Y%m%dT%H%M%S")
            request, script = logs / f"request-{stamp}.json", logs / f"job-{stamp}.sh"
            mgmt.put(plan.request.model_dump_json(indent=1).encode(), str(request))
            mgmt.put(plan.script.encode(), str(script), mode=0o755)
            self._verify(mgmt, request)
            submit = f"{self.python} -m trainer.submit --request {_quote(request)} --script {_quote(script)}"
            job = mgmt.run(submit, deadline_s=2 * _COMMAND_S).check().stdout.strip()
            if self.detach:
                progress.show(f"job {job} is queued")
                return Ended(0)
            status = self._follow(mgmt, plan, job, progress)
            while (newer := self._replaced_by(mgmt, plan, job, status)) is not None:
                progress.close()
                print(f"job {job} was ended by a fault; recovery goes on with job {newer}", file=sys.stderr)
                job = newer
                status = self._follow(mgmt, plan, job, progress)
            progress.close()
            return self._collect(mgmt, plan, job, status)

    def _refuse_second_job(self, mgmt: Remote, plan: Plan) -> None:
        name = job_name(plan.request.run)
        queued = mgmt.run(f"squeue --noheader --name={name} --format='%i %T'", deadline_s=_COMMAND_S).check()
        for line in queued.stdout.splitlines():
            job, _, state = line.strip().partition(" ")
            if state == "COMPLETING":
                # Its ranks are gone; Slurm starts nothing on its nodes before it is cleaned up.
                continue
            raise user_error(
                f"job {job} trains run {plan.request.run!r} already ({state})",
                f"wait for it, end it with `scancel {job}` (it writes a checkpoint first), or give another --run",
                key="--run",
            )

    def _prepare(self, mgmt: Remote, plan: Plan) -> None:
        """Make the run's directory; with --fresh put an old one aside."""
        run = plan.request.run_directory
        if plan.fresh:
            aside = run.with_name(f"{run.name}.old-{time.strftime('%Y%m%dT%H%M%S')}")
            mgmt.run(
                f"if [ -e {_quote(run)} ]; then mv -T {_quote(run)} {_quote(aside)}; fi", deadline_s=_COMMAND_S
            ).check()
        if plan.must_resume:
            found = mgmt.run(f"ls -d {_quote(run)}/checkpoints/step-*", deadline_s=_COMMAND_S)
            if not found.ok:
                raise user_error(
                    f"run {plan.request.run!r} has no checkpoint", "leave --resume out", file=run, key="--resume"
                )
        mgmt.run(f"mkdir -p {_quote(run)}/logs", deadline_s=_COMMAND_S).check()

    def _verify(self, mgmt: Remote, request: Path) -> None:
        """The gate, where the data lies; raises what it refuses."""
        result = mgmt.run(f"{self.python} -m trainer.verify_data --request {_quote(request)}", deadline_s=_VERIFY_S)
        if result.rc == 2:
            refused = refused_problems(result.stderr)
            if refused:
                raise UserError(*refused)
        result.check()

    def _follow(self, mgmt: Remote, plan: Plan, job: str, progress: ProgressLine) -> int:
        """Wait for the job's end; its exit status. A lost connection is borne for two minutes."""
        run = plan.request.run_directory
        exit_file = run / "logs" / f"job-{job}.exit"
        poll = (
            f"squeue --noheader --jobs={job} --format='%T %r' 2>/dev/null; echo --; "
            f"cat {_quote(exit_file)} 2>/dev/null; echo --; tail -n 1 {_quote(run / METRICS)} 2>/dev/null"
        )
        answered, over_since = time.monotonic(), 0.0
        while True:
            result = mgmt.run(poll, deadline_s=_COMMAND_S)
            now = time.monotonic()
            if not result.ok and result.error:
                if now - answered > _UNREACHABLE_S:
                    raise RemoteError(mgmt.host.name, f"{result.error}; job {job} goes on without being watched")
                time.sleep(_POLL_S)
                continue
            answered = now
            state, ended, newest = (part.strip() for part in result.stdout.split("--\n", 2))
            if ended and not state:
                return int(ended)
            if ended or not state:
                # Its last word is there and it still holds its nodes, or it left without one: killed, or with its node.
                over_since = over_since or now
                if now - over_since > _LEFT_S:
                    return int(ended or 1)
            else:
                over_since = 0.0
                progress.show(f"job {job} {state.removesuffix(' None').lower()}", parse_lines(newest))
            time.sleep(_POLL_S)

    def _replaced_by(self, mgmt: Remote, plan: Plan, job: str, status: int) -> str | None:
        """The job that recovery has submitted in place of one that ended; None when nobody is about to do so.

        Recovery notices a job's end within seconds and says then that it works on the run; what it does takes minutes.
        """
        if status == 2 or self.site.recovery.mode != "act":
            return None
        run = plan.request.run_directory
        look = (
            f"cat {_quote(run / LAUNCH)} 2>/dev/null; echo; echo --; tail -n 1 {_quote(run / EVENTS)} 2>/dev/null; "
            f"echo --; cat {_quote(run / RECOVERY)} 2>/dev/null"
        )
        begin, told = time.monotonic(), False
        while True:
            result = mgmt.run(look, deadline_s=_COMMAND_S)
            waited = time.monotonic() - begin
            if result.ok or not result.error:
                launch, event, recovery = (part.strip() for part in result.stdout.split("--\n", 2))
                if any(record.get("step", 0) >= plan.request.steps for record in parse_lines(event)):
                    return None
                with contextlib.suppress(ValueError):
                    if (newest := Launch.parse(launch).job) != job:
                        return newest
                if recovery and not told:
                    print(f"job {job} ended; recovery works on the run, waiting for its next job", file=sys.stderr)
                    told = True
                if not recovery and waited > _NOTICED_S:
                    return None
            if waited > _RECOVERED_S:
                return None
            time.sleep(_POLL_S)

    def _collect(self, mgmt: Remote, plan: Plan, job: str, status: int) -> Ended:
        run = plan.request.run_directory

        def records(name: str) -> list[dict[str, Any]]:
            text = mgmt.run(f"cat {_quote(run / name)} 2>/dev/null", deadline_s=_COMMAND_S).stdout
            return list(parse_lines(text))

        refused: list[Problem] = []
        if status:
            log = run / "logs" / f"job-{job}.log"
            refused = refused_problems(mgmt.run(f"tail -n 400 {_quote(log)}", deadline_s=_COMMAND_S).stdout)
            print(f"job {job} ended with status {status}; its log: {mgmt.host.name}:{log}", file=sys.stderr)
        if status != 2:
            # Some ranks refused and others did not: a fault of a node, not of what was asked.
            for problem in refused:
                print(f"a rank said: {problem}", file=sys.stderr)
            refused = []
        return Ended(status, refused, records(METRICS), records(EVALUATIONS), records(EVENTS))


def _quote(path: Path) -> str:
    return shlex.quote(str(path))

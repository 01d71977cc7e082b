"""Keeps the recovery engine from mending what tests break by hand."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from medllm.remote import Remote
from medllm.site import load_site

SITE = load_site(Path(__file__).parents[2] / "inventory" / "lab")
# Those that are about the engine, and the main job, which lets it mend the run.
WITH_ENGINE = {"test_recovery_drills", "test_recovery_install", "test_main_job", "test_lab_life"}
COMMAND = f"{SITE.paths.app}/ops/current/medllm"
# An alert outlasts its fault by its evaluation, and an incident of which nothing is seen closes after a minute.
QUIET_S = 240.0


class Engine:
    """Watches and begins nothing while it is paused; a stopped one would be a fault by itself."""

    def __init__(self) -> None:
        self.paused = False

    def pause(self, paused: bool, *, wait: bool = True) -> None:
        """Pause or go on, if it is not so already. It goes on only once nothing is left of what the tests broke."""
        if paused == self.paused:
            return
        with Remote(SITE.mgmt) as mgmt:
            if not mgmt.run(f"test -e {COMMAND}", deadline_s=20).ok:
                return
            if not paused and wait:
                self._wait_for_quiet(mgmt)
            words = "pause --reason 'tests break things by hand'" if paused else "unpause"
            mgmt.run(f"{COMMAND} recover {words} --state /var/lib/medllm/recover", deadline_s=60, sudo=True).check()
        self.paused = paused

    def _wait_for_quiet(self, mgmt: Remote) -> None:
        deadline = time.monotonic() + QUIET_S
        history = f"{COMMAND} recover history --json --state /var/lib/medllm/recover"
        while time.monotonic() < deadline:
            told = json.loads(mgmt.run(history, deadline_s=60, sudo=True).check().stdout)
            states = [account["incident"]["state"] for account in told["incidents"]]
            if all(state in ("closed", "escalated") for state in states):
                return
            time.sleep(2)
        pytest.fail(f"incidents are open {QUIET_S:.0f} s after the tests mended what they broke: see `recover history`")


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """The lab's engine; at the end of all tests it goes on, whatever they left: mending that is its work."""
    found = Engine()
    yield found
    found.pause(False, wait=False)


@pytest.fixture(scope="module", autouse=True)
def engine_or_not(request: pytest.FixtureRequest, engine: Engine) -> None:
    """Paused for all modules but those that want it; between two that do not it stays so."""
    engine.pause(request.module.__name__.rpartition(".")[2] not in WITH_ENGINE)

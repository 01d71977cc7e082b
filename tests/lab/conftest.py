"""Keeps the recovery engine from mending what tests break by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from medllm.remote import Remote
from medllm.site import load_site

SITE = load_site(Path(__file__).parents[2] / "inventory" / "lab")
# Those that are about the engine, and the main job, which lets it mend the run.
WITH_ENGINE = {"test_recovery_drills", "test_recovery_install", "test_main_job", "test_lab_life"}
COMMAND = f"{SITE.paths.app}/ops/current/medllm recover {{}} --state /var/lib/medllm/recover"


@pytest.fixture(scope="module", autouse=True)
def engine_paused(request: pytest.FixtureRequest) -> Iterator[None]:
    """Pause it, so that it watches and begins nothing; a stopped one would be a fault by itself."""
    if request.module.__name__.rpartition(".")[2] in WITH_ENGINE:
        yield
        return
    with Remote(SITE.mgmt) as mgmt:
        installed = mgmt.run("test -e /opt/medllm/ops/current/medllm", deadline_s=20).ok
        if installed:
            mgmt.run(COMMAND.format("pause --reason 'tests break things by hand'"), deadline_s=60, sudo=True).check()
        try:
            yield
        finally:
            if installed:
                mgmt.run(COMMAND.format("unpause"), deadline_s=60, sudo=True).check()

"""`medllm recover serve`: the engine put together from its parts."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Collection
from pathlib import Path

from medllm.errors import user_error
from medllm.site import Site, load_site
from runbooks.engine.diagnose import diagnose
from runbooks.engine.engine import Engine
from runbooks.engine.loop import JournalStore, Loop, only_one
from runbooks.engine.metrics import Metrics
from runbooks.engine.observe import Observer
from runbooks.engine.policy import load_policy
from runbooks.engine.procedure import load_procedures
from runbooks.engine.units import UnitActions
from runbooks.engine.webhook import Door, read_tls, read_token

log = logging.getLogger("medllm.recover")

RUNBOOKS = Path(__file__).parents[1]


def serve(inventory: Path, state: Path, secrets: Path, *, listen: str) -> None:
    """Run the engine until SIGTERM or SIGINT. Steps under way go on as their units.

    Raises:
        UserError: the declaration, a procedure, the policy or a secret is bad, or another engine runs.
    """
    site = load_site(inventory)
    policy = load_policy(RUNBOOKS)
    procedures = load_procedures(RUNBOOKS / "procedures")
    with only_one(state), JournalStore(state / "incidents.db") as store:
        actions = UnitActions(state / "steps", inventory)
        metrics = Metrics()
        loop = Loop(
            Engine(site, store, actions, procedures),
            store,
            Observer(site, policy, secrets),
            lambda world: diagnose(world, policy, stall_s=site.recovery.stall_s),
            metrics,
        )
        door = open_door(site, secrets, listen, policy.alerts, loop, metrics)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: loop.stop())
        threading.Thread(target=door.serve_forever, daemon=True).start()
        log.info("serves %s: mode %s, reboots %s", site.name, site.recovery.mode, site.recovery.reboot_approval)
        loop.run()
        door.server_close()
    log.info("ended; steps under way go on as their units")


def open_door(
    site: Site, secrets: Path, listen: str, known_alerts: Collection[str], loop: Loop, metrics: Metrics
) -> Door:
    """The HTTPS server on the site's port. Raises UserError: a bad secret, or the port is taken."""
    try:
        return Door(
            (listen, site.ports.recovery),
            read_tls(secrets / "tls.pem", secrets / "tls.key"),
            read_token(secrets / "webhook.token"),
            known_alerts=known_alerts,
            hurry=loop.hurry,
            count=metrics.count_webhook,
            metrics=metrics.text,
            healthy=loop.healthy,
        )
    except OSError as error:
        rule = f"{listen}:{site.ports.recovery} can't be listened on ({error.strerror})"
        raise user_error(rule, "choose another address, or site_ports.recovery", key="--listen") from None

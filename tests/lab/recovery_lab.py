"""Hands and eyes of the recovery's tests: faults go in as in a drill, and all waits end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from lab import faults
from lab.drills import INJECTORS
from lab.layout import BY_NAME
from medllm.remote import Remote
from medllm.site import load_site
from runbooks.drill import training
from runbooks.drill.alerts import alerts_by_class
from runbooks.drill.drill import Drill
from runbooks.drill.injector import Target
from runbooks.drill.look import Look, NodeLook, look_at_nodes
from runbooks.drill.prove import Seen
from runbooks.drill.show import Show
from runbooks.drill.told import STATE, Told
from runbooks.drill.watch import Watch
from runbooks.engine.model import State

ROOT = Path(__file__).parents[2]
SITE = load_site(ROOT / "inventory" / "lab")
RUN = training.RUN
ALERTS = alerts_by_class(ROOT / "runbooks")
SERVICE = "medllm-recover.service"
# From a fault to the closed incident, with much room for a busy machine.
MENDED_S = 480.0


class Hands:
    """A training run that is under way, mgmt, and the drill's own means."""

    def __init__(self, mgmt: Remote) -> None:
        self.mgmt = mgmt
        self.show = Show(Console(stderr=True))
        self.drill = Drill(SITE, ALERTS, self.show)

    def root(self, command: str, deadline_s: float = 60) -> str:
        """Run a command as root on mgmt."""
        return self.mgmt.run(command, deadline_s=deadline_s, sudo=True).check().stdout

    def look(self) -> Look:
        return self.drill.look()

    def nodes(self) -> dict[str, NodeLook]:
        return look_at_nodes(SITE, RUN)

    def told(self, since: datetime | None = None) -> tuple[Told, ...]:
        return self.drill.engine.incidents(since)

    def begin(self, name: str, *nodes: str, first: Callable[[], object] = lambda: None) -> Seen:
        """Wait until all is well, do what comes `first`, and put a fault in on these nodes. What was seen before."""
        injector = INJECTORS[name]
        targets = [Target(node, 1, RUN) for node in nodes]
        alerts = ALERTS.get(injector.fault_class, frozenset())
        line = self.show.drill(f"before {name} on {', '.join(nodes)}", 1)
        before = [self.drill.ready(target, alerts, line) for target in targets][-1]
        line.end("all is well", good=True)
        ranks = self.nodes()
        first()
        watch = Watch.from_now(before, datetime.now(UTC))
        for target in targets:
            injector.inject(SITE, target)
        return Seen(injector, targets[0], watch.begin, before, ranks, before, ranks, watch, (), alerts)

    def finish(self, seen: Seen, told: tuple[Told, ...], after: Look) -> Seen:
        """What was seen, whole."""
        whole = replace(after, training=seen.watch.whole(after.training))
        return replace(seen, after=whole, nodes_after=self.nodes(), told=told)

    def until(self, true: Callable[[], bool], seconds: float, what: str, pause: float = 1.0) -> None:
        """Ask until it is so; fails the test, saying `what`, when it is not in time."""
        deadline = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
            time.sleep(pause)

    def mended(self, seen: Seen, count: int = 1, seconds: float = MENDED_S) -> Seen:
        """Watch until so many incidents are closed, and the run makes steps."""
        answers: list[tuple[Look, tuple[Told, ...]]] = []

        def done() -> bool:
            now = self.look()
            seen.watch.see(now)
            # The history costs a processor, which the machines share.
            if not training.makes_steps(now):
                return False
            told = self.told(seen.fault_at)
            answers.append((now, told))
            assert not any(each.state is State.ESCALATED for each in told), told
            acted = [each for each in told if not each.set_aside]
            return len(acted) >= count and all(each.state is State.CLOSED for each in acted)

        self.until(done, seconds, f"{count} incident(s) closed and training under way")
        now, told = answers[-1]
        return self.finish(seen, told, now)

    def step_files(self) -> set[str]:
        """Files that the steps left, as `STEP/FILE`."""
        listed = self.root(f"cd {STATE}/steps 2>/dev/null && find . -mindepth 2 -maxdepth 2 -type f || true")
        return {line.removeprefix("./") for line in listed.split()}


@contextmanager
def hands() -> Iterator[Hands]:
    """With a training run under way; afterwards no fault is in, no node is out, and no job runs."""
    with Remote(SITE.mgmt) as mgmt:
        started = training.start(SITE, mgmt)
        them = Hands(mgmt)
        try:
            them.until(lambda: training.is_warm(them.look()), training.WARM_S, "the run drill makes steps")
            yield them
        finally:
            them.root(f"systemctl start {SERVICE}")
            for host in SITE.gpu_nodes:
                faults.heal(BY_NAME[host.name])
            if started:
                training.stop(SITE, mgmt, them.drill.engine)
            them.until(
                lambda: not any(node.out for node in them.look().slurm.values()), 120, "all nodes are in service again"
            )
            them.drill.close()

"""The lab's faults as drills, for `medllm recover drill`: how each goes in, and what the engine must make of it."""

from __future__ import annotations

import time
from collections.abc import Callable

from lab import faults, nodes
from lab.host import LabError, lab_lock
from lab.layout import BY_NAME
from medllm.errors import UserError
from medllm.remote import Remote
from medllm.site import Site
from runbooks.drill.injector import Injector, Target
from runbooks.drill.look import ranks_pattern

# Another command may change the lab at the moment, for as long as a machine takes to start.
LOCK_S = 60.0
PATIENCE_S = 15.0


def _locked(work: Callable[[], object]) -> None:
    """Do something to the lab, as soon as no other command does.

    Raises:
        UserError: another one was at it for a minute.
        LabError: it failed.
    """
    deadline = time.monotonic() + LOCK_S
    while True:
        try:
            with lab_lock():
                work()
                return
        except UserError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _put(name: str, *, gpu: bool = False) -> Callable[[Site, Target], None]:
    def inject(_site: Site, target: Target) -> None:
        _locked(lambda: faults.inject(BY_NAME[target.node], name, target.gpu if gpu else None))

    return inject


def _repair(_site: Site, target: Target) -> None:
    """Take the node's faults out, and wait until it answers."""
    node = BY_NAME[target.node]
    _locked(lambda: faults.heal(node))
    nodes.wait_ready(node, time.monotonic() + faults.HEAL_SECONDS)


def _signal(name: str) -> Callable[[Site, Target], None]:
    """Send the rank on the target's node a signal."""

    def inject(site: Site, target: Target) -> None:
        command = f"pkill -{name} -f {ranks_pattern(target.run)}"
        with Remote(site.host(target.node)) as remote:
            done = remote.run(command, deadline_s=PATIENCE_S, sudo=True)
        if not done.ok:
            raise LabError(
                f"{target.node}: no rank of {target.run} took SIG{name}: {done.error or done.stderr.strip()}"
            )

    return inject


def _nothing(_site: Site, _target: Target) -> None:
    """A signal to a process leaves nothing to repair."""


INJECTORS: dict[str, Injector] = {
    injector.name: injector
    for injector in (
        Injector(
            "gpu_fallen_off", "gpu_fallen_off", "a GPU falls off the bus (XID 79)",
            _put("xid79", gpu=True), _repair, reboots=True,
        ),
        Injector(
            "gpu_needs_reset", "gpu_needs_reset", "an uncorrectable memory error (XID 48): the GPU wants a reset",
            _put("xid48", gpu=True), _repair,
        ),
        Injector("node_hung", "node_hung", "a node answers ping and nothing else", _put("hang"), _repair, reboots=True),
        Injector("node_gone", "node_gone", "a node loses its power", _put("gone"), _repair, reboots=True),
        Injector(
            "lustre_evicted", "lustre_evicted", "the Lustre server evicts a node", _put("lustre_evicted"), _repair,
        ),
        Injector(
            # The lab's NVSwitches come back with the next boot only: starting the service again does not help.
            "fabric_manager_dead", "fabric_manager_dead", "a node's Fabric Manager dies and can't start again",
            _put("fabric_manager_dead"), _repair, reboots=True,
        ),
        Injector(
            "gpu_overheat", "gpu_overheat", "a GPU's cooling breaks: only a repair helps",
            _put("overheat", gpu=True), _repair, ends="escalated", spares_training=True,
        ),
        Injector(
            "gpu_hot_spell", "gpu_overheat", "a GPU is too hot until it draws less",
            _put("hot_spell", gpu=True), _repair, spares_training=True,
        ),
        Injector(
            "training_stalled", "training_stalled", "a rank stops (SIGSTOP), all others wait for it",
            _signal("STOP"), _nothing, scope="run",
        ),
        Injector(
            "training_lost", "training_stalled", "a rank is killed, as by the kernel's OOM killer",
            _signal("KILL"), _nothing, scope="run",
        ),
    )
}  # fmt: skip

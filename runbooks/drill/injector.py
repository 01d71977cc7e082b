"""What a drill needs of whoever can break things: a way in, and what must come of it.

No injector ships with this package: a site that wants drills installs one that offers a mapping name → `Injector` as an
entry point of the group `medllm.drills`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Literal

from medllm.errors import user_error
from medllm.site import Site

GROUP = "medllm.drills"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a fault goes in: a node, a GPU's index on it, the training run that is on it."""

    node: str
    gpu: int
    run: str


@dataclass(frozen=True, slots=True)
class Injector:
    """One drill.

    `fault_class`: what the engine must make of it. `scope`: whose incident it is. `ends`: closed by the engine alone,
    or escalated to a person. `reboots`: the node must have a new boot after it. `spares_training`: the ranks go on all
    the while; such a fault settles for minutes. `repair`: what a technician does; it may be called for a machine that
    nothing is wrong with.
    """

    name: str
    fault_class: str
    summary: str
    inject: Callable[[Site, Target], None]
    repair: Callable[[Site, Target], None]
    scope: Literal["node", "run"] = "node"
    ends: Literal["closed", "escalated"] = "closed"
    reboots: bool = False
    spares_training: bool = False


def load_injectors() -> dict[str, Injector]:
    """All drills that are installed here, by name, in the order in which they are offered.

    Raises:
        UserError: there is none, or two packages offer the same name.
    """
    found: dict[str, Injector] = {}
    for entry in entry_points(group=GROUP):
        offered: Mapping[str, Injector] = entry.load()
        for name, injector in offered.items():
            if name in found:
                raise user_error(f"two packages offer the drill {name!r}", f"uninstall one of them (group {GROUP})")
            found[name] = injector
    if not found:
        raise user_error(
            "no fault injector is installed here, so nothing can be drilled",
            f"run it where one is (the embedded lab brings one), or install a package with an entry point of {GROUP}",
        )
    return found

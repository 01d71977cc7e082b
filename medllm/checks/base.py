"""What a check is, and how it reads its probes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from medllm.remote import Result
from medllm.site.model import Host, Site
from medllm.verdict import Value

Group = Literal["hardware", "software", "data", "training"]


class NotRun(Exception):  # noqa: N818 - an outcome, not an error
    """Nothing could be read, with the reason. The check's outcome is NOT_RUN."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One command on the check's host. Checks that name the same command share its one run.

    `deadline_s` counts from the command's start; a command that misses it leaves nothing to read. `timed`: how long it
    takes is what is measured, so it runs after the others, alone on its host.
    """

    name: str
    command: str
    deadline_s: float = 10
    sudo: bool = False
    timed: bool = False


@dataclass(frozen=True, slots=True)
class Subject:
    """What is accepted beside the machines: the names of a data set and of a training run."""

    dataset: str
    run: str


@dataclass(frozen=True, slots=True)
class Reading:
    """One value that a check read, in its threshold's unit. `refuted`, `unsure`: see `verdict.Measurement`."""

    device: str
    value: Value
    detail: str = ""
    refuted: str | None = None
    unsure: str | None = None


@dataclass(frozen=True, slots=True)
class View:
    """What a check may look at: the declaration and the results of its own probes, by probe name."""

    site: Site
    host: Host
    subject: Subject
    results: Mapping[str, Result]

    def result(self, name: str) -> Result:
        """A probe that came to its end, with whatever exit status. Raises NotRun."""
        result = self.results.get(name)
        if result is None:
            raise NotRun(f"the probe {name!r} was not run")
        if result.error is not None or result.rc is None:
            raise NotRun(f"{name}: {result.error or 'it did not end'}")
        return result

    def text(self, name: str) -> str:
        """What a probe printed that exited with 0; never empty. Raises NotRun."""
        result = self.result(name)
        if result.rc != 0:
            raise NotRun(f"{name}: exit status {result.rc}: {last_line(result.stderr or result.stdout)}")
        if not result.stdout.strip():
            raise NotRun(f"{name}: it printed nothing")
        return result.stdout


@dataclass(frozen=True, slots=True)
class Check:
    """One check. `id` is also the key of its threshold.

    `proves` is one sentence for people; `clears` names the fault classes that a PASS closes. The evidence stands on
    `binaries` of the host itself and on `node_binaries` of every GPU node; `attested` says that it stands on a signed
    statement instead.
    """

    id: str
    title: str
    proves: str
    group: Group
    tags: frozenset[str]
    where: Literal["gpu_nodes", "mgmt"]
    probes: Callable[[Site, Host, Subject], tuple[Probe, ...]]
    read: Callable[[View], list[Reading]]
    clears: tuple[str, ...]
    binaries: tuple[str, ...] = ()
    node_binaries: tuple[str, ...] = ()
    attested: bool = False


def last_line(text: str) -> str:
    """The last line that says something, shortened."""
    line = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no output")
    return line if len(line) <= 200 else line[:197] + "..."

"""Filters that call the core's own rules and parsers on the controller."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ansible.errors import AnsibleFilterError

from medllm.parsers.topology import parse_topo, topology_facts
from medllm.site.lustre_options import mount_option_problem


def lustre_option_problems(options: Iterable[str]) -> list[str]:
    """One line for each mount option that a Lustre client would refuse: the rule, and what to do instead."""
    problems = (mount_option_problem(str(option)) for option in options)
    return [f"{rule}. Fix: {fix}." for rule, fix in (problem for problem in problems if problem)]


def nvlink_topology(text: str) -> dict[str, Any]:
    """The text of `nvidia-smi topo -m` as facts."""
    try:
        return topology_facts(parse_topo(text))
    except ValueError as error:
        raise AnsibleFilterError(f"not an answer of `nvidia-smi topo -m`: {error}") from error


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"lustre_option_problems": lustre_option_problems, "nvlink_topology": nvlink_topology}

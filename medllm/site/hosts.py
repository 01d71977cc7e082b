"""Reading `hosts.yml`: the host list, in the plain part of Ansible's YAML inventory format."""

from __future__ import annotations

import shlex
from collections import Counter
from typing import Any

from medllm.errors import Problem, UserError
from medllm.site.source import Document, plain

GROUPS = ("mgmt", "gpu_nodes")
_CONNECTION = {
    "ansible_host", "ansible_user", "ansible_port", "ansible_become", "ansible_ssh_private_key_file",
    "ansible_ssh_common_args", "ansible_python_interpreter",
}  # fmt: skip
_HOST_KEYS = _CONNECTION | {"scheduler", "failure_domain", "bmc_url"}


def read_hosts(document: Document) -> list[tuple[dict[str, Any], tuple[str | int, ...]]]:
    """Each host as keyword arguments for `Host`, with its key path in the file.

    Raises:
        UserError: an unknown group, key or shape; a host twice; one address twice.
    """
    problems: list[Problem] = []
    data = plain(document.data)

    def refuse(keys: tuple[str | int, ...], rule: str, fix: str) -> None:
        problems.append(
            Problem(rule=rule, fix=fix, file=document.path, line=document.line_of(keys), key=".".join(map(str, keys)))
        )

    def section(node: Any, keys: tuple[str | int, ...], allowed: set[str] | None) -> dict[str, Any]:
        if not isinstance(node, dict):
            refuse(keys, "this must be a mapping", "see inventory/lab/hosts.yml")
            return {}
        for key in node:
            if allowed is not None and key not in allowed:
                refuse((*keys, key), f"unknown key {key!r} here", f"use one of: {', '.join(sorted(allowed))}")
        return node

    section(data, (), {"all"})
    everything = section(data.get("all"), ("all",), {"vars", "children"})
    common = section(everything.get("vars", {}), ("all", "vars"), _CONNECTION)
    children = section(everything.get("children"), ("all", "children"), set(GROUPS))
    found: list[tuple[dict[str, Any], tuple[str | int, ...]]] = []
    for group in GROUPS:
        keys: tuple[str | int, ...] = ("all", "children", group)
        body = section(children.get(group), keys, {"hosts", "vars"})
        shared = common | section(body.get("vars", {}), (*keys, "vars"), _CONNECTION)
        for name, values in section(body.get("hosts"), (*keys, "hosts"), None).items():
            place = (*keys, "hosts", name)
            values = shared | section(values, place, _HOST_KEYS)
            found.append((_host(str(name), group, values), place))
    for field, what in (("name", "host"), ("address", "address"), ("bmc_url", "BMC")):
        counts = Counter(host[field] for host, _ in found if host[field] is not None)
        for host, place in found:
            if counts[host[field]] > 1:
                refuse(place, f"the {what} {host[field]!r} stands here more than once", "give each machine its own")
    if not problems and sum("mgmt" in host["groups"] for host, _ in found) != 1:
        refuse(("all", "children", "mgmt"), "the group mgmt must have exactly one host", "name one management host")
    if problems:
        raise UserError(*problems)
    return found


def _host(name: str, group: str, values: dict[str, Any]) -> dict[str, Any]:
    known_hosts = None
    for argument in shlex.split(str(values.get("ansible_ssh_common_args", ""))):
        option, _, value = argument.partition("=")
        if option == "UserKnownHostsFile":
            known_hosts = value
    host = {
        "name": name,
        "address": values.get("ansible_host"),
        "groups": (group,),
        "user": values.get("ansible_user"),
        "private_key_file": values.get("ansible_ssh_private_key_file"),
        "known_hosts_file": known_hosts,
        "scheduler": values.get("scheduler"),
        "failure_domain": values.get("failure_domain"),
        "bmc_url": values.get("bmc_url"),
    }
    return host | ({"port": values["ansible_port"]} if "ansible_port" in values else {})

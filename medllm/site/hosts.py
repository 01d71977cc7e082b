"""Reading `hosts.yml`: the host list, in the plain part of Ansible's YAML inventory format."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping
from typing import Any

from medllm.errors import Problem, UserError
from medllm.site.source import Document, plain

GROUPS = ("mgmt", "gpu_nodes")
_CONNECTION: dict[str, type] = {
    "ansible_host": str,
    "ansible_user": str,
    "ansible_port": int,
    "ansible_become": bool,
    "ansible_ssh_private_key_file": str,
    "ansible_ssh_common_args": str,
    "ansible_python_interpreter": str,
}
_HOST_KEYS: dict[str, type] = _CONNECTION | {"scheduler": str, "failure_domain": str, "bmc_url": str}


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

    def section(node: Any, keys: tuple[str | int, ...], allowed: Mapping[str, type] | None) -> dict[str, Any]:
        """A mapping; of it, what has a known key and a value of that key's type."""
        if not isinstance(node, dict):
            refuse(keys, "this must be a mapping", "see inventory/lab/hosts.yml")
            return {}
        good = {}
        for key, value in node.items():
            if allowed is None:
                good[key] = value
            elif key not in allowed:
                refuse((*keys, key), f"unknown key {key!r} here", f"use one of: {', '.join(sorted(allowed))}")
            elif type(value) is not allowed[key]:
                refuse((*keys, key), f"{value!r} is not a {allowed[key].__name__}", "correct the value")
            else:
                good[key] = value
        return good

    section(data, (), {"all": dict})
    everything = section(data.get("all"), ("all",), {"vars": dict, "children": dict})
    common = section(everything.get("vars", {}), ("all", "vars"), _CONNECTION)
    children = section(everything.get("children"), ("all", "children"), dict.fromkeys(GROUPS, dict))
    found: list[tuple[dict[str, Any], tuple[str | int, ...]]] = []
    for group in GROUPS:
        keys: tuple[str | int, ...] = ("all", "children", group)
        body = section(children.get(group), keys, {"hosts": dict, "vars": dict})
        shared = common | section(body.get("vars", {}), (*keys, "vars"), _CONNECTION)
        for name, values in section(body.get("hosts"), (*keys, "hosts"), None).items():
            place = (*keys, "hosts", name)
            values = shared | section(values, place, _HOST_KEYS)
            try:
                shlex.split(str(values.get("ansible_ssh_common_args", "")))
            except ValueError as error:
                refuse((*place, "ansible_ssh_common_args"), f"the shell can't split this: {error}", "close the quotes")
                continue
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

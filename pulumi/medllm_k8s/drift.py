"""Who was given rights beside the program: the cluster's roles against the declared ones.

Pulumi's refresh may miss a verb that somebody appended to a role, and never sees a binding that it did not make.

    kubectl get roles,rolebindings,clusterroles,clusterrolebindings -A -o json | python -m medllm_k8s.drift
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from medllm_k8s.access import CLUSTER_WIDE, NAMESPACED, Rule
from medllm_k8s.names import GROUP_PREFIX

Json = Mapping[str, Any]
_PREFIX = "medllm-"


def access_drift(items: Iterable[Json], namespace: str) -> list[str]:
    """What differs, a line each; none when the cluster grants what is declared. `items`: as `kubectl get` has them."""
    found: dict[str, dict[str, Json]] = {"Role": {}, "ClusterRole": {}}
    lines = []
    for item in items:
        kind, name = str(item["kind"]), str(item["metadata"]["name"])
        inside = item["metadata"].get("namespace") == namespace
        if (kind == "Role" and inside) or (kind == "ClusterRole" and name.startswith(_PREFIX)):
            found[kind][name] = item
        elif kind in {"RoleBinding", "ClusterRoleBinding"}:
            lines += _binding(item, kind, name, inside=inside)
    for kind, declared in (("Role", NAMESPACED), ("ClusterRole", CLUSTER_WIDE)):
        wanted = {f"{_PREFIX}{role}": rules for role, rules in declared.items()}
        lines += [f"{kind} {name}: nobody declared it" for name in sorted(found[kind].keys() - wanted.keys())]
        for name, rules in wanted.items():
            if name not in found[kind]:
                lines.append(f"{kind} {name}: is gone")
                continue
            there, meant = _granted(found[kind][name].get("rules") or []), _declared(rules)
            lines += [f"{kind} {name}: {right} was added" for right in sorted(there - meant)]
            lines += [f"{kind} {name}: {right} was taken away" for right in sorted(meant - there)]
    return sorted(lines)


def _binding(item: Json, kind: str, name: str, *, inside: bool) -> list[str]:
    """A binding that grants something to our groups, or in our namespace, and is not one of ours."""
    subjects = [str(each["name"]) for each in item.get("subjects") or []]
    ours = [each for each in subjects if each.startswith(GROUP_PREFIX)]
    role = str(item["roleRef"]["name"])
    if not ours and not (inside and kind == "RoleBinding"):
        return []
    if name == role and subjects == [f"{GROUP_PREFIX}{name.removeprefix(_PREFIX)}"] and name.startswith(_PREFIX):
        return []
    return [f"{kind} {name}: binds {', '.join(subjects) or 'nobody'} to {item['roleRef']['kind']} {role}"]


def _granted(rules: Iterable[Json]) -> set[str]:
    return {
        f"{verb} {resource}{'.' + group if group else ''}"
        for rule in rules
        for group in rule.get("apiGroups", [])
        for resource in rule.get("resources", [])
        for verb in rule["verbs"]
    }


def _declared(rules: Iterable[Rule]) -> set[str]:
    return _granted({"apiGroups": [rule.group], "resources": rule.resources, "verbs": rule.verbs} for rule in rules)


def main() -> int:
    """The list is standard input, the namespace the first argument. 0: no drift, 1: drift, 2: no such list."""
    namespace = sys.argv[1] if len(sys.argv) > 1 else "medllm-training"
    try:
        items = json.load(sys.stdin)["items"]
        lines = access_drift(items, namespace)
    except (ValueError, KeyError, TypeError) as error:
        print(
            f"error: standard input is no list of roles ({type(error).__name__}). Fix: kubectl get roles,rolebindings,"
            "clusterroles,clusterrolebindings --all-namespaces -o json | python -m medllm_k8s.drift",
            file=sys.stderr,
        )
        return 2
    print("\n".join(lines) or "the cluster grants what is declared")
    if lines:
        print("Fix: `kubectl delete` what differs, then `pulumi up --refresh` makes what is declared.")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())

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
_EVERYBODY = {"system:authenticated", "system:unauthenticated", "system:anonymous", "system:serviceaccounts"}


def access_drift(items: Iterable[Json], namespace: str) -> list[str]:
    """What differs, a line each; none when the cluster grants what is declared. `items`: as `kubectl get` has them."""
    found: dict[str, dict[str, Json]] = {"Role": {}, "ClusterRole": {}}
    missing = {("RoleBinding", f"{_PREFIX}{role}") for role in NAMESPACED}
    missing |= {("ClusterRoleBinding", f"{_PREFIX}{role}") for role in CLUSTER_WIDE}
    lines = []
    for item in items:
        kind, name = str(item["kind"]), str(item["metadata"]["name"])
        inside = item["metadata"].get("namespace") == namespace
        if (kind == "Role" and inside) or (kind == "ClusterRole" and name.startswith(_PREFIX)):
            found[kind][name] = item
        elif kind in {"RoleBinding", "ClusterRoleBinding"}:
            if (inside or kind == "ClusterRoleBinding") and _is_declared(item, kind, name):
                missing.discard((kind, name))
            else:
                lines += _binding(item, kind, name, inside=inside)
    lines += [f"{kind} {name}: is gone" for kind, name in missing]
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


def _is_declared(item: Json, kind: str, name: str) -> bool:
    """Whether a binding is one that the program makes."""
    role, subjects = item["roleRef"], item.get("subjects") or []
    named = f"{GROUP_PREFIX}{name.removeprefix(_PREFIX)}"
    return (
        name.startswith(_PREFIX)
        and (role["kind"], role["name"]) == (kind.removesuffix("Binding"), name)
        and [(each["kind"], each["name"]) for each in subjects] == [("Group", named)]
    )


def _binding(item: Json, kind: str, name: str, *, inside: bool) -> list[str]:
    """A binding, none of ours, that grants something to our groups or to everybody, or in our namespace."""
    subjects = [str(each["name"]) for each in item.get("subjects") or []]
    upstream = (item["metadata"].get("labels") or {}).get("kubernetes.io/bootstrapping") == "rbac-defaults"
    wide = not upstream and kind == "ClusterRoleBinding" and not _EVERYBODY.isdisjoint(subjects)
    ours = any(each.startswith(GROUP_PREFIX) for each in subjects)
    if not (ours or wide or (inside and kind == "RoleBinding")):
        return []
    role = item["roleRef"]
    return [f"{kind} {name}: binds {', '.join(subjects) or 'nobody'} to {role['kind']} {role['name']}"]


def _granted(rules: Iterable[Json]) -> set[str]:
    rights = set()
    for rule in rules:
        for verb in rule["verbs"]:
            for group in rule.get("apiGroups", []):
                rights |= {f"{verb} {each}{'.' + group if group else ''}" for each in rule.get("resources", [])}
            rights |= {f"{verb} {path}" for path in rule.get("nonResourceURLs", [])}
    return rights


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

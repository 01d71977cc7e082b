"""Who may do what: three roles of people, bound to groups.

The documents ask for the verb `use` on claims and for Jobs in the core group; neither exists (Jobs are in `batch`, and
a claim is used by whoever may make a pod).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pulumi
import pulumi_kubernetes as kubernetes
from pulumi_kubernetes.rbac.v1 import PolicyRuleArgs, RoleRefArgs, SubjectArgs

from medllm_k8s.component import Component, metadata
from medllm_k8s.names import AUDITOR, DATA_SCIENTIST, GROUP_PREFIX, OPERATOR

READ = ("get", "list", "watch")
_RBAC = "rbac.authorization.k8s.io"


@dataclass(frozen=True, slots=True)
class Rule:
    """These verbs on these resources of one API group ("" is the core group)."""

    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]


# Within the namespace. Nobody may read Secrets, nor bind, escalate, impersonate, exec or attach.
NAMESPACED: dict[str, tuple[Rule, ...]] = {
    DATA_SCIENTIST: (
        Rule("", ("pods",), (*READ, "create", "delete")),
        Rule("", ("pods/log",), ("get",)),
        Rule("batch", ("jobs",), (*READ, "create", "delete")),
        Rule("", ("persistentvolumeclaims", "configmaps", "events", "resourcequotas"), READ),
    ),
    OPERATOR: (
        Rule("", ("pods",), (*READ, "create", "delete")),
        Rule("", ("pods/log",), ("get",)),
        Rule("", ("pods/eviction",), ("create",)),
        Rule("batch", ("jobs",), (*READ, "create", "update", "patch", "delete")),
        Rule("apps", ("deployments", "deployments/scale"), (*READ, "create", "update", "patch", "delete")),
        Rule("", ("services", "configmaps"), (*READ, "create", "update", "patch", "delete")),
        # No `delete`: claims hold data. No `get` on Secrets, and neither `patch` nor `delete`, whose answers show them
        # (`delete` when its propagation is Foreground or Orphan, even as a dry run).
        Rule("", ("persistentvolumeclaims",), (*READ, "create")),
        Rule("", ("secrets",), ("create",)),
        Rule("", ("events", "resourcequotas", "limitranges", "serviceaccounts"), READ),
        Rule("networking.k8s.io", ("networkpolicies",), READ),
    ),
    # Logs are no part of what an auditor sees: what a program prints is nobody's promise.
    AUDITOR: (
        Rule(
            "",
            (
                "pods", "services", "configmaps", "persistentvolumeclaims", "events", "resourcequotas", "limitranges",
                "serviceaccounts",
            ),
            READ,
        ),
        Rule("batch", ("jobs",), READ),
        Rule("apps", ("deployments",), READ),
        Rule("networking.k8s.io", ("networkpolicies",), READ),
        Rule(_RBAC, ("roles", "rolebindings"), READ),
    ),
}  # fmt: skip
# In the whole cluster. An operator takes a node out (cordon is a patch).
CLUSTER_WIDE: dict[str, tuple[Rule, ...]] = {
    OPERATOR: (
        Rule("", ("nodes",), (*READ, "patch")),
        Rule("", ("persistentvolumes", "namespaces"), READ),
        Rule("scheduling.k8s.io", ("priorityclasses",), READ),
    ),
    AUDITOR: (
        Rule("", ("nodes", "persistentvolumes", "namespaces"), READ),
        Rule("scheduling.k8s.io", ("priorityclasses",), READ),
        Rule("storage.k8s.io", ("storageclasses",), READ),
        Rule(_RBAC, ("clusterroles", "clusterrolebindings"), READ),
        Rule(
            "admissionregistration.k8s.io",
            ("validatingadmissionpolicies", "validatingadmissionpolicybindings"),
            READ,
        ),
    ),
}


class Access(Component):
    """Roles and ClusterRoles, each bound to the group `medllm:ROLE`."""

    def __init__(self, name: str, namespace: pulumi.Input[str], provider: kubernetes.Provider) -> None:
        super().__init__("Access", name, provider)
        for role, rules in NAMESPACED.items():
            made = kubernetes.rbac.v1.Role(
                role, metadata=metadata(f"medllm-{role}", namespace), rules=_rules(rules), opts=self.child
            )
            kubernetes.rbac.v1.RoleBinding(
                role, metadata=metadata(f"medllm-{role}", namespace), subjects=[_group(role)],
                role_ref=RoleRefArgs(api_group=_RBAC, kind="Role", name=made.metadata.name),
                opts=self.child,
            )  # fmt: skip
        for role, rules in CLUSTER_WIDE.items():
            wide = kubernetes.rbac.v1.ClusterRole(
                role, metadata=metadata(f"medllm-{role}"), rules=_rules(rules), opts=self.child
            )
            kubernetes.rbac.v1.ClusterRoleBinding(
                role, metadata=metadata(f"medllm-{role}"), subjects=[_group(role)],
                role_ref=RoleRefArgs(api_group=_RBAC, kind="ClusterRole", name=wide.metadata.name),
                opts=self.child,
            )  # fmt: skip
        self.register_outputs({})


def _rules(rules: Iterable[Rule]) -> list[PolicyRuleArgs]:
    return [
        PolicyRuleArgs(api_groups=[rule.group], resources=list(rule.resources), verbs=list(rule.verbs))
        for rule in rules
    ]


def _group(role: str) -> SubjectArgs:
    return SubjectArgs(api_group=_RBAC, kind="Group", name=f"{GROUP_PREFIX}{role}")

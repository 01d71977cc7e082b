"""What the API server refuses, beyond Pod Security and roles: see admission_rules.py."""

from __future__ import annotations

import pulumi
import pulumi_kubernetes as kubernetes
from pulumi_kubernetes.admissionregistration.v1 import (
    MatchConditionArgs,
    MatchResourcesArgs,
    NamedRuleWithOperationsArgs,
    ValidatingAdmissionPolicyBindingSpecArgs,
    ValidatingAdmissionPolicySpecArgs,
    ValidationArgs,
    VariableArgs,
)
from pulumi_kubernetes.meta.v1 import LabelSelectorArgs

from medllm.site.model import Kubernetes
from medllm_k8s.admission_rules import Policy, policies
from medllm_k8s.component import Component, metadata


class Admission(Component):
    """ValidatingAdmissionPolicies and their bindings. Whatever one can't judge is refused."""

    def __init__(self, name: str, declared: Kubernetes, provider: kubernetes.Provider) -> None:
        super().__init__("Admission", name, provider)
        for policy in policies(declared):
            self._declare(policy, declared.namespace)
        self.register_outputs({})

    def _declare(self, policy: Policy, namespace: str) -> None:
        made = kubernetes.admissionregistration.v1.ValidatingAdmissionPolicy(
            policy.name,
            metadata=metadata(policy.name),
            spec=ValidatingAdmissionPolicySpecArgs(
                failure_policy="Fail",
                match_constraints=MatchResourcesArgs(
                    resource_rules=[
                        NamedRuleWithOperationsArgs(
                            api_groups=[policy.group], api_versions=["v1"], operations=list(policy.operations),
                            resources=list(policy.resources),
                        )
                    ]
                ),
                match_conditions=[
                    MatchConditionArgs(name=name, expression=cel) for name, cel in policy.conditions.items()
                ]
                or None,
                variables=[VariableArgs(name=name, expression=cel) for name, cel in (policy.variables or {}).items()],
                validations=[ValidationArgs(expression=rule, message=why) for rule, why in policy.rules],
            ),
            opts=self.child,
        )  # fmt: skip
        ours = LabelSelectorArgs(match_labels={"kubernetes.io/metadata.name": namespace})
        kubernetes.admissionregistration.v1.ValidatingAdmissionPolicyBinding(
            policy.name,
            metadata=metadata(policy.name),
            spec=ValidatingAdmissionPolicyBindingSpecArgs(
                policy_name=made.metadata.name,
                validation_actions=["Deny"],
                match_resources=None if policy.cluster_wide else MatchResourcesArgs(namespace_selector=ours),
            ),
            opts=self.options(pulumi.ResourceOptions(depends_on=[made])),
        )

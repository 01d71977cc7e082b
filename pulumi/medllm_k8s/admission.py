"""What a pod of the namespace must be, beyond Pod Security: rules that the API server itself evaluates (CEL)."""

from __future__ import annotations

import pulumi
import pulumi_kubernetes as kubernetes
from pulumi_kubernetes.admissionregistration.v1 import (
    MatchResourcesArgs,
    NamedRuleWithOperationsArgs,
    ValidatingAdmissionPolicyBindingSpecArgs,
    ValidatingAdmissionPolicySpecArgs,
    ValidationArgs,
    VariableArgs,
)
from pulumi_kubernetes.meta.v1 import LabelSelectorArgs

from medllm.site.model import Kubernetes
from medllm_k8s.component import Component, metadata
from medllm_k8s.names import PRIORITIES, SCHEDULER_LABEL, SERVICE_ACCOUNT, registry

NAME = "medllm-pods"
# A tag or a digest after the last slash; `latest` is refused by itself.
_PINNED = r"^.+/[^/:@]+(:[A-Za-z0-9_][A-Za-z0-9._-]*)?(@sha256:[0-9a-f]{64})?$"


class Admission(Component):
    """One ValidatingAdmissionPolicy and its binding to the namespace. Whatever it can't judge is refused."""

    def __init__(self, name: str, declared: Kubernetes, provider: kubernetes.Provider) -> None:
        super().__init__("Admission", name, provider)
        policy = kubernetes.admissionregistration.v1.ValidatingAdmissionPolicy(
            NAME,
            metadata=metadata(NAME),
            spec=ValidatingAdmissionPolicySpecArgs(
                failure_policy="Fail",
                match_constraints=MatchResourcesArgs(
                    resource_rules=[
                        NamedRuleWithOperationsArgs(
                            api_groups=[""], api_versions=["v1"], operations=["CREATE", "UPDATE"],
                            resources=["pods", "pods/ephemeralcontainers"],
                        )
                    ]
                ),
                variables=[
                    VariableArgs(
                        name="containers",
                        expression=(
                            "object.spec.containers"
                            " + (has(object.spec.initContainers) ? object.spec.initContainers : [])"
                        ),
                    ),
                    VariableArgs(
                        name="images",
                        expression=(
                            "variables.containers.map(c, c.image) + (has(object.spec.ephemeralContainers)"
                            " ? object.spec.ephemeralContainers.map(c, c.image) : [])"
                        ),
                    ),
                    VariableArgs(
                        name="gpu",
                        expression=(
                            "variables.containers.exists(c, has(c.resources) && has(c.resources.limits)"
                            f" && '{declared.gpu_resource}' in c.resources.limits)"
                        ),
                    ),
                ],
                validations=[ValidationArgs(expression=rule, message=why) for rule, why in _rules(declared)],
            ),
            opts=self.child,
        )  # fmt: skip
        kubernetes.admissionregistration.v1.ValidatingAdmissionPolicyBinding(
            NAME,
            metadata=metadata(NAME),
            spec=ValidatingAdmissionPolicyBindingSpecArgs(
                policy_name=policy.metadata.name,
                validation_actions=["Deny"],
                match_resources=MatchResourcesArgs(
                    namespace_selector=LabelSelectorArgs(
                        match_labels={"kubernetes.io/metadata.name": declared.namespace}
                    )
                ),
            ),
            opts=self.options(pulumi.ResourceOptions(depends_on=[policy])),
        )
        self.register_outputs({})


def _rules(declared: Kubernetes) -> list[tuple[str, str]]:
    """(CEL expression, what is told to whoever breaks it)."""
    own, classes = registry(declared.image), ", ".join(f"'{name}'" for name in PRIORITIES)
    return [
        (
            f"variables.images.all(image, image.startsWith('{own}/'))",
            f"images come from {own} alone",
        ),
        (
            f"variables.images.all(image, image.matches('{_PINNED}') && image.contains(':')"
            " && !image.endsWith(':latest'))",
            "an image is named with a version or a digest, and `latest` is none",
        ),
        (
            f"!variables.gpu || (has(object.spec.priorityClassName) && object.spec.priorityClassName in [{classes}])",
            f"a pod with GPUs names one of the priority classes {', '.join(PRIORITIES)}",
        ),
        (
            "!variables.gpu || (has(object.spec.nodeSelector)"
            f" && '{SCHEDULER_LABEL}' in object.spec.nodeSelector"
            f" && object.spec.nodeSelector['{SCHEDULER_LABEL}'] == 'kubernetes')",
            f"a pod with GPUs selects nodes with {SCHEDULER_LABEL}: kubernetes; Slurm has the others",
        ),
        (
            "has(object.spec.automountServiceAccountToken) && !object.spec.automountServiceAccountToken"
            " && (!has(object.spec.serviceAccountName)"
            f" || object.spec.serviceAccountName in ['default', '{SERVICE_ACCOUNT}'])",
            "a pod sets automountServiceAccountToken: false and takes no other service account",
        ),
        (
            "(!has(object.spec.volumes) || object.spec.volumes.all(v, !has(v.secret)"
            " && (!has(v.projected) || !has(v.projected.sources)"
            " || v.projected.sources.all(s, !has(s.secret) && !has(s.serviceAccountToken)))))"
            " && variables.containers.all(c, (!has(c.env)"
            " || c.env.all(e, !has(e.valueFrom) || !has(e.valueFrom.secretKeyRef)))"
            " && (!has(c.envFrom) || c.envFrom.all(e, !has(e.secretRef))))",
            "pods take no Secrets: whoever may make a pod could read them",
        ),
    ]

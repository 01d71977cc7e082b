"""What a pod of the namespace must be, beyond Pod Security: rules that the API server itself evaluates (CEL)."""

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
from medllm_k8s.component import Component, metadata
from medllm_k8s.names import PRIORITIES, SCHEDULER_LABEL, SERVICE_ACCOUNT, registry

NAME = "medllm-pods"
# A tag or a digest after the last slash (a colon before it is a port's); `latest` is refused by itself.
_DIGEST = "@sha256:[0-9a-f]{64}"
PINNED = rf"^.+/[^/:@]+(:[A-Za-z0-9_][A-Za-z0-9._-]*({_DIGEST})?|{_DIGEST})$"
# What a volume may be: no further kind, which a newer release of Kubernetes may bring, is let in unread.
_VOLUMES = ("configMap", "downwardAPI", "emptyDir", "persistentVolumeClaim", "projected")


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
                # A controller takes its finalizer off a pod that was let in under an older policy: were that refused,
                # the pod and its Job could never go.
                match_conditions=[
                    MatchConditionArgs(
                        name="specification-is-new",
                        expression="request.operation == 'CREATE' || object.spec != oldObject.spec",
                    )
                ],
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
                        name="device",
                        expression=(
                            "variables.containers.exists(c, has(c.resources) && has(c.resources.limits)"
                            f" && ('{declared.gpu_resource}' in c.resources.limits"
                            f" || '{declared.rdma_resource}' in c.resources.limits))"
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


def _who(context: str, declared: Kubernetes) -> str:
    """CEL: a security context names no other user and group than the declared ones."""
    return (
        f"(!has({context}.runAsUser) || {context}.runAsUser == {declared.user_id})"
        f" && (!has({context}.runAsGroup) || {context}.runAsGroup == {declared.group_id})"
    )


def _at_home(probe: str) -> str:
    """CEL: a probe or hook names no host."""
    kinds = (f"(!has({probe}.{kind}) || !has({probe}.{kind}.host))" for kind in ("httpGet", "tcpSocket"))
    return f"(!has({probe}) || ({' && '.join(kinds)}))"


def _rules(declared: Kubernetes) -> list[tuple[str, str]]:
    """(CEL expression, what is told to whoever breaks it)."""
    own, classes = registry(declared.image), ", ".join(f"'{name}'" for name in PRIORITIES)
    return [
        (
            f"variables.images.all(image, image.startsWith('{own}/'))",
            f"images come from {own} alone",
        ),
        (
            f"variables.images.all(image, image.matches('{PINNED}') && !image.endsWith(':latest'))",
            "an image is named with a version or a digest, and `latest` is none",
        ),
        (
            "!variables.device || (has(object.spec.priorityClassName)"
            f" && object.spec.priorityClassName in [{classes}])",
            f"a pod with GPUs or HCAs names one of the priority classes {', '.join(PRIORITIES)}",
        ),
        (
            # Kubernetes lets any namespace take `system-node-critical`, which pushes everything out.
            f"!has(object.spec.priorityClassName) || object.spec.priorityClassName in ['', {classes}]",
            f"a pod takes no other priority class than {', '.join(PRIORITIES)}",
        ),
        (
            "!variables.device || (has(object.spec.nodeSelector)"
            f" && '{SCHEDULER_LABEL}' in object.spec.nodeSelector"
            f" && object.spec.nodeSelector['{SCHEDULER_LABEL}'] == 'kubernetes')",
            f"a pod with GPUs or HCAs selects nodes with {SCHEDULER_LABEL}: kubernetes; Slurm has the others",
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
            " || v.projected.sources.all(s, !has(s.secret) && !has(s.serviceAccountToken) && !has(s.podCertificate)))))"
            " && variables.containers.all(c, (!has(c.env)"
            " || c.env.all(e, !has(e.valueFrom) || !has(e.valueFrom.secretKeyRef)))"
            " && (!has(c.envFrom) || c.envFrom.all(e, !has(e.secretRef))))",
            "pods take no Secrets: whoever may make a pod could read them",
        ),
        (
            "!has(object.spec.volumes) || object.spec.volumes.all(v, "
            + " || ".join(f"has(v.{kind})" for kind in _VOLUMES)
            + ")",
            # An image as a volume would come from any registry; an ephemeral claim, of any size from any class.
            f"a volume is one of {', '.join(_VOLUMES)}",
        ),
        (
            # The kubelet, as root, would give each file of the volume that group: the whole of Lustre.
            "!has(object.spec.securityContext) || (!has(object.spec.securityContext.fsGroup)"
            " && !has(object.spec.securityContext.supplementalGroups)"
            f" && {_who('object.spec.securityContext', declared)})",
            f"a pod is user {declared.user_id} and group {declared.group_id}, without fsGroup and further groups",
        ),
        (
            f"variables.containers.all(c, !has(c.securityContext) || ({_who('c.securityContext', declared)}))",
            f"a container is user {declared.user_id} and group {declared.group_id}",
        ),
        (
            # NVIDIA's runtime gives a container the GPUs that this names, allocated or not.
            "variables.containers.all(c, !has(c.env) || c.env.all(e, e.name != 'NVIDIA_VISIBLE_DEVICES'))",
            "GPUs come by resources alone: no container sets NVIDIA_VISIBLE_DEVICES",
        ),
        (
            # They are asked by the kubelet, from the node's own network, which no NetworkPolicy fences.
            f"variables.containers.all(c, {_at_home('c.livenessProbe')} && {_at_home('c.readinessProbe')}"
            f" && {_at_home('c.startupProbe')} && (!has(c.lifecycle) || ({_at_home('c.lifecycle.postStart')}"
            f" && {_at_home('c.lifecycle.preStop')})))",
            "a probe or hook asks its own pod: it names no host",
        ),
        (
            "(request.operation != 'CREATE' || !has(object.spec.nodeName)) && (!has(object.spec.tolerations)"
            " || object.spec.tolerations.all(t, has(t.key) && t.key != '' && !(t.key in"
            " ['node-role.kubernetes.io/control-plane', 'node-role.kubernetes.io/master'])))",
            "the scheduler chooses the node: a pod names none, and tolerates neither everything nor a control plane",
        ),
    ]

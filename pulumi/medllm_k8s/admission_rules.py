"""The rules of the admission policies: what a pod of the namespace must be, and what each role may not do with its
rights. CEL, which the API server itself evaluates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medllm.site.model import Kubernetes
from medllm_k8s.names import (
    CLAIMS,
    COMPONENT_LABEL,
    DATA_SCIENTIST,
    GROUP_PREFIX,
    INFERENCE_PRIORITY,
    OPERATOR,
    PRIORITIES,
    SCHEDULER_LABEL,
    SERVICE_ACCOUNT,
    TRAINER,
    registry,
)

# A tag or a digest after the last slash (a colon before it is a port's); `latest` is refused by itself.
_DIGEST = "@sha256:[0-9a-f]{64}"
PINNED = rf"^.+/[^/:@]+(:[A-Za-z0-9_][A-Za-z0-9._-]*({_DIGEST})?|{_DIGEST})$"
# What a volume may be: no further kind, which a newer release of Kubernetes may bring, is let in unread.
_VOLUMES = ("configMap", "downwardAPI", "emptyDir", "persistentVolumeClaim", "projected")
# What a pod may tolerate: a node that is lost (a controller adds both to every pod), and taints named after devices.
_LOST = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")


@dataclass(frozen=True, slots=True)
class Policy:
    """One ValidatingAdmissionPolicy on `resources` of the API group `group`: every rule (CEL expression, what is told
    to whoever breaks it) holds for requests that meet all `conditions` (name → CEL).
    """

    name: str
    group: str
    resources: Sequence[str]
    operations: Sequence[str]
    conditions: dict[str, str]
    rules: Sequence[tuple[str, str]]
    variables: dict[str, str] | None = None
    cluster_wide: bool = False


def policies(declared: Kubernetes) -> list[Policy]:
    """All policies of a site."""
    return [
        Policy(
            "medllm-pods", "", ["pods", "pods/ephemeralcontainers"], ["CREATE", "UPDATE"],
            # A controller takes its finalizer off a pod that was let in under an older policy: were that refused, the
            # pod and its Job could never go.
            {"specification-is-new": "request.operation == 'CREATE' || object.spec != oldObject.spec"},
            _pods(declared), _variables(declared),
        ),
        Policy(
            "medllm-services", "", ["services"], ["CREATE", "UPDATE"], {},
            [
                ("!has(object.spec.externalIPs) || size(object.spec.externalIPs) == 0",
                 # Traffic of all nodes to such an address would go to the Service's pods (CVE-2020-8554).
                 "a Service takes no externalIPs"),
                ("!has(object.spec.type) || object.spec.type != 'ExternalName'", "a Service names no other host"),
            ],
        ),
        # RBAC knows no owners: without these a scientist could end the production run, or a pod of his could pass for
        # one of its ranks. A pod by itself and a Job's are judged alike.
        Policy(
            "medllm-scientists-pods", "", ["pods"], ["CREATE"], _SCIENTISTS,
            [_no_trainer("object.metadata"), *_scientists("object.spec")],
        ),
        Policy(
            "medllm-scientists-jobs", "batch", ["jobs"], ["CREATE"], _SCIENTISTS,
            [
                _no_trainer("object.metadata"), _no_trainer("object.spec.template.metadata"),
                *_scientists("object.spec.template.spec"),
            ],
        ),
        *(
            Policy(
                f"medllm-run-{kind}", group, [kind], ["DELETE"], _SCIENTISTS,
                [(_unlike_trainer("oldObject.metadata"), "the production run is ended by an operator")],
            )
            for kind, group in (("pods", ""), ("jobs", "batch"))
        ),
        Policy(
            # The right to patch nodes is there for `kubectl cordon`; a label would move a node to another scheduler.
            "medllm-nodes", "", ["nodes"], ["UPDATE"],
            {"operators": f"'{GROUP_PREFIX}{OPERATOR}' in request.userInfo.groups"
                          " && !('system:masters' in request.userInfo.groups)"},
            [
                (
                    " && ".join(
                        f"(has(object.{field}) ? object.{field} : {none})"
                        f" == (has(oldObject.{field}) ? oldObject.{field} : {none})"
                        for field, none in (
                            ("metadata.labels", "{}"), ("metadata.annotations", "{}"), ("spec.taints", "[]"),
                            ("metadata.finalizers", "[]"),
                        )
                    ),
                    "an operator cordons and uncordons a node, and changes nothing else of it",
                )
            ],
            cluster_wide=True,
        ),
    ]  # fmt: skip


# Who is an operator, too, is one.
_SCIENTISTS = {
    "scientists": f"'{GROUP_PREFIX}{DATA_SCIENTIST}' in request.userInfo.groups"
    f" && !('{GROUP_PREFIX}{OPERATOR}' in request.userInfo.groups)"
}


def _unlike_trainer(metadata: str) -> str:
    return (
        f"!has({metadata}) || !has({metadata}.labels) || !('{COMPONENT_LABEL}' in {metadata}.labels)"
        f" || {metadata}.labels['{COMPONENT_LABEL}'] != '{TRAINER}'"
    )


def _no_trainer(metadata: str) -> tuple[str, str]:
    return _unlike_trainer(metadata), f"{COMPONENT_LABEL}: {TRAINER} is the production run's alone"


def _scientists(spec: str) -> list[tuple[str, str]]:
    raw = CLAIMS["dicom_input"]
    return [
        (
            f"!has({spec}.volumes) || {spec}.volumes.all(v, !has(v.persistentVolumeClaim)"
            f" || v.persistentVolumeClaim.claimName != '{raw}')",
            f"{raw} has patients' data as they came: a data scientist's pods do not mount it",
        ),
        (
            f"!has({spec}.priorityClassName) || {spec}.priorityClassName != '{INFERENCE_PRIORITY}'",
            f"{INFERENCE_PRIORITY} is for what serves patients: an operator starts it",
        ),
    ]


def _variables(declared: Kubernetes) -> dict[str, str]:
    return {
        "containers": ("object.spec.containers + (has(object.spec.initContainers) ? object.spec.initContainers : [])"),
        "images": (
            "variables.containers.map(c, c.image) + (has(object.spec.ephemeralContainers)"
            " ? object.spec.ephemeralContainers.map(c, c.image) : [])"
        ),
        "device": (
            "variables.containers.exists(c, has(c.resources) && has(c.resources.limits)"
            f" && ('{declared.gpu_resource}' in c.resources.limits"
            f" || '{declared.rdma_resource}' in c.resources.limits))"
        ),
    }


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


def _pods(declared: Kubernetes) -> list[tuple[str, str]]:
    """(CEL expression, what is told to whoever breaks it)."""
    own, classes = registry(declared.image), ", ".join(f"'{name}'" for name in PRIORITIES)
    tolerable = ", ".join(f"'{key}'" for key in (*_LOST, declared.gpu_resource, declared.rdma_resource))
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
            "request.operation != 'CREATE' || !has(object.spec.nodeName)",
            "the scheduler chooses the node: a pod names none",
        ),
        (
            # Else it would run where a person has cordoned, or where Slurm's ranks are.
            f"!has(object.spec.tolerations) || object.spec.tolerations.all(t, has(t.key) && t.key in [{tolerable}])",
            "a pod tolerates a lost node and the taints of devices, and no other",
        ),
    ]

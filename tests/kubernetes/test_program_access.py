"""Each role may do what it is for, and nothing else: every verb on every kind of object, asked of the API server."""

from __future__ import annotations

from itertools import product

import pytest

from lab.kubernetes.kubelet.client import Client
from lab.kubernetes.local import LocalControlPlane
from tests.kubernetes.program import NAMESPACE, Program

pytestmark = pytest.mark.timeout(1800)

VERBS = (
    "get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "impersonate", "bind",
    "escalate", "use",
)  # fmt: skip
READ = {"get", "list", "watch"}
# Resource → API group. With a slash: a subresource.
NAMESPACED = {
    "pods": "", "pods/log": "", "pods/exec": "", "pods/attach": "", "pods/portforward": "", "pods/eviction": "",
    "pods/ephemeralcontainers": "", "jobs": "batch", "cronjobs": "batch", "deployments": "apps",
    "deployments/scale": "apps", "daemonsets": "apps", "statefulsets": "apps", "services": "", "services/proxy": "",
    "configmaps": "", "secrets": "", "persistentvolumeclaims": "", "serviceaccounts": "", "serviceaccounts/token": "",
    "events": "", "resourcequotas": "", "limitranges": "", "networkpolicies": "networking.k8s.io",
    "roles": "rbac.authorization.k8s.io", "rolebindings": "rbac.authorization.k8s.io",
    "leases": "coordination.k8s.io",
}  # fmt: skip
CLUSTER_WIDE = {
    "nodes": "", "nodes/proxy": "", "namespaces": "", "persistentvolumes": "", "users": "", "groups": "",
    "priorityclasses": "scheduling.k8s.io", "storageclasses": "storage.k8s.io",
    "clusterroles": "rbac.authorization.k8s.io", "clusterrolebindings": "rbac.authorization.k8s.io",
    "validatingadmissionpolicies": "admissionregistration.k8s.io",
    "validatingadmissionpolicybindings": "admissionregistration.k8s.io",
    "mutatingwebhookconfigurations": "admissionregistration.k8s.io",
    "customresourcedefinitions": "apiextensions.k8s.io", "certificatesigningrequests": "certificates.k8s.io",
}  # fmt: skip
WRITE = {"create", "update", "patch", "delete"}
MAY: dict[str, dict[str, set[str]]] = {
    "data-scientist": {
        "pods": READ | {"create", "delete"},
        "pods/log": {"get"},
        "jobs": READ | {"create", "delete"},
        **dict.fromkeys(("persistentvolumeclaims", "configmaps", "events", "resourcequotas"), READ),
    },
    "operator": {
        "pods": READ | {"create", "delete"},
        "pods/log": {"get"},
        "pods/eviction": {"create"},
        **dict.fromkeys(("jobs", "deployments", "deployments/scale", "services", "configmaps"), READ | WRITE),
        "persistentvolumeclaims": READ | {"create"},
        "secrets": {"create"},
        **dict.fromkeys(("events", "resourcequotas", "limitranges", "serviceaccounts", "networkpolicies"), READ),
        "nodes": READ | {"patch"},
        **dict.fromkeys(("persistentvolumes", "namespaces", "priorityclasses"), READ),
    },
    "auditor": dict.fromkeys(
        (
            "pods", "services", "configmaps", "persistentvolumeclaims", "events", "resourcequotas", "limitranges",
            "serviceaccounts", "jobs", "deployments", "networkpolicies", "roles", "rolebindings", "nodes", "namespaces",
            "persistentvolumes", "priorityclasses", "storageclasses", "clusterroles", "clusterrolebindings",
            "validatingadmissionpolicies", "validatingadmissionpolicybindings",
        ),
        READ,
    ),
    "stranger": {},
}  # fmt: skip


def allowed(admin: Client, role: str, verb: str, resource: str, group: str, namespace: str) -> bool:
    """`kubectl auth can-i`, asked by the administrator about somebody else (SubjectAccessReview)."""
    name, _, part = resource.partition("/")
    attributes = {"verb": verb, "resource": name, "subresource": part, "group": group, "namespace": namespace}
    groups = ["system:authenticated"] + ([] if role == "stranger" else [f"medllm:{role}"])
    review = {"spec": {"user": f"a-{role}", "groups": groups, "resourceAttributes": attributes}}
    answer = admin.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    return bool(answer["status"]["allowed"])


@pytest.mark.parametrize("role", MAY)
@pytest.mark.gate
def test_a_role_may_do_this_and_nothing_else(program: Program, admin: Client, role: str) -> None:
    everything = [(name, group, NAMESPACE) for name, group in NAMESPACED.items()]
    everything += [(name, group, "") for name, group in CLUSTER_WIDE.items()]
    wrong = []
    for (resource, group, namespace), verb in product(everything, VERBS):
        expected = verb in MAY[role].get(resource, set())
        if allowed(admin, role, verb, resource, group, namespace) != expected:
            wrong.append(f"{verb} {resource}: {'refused' if expected else 'allowed'}")
    assert wrong == []


@pytest.mark.parametrize("role", MAY)
def test_a_role_ends_at_its_namespace(program: Program, admin: Client, role: str) -> None:
    for namespace in ("default", "kube-system"):
        for resource, group in NAMESPACED.items():
            for verb in VERBS:
                assert not allowed(admin, role, verb, resource, group, namespace), f"{verb} {resource} in {namespace}"


def test_jobs_are_in_the_batch_group_and_use_is_no_verb_of_claims(program: Program, admin: Client) -> None:
    """The documents ask for Jobs in the core group and for the verb `use` on claims (spec, Kubernetes resources)."""
    roles = admin.get(f"/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}/roles")["items"]
    rules = [rule for role in roles for rule in role["rules"]]
    assert all("" not in rule["apiGroups"] for rule in rules if "jobs" in rule["resources"])
    assert all("use" not in rule["verbs"] for rule in rules)
    assert all("*" not in (*rule["verbs"], *rule["resources"], *rule["apiGroups"]) for rule in rules)


def test_an_operator_does_not_read_a_secret_by_deleting_it(program: Program, cluster: LocalControlPlane) -> None:
    """The answer to a deletion that waits is the object, even when it is only tried."""
    program.kubectl("create", "secret", "generic", "crown", f"--namespace={NAMESPACE}", "--from-literal=a=b")
    try:
        tried = program.kubectl(
            "delete", "secret", "crown", f"--namespace={NAMESPACE}", "--cascade=foreground", "--dry-run=server",
            f"--kubeconfig={cluster.kubeconfig('operator')}", check=False,
        )  # fmt: skip
        assert "forbidden" in tried.stderr
    finally:
        program.kubectl("delete", "secret", "crown", f"--namespace={NAMESPACE}")

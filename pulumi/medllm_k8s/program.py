"""The stack: all components of a site, in one cluster."""

from __future__ import annotations

from pathlib import Path

import pulumi
import pulumi_kubernetes as kubernetes

from medllm_k8s.access import Access
from medllm_k8s.admission import Admission
from medllm_k8s.cluster import OUTPUT, ask, same_as_before
from medllm_k8s.config import Settings, read_settings
from medllm_k8s.isolation import Isolation
from medllm_k8s.nodes import Nodes
from medllm_k8s.storage import Storage
from medllm_k8s.tenancy import Tenancy
from medllm_k8s.training import Training


def main() -> None:
    """Declare the selected stack's site; called by Pulumi."""
    settings = read_settings(pulumi.Config("medllm"), pulumi.get_stack(), Path.cwd())
    declare(settings, same_as_before(ask()))


def declare(settings: Settings, cluster: pulumi.Output[str]) -> None:
    """Everything that a site has in Kubernetes. `cluster`: UID of the one that KUBECONFIG names."""
    site = settings.site
    declared = site.kubernetes
    # Not Pulumi's default provider: a stack says by itself that nothing is taken over by force.
    # And it says which cluster it means: a mistyped KUBECONFIG would otherwise replace every object there is.
    provider = kubernetes.Provider(
        "cluster", enable_server_side_apply=True,
        # Awaits the cluster, so that nothing is done in another one.
        cluster_identifier=cluster.apply(lambda _: site.name),
    )  # fmt: skip
    tenancy = Tenancy("tenancy", declared, provider, settings.registry_auth)
    admission = Admission("admission", declared, provider)
    nodes = Nodes("nodes", site, provider)
    access = Access("access", tenancy.namespace, provider)
    isolation = Isolation("isolation", site, tenancy.namespace, provider)
    storage = Storage("storage", site, tenancy.namespace, provider)
    pulumi.export("site", site.name)
    pulumi.export(OUTPUT, cluster)
    pulumi.export("namespace", tenancy.namespace)
    if not site.kubernetes_nodes:
        pulumi.export("training", "no node has `scheduler: kubernetes` in hosts.yml: the Job is not declared")
        return
    # No pod starts before it is fenced in.
    training = Training(
        "training", site, tenancy.namespace, provider, after=[tenancy, admission, nodes, access, isolation, storage]
    )
    pulumi.export("training", training.job)

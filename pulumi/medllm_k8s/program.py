"""The stack: all components of a site, in one cluster."""

from __future__ import annotations

from pathlib import Path

import pulumi
import pulumi_kubernetes as kubernetes

from medllm_k8s.access import Access
from medllm_k8s.admission import Admission
from medllm_k8s.config import Settings, read_settings
from medllm_k8s.isolation import Isolation
from medllm_k8s.nodes import Nodes
from medllm_k8s.storage import Storage
from medllm_k8s.tenancy import Tenancy
from medllm_k8s.training import Training


def main() -> None:
    """Declare the selected stack's site; called by Pulumi."""
    declare(read_settings(pulumi.Config("medllm"), pulumi.get_stack(), Path.cwd()))


def declare(settings: Settings) -> None:
    """Everything that a site has in Kubernetes. The cluster is the one that KUBECONFIG names."""
    site = settings.site
    declared = site.kubernetes
    # Not Pulumi's default provider: a stack says by itself that nothing is taken over by force.
    # And it says which cluster it means: a mistyped KUBECONFIG would otherwise replace every object there is.
    provider = kubernetes.Provider("cluster", enable_server_side_apply=True, cluster_identifier=site.name)
    tenancy = Tenancy("tenancy", declared, provider, settings.registry_auth)
    admission = Admission("admission", declared, provider)
    nodes = Nodes("nodes", site, provider)
    access = Access("access", tenancy.namespace, provider)
    isolation = Isolation("isolation", site, tenancy.namespace, provider)
    storage = Storage("storage", site, tenancy.namespace, provider)
    pulumi.export("site", site.name)
    pulumi.export("namespace", tenancy.namespace)
    if not site.kubernetes_nodes:
        pulumi.export("training", "no node has `scheduler: kubernetes` in hosts.yml: the Job is not declared")
        return
    # No pod starts before it is fenced in.
    training = Training(
        "training", site, tenancy.namespace, provider, after=[tenancy, admission, nodes, access, isolation, storage]
    )
    pulumi.export("training", training.job)

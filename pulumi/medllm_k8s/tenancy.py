"""The namespace, what it may ask for at most, and which pods come first."""

from __future__ import annotations

import pulumi
import pulumi_kubernetes as kubernetes
from pulumi_kubernetes.core.v1 import (
    LimitRangeItemArgs,
    LimitRangeSpecArgs,
    LocalObjectReferenceArgs,
    ResourceQuotaSpecArgs,
)

from medllm.site.model import Kubernetes
from medllm_k8s.component import Component, metadata
from medllm_k8s.names import PRIORITIES, REGISTRY_SECRET, SERVICE_ACCOUNT

# The oldest release in which all that this program declares is stable; a newer cluster judges by this version's rules.
POD_SECURITY_VERSION = "v1.30"


class Tenancy(Component):
    """Namespace, ResourceQuota, LimitRange, PriorityClasses and the pods' ServiceAccount.

    Pod Security `restricted` is enforced. RDMA needs no IPC_LOCK under it: containerd gives its containers unlimited
    locked memory (LimitMEMLOCK, as the role containerd sets it).
    """

    def __init__(
        self, name: str, declared: Kubernetes, provider: kubernetes.Provider, registry_auth: pulumi.Output[str] | None,
    ) -> None:  # fmt: skip
        super().__init__("Tenancy", name, provider)
        modes = ("enforce", "audit", "warn")
        labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in modes}
        labels |= {f"pod-security.kubernetes.io/{mode}-version": POD_SECURITY_VERSION for mode in modes}
        namespace = kubernetes.core.v1.Namespace(
            "namespace", metadata=metadata(declared.namespace, labels=labels),
            # With it go all claims in it.
            opts=self.options(pulumi.ResourceOptions(protect=True)),
        )  # fmt: skip
        # As an output: what lies in the namespace is made after it.
        self.namespace: pulumi.Output[str] = namespace.metadata.apply(lambda made: str(made.name))
        quota = declared.quota
        kubernetes.core.v1.ResourceQuota(
            "quota",
            metadata=metadata("medllm", self.namespace),
            spec=ResourceQuotaSpecArgs(
                hard={
                    f"requests.{declared.gpu_resource}": str(quota.gpus),
                    "requests.cpu": str(quota.cpu),
                    "limits.cpu": str(quota.cpu),
                    "requests.memory": f"{quota.memory_gib}Gi",
                    "limits.memory": f"{quota.memory_gib}Gi",
                    "pods": str(quota.pods),
                    # Doors to the outside that the isolation does not know.
                    "services.nodeports": "0",
                    "services.loadbalancers": "0",
                }
            ),
            opts=self.child,
        )
        # Under a quota a container that says nothing would be refused.
        small = {"cpu": "1", "memory": "2Gi"}
        kubernetes.core.v1.LimitRange(
            "defaults",
            metadata=metadata("medllm", self.namespace),
            spec=LimitRangeSpecArgs(
                limits=[LimitRangeItemArgs(type="Container", default=small, default_request=small)]
            ),
            opts=self.child,
        )
        for priority, value in PRIORITIES.items():
            kubernetes.scheduling.v1.PriorityClass(
                priority, metadata=metadata(priority), value=value, global_default=False,
                preemption_policy="PreemptLowerPriority", opts=self.child,
            )  # fmt: skip
        kubernetes.core.v1.ServiceAccount(
            SERVICE_ACCOUNT, metadata=metadata(SERVICE_ACCOUNT, self.namespace),
            automount_service_account_token=False,
            # The kubelet pulls with it; no pod sees it, for the admission policy lets none take a Secret.
            image_pull_secrets=[self._registry_secret(registry_auth)] if registry_auth else None,
            opts=self.child,
        )  # fmt: skip
        self.register_outputs({"namespace": self.namespace})

    def _registry_secret(self, auth: pulumi.Output[str]) -> LocalObjectReferenceArgs:
        made = kubernetes.core.v1.Secret(
            REGISTRY_SECRET, metadata=metadata(REGISTRY_SECRET, self.namespace), type="kubernetes.io/dockerconfigjson",
            string_data={".dockerconfigjson": auth},
            # Under its one name, which a replacement takes before the old one is gone.
            opts=self.options(pulumi.ResourceOptions(delete_before_replace=True)),
        )  # fmt: skip
        return LocalObjectReferenceArgs(name=made.metadata.name)

"""Which pods may speak to whom: nobody to nobody, but for the flows declared here."""

from __future__ import annotations

import pulumi
import pulumi_kubernetes as kubernetes
from pulumi_kubernetes.meta.v1 import LabelSelectorArgs
from pulumi_kubernetes.networking.v1 import (
    IPBlockArgs,
    NetworkPolicyEgressRuleArgs,
    NetworkPolicyIngressRuleArgs,
    NetworkPolicyPeerArgs,
    NetworkPolicyPortArgs,
    NetworkPolicySpecArgs,
)

from medllm.site import Site
from medllm_k8s.component import Component, metadata
from medllm_k8s.names import COMPONENT_LABEL, TRAINER

# Where a cache of names on each node listens (NodeLocal DNSCache; its address is the cluster's choice). It has the
# node's own network, so no selector of pods finds it. The address that is left out tells a cloud's secrets.
_LINK_LOCAL, _METADATA = "169.254.0.0/16", "169.254.169.254/32"
_TRAINERS = LabelSelectorArgs(match_labels={COMPONENT_LABEL: TRAINER})


class Isolation(Component):
    """NetworkPolicies of the namespace. They need a network plugin that enforces them (Calico, Cilium)."""

    def __init__(self, name: str, site: Site, namespace: pulumi.Input[str], provider: kubernetes.Provider) -> None:
        super().__init__("Isolation", name, provider)
        everyone = LabelSelectorArgs()
        self._policy(
            namespace, "default-deny", NetworkPolicySpecArgs(pod_selector=everyone, policy_types=["Ingress", "Egress"])
        )
        dns = NetworkPolicyPeerArgs(
            namespace_selector=LabelSelectorArgs(match_labels={"kubernetes.io/metadata.name": "kube-system"}),
            pod_selector=LabelSelectorArgs(match_labels={"k8s-app": "kube-dns"}),
        )
        cache = NetworkPolicyPeerArgs(ip_block=IPBlockArgs(cidr=_LINK_LOCAL, except_=[_METADATA]))
        self._policy(
            namespace, "dns",
            NetworkPolicySpecArgs(
                pod_selector=everyone, policy_types=["Egress"],
                egress=[
                    NetworkPolicyEgressRuleArgs(
                        to=[dns, cache],
                        ports=[NetworkPolicyPortArgs(port=53, protocol=word) for word in ("UDP", "TCP")],
                    )
                ],
            ),
        )  # fmt: skip
        # NCCL and gloo take ports that the system gives them; RDMA itself passes beside the pods' network.
        trainers = [NetworkPolicyPeerArgs(pod_selector=_TRAINERS)]
        self._policy(
            namespace, "ranks",
            NetworkPolicySpecArgs(
                pod_selector=_TRAINERS, policy_types=["Ingress", "Egress"],
                ingress=[NetworkPolicyIngressRuleArgs(from_=trainers)],
                egress=[NetworkPolicyEgressRuleArgs(to=trainers)],
            ),
        )  # fmt: skip
        prometheus = NetworkPolicyPeerArgs(ip_block=IPBlockArgs(cidr=_single(site.mgmt.address)))
        self._policy(
            namespace, "metrics",
            NetworkPolicySpecArgs(
                pod_selector=_TRAINERS, policy_types=["Ingress"],
                ingress=[
                    NetworkPolicyIngressRuleArgs(
                        from_=[prometheus], ports=[NetworkPolicyPortArgs(port=site.ports.trainer, protocol="TCP")]
                    )
                ],
            ),
        )  # fmt: skip
        self.register_outputs({})

    def _policy(self, namespace: pulumi.Input[str], name: str, spec: NetworkPolicySpecArgs) -> None:
        kubernetes.networking.v1.NetworkPolicy(name, metadata=metadata(name, namespace), spec=spec, opts=self.child)


def _single(address: str) -> str:
    """The CIDR of one address."""
    return f"{address}/{128 if ':' in address else 32}"

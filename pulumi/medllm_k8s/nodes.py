"""What Kubernetes' own nodes are labelled with: their accelerator, their rack, and that they are not Slurm's.

Labels alone: a node's taints are one list, which the node controller writes too; to apply it would take its own
taints away (`not-ready`, `unreachable`). Slurm's nodes have no label, and pods with GPUs select it (`admission.py`): a
node may have a kubelet or none, and it costs one word in hosts.yml to pass it from one scheduler to the other.
"""

from __future__ import annotations

import pulumi
import pulumi_kubernetes as kubernetes
from pulumi_kubernetes.meta.v1 import ObjectMetaPatchArgs

from medllm.site import Site
from medllm_k8s.component import Component
from medllm_k8s.names import ACCELERATOR_LABEL, SCHEDULER_LABEL, accelerator

ZONE_LABEL = "topology.kubernetes.io/zone"


class Nodes(Component):
    """A NodePatch for each node of Kubernetes: fields of a node that its kubelet made."""

    def __init__(self, name: str, site: Site, provider: kubernetes.Provider) -> None:
        super().__init__("Nodes", name, provider)
        for host in site.kubernetes_nodes:
            # Applied to a name that the cluster does not have, a patch would make a node without a machine.
            there = kubernetes.core.v1.Node.get(f"{host.name}-joined", host.name, opts=self.child)
            labels = {
                ACCELERATOR_LABEL: accelerator(site.gpu.model),
                SCHEDULER_LABEL: str(host.scheduler),
                ZONE_LABEL: str(host.failure_domain),
            }
            kubernetes.core.v1.NodePatch(
                host.name,
                metadata=ObjectMetaPatchArgs(
                    name=host.name, labels=labels,
                    # A cloud's controller may have labelled the zone: the site knows better.
                    annotations={"pulumi.com/patchForce": "true"},
                ),
                opts=self.options(pulumi.ResourceOptions(depends_on=[there])),
            )  # fmt: skip
        self.register_outputs({})

"""What the cluster's nodes are labelled with: their accelerator, their rack, and which scheduler has them.

Labels alone: a node's taints are one list, which the node controller writes too; to apply it would take its own
taints away (`not-ready`, `unreachable`). Slurm's nodes are kept free by the admission policy instead (`admission.py`).
"""

from __future__ import annotations

import pulumi_kubernetes as kubernetes
from pulumi_kubernetes.meta.v1 import ObjectMetaPatchArgs

from medllm.site import Site
from medllm_k8s.component import Component
from medllm_k8s.names import ACCELERATOR_LABEL, SCHEDULER_LABEL, accelerator

ZONE_LABEL = "topology.kubernetes.io/zone"


class Nodes(Component):
    """A NodePatch for each GPU node of the site: fields of a node that somebody else made."""

    def __init__(self, name: str, site: Site, provider: kubernetes.Provider) -> None:
        super().__init__("Nodes", name, provider)
        for host in site.gpu_nodes:
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
                opts=self.child,
            )  # fmt: skip
        self.register_outputs({})

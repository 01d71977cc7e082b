"""What all components are made with."""

from __future__ import annotations

from collections.abc import Mapping

import pulumi
import pulumi_kubernetes as kubernetes
from pulumi_kubernetes.meta.v1 import ObjectMetaArgs

from medllm_k8s.names import PART_OF


class Component(pulumi.ComponentResource):
    """A group of resources of one cluster. `kind` is the last part of its type, as in `medllm:k8s:Tenancy`."""

    def __init__(self, kind: str, name: str, provider: kubernetes.Provider) -> None:
        super().__init__(f"medllm:k8s:{kind}", name, None, pulumi.ResourceOptions(providers=[provider]))
        self.child = pulumi.ResourceOptions(parent=self)

    def options(self, extra: pulumi.ResourceOptions | None = None) -> pulumi.ResourceOptions:
        """Of a resource of this component, with `extra` ones."""
        return pulumi.ResourceOptions.merge(self.child, extra)


def metadata(
    name: str,
    namespace: pulumi.Input[str] | None = None,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> ObjectMetaArgs:
    """A name of our own choice, not one that Pulumi makes up: people and other programs refer to it.

    With the namespace as an output of its resource, what lies in it is made after it.
    """
    return ObjectMetaArgs(
        name=name, namespace=namespace, labels={**PART_OF, **(labels or {})},
        annotations=dict(annotations) if annotations else None,
    )  # fmt: skip

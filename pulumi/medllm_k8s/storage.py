"""Claims of the namespace, and the volumes behind those that are directories of the nodes."""

from __future__ import annotations

import pulumi
import pulumi_kubernetes as kubernetes
from pulumi_kubernetes.core.v1 import (
    LocalVolumeSourceArgs,
    NodeSelectorArgs,
    NodeSelectorRequirementArgs,
    NodeSelectorTermArgs,
    ObjectReferenceArgs,
    PersistentVolumeClaimSpecArgs,
    PersistentVolumeSpecArgs,
    VolumeNodeAffinityArgs,
    VolumeResourceRequirementsArgs,
)

from medllm.site import Site
from medllm_k8s.component import Component, metadata
from medllm_k8s.names import APP_CLAIM, CLAIMS, SCHEDULER_LABEL

NODE = "node"
# Small, read-only, and the same on all nodes.
_APP_GIB = 20
_EVERYONE_WRITES = "ReadWriteMany"
# A claim whose volume is made for its first pod stays pending until then.
_SKIP_AWAIT = {"pulumi.com/skipAwait": "true"}


class Storage(Component):
    """The claims `lustre-pvc`, `ceph-pvc`, `encrypted-pvc`, `cache-pvc` and `app-pvc`.

    Data outlive the stack: claims and volumes are protected, what is behind them is retained. Directories of nodes are
    volumes of type `local`, for Pod Security `restricted` forbids `hostPath` in pods.
    """

    def __init__(self, name: str, site: Site, namespace: pulumi.Input[str], provider: kubernetes.Provider) -> None:
        super().__init__("Storage", name, provider)
        declared = site.kubernetes
        paths = {"datasets": site.paths.datasets, "checkpoints": site.paths.checkpoints, "cache": site.paths.cache}
        for volume_name, volume in declared.volumes:
            claim, protect = CLAIMS[volume_name], volume_name != "cache"
            path = paths.get(volume_name) if volume.storage_class == NODE else None
            self._claim(site, namespace, claim, volume.size_gib, volume.storage_class, path, protect=protect)
        self._claim(site, namespace, APP_CLAIM, _APP_GIB, NODE, site.paths.app, protect=False)
        self.register_outputs({})

    def _claim(
        self,
        site: Site,
        namespace: pulumi.Input[str],
        claim: str,
        size_gib: int,
        storage_class: str,
        path: str | None,
        *,
        protect: bool,
    ) -> None:
        own, size = site.kubernetes.namespace, f"{size_gib}Gi"
        kept = self.options(pulumi.ResourceOptions(protect=protect, retain_on_delete=protect))
        dependency: list[pulumi.Resource] = []
        volume_name = None
        if path is not None:
            volume_name = f"{own}-{claim}"
            dependency = [self._volume(volume_name, claim, own, size, path, kept)]
        kubernetes.core.v1.PersistentVolumeClaim(
            claim,
            metadata=metadata(claim, namespace, annotations=None if path else _SKIP_AWAIT),
            spec=PersistentVolumeClaimSpecArgs(
                access_modes=[_EVERYONE_WRITES],
                # The empty class asks for the volume below and keeps a default class away.
                storage_class_name="" if path else storage_class,
                volume_name=volume_name,
                resources=VolumeResourceRequirementsArgs(requests={"storage": size}),
            ),
            opts=pulumi.ResourceOptions.merge(kept, pulumi.ResourceOptions(depends_on=dependency)),
        )

    def _volume(
        self, name: str, claim: str, namespace: str, size: str, path: str, options: pulumi.ResourceOptions
    ) -> pulumi.Resource:
        ours = NodeSelectorRequirementArgs(key=SCHEDULER_LABEL, operator="In", values=["kubernetes"])
        return kubernetes.core.v1.PersistentVolume(
            name,
            metadata=metadata(name),
            spec=PersistentVolumeSpecArgs(
                capacity={"storage": size},
                access_modes=[_EVERYONE_WRITES],
                # No class: the API server drops an empty one, and each refresh would find it missing.
                persistent_volume_reclaim_policy="Retain",
                volume_mode="Filesystem",
                local=LocalVolumeSourceArgs(path=path),
                node_affinity=VolumeNodeAffinityArgs(
                    required=NodeSelectorArgs(node_selector_terms=[NodeSelectorTermArgs(match_expressions=[ours])])
                ),
                # Nobody else's claim takes it.
                claim_ref=ObjectReferenceArgs(
                    api_version="v1", kind="PersistentVolumeClaim", namespace=namespace, name=claim
                ),
            ),
            opts=pulumi.ResourceOptions.merge(
                options,
                # The controller writes the claim's identity and version into the reference.
                pulumi.ResourceOptions(ignore_changes=["spec.claimRef"]),
            ),
        )

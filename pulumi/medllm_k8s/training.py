"""The training run as a Job: one pod a node, which go on together from the newest checkpoint come what may.

The pods are told what to train by the same request that `medllm train` writes, made here from the site: a site that
changes elsewhere leaves a running Job alone, and an order that can't work is refused before anything is applied.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pulumi
import pulumi_kubernetes as kubernetes
from pulumi_kubernetes.batch.v1 import (
    JobSpecArgs,
    PodFailurePolicyArgs,
    PodFailurePolicyOnExitCodesRequirementArgs,
    PodFailurePolicyOnPodConditionsPatternArgs,
    PodFailurePolicyRuleArgs,
)
from pulumi_kubernetes.core.v1 import (
    AffinityArgs,
    CapabilitiesArgs,
    ConfigMapVolumeSourceArgs,
    ContainerArgs,
    ContainerPortArgs,
    EmptyDirVolumeSourceArgs,
    EnvVarArgs,
    ExecActionArgs,
    PersistentVolumeClaimVolumeSourceArgs,
    PodAffinityTermArgs,
    PodAntiAffinityArgs,
    PodSecurityContextArgs,
    PodSpecArgs,
    PodTemplateSpecArgs,
    ProbeArgs,
    ResourceRequirementsArgs,
    SeccompProfileArgs,
    SecurityContextArgs,
    ServicePortArgs,
    ServiceSpecArgs,
    TolerationArgs,
    VolumeArgs,
    VolumeMountArgs,
)
from pulumi_kubernetes.meta.v1 import LabelSelectorArgs, ObjectMetaArgs

from medllm.errors import UserError
from medllm.site import Site
from medllm_k8s.component import Component, metadata
from medllm_k8s.names import (
    ACCELERATOR_LABEL,
    APP_CLAIM,
    CLAIMS,
    COMPONENT_LABEL,
    PART_OF,
    SCHEDULER_LABEL,
    SERVICE_ACCOUNT,
    TRAINER,
    TRAINING_PRIORITY,
    accelerator,
)
from trainer.config import load_config
from trainer.launch import Order, cluster_request, fabric_environment, ranks_per_node
from trainer.pod import INCOMPLETE
from trainer.request import REFUSED, STOPPED, Request

# Where a pod sees the site's volumes, as asked.
DATASETS, CHECKPOINTS, CACHE = Path("/data"), Path("/checkpoints"), Path("/cache")
REQUEST = Path("/etc/medllm/request.json")
SIGNS = Path("/run/medllm")
# What container runtimes call a pod's interface, whatever the node's own is called. gloo goes by the pod's hostname.
_INTERFACE = "eth0"
_CONTAINER = "trainer"
# The other pods have ended by then (`trainer.gang.LOST_S`), and wait for this one's successor.
_LOST_NODE_S = 30
# More than the grace that its pods have, for the kubelets and the garbage collector.
_GONE_S = 120
# `trainer.pod` gives a sign every few seconds, whatever its ranks do.
_DEAD_S = 60


class Training(Component):
    """Headless Service, ConfigMap with the run's request, and the Indexed Job over all nodes of Kubernetes.

    A changed request replaces the Job, whose pods can't be changed: the run then goes on from its newest checkpoint.
    """

    def __init__(
        self, name: str, site: Site, namespace: pulumi.Input[str], provider: kubernetes.Provider,
        after: Sequence[pulumi.Resource],
    ) -> None:  # fmt: skip
        super().__init__("Training", name, provider)
        job, nodes = site.kubernetes.job, len(site.kubernetes_nodes)
        request = _request(site).model_dump_json(indent=1)
        # Pods find each other by name before they are ready: that is what they need it for.
        service = kubernetes.core.v1.Service(
            "service",
            metadata=metadata(job.name, namespace),
            spec=ServiceSpecArgs(
                cluster_ip="None", selector=_labels(site), publish_not_ready_addresses=True,
                ports=[
                    ServicePortArgs(name="metrics", port=site.ports.trainer, protocol="TCP"),
                    ServicePortArgs(name="meet", port=job.master_port, protocol="TCP"),
                ],
            ),
            opts=self.child,
        )  # fmt: skip
        digest = hashlib.sha256(request.encode()).hexdigest()[:10]
        config = kubernetes.core.v1.ConfigMap(
            "request", metadata=metadata(f"{job.name}-{digest}", namespace), data={REQUEST.name: request},
            immutable=True, opts=self.child,
        )  # fmt: skip
        made = kubernetes.batch.v1.Job(
            "job",
            metadata=metadata(job.name, namespace, _labels(site), _waiting(job.grace_s)),
            spec=JobSpecArgs(
                completion_mode="Indexed",
                completions=nodes,
                parallelism=nodes,
                # One broken rank ends all pods: counted together, each accident would count as many times as there are
                # pods, and the waits between attempts double each time.
                backoff_limit_per_index=job.restarts,
                max_failed_indexes=0,
                pod_failure_policy=_failure_policy(),
                # Never two pods of one index, as long as the first may still write.
                pod_replacement_policy="Failed",
                template=PodTemplateSpecArgs(
                    metadata=ObjectMetaArgs(labels={**PART_OF, **_labels(site)}),
                    spec=_pod(site, config.metadata.apply(lambda its: str(its.name))),
                ),
            ),
            # Nothing that matters in a Job can be changed, and the name is the one that was asked for.
            opts=self.options(
                pulumi.ResourceOptions(
                    delete_before_replace=True, replace_on_changes=["spec"], depends_on=[*after, service, config]
                )
            ),
        )
        self.job: pulumi.Output[str] = made.metadata.apply(lambda its: str(its.name))
        self.register_outputs({"job": self.job})


def _waiting(grace_s: int) -> dict[str, str]:
    """It takes weeks: `pulumi up` waits until it is there, not until its end; and until its pods have ended before it
    makes the next. `skipAwait` would skip that too, and the next Job fails on the old one's name
    (pulumi/pulumi-kubernetes#3154).
    """
    return {
        "pulumi.com/waitFor": "jsonpath={.metadata.uid}",
        "pulumi.com/timeoutSeconds": str(grace_s + _GONE_S),
    }


def _request(site: Site) -> Request:
    """What the ranks are told. Raises pulumi.RunError: the run can't be as it is declared."""
    job = site.kubernetes.job
    try:
        order = Order(load_config(job.config, job.settings), job.dataset, job.run, job.steps, None, None, False, False)
        return cluster_request(site, order, len(site.kubernetes_nodes), DATASETS, CHECKPOINTS, CACHE)
    except UserError as error:
        raise pulumi.RunError(f"site_kubernetes.job: {error.problems[0]}") from None


def _labels(site: Site) -> dict[str, str]:
    return {COMPONENT_LABEL: TRAINER, "app.kubernetes.io/name": site.kubernetes.job.name}


def _failure_policy() -> PodFailurePolicyArgs:
    """`trainer.pod` says by its status what is to be done. A drained node is no failure of the run."""

    def on_exit(action: str, *statuses: int) -> PodFailurePolicyRuleArgs:
        codes = PodFailurePolicyOnExitCodesRequirementArgs(
            container_name=_CONTAINER, operator="In", values=sorted(statuses)
        )
        return PodFailurePolicyRuleArgs(action=action, on_exit_codes=codes)

    disrupted = PodFailurePolicyOnPodConditionsPatternArgs(type="DisruptionTarget", status="True")
    return PodFailurePolicyArgs(
        rules=[
            on_exit("FailJob", REFUSED),
            on_exit("Ignore", INCOMPLETE, STOPPED),
            PodFailurePolicyRuleArgs(action="Ignore", on_pod_conditions=[disrupted]),
        ]
    )


def _pod(site: Site, config: pulumi.Input[str]) -> PodSpecArgs:
    declared = site.kubernetes
    others = PodAffinityTermArgs(
        label_selector=LabelSelectorArgs(match_labels=_labels(site)), topology_key="kubernetes.io/hostname"
    )
    return PodSpecArgs(
        restart_policy="Never",
        subdomain=declared.job.name,
        service_account_name=SERVICE_ACCOUNT,
        automount_service_account_token=False,
        enable_service_links=False,
        priority_class_name=TRAINING_PRIORITY,
        node_selector={ACCELERATOR_LABEL: accelerator(site.gpu.model), SCHEDULER_LABEL: "kubernetes"},
        affinity=AffinityArgs(
            pod_anti_affinity=PodAntiAffinityArgs(required_during_scheduling_ignored_during_execution=[others])
        ),
        tolerations=[
            TolerationArgs(
                key=f"node.kubernetes.io/{state}", operator="Exists", effect="NoExecute",
                toleration_seconds=_LOST_NODE_S,
            )
            for state in ("unreachable", "not-ready")
        ],
        termination_grace_period_seconds=declared.job.grace_s,
        security_context=PodSecurityContextArgs(
            run_as_non_root=True, run_as_user=declared.user_id, run_as_group=declared.group_id,
            seccomp_profile=SeccompProfileArgs(type="RuntimeDefault"),
            # No fsGroup: the kubelet would walk through the whole of Lustre and change each file's group.
        ),
        containers=[_container(site)],
        volumes=_volumes(site, config),
    )  # fmt: skip


def _container(site: Site) -> ContainerArgs:
    declared, job = site.kubernetes, site.kubernetes.job
    amounts = {
        "cpu": str(job.cpu), "memory": f"{job.memory_gib}Gi", declared.gpu_resource: str(site.gpu.per_node),
    }  # fmt: skip
    if site.fabric.kind != "none":
        # One share of the node's HCAs: the device plugin then shows the pod all of them.
        amounts[declared.rdma_resource] = "1"
    environment = {
        **fabric_environment(site), "NCCL_SOCKET_IFNAME": _INTERFACE, "NCCL_DEBUG": "INFO", "HOME": "/tmp",
        # Kernels that torch and Triton compile outlive the pod.
        "XDG_CACHE_HOME": str(CACHE), "TRITON_CACHE_DIR": str(CACHE / "triton"),
    }  # fmt: skip
    alive = f"test $(($(date +%s) - $(stat -c %Y {SIGNS}/alive))) -lt {_DEAD_S}"
    return ContainerArgs(
        name=_CONTAINER,
        image=declared.image,
        command=[
            declared.trainer_python, "-m", "trainer.pod", "--request", str(REQUEST),
            "--meet", f"{job.name}-0.{job.name}:{job.master_port}", "--ranks-per-node", str(ranks_per_node(site)),
            "--probes", str(SIGNS),
        ],
        env=[EnvVarArgs(name=name, value=value) for name, value in sorted(environment.items())],
        # Equal, so that nothing else on the node takes what the ranks have (QoS Guaranteed).
        resources=ResourceRequirementsArgs(requests=amounts, limits=amounts),
        ports=[ContainerPortArgs(name="metrics", container_port=site.ports.trainer, protocol="TCP")],
        startup_probe=_probe(f"test -e {SIGNS}/alive", every_s=2, times=90),
        readiness_probe=_probe(f"test -e {SIGNS}/training", every_s=5, times=1),
        liveness_probe=_probe(alive, every_s=20, times=3),
        security_context=SecurityContextArgs(
            allow_privilege_escalation=False, read_only_root_filesystem=True,
            capabilities=CapabilitiesArgs(drop=["ALL"]),
        ),
        volume_mounts=[
            VolumeMountArgs(name=name, mount_path=path, read_only=read_only)
            for name, path, read_only in (
                ("request", str(REQUEST.parent), True), ("datasets", str(DATASETS), True),
                ("checkpoints", str(CHECKPOINTS), False), ("cache", str(CACHE), False),
                ("app", site.paths.app, True), ("shm", "/dev/shm", False), ("signs", str(SIGNS), False),
                ("tmp", "/tmp", False),
            )
        ],
    )  # fmt: skip


def _probe(command: str, *, every_s: int, times: int) -> ProbeArgs:
    return ProbeArgs(
        exec_=ExecActionArgs(command=["/bin/sh", "-c", command]), period_seconds=every_s, failure_threshold=times,
        timeout_seconds=10,
    )  # fmt: skip


def _volumes(site: Site, config: pulumi.Input[str]) -> list[VolumeArgs]:
    claims = {name: CLAIMS[name] for name in ("datasets", "checkpoints", "cache")} | {"app": APP_CLAIM}
    memory = EmptyDirVolumeSourceArgs(medium="Memory", size_limit=f"{site.kubernetes.job.shm_gib}Gi")
    return [
        VolumeArgs(name="request", config_map=ConfigMapVolumeSourceArgs(name=config)),
        *(
            VolumeArgs(name=name, persistent_volume_claim=PersistentVolumeClaimVolumeSourceArgs(claim_name=claim))
            for name, claim in claims.items()
        ),
        # NCCL and the data loader pass buffers through it; a container has 64 MB otherwise.
        VolumeArgs(name="shm", empty_dir=memory),
        VolumeArgs(name="signs", empty_dir=EmptyDirVolumeSourceArgs(size_limit="1Mi")),
        VolumeArgs(name="tmp", empty_dir=EmptyDirVolumeSourceArgs(size_limit="10Gi")),
    ]

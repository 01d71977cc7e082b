"""The training Job as Kubernetes would get it, for each site: recorded by mocks, no cluster asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pulumi
import pytest
from medllm_k8s.names import CLAIMS

from medllm.site import Site, load_site
from tests.unit.test_k8s_program import declared, of, on_kubernetes
from trainer.config import load_config
from trainer.launch import Order, make_plan
from trainer.pod import INCOMPLETE
from trainer.request import REFUSED, STOPPED, Request

ROOT = Path(__file__).parents[2]
Json = dict[str, Any]
SITES = ("lab", "h200", "a100_roce", "t8")
# The published rules of Pod Security `restricted` for volumes.
ALLOWED_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip


class Declared:
    """One site's Job and what belongs to it."""

    def __init__(self, name: str, change: Callable[[Site], Site] = on_kubernetes) -> None:
        self.site = change(load_site(ROOT / "inventory" / name))
        objects = declared(name, change)
        [job] = of(objects, "Job")
        self.job: Json = job
        self.spec: Json = job["spec"]
        self.pod: Json = self.spec["template"]["spec"]
        [self.container] = self.pod["containers"]
        [self.service] = of(objects, "Service")
        [self.config] = of(objects, "ConfigMap")

    @property
    def environment(self) -> dict[str, str]:
        return {each["name"]: each["value"] for each in self.container["env"]}

    @property
    def request(self) -> Request:
        [text] = self.config["data"].values()
        return Request.model_validate_json(text)


@pytest.fixture(scope="module", params=SITES)
def any_site(request: pytest.FixtureRequest) -> Declared:
    return Declared(request.param)


@pytest.fixture(scope="module")
def h200() -> Declared:
    return Declared("h200")


def job_of(**changes: object) -> Callable[[Site], Site]:
    """All nodes given to Kubernetes, and the Job declared otherwise."""

    def change(site: Site) -> Site:
        kubernetes = site.kubernetes.model_copy(update={"job": site.kubernetes.job.model_copy(update=changes)})
        return on_kubernetes(site).model_copy(update={"kubernetes": kubernetes})

    return change


def test_one_pod_with_all_gpus_on_each_node_of_kubernetes(any_site: Declared) -> None:
    site, spec, pod = any_site.site, any_site.spec, any_site.pod
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == len(site.kubernetes_nodes)
    amounts = any_site.container["resources"]["requests"]
    assert amounts == any_site.container["resources"]["limits"]
    assert amounts["nvidia.com/gpu"] == str(site.gpu.per_node)
    assert amounts["cpu"] == str(site.kubernetes.job.cpu)
    assert amounts["memory"] == f"{site.kubernetes.job.memory_gib}Gi"
    assert ("rdma/hca_shared_devices_a" in amounts) == (site.fabric.kind != "none")
    [apart] = pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert apart["topologyKey"] == "kubernetes.io/hostname"
    labels = spec["template"]["metadata"]["labels"]
    assert apart["labelSelector"]["matchLabels"].items() <= labels.items()
    assert pod["nodeSelector"]["medllm.io/scheduler"] == "kubernetes"


def test_the_asked_job_has_the_asked_names_and_sizes(h200: Declared) -> None:
    assert h200.job["metadata"]["name"] == "medllm-32b-train"
    assert h200.container["image"] == "registry.internal/medllm:32b-v1.0"
    assert h200.container["resources"]["limits"].items() >= {
        "cpu": "96", "memory": "480Gi", "nvidia.com/gpu": "8"
    }.items()  # fmt: skip
    assert h200.spec["completions"] == 4
    assert h200.pod["nodeSelector"]["accelerator"] == "nvidia-h200"
    mounts = {mount["mountPath"]: mount["name"] for mount in h200.container["volumeMounts"]}
    claims = {
        volume["name"]: volume["persistentVolumeClaim"]["claimName"]
        for volume in h200.pod["volumes"]
        if "persistentVolumeClaim" in volume
    }
    assert claims[mounts["/data"]] == CLAIMS["datasets"] == "lustre-pvc"
    assert claims[mounts["/checkpoints"]] == CLAIMS["checkpoints"] == "ceph-pvc"
    assert claims[mounts["/cache"]] == CLAIMS["cache"]
    assert h200.environment["NCCL_DEBUG"] == "INFO"


def test_only_the_nodes_of_kubernetes_take_part() -> None:
    def one_of_slurm(site: Site) -> Site:
        hosts = on_kubernetes(site).hosts
        changed = tuple(
            host.model_copy(update={"scheduler": "slurm"}) if host.name in {"node1", "node2"} else host
            for host in hosts
        )
        return site.model_copy(update={"hosts": changed})

    half = Declared("lab", one_of_slurm)
    assert half.spec["completions"] == half.spec["parallelism"] == 2
    assert half.request.world_size == 2


@pytest.mark.parametrize("name", SITES)
def test_the_ranks_are_told_what_medllm_train_would_tell_them(name: str) -> None:
    job = Declared(name)
    site = load_site(ROOT / "inventory" / name)
    declaration = site.kubernetes.job
    order = Order(
        load_config(declaration.config, declaration.settings), declaration.dataset, declaration.run, declaration.steps,
        None, None, False, False,
    )  # fmt: skip
    theirs = make_plan(site, order, "slurm").request
    ours = job.request
    assert ours.run_directory == Path("/checkpoints", ours.run)
    assert ours.data_directory == Path("/data", declaration.dataset)
    assert ours.cache_directory.parent == Path("/cache")
    moved = {
        "run_directory": theirs.run_directory, "data_directory": theirs.data_directory,
        "cache_directory": theirs.cache_directory,
    }  # fmt: skip
    assert ours.model_copy(update=moved) == theirs


def test_pods_find_the_first_one_by_name_before_it_is_ready(any_site: Declared) -> None:
    service, command = any_site.service["spec"], any_site.container["command"]
    name = any_site.job["metadata"]["name"]
    assert (service["clusterIP"], service["publishNotReadyAddresses"]) == ("None", True)
    assert any_site.pod["subdomain"] == any_site.service["metadata"]["name"] == name
    assert service["selector"].items() <= any_site.spec["template"]["metadata"]["labels"].items()
    host, _, port = command[command.index("--meet") + 1].partition(":")
    assert host.startswith(f"{name}-0.{name}")
    assert int(port) == any_site.site.kubernetes.job.master_port
    assert int(port) in [each["port"] for each in service["ports"]]
    ranks = int(command[command.index("--ranks-per-node") + 1])
    assert ranks * any_site.spec["completions"] == any_site.request.world_size


def test_the_command_reads_what_is_mounted(any_site: Declared) -> None:
    command, mounts = any_site.container["command"], any_site.container["volumeMounts"]
    assert command[:3] == [any_site.site.kubernetes.trainer_python, "-m", "trainer.pod"]
    file = Path(command[command.index("--request") + 1])
    [place] = [mount for mount in mounts if mount["mountPath"] == str(file.parent)]
    assert place["readOnly"]
    [volume] = [each for each in any_site.pod["volumes"] if each["name"] == place["name"]]
    assert volume["configMap"]["name"] == any_site.config["metadata"]["name"]
    assert file.name in any_site.config["data"]
    [app] = [mount for mount in mounts if mount["mountPath"] == any_site.site.paths.app]
    assert app["readOnly"], "programs are not changed by those who run them"
    assert str(any_site.request.public_key).startswith(app["mountPath"])
    [data] = [mount for mount in mounts if mount["mountPath"] == "/data"]
    assert data["readOnly"]
    assert {mount["name"] for mount in mounts} == {volume["name"] for volume in any_site.pod["volumes"]}


def test_each_status_of_a_pod_has_the_consequence_that_it_promises(any_site: Declared) -> None:
    rules = any_site.spec["podFailurePolicy"]["rules"]
    assert [rule["action"] for rule in rules] == ["FailJob", "Ignore", "Ignore"]
    assert [sorted(rule["onExitCodes"]["values"]) for rule in rules if "onExitCodes" in rule] == [
        [REFUSED], [INCOMPLETE, STOPPED],
    ]  # fmt: skip
    assert {rule["onExitCodes"]["containerName"] for rule in rules if "onExitCodes" in rule} == {
        any_site.container["name"]
    }
    assert rules[2]["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert any_site.pod["restartPolicy"] == "Never", "a failure policy demands it"


def test_an_accident_counts_once_and_the_job_is_given_up_in_the_end(any_site: Declared) -> None:
    assert any_site.spec["backoffLimitPerIndex"] == any_site.site.kubernetes.job.restarts > 0
    assert any_site.spec["maxFailedIndexes"] == 0
    assert "backoffLimit" not in any_site.spec
    assert any_site.spec["podReplacementPolicy"] == "Failed"


def test_a_checkpoint_has_time_and_shared_memory_is_the_declared_one(any_site: Declared) -> None:
    job = any_site.site.kubernetes.job
    assert any_site.pod["terminationGracePeriodSeconds"] == job.grace_s
    [place] = [mount for mount in any_site.container["volumeMounts"] if mount["mountPath"] == "/dev/shm"]
    [memory] = [volume["emptyDir"] for volume in any_site.pod["volumes"] if volume["name"] == place["name"]]
    assert memory == {"medium": "Memory", "sizeLimit": f"{job.shm_gib}Gi"}


def test_a_lost_node_is_given_up_soon_and_slurms_nodes_are_never_taken(any_site: Declared) -> None:
    tolerated = {each["key"]: each for each in any_site.pod["tolerations"]}
    assert set(tolerated) == {"node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready"}
    assert all(0 < each["tolerationSeconds"] <= 60 for each in tolerated.values())


def test_nothing_asks_for_more_than_restricted_allows(any_site: Declared) -> None:
    pod, container = any_site.pod, any_site.container
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["runAsUser"] == any_site.site.kubernetes.user_id
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True,
    }  # fmt: skip
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(pod)
    assert {kind for volume in pod["volumes"] for kind in volume if kind != "name"} <= ALLOWED_VOLUMES
    assert (pod["automountServiceAccountToken"], pod["serviceAccountName"]) == (False, "medllm-trainer")
    assert "fsGroup" not in pod["securityContext"], "a kubelet would give away every file of Lustre"


def test_probes_ask_each_pod_for_its_own_signs(any_site: Declared) -> None:
    """Only rank 0 serves metrics; a probe of that port would kill all other pods."""
    command = any_site.container["command"]
    signs = command[command.index("--probes") + 1]
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert set(any_site.container[kind]) & {"exec", "httpGet", "tcpSocket", "grpc"} == {"exec"}
        assert signs in any_site.container[kind]["exec"]["command"][-1]
    assert any(mount["mountPath"] == signs for mount in any_site.container["volumeMounts"])


@pytest.mark.parametrize(("name", "hcas"), [("h200", "mlx5_0,mlx5_1,mlx5_2,mlx5_3"), ("a100_roce", "mlx5_0,mlx5_1")])
def test_nccl_is_told_the_sites_adapters_on_infiniband_and_on_roce(name: str, hcas: str) -> None:
    job = Declared(name)
    assert job.environment["NCCL_IB_HCA"] == f"={hcas}"
    assert job.environment["NCCL_IB_TIMEOUT"] == str(job.site.fabric.ib_timeout)
    assert job.environment["NCCL_SOCKET_IFNAME"] == "eth0", "a pod's interface, not the node's"


def test_ranks_on_cpus_are_told_nothing_of_a_fabric() -> None:
    assert not {name for name in Declared("lab").environment if name.startswith("NCCL_IB")}


def test_another_order_is_another_job_and_an_unrelated_change_is_not(h200: Declared) -> None:
    def unrelated(site: Site) -> Site:
        prometheus = site.prometheus.model_copy(update={"retention_days": 7})
        return on_kubernetes(site).model_copy(update={"prometheus": prometheus})

    assert Declared("h200", unrelated).spec == h200.spec
    longer = Declared("h200", job_of(steps=2000))
    assert longer.config["metadata"]["name"] != h200.config["metadata"]["name"]
    assert longer.pod != h200.pod


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"config": "medllm-900b"}, "site_kubernetes.job: --config: there is no configuration 'medllm-900b'"),
        ({"settings": []}, "site_kubernetes.job: batch.global_size: a global batch of 8 can't be shared by 32 ranks"),
        ({"settings": ["batch.globalsize=64"]}, "did you mean 'global_size'?"),
        ({"settings": ["batch.global_size=many"]}, "--set batch.global_size"),
    ],
)
def test_an_order_that_cannot_work_is_refused_before_anything_is_applied(changes: Json, said: str) -> None:
    with pytest.raises(pulumi.RunError) as caught:
        Declared("h200", job_of(**changes))
    message = str(caught.value)
    assert said in message
    assert "Fix: " in message
    assert "\n" not in message


def test_the_request_is_small_enough_for_a_config_map(any_site: Declared) -> None:
    assert any_site.config["immutable"]
    assert len(json.dumps(any_site.config["data"])) < 100_000

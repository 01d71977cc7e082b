"""The Site: what the cluster must be. One class a `site_*` key; names are the keys without the prefix."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any, Literal
from zoneinfo import available_timezones

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer

from medllm.site.lock import Fingerprint, Lock, Strict
from medllm.site.profiles import ProfileName

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
AbsolutePath = Annotated[str, Field(pattern=r"^(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+$")]
Url = Annotated[str, Field(pattern=r"^https?://[A-Za-z0-9.-]+(:\d{1,5})?(/[A-Za-z0-9._~/+-]*)?$")]
Device = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{1,14}$")]
Port = Annotated[int, Field(ge=1024, le=65535)]


def _known_timezone(name: str) -> str:
    if name not in available_timezones():
        raise ValueError(f"{name!r} is no time zone of the IANA database; write for example Etc/UTC")
    return name


def _ip_address(text: str) -> str:
    ipaddress.ip_address(text)
    return text


def _nid(text: str) -> str:
    address, _, network = text.partition("@")
    if not network:
        raise ValueError(f"{text!r} is not an LNet NID; write ADDRESS@o2ib (InfiniBand, RoCE) or ADDRESS@tcp")
    ipaddress.ip_address(address)
    if network.rstrip("0123456789") not in {"tcp", "o2ib"}:
        raise ValueError(f"{network!r} is not an LNet network; write o2ib or tcp, with a number if need be")
    return text


Timezone = Annotated[str, AfterValidator(_known_timezone)]
IpAddress = Annotated[str, AfterValidator(_ip_address)]
Nid = Annotated[str, AfterValidator(_nid)]


class Paths(Strict):
    """`app` is shared by mgmt and all nodes; `datasets` and `checkpoints` lie on the parallel file system."""

    app: AbsolutePath
    wheelhouse: AbsolutePath
    datasets: AbsolutePath
    checkpoints: AbsolutePath
    cache: AbsolutePath


class Recovery(Strict):
    """What the recovery engine may do by itself.

    Counts are absolute: a share of four nodes says little. `stall_s`: a running job without a step for so long is
    stalled. A hot GPU's power is limited to `overheat_power_w` and measured again after `overheat_settle_s`.
    """

    mode: Literal["dry_run", "act"]
    reboot_approval: Literal["ask", "auto"]
    on_node_loss: Literal["spare", "shrink", "wait"]
    max_nodes_out: Annotated[int, Field(ge=1, le=64)]
    attempts_per_day: Annotated[int, Field(ge=1, le=1000)]
    storm_incidents: Annotated[int, Field(ge=2, le=1000)]
    storm_window_s: Annotated[int, Field(ge=60, le=86400)]
    storm_cooldown_s: Annotated[int, Field(ge=60, le=86400)]
    stall_s: Annotated[int, Field(ge=30, le=86400)]
    overheat_power_w: Annotated[int, Field(ge=50, le=1200)]
    overheat_settle_s: Annotated[int, Field(ge=10, le=3600)]


class Bmc(Strict):
    """How the BMCs are reached. Both files lie on the controller: the login as JSON `{"username", "password"}` (it may
    be encrypted with ansible-vault), and the certificate that the BMCs' own are checked with.
    """

    credentials_file: Annotated[str, Field(min_length=1)]
    ca_file: Annotated[str, Field(min_length=1)]


class GpuDeclaration(Strict):
    """One node's GPUs: memory in MiB as nvidia-smi prints it, link speed in GB/s a direction, power in W."""

    vendor: Literal["nvidia"]
    model: str
    per_node: Annotated[int, Field(ge=1, le=16)]
    memory_mib: Annotated[int, Field(ge=1024, le=1_048_576)]
    nvlinks: Annotated[int, Field(ge=0, le=18)]
    nvlink_gbs: Annotated[float, Field(gt=0, le=53.125)]
    power_limit_w: Annotated[int, Field(ge=50, le=1200)]
    power_limit_min_w: Annotated[int, Field(ge=50, le=1200)]


class Cpu(Strict):
    sockets: Annotated[int, Field(ge=1, le=8)]
    cores_per_socket: Annotated[int, Field(ge=1, le=256)]
    threads_per_core: Annotated[int, Field(ge=1, le=2)]

    @property
    def logical(self) -> int:
        """CPUs that Linux shows."""
        return self.sockets * self.cores_per_socket * self.threads_per_core


class Limits(Strict):
    """Per-process limits of services and jobs: open files, and locked memory in KiB or `unlimited`."""

    nofile: Annotated[int, Field(ge=1024, le=1_073_741_816)]
    memlock: Literal["unlimited"] | Annotated[int, Field(ge=64, le=1_073_741_824)]


class Fabric(Strict):
    """The network between nodes; rate in Gb/s a port; `ib_timeout` is NCCL_IB_TIMEOUT (4.096 us * 2^n)."""

    kind: Literal["infiniband", "roce", "none"]
    hcas: list[Device]
    rate_gbps: Literal[0, 100, 200, 400, 800]
    socket_interface: Device
    ib_timeout: Annotated[int, Field(ge=1, le=31)]


class LustreLayout(Strict):
    directory: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$")]
    stripe_count: Annotated[int, Field(ge=-1, le=2000)]
    stripe_size: Annotated[str, Field(pattern=r"^[1-9]\d*[kMG]$")]


class Lustre(Strict):
    """The parallel file system as a client sees it. Mount options are checked in `validate`."""

    mgs_nids: Annotated[list[Nid], Field(min_length=1)]
    fsname: Annotated[str, Field(pattern=r"^[A-Za-z0-9_]{1,8}$")]
    mount_point: AbsolutePath
    mount_options: list[Annotated[str, Field(min_length=1, pattern=r"^[^\s,]+$")]]
    params: dict[
        Annotated[str, Field(pattern=r"^(llite|osc|mdc|ldlm)\.[A-Za-z0-9_.*-]+$")], Annotated[int, Field(ge=0)]
    ]
    layouts: list[LustreLayout]
    readiness_deadline_s: Annotated[int, Field(ge=1, le=300)]


class ObjectStore(Strict):
    """Where copies of the data sets lie: `<url>/<data set>/shards/…`. `credentials_file` is on the nodes, in the format
    of ~/.aws/credentials, profile `default`; `endpoint` is for stores that are not Amazon's.
    """

    url: Annotated[str, Field(pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9._-]+)*$")]
    credentials_file: AbsolutePath
    endpoint: Url | None = None
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")] = "us-east-1"


class Ports(Strict):
    node_exporter: Port
    dcgm_exporter: Port
    trainer: Port
    prometheus: Port
    alertmanager: Port
    recovery: Port


class Prometheus(Strict):
    scrape_interval_s: Annotated[int, Field(ge=1, le=300)]
    evaluation_interval_s: Annotated[int, Field(ge=1, le=300)]
    retention_days: Annotated[int, Field(ge=1, le=3650)]


class Slurm(Strict):
    """`process_tracking`: cgroup confines a job; process suits nodes without a cgroup hierarchy of their own."""

    cluster_name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
    partition: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$")]
    job_log_retention_days: Annotated[int, Field(ge=180, le=36500)]
    process_tracking: Literal["cgroup", "process"]


class Container(Strict):
    smoke_image: Annotated[str, Field(pattern=r"^[a-z0-9.-]+(:\d+)?(/[a-z0-9._-]+)+:[A-Za-z0-9._-]+$")]
    smoke_image_archive_url: Url


class KubernetesVolume(Strict):
    """`storage_class`: a class of the cluster, or `node`: the site's own directory, as each node has it."""

    storage_class: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$")]
    size_gib: Annotated[int, Field(ge=1, le=10_485_760)]


class KubernetesVolumes(Strict):
    """What a training or inference pod sees as /data, /checkpoints, /cache, /dicom_input."""

    datasets: KubernetesVolume
    checkpoints: KubernetesVolume
    cache: KubernetesVolume
    dicom_input: KubernetesVolume


class KubernetesQuota(Strict):
    """Upper limits of all that the namespace asks for at once."""

    gpus: Annotated[int, Field(ge=1, le=65536)]
    cpu: Annotated[int, Field(ge=1, le=1_000_000)]
    memory_gib: Annotated[int, Field(ge=1, le=10_000_000)]
    pods: Annotated[int, Field(ge=1, le=100_000)]


class KubernetesJob(Strict):
    """The training Job. `settings` change the configuration as `medllm train --set` does. `cpu`, `memory_gib`,
    `shm_gib` are a node's; the shared memory counts as memory. `grace_s`: what the ranks get to write a checkpoint
    before they are killed. `restarts`: how often the run may break (a rank dies; a drained node does not
    count) before the Job is given up.
    """

    name: Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,45}[a-z0-9])?$")]
    run: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")]
    config: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
    settings: list[Annotated[str, Field(pattern=r"^[a-z_]+(\.[a-z_]+)+=\S+$")]]
    dataset: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
    steps: Annotated[int, Field(ge=1, le=1_000_000_000)]
    cpu: Annotated[int, Field(ge=1, le=4096)]
    memory_gib: Annotated[int, Field(ge=1, le=65536)]
    shm_gib: Annotated[int, Field(ge=1, le=65536)]
    grace_s: Annotated[int, Field(ge=10, le=7200)]
    restarts: Annotated[int, Field(ge=0, le=10_000)]
    master_port: Port


class Kubernetes(Strict):
    """What Pulumi puts into a cluster that is there. `user_id`, `group_id` own the run's files: no pod runs as root."""

    namespace: Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$")]
    gpu_resource: Annotated[str, Field(pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$")]
    rdma_resource: Annotated[str, Field(pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$")]
    image: Annotated[
        str,
        Field(pattern=r"^[a-z0-9.-]+(:\d+)?(/[a-z0-9._-]+)+:[A-Za-z0-9_][A-Za-z0-9._-]*(@sha256:[0-9a-f]{64})?$"),
    ]
    trainer_python: AbsolutePath
    user_id: Annotated[int, Field(ge=1, le=2_147_483_647)]
    group_id: Annotated[int, Field(ge=1, le=2_147_483_647)]
    quota: KubernetesQuota
    volumes: KubernetesVolumes
    job: KubernetesJob


class Repository(Strict):
    """A vendor's apt repository. Its signing key is either fetched from `key_url` and must then be one of
    `key_fingerprints`, or is `key_file`, a copy on the controller that is trusted as it is (see `validate`).
    """

    name: Name
    uris: Annotated[list[Url], Field(min_length=1)]
    suites: Annotated[list[Annotated[str, Field(pattern=r"^[A-Za-z0-9./_-]+$")]], Field(min_length=1)]
    components: Annotated[list[Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]], Field(min_length=1)]
    key_url: Url | None = None
    key_fingerprints: list[Fingerprint] | None = None
    key_file: Annotated[str, Field(pattern=r"^~?(/[A-Za-z0-9_.][A-Za-z0-9._-]*)+$")] | None = None

    @model_serializer(mode="wrap")
    def _as_declared(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # The export has the keys that the declaration has, which are also those that Ansible reads.
        return {key: value for key, value in handler(self).items() if value is not None}


class ThresholdOverride(Strict):
    value: float
    source: Annotated[str, Field(min_length=3)]


class Host(Strict):
    """One machine. `groups` as in hosts.yml; the file names are how this controller reaches it."""

    name: Name
    address: IpAddress
    groups: tuple[str, ...]
    user: str | None = None
    port: Annotated[int, Field(ge=1, le=65535)] = 22
    private_key_file: str | None = None
    known_hosts_file: str | None = None
    scheduler: Literal["slurm", "kubernetes"] | None = None
    failure_domain: Name | None = None
    bmc_url: Url | None = None


class Site(Strict):
    """The whole declaration with its hosts and its versions lock. `sha256` is that of the canonical export."""

    name: Name
    profile: ProfileName
    versions: str
    thresholds_catalogue: str
    threshold_overrides: dict[str, ThresholdOverride]
    timezone: Timezone
    trainer_accelerator: Literal["cuda", "npu", "cpu"]
    paths: Paths
    recovery: Recovery
    bmc: Bmc
    gpu: GpuDeclaration
    cpu: Cpu
    memory_gib: Annotated[int, Field(ge=1, le=65536)]
    ntp_servers: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9.:-]+$")]]
    kernel_minimum: Annotated[str, Field(pattern=r"^\d+\.\d+$")]
    sysctl: dict[Annotated[str, Field(pattern=r"^[a-z0-9_]+(\.[A-Za-z0-9_-]+)+$")], str]
    transparent_hugepages: Literal["always", "madvise", "never"]
    limits: Limits
    fabric: Fabric
    lustre: Lustre
    object_store: ObjectStore | None
    ports: Ports
    prometheus: Prometheus
    slurm: Slurm
    container: Container
    kubernetes: Kubernetes
    vendor_repositories: Annotated[list[Repository], Field(min_length=1)]
    hosts: tuple[Host, ...]
    lock: Lock
    sha256: str = ""

    @property
    def mgmt(self) -> Host:
        """The one management host."""
        return self.group("mgmt")[0]

    @property
    def gpu_nodes(self) -> tuple[Host, ...]:
        """The hosts with GPUs, in the order of the inventory."""
        return self.group("gpu_nodes")

    @property
    def kubernetes_nodes(self) -> tuple[Host, ...]:
        """The GPU nodes that Kubernetes schedules; Slurm has the others."""
        return tuple(host for host in self.gpu_nodes if host.scheduler == "kubernetes")

    def group(self, name: str) -> tuple[Host, ...]:
        """The hosts of one group of hosts.yml; empty when there is none."""
        return tuple(host for host in self.hosts if name in host.groups)

    def host(self, name: str) -> Host:
        """One host by its name. Raises KeyError."""
        for host in self.hosts:
            if host.name == name:
                return host
        raise KeyError(name)

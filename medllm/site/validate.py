"""Rules between the parts of a site: each is a sentence, a place and a fix."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from medllm.errors import Problem
from medllm.site.lustre_options import mount_option_problem
from medllm.site.model import Site
from medllm.site.profiles import GPUS, PROFILES

Keys = tuple[str | int, ...]
Locate = Callable[[Keys], tuple[Path, int | None]]


def site_problems(site: Site, locate: Locate) -> list[Problem]:
    """What is impossible or contradictory in a site whose single values are all well-formed."""
    problems: list[Problem] = []

    def refuse(keys: Keys, rule: str, fix: str) -> None:
        file, line = locate(keys)
        name = ".".join(map(str, keys)) if keys[0] in {"hosts", "lock"} else "site_" + ".".join(map(str, keys))
        problems.append(Problem(rule, fix, file, line, name))

    _against_profile(site, refuse)
    _hosts(site, refuse)
    _fabric(site, refuse)
    _storage(site, refuse)
    _services(site, refuse)
    _repositories(site, refuse)
    _recovery(site, refuse)
    _kubernetes(site, refuse)
    return problems


Refuse = Callable[[Keys, str, str], None]


def _against_profile(site: Site, refuse: Refuse) -> None:
    profile = PROFILES[site.profile]
    gpu, fabric = site.gpu, site.fabric
    expected: list[tuple[Keys, object, object]] = [
        (("gpu", "per_node"), gpu.per_node, profile.gpus_per_node),
        (("gpu", "model"), gpu.model, profile.gpu_model),
        (("fabric", "kind"), fabric.kind, profile.fabric),
        (("fabric", "rate_gbps"), fabric.rate_gbps, profile.rate_gbps),
    ]
    for keys, actual, wanted in expected:
        if actual != wanted:
            refuse(
                keys,
                f"{actual!r} does not fit profile {site.profile}, which has {wanted!r}",
                f"write {wanted!r}, or choose another site_profile",
            )
    if len(site.gpu_nodes) != profile.nodes:
        refuse(
            ("hosts",),
            f"{len(site.gpu_nodes)} hosts in gpu_nodes do not fit profile {site.profile}, which has {profile.nodes}",
            f"list {profile.nodes} hosts, or choose another site_profile",
        )
    if len(fabric.hcas) != profile.ports_per_node:
        refuse(
            ("fabric", "hcas"),
            f"{len(fabric.hcas)} HCAs do not fit profile {site.profile}, which has {profile.ports_per_node} a node",
            f"list {profile.ports_per_node} devices, or choose another site_profile",
        )
    card = GPUS[profile.gpu_model]
    for name, value, known in (
        ("memory_mib", gpu.memory_mib, card.memory_mib),
        ("nvlinks", gpu.nvlinks, card.nvlinks),
        ("power_limit_min_w", gpu.power_limit_min_w, card.power_limit_min_w),
    ):
        if value != known:
            refuse(("gpu", name), f"a {profile.gpu_model} has {name} {known}, not {value}", f"write {known}")
    if not gpu.power_limit_min_w <= gpu.power_limit_w <= card.power_limit_max_w:
        refuse(
            ("gpu", "power_limit_w"),
            f"{gpu.power_limit_w} W is outside the card's {gpu.power_limit_min_w}-{card.power_limit_max_w} W",
            f"write at most {card.power_limit_max_w}",
        )


def _hosts(site: Site, refuse: Refuse) -> None:
    for index, host in enumerate(site.hosts):
        if "gpu_nodes" not in host.groups:
            continue
        if host.scheduler is None:
            refuse(("hosts", index), f"{host.name} has no scheduler", "add `scheduler: slurm` or `kubernetes`")
        if host.failure_domain is None:
            refuse(("hosts", index), f"{host.name} has no failure_domain", "add the rack that it shares a fate with")
        if host.bmc_url is None:
            refuse(("hosts", index), f"{host.name} has no bmc_url", "add its Redfish address")


def _fabric(site: Site, refuse: Refuse) -> None:
    if site.trainer_accelerator != "cpu" and site.limits.memlock != "unlimited":
        refuse(
            ("limits", "memlock"),
            "RDMA registers memory; under a limit NCCL falls to TCP silently (nvidia-container-toolkit #2037)",
            "write unlimited",
        )
    for device, count in Counter(site.fabric.hcas).items():
        if count > 1:
            refuse(("fabric", "hcas"), f"{device!r} is listed {count} times", "list each device once")


def _storage(site: Site, refuse: Refuse) -> None:
    lustre = site.lustre
    for index, option in enumerate(lustre.mount_options):
        if problem := mount_option_problem(option):
            refuse(("lustre", "mount_options", index), *problem)
    for option, count in Counter(o.partition("=")[0] for o in lustre.mount_options).items():
        if count > 1:
            refuse(("lustre", "mount_options"), f"the option {option!r} stands {count} times", "keep one of them")
    networks = {nid.partition("@")[2].rstrip("0123456789") for nid in lustre.mgs_nids}
    if site.fabric.kind == "infiniband" and site.trainer_accelerator == "cuda" and "tcp" in networks:
        refuse(
            ("lustre", "mgs_nids"),
            "LNet over InfiniBand is @o2ib; @tcp would send storage over the management network",
            "write the NIDs as ADDRESS@o2ib",
        )
    for name in ("datasets", "checkpoints"):
        path = getattr(site.paths, name)
        if not path.startswith(lustre.mount_point + "/"):
            refuse(
                ("paths", name),
                f"{path} is not on the parallel file system {lustre.mount_point}; other nodes could not read it",
                f"put it under {lustre.mount_point}/",
            )
    for index, layout in enumerate(lustre.layouts):
        if ".." in layout.directory.split("/"):
            refuse(("lustre", "layouts", index), f"{layout.directory!r} leaves the mount", "name a directory inside it")
    unit = {"k": 10, "M": 20, "G": 30}
    for index, layout in enumerate(lustre.layouts):
        size = int(layout.stripe_size[:-1]) << unit[layout.stripe_size[-1]]
        if size % 65536:
            refuse(
                ("lustre", "layouts", index, "stripe_size"),
                f"{layout.stripe_size} is not a multiple of 64k, which lfs setstripe demands",
                "write for example 4M",
            )


def _services(site: Site, refuse: Refuse) -> None:
    used: dict[int, str] = {}
    for name, port in site.ports:
        if port in used:
            refuse(("ports", name), f"port {port} is also that of {used[port]}", "give each service its own port")
        used.setdefault(port, name)
    if site.prometheus.evaluation_interval_s < site.prometheus.scrape_interval_s:
        refuse(
            ("prometheus", "evaluation_interval_s"),
            "rules would be evaluated more often than their data are scraped",
            f"write at least {site.prometheus.scrape_interval_s}",
        )
    lock = site.lock
    if _numbers(site.kernel_minimum) < _numbers(lock.kernel.minimum):
        refuse(
            ("kernel_minimum",),
            f"{site.kernel_minimum} is older than the versions lock asks ({lock.kernel.minimum})",
            f"write {lock.kernel.minimum} or newer",
        )
    for key, value in site.sysctl.items():
        if not re.fullmatch(r"-?\d+(\s+-?\d+)*|[a-z][a-z0-9_-]*", value):
            refuse(("sysctl", key), f"{value!r} is not a kernel setting's value", "write a number or a word, quoted")


def _repositories(site: Site, refuse: Refuse) -> None:
    names = Counter(repository.name for repository in site.vendor_repositories)
    for name, count in names.items():
        if count > 1:
            refuse(("vendor_repositories",), f"the repository {name!r} is declared {count} times", "name each once")
    for index, repository in enumerate(site.vendor_repositories):
        name, url, file = repository.name, repository.key_url, repository.key_file
        if url is None and file is None:
            refuse(
                ("vendor_repositories", index),
                f"the repository {name!r} has no signing key",
                "add key_file, a copy on this controller, or key_url with key_fingerprints",
            )
        elif url and file:
            refuse(
                ("vendor_repositories", index, "key_file"),
                f"the repository {name!r} has two signing keys",
                "keep key_file, or key_url with key_fingerprints",
            )
        elif url and not repository.key_fingerprints:
            refuse(
                ("vendor_repositories", index, "key_url"),
                f"the key of {name!r} would be trusted unseen: whoever can answer for {url} could sign drivers",
                "add key_fingerprints as the vendor publishes them, or key_file, a copy that you have checked",
            )
        elif file and repository.key_fingerprints is not None:
            refuse(
                ("vendor_repositories", index, "key_fingerprints"),
                "fingerprints are of a key that is fetched; key_file is trusted as it is",
                "remove key_fingerprints, or write key_url instead of key_file",
            )


def _recovery(site: Site, refuse: Refuse) -> None:
    recovery, gpu, nodes = site.recovery, site.gpu, len(site.gpu_nodes)
    if not gpu.power_limit_min_w <= recovery.overheat_power_w < gpu.power_limit_w:
        refuse(
            ("recovery", "overheat_power_w"),
            f"{recovery.overheat_power_w} W cools nothing: the card takes {gpu.power_limit_min_w} W at least and runs "
            f"at {gpu.power_limit_w} W",
            f"write {gpu.power_limit_min_w} to {gpu.power_limit_w - 1}",
        )
    # A site of one node may lose it: there is no other to keep.
    if recovery.max_nodes_out >= nodes > 1:
        refuse(
            ("recovery", "max_nodes_out"),
            f"with {recovery.max_nodes_out} of {nodes} nodes out nothing is left to train on",
            f"write at most {nodes - 1}",
        )


def _kubernetes(site: Site, refuse: Refuse) -> None:
    declared = site.kubernetes
    job, quota, nodes = declared.job, declared.quota, len(site.kubernetes_nodes)
    # The kubelet, the container runtime and the exporters take the rest; a pod that asks for all fits on no node.
    for name, asked, there in (
        ("cpu", job.cpu, site.cpu.logical - 1),
        ("memory_gib", job.memory_gib, site.memory_gib - 1),
    ):
        if asked > there:
            refuse(
                ("kubernetes", "job", name),
                f"a pod of {asked} does not fit on a node, which has {there} to give",
                f"write at most {there}",
            )
    if job.shm_gib >= job.memory_gib:
        refuse(
            ("kubernetes", "job", "shm_gib"),
            f"/dev/shm is memory of the pod: {job.shm_gib} of its {job.memory_gib} GiB leaves none for the ranks",
            f"write at most {max(job.memory_gib - 1, 1)}, or give the pod more memory",
        )
    if job.master_port in {port for _, port in site.ports}:
        refuse(("kubernetes", "job", "master_port"), f"port {job.master_port} is a service's", "choose another port")
    wanted = {
        "gpus": nodes * site.gpu.per_node,
        "cpu": nodes * job.cpu,
        "memory_gib": nodes * job.memory_gib,
        "pods": nodes,
    }
    for name, least in wanted.items():
        if getattr(quota, name) < least:
            refuse(
                ("kubernetes", "quota", name),
                f"the training Job on {nodes} nodes asks for {least}: it would never start",
                f"write at least {least}",
            )
    if declared.namespace == "default" or declared.namespace.startswith("kube-"):
        refuse(
            ("kubernetes", "namespace"),
            f"`{declared.namespace}` is Kubernetes' own: the fence around it would hold its own parts",
            "name a namespace for this site alone",
        )
    if declared.image.endswith(":latest"):
        refuse(("kubernetes", "image"), "`latest` is another image tomorrow", "name a version")
    if declared.volumes.dicom_input.storage_class == "node":
        refuse(
            ("kubernetes", "volumes", "dicom_input", "storage_class"),
            "patients' images lie encrypted; a node's directory is not",
            "name a storage class of the cluster that encrypts",
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))

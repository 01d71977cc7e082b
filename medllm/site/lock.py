"""The versions lock: which versions belong together, and the tuples known to break."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from medllm.errors import Problem

Version = Annotated[str, Field(pattern=r"^[0-9][0-9A-Za-z.+:~-]*$", max_length=64)]
PackageName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9+.-]+$")]


def _key_fingerprint(text: str) -> str:
    if not re.fullmatch(r"[0-9A-F]{40}", text):
        raise ValueError("a key's fingerprint is 40 hex digits in capitals, without spaces")
    return text


Fingerprint = Annotated[str, AfterValidator(_key_fingerprint)]
Packages = Annotated[dict[PackageName, Version], Field(min_length=1)]


class Strict(BaseModel):
    """Unknown keys and coerced types are errors; values can't change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Distribution(Strict):
    id: Literal["debian", "ubuntu"]
    version: Annotated[str, Field(pattern=r"^\d+(\.\d+)?$")]


class Kernel(Strict):
    minimum: Annotated[str, Field(pattern=r"^\d+\.\d+$")]


class Driver(Strict):
    version: Version
    branch: Annotated[int, Field(ge=450, le=999)]
    packages: Packages


class Component(Strict):
    """Packages at exact versions; `version` where the component has one of its own."""

    packages: Packages
    version: Version | None = None


class TrainerVersions(Strict):
    python: Annotated[str, Field(pattern=r"^3\.\d+$")]
    torch: Version
    torch_cuda: Version
    deepspeed: Version


class VendorKey(Strict):
    owner: Annotated[str, Field(min_length=1)]
    fingerprint: Fingerprint


class DistributionPackages(Strict):
    containerd: Annotated[list[PackageName], Field(min_length=1)]
    slurm_controller: Annotated[list[PackageName], Field(min_length=1)]
    slurm_node: Annotated[list[PackageName], Field(min_length=1)]
    prometheus: Annotated[list[PackageName], Field(min_length=1)]
    alertmanager: Annotated[list[PackageName], Field(min_length=1)]
    node_exporter: Annotated[list[PackageName], Field(min_length=1)]


class Lock(Strict):
    """One file of `inventory/versions/`."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]+$")]
    distribution: Distribution
    kernel: Kernel
    cuda: Version
    nccl: Version
    nvidia_driver: Driver
    nvidia_fabricmanager: Component
    dcgm: Component
    nvidia_container_toolkit: Component
    rdma: Component
    lustre: Component
    distribution_packages: DistributionPackages
    trainer: TrainerVersions
    vendor_keys: list[VendorKey]


def known_bad(lock: Lock) -> list[Problem]:
    """Tuples that are known to break, each with its source. `key` is the place in the lock; no file, no line."""
    problems = []

    def refuse(key: str, rule: str, fix: str) -> None:
        problems.append(Problem(rule=rule, fix=fix, key=key))

    driver, manager = lock.nvidia_driver.version, lock.nvidia_fabricmanager.version
    if manager != driver:
        refuse(
            "nvidia_fabricmanager.version",
            f"Fabric Manager {manager} and driver {driver} differ; they must match exactly or the fabric stays down "
            "(gpu-driver-container#735)",
            f"set both to {driver}",
        )
    for place, packages in (
        ("nvidia_driver", lock.nvidia_driver.packages),
        ("nvidia_fabricmanager", lock.nvidia_fabricmanager.packages),
    ):
        for name, version in packages.items():
            if version.split(":", 1)[-1].split("-", 1)[0] != driver:
                refuse(
                    f"{place}.packages.{name}",
                    f"package {name} {version} is not of driver {driver}",
                    f"set it to {driver}-1",
                )
    if not driver.startswith(f"{lock.nvidia_driver.branch}."):
        refuse(
            "nvidia_driver.branch",
            f"driver {driver} is not of branch {lock.nvidia_driver.branch}",
            f"set branch to {driver.split('.')[0]}",
        )
    needed = _driver_needed_by_cuda(lock.trainer.torch_cuda)
    if _numbers(driver) < (needed,):
        refuse(
            "trainer.torch_cuda",
            f"torch {lock.trainer.torch} is built for CUDA {lock.trainer.torch_cuda}, which needs driver >= {needed} "
            "(CUDA compatibility guide)",
            f"take a driver of branch {needed} or newer, or an older torch",
        )
    if _numbers(lock.trainer.deepspeed) < (0, 19, 4):
        refuse(
            "trainer.deepspeed",
            f"DeepSpeed {lock.trainer.deepspeed} has wrong gradients under pipeline + accumulation (PR 8154) or "
            "collapses grouped learning rates (#8171)",
            "take 0.19.4 or newer",
        )
    if _numbers(lock.trainer.torch) < (2, 1):
        refuse("trainer.torch", f"torch {lock.trainer.torch} is older than the asked 2.1", "take 2.1 or newer")
    if _numbers(lock.nccl) < (2, 18):
        refuse("nccl", f"NCCL {lock.nccl} is older than the asked 2.18", "take 2.18 or newer")
    if _numbers(driver) < (550,):
        refuse("nvidia_driver.version", f"driver {driver} is older than the asked 550", "take 550 or newer")
    if _numbers(lock.kernel.minimum) < (5, 15):
        refuse("kernel.minimum", f"kernel {lock.kernel.minimum} is older than the asked 5.15", "take 5.15 or newer")
    return problems


def _driver_needed_by_cuda(cuda: str) -> int:
    """Lowest driver branch for a CUDA major version (NVIDIA CUDA compatibility: 12.x >= 525, 13.x >= 580)."""
    return 580 if _numbers(cuda) >= (13,) else 525


def _numbers(version: str) -> tuple[int, ...]:
    parts = []
    for part in version.split("-")[0].split("."):
        digits = "".join(character for character in part if character.isdigit())
        if not digits:
            break
        parts.append(int(digits))
    return tuple(parts)

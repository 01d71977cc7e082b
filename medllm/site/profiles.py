"""The kinds of site that the toolkit knows, from the users' plans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ProfileName = Literal["t-8", "s-32b", "m-32b"]


@dataclass(frozen=True, slots=True)
class Gpu:
    """What one GPU is. Memory as `nvidia-smi --query-gpu=memory.total` prints it (MiB); power limits in W."""

    memory_mib: int
    nvlinks: int
    power_limit_min_w: int
    power_limit_max_w: int


# NVIDIA data sheets; the H200's power range is 200-700 W.
GPUS = {
    "NVIDIA H200": Gpu(memory_mib=143771, nvlinks=18, power_limit_min_w=200, power_limit_max_w=700),
    "NVIDIA A100-SXM4-80GB": Gpu(memory_mib=81920, nvlinks=12, power_limit_min_w=100, power_limit_max_w=400),
}


@dataclass(frozen=True, slots=True)
class Profile:
    """What a site of this kind has. Link rate in Gb/s per port."""

    nodes: int
    gpus_per_node: int
    gpu_model: str
    fabric: Literal["infiniband", "roce", "none"]
    ports_per_node: int
    rate_gbps: int


PROFILES: dict[ProfileName, Profile] = {
    "m-32b": Profile(
        nodes=4, gpus_per_node=8, gpu_model="NVIDIA H200", fabric="infiniband", ports_per_node=4, rate_gbps=200
    ),
    "s-32b": Profile(
        nodes=2, gpus_per_node=8, gpu_model="NVIDIA A100-SXM4-80GB", fabric="roce", ports_per_node=2, rate_gbps=100
    ),
    "t-8": Profile(nodes=1, gpus_per_node=8, gpu_model="NVIDIA H200", fabric="none", ports_per_node=0, rate_gbps=0),
}

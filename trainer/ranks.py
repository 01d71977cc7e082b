"""One process among several: who am I, and the few collectives that the trainer needs."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from medllm.errors import user_error

# What carries the collectives of each accelerator.
BACKENDS = {"cuda": "nccl", "npu": "hccl", "cpu": "gloo"}


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process: its number over all nodes, their count, its number on its node and how many run there."""

    rank: int
    world_size: int
    local_rank: int
    local_size: int

    @classmethod
    def from_environment(cls) -> Ranks:
        """Read torchrun's names (RANK, …) or, without them, Slurm's.

        Raises:
            UserError: neither is set, or a value is no number.
        """
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        if "RANK" not in os.environ and "SLURM_PROCID" in os.environ:
            names = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE")
        try:
            rank, world_size, local_rank, local_size = (int(os.environ[name]) for name in names)
        except (KeyError, ValueError) as error:
            raise user_error(
                f"the worker does not know its rank ({error})", "start it with `medllm train`, which sets it"
            ) from None
        return cls(rank, world_size, local_rank, local_size)

    def gather(self, value: Any) -> list[Any]:
        """Each rank's `value` (any picklable object), in the order of the ranks."""
        import torch.distributed as distributed

        gathered: list[Any] = [None] * self.world_size
        distributed.all_gather_object(gathered, value)
        return gathered

    def sum(self, values: Sequence[float]) -> list[float]:
        """Element-wise sum over all ranks, in float64 (on Ascend float32)."""
        import torch
        import torch.distributed as distributed
        from deepspeed.accelerator import get_accelerator

        # NCCL and HCCL take only what lies on their device. (Ascend has no float64 there: 2^24 tokens are exact.)
        device = get_accelerator().current_device_name()
        kind = torch.float32 if device.startswith("npu") else torch.float64
        tensor = torch.tensor(values, dtype=kind, device=device)
        distributed.all_reduce(tensor)
        return [float(value) for value in tensor]

    def barrier(self) -> None:
        """Wait for all ranks."""
        import torch.distributed as distributed

        distributed.barrier()


def connect(ranks: Ranks, accelerator: str, timeout_s: int) -> None:
    """Open the process group (MASTER_ADDR and MASTER_PORT from the environment) over the accelerator's `BACKENDS`.

    A collective that takes longer than `timeout_s` seconds raises on all ranks, so a frozen node can't hold a job.
    """
    # Before DeepSpeed is imported, which chooses its accelerator once; a detected one would be a silent fallback.
    os.environ["DS_ACCELERATOR"] = accelerator
    os.environ["LOCAL_SIZE"] = str(ranks.local_size)
    os.environ["RANK"], os.environ["WORLD_SIZE"] = str(ranks.rank), str(ranks.world_size)
    os.environ["LOCAL_RANK"] = str(ranks.local_rank)
    import sys
    import warnings

    # torch 2.13 renames collectives that DeepSpeed 0.19 still calls by their old names.
    warnings.filterwarnings("ignore", message=r"`torch\.distributed\..*is deprecated", category=FutureWarning)
    import deepspeed

    # DeepSpeed compiles a shared-memory operator at the first start (1.5–3 min on a CPU) that only inference uses.
    # The module is fetched by name from sys.modules: `import deepspeed.comm.torch` binds the real torch.
    vars(sys.modules["deepspeed.comm.torch"])["build_shm_op"] = lambda: None
    deepspeed.utils.logger.setLevel("WARNING")
    if accelerator != "cpu":
        # Before the first collective, which would else use device 0 on each rank.
        deepspeed.accelerator.get_accelerator().set_device(ranks.local_rank)
    deepspeed.init_distributed(
        dist_backend=BACKENDS[accelerator],
        auto_mpi_discovery=False,
        timeout=timedelta(seconds=timeout_s),
    )


def require_accelerator(declared: str) -> None:
    """The accelerator that the site declares must be there.

    Raises:
        UserError: it is not. Training never falls back to another one.
    """
    if declared == "cpu":
        return
    import torch

    if declared == "npu":
        try:
            # Huawei's extension puts `torch.npu` there when it is imported, and DeepSpeed looks for it by this name.
            importlib.import_module("torch_npu")
        except ImportError:
            raise user_error(
                "the site declares trainer_accelerator npu, and torch_npu can't be imported here",
                "install the torch_npu of this torch and CANN, or declare site_trainer_accelerator: cpu on purpose",
                key="site_trainer_accelerator",
            ) from None
    device = getattr(torch, declared, None)
    if device is None or not device.is_available():
        raise user_error(
            f"the site declares trainer_accelerator {declared}, and this machine shows torch none",
            "repair the driver (`medllm accept run --tag node`), or declare site_trainer_accelerator: cpu on purpose",
            key="site_trainer_accelerator",
        )

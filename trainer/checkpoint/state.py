"""What a checkpoint holds beside DeepSpeed's files, and the digest that proves a restore."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

ENGINE = "engine"  # DeepSpeed's tag: its files lie in <checkpoint>/engine/
STATE = "trainer_state.json"
_RANK_OF_FILE = re.compile(r"(?:zero_pp|rng)_rank_(\d+)")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: optimizer steps, samples and target tokens over all ranks."""

    step: int = 0
    samples: int = 0
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class TrainerState:
    """`rank_sha256[r]` is the digest of rank r's share of weights and optimizer state.

    val_loss: nats a token over the held-out samples, where it was measured at this very step
    balance: running means of the modalities' gradient norms
    """

    progress: Progress
    world_size: int
    rank_sha256: tuple[str, ...]
    val_loss: float | None = None
    balance: Mapping[str, float] = field(default_factory=dict)

    @property
    def state_sha256(self) -> str:
        """One hash for the state of all ranks."""
        return hashlib.sha256("".join(self.rank_sha256).encode()).hexdigest()

    def write(self, checkpoint: Path) -> None:
        """Into a draft."""
        (checkpoint / STATE).write_text(
            json.dumps({**asdict(self), "state_sha256": self.state_sha256}, indent=1), encoding="utf-8"
        )

    @classmethod
    def read(cls, checkpoint: Path) -> TrainerState:
        """Of a checkpoint whose hashes were verified."""
        data = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
        return cls(
            Progress(**data["progress"]),
            data["world_size"],
            tuple(data["rank_sha256"]),
            data.get("val_loss"),
            data.get("balance", {}),
        )


def val_loss_of(checkpoint: Path) -> float | None:
    """The held-out loss of a checkpoint whose hashes were verified."""
    return TrainerState.read(checkpoint).val_loss


def digest(state: Any) -> str:
    """sha256 over all tensors and plain values in nested dicts and lists; equal only if they are equal bit by bit."""
    sha = hashlib.sha256()
    for place, value in _leaves(state):
        sha.update(place.encode())
        if isinstance(value, torch.Tensor):
            tensor = value.detach().cpu().contiguous()
            sha.update(f"{tensor.dtype}{list(tensor.shape)}".encode())
            sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
        else:
            sha.update(repr(value).encode())
    return sha.hexdigest()


def _leaves(value: Any, place: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(value, dict):
        for key in sorted(value, key=str):
            yield from _leaves(value[key], f"{place}/{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{place}/{index}")
    elif isinstance(value, torch.Tensor | bool | int | float | str):
        yield place, value
    # Anything else is an object of DeepSpeed's (a loss scaler), constant in FP32.


def own_files(draft: Path, rank: int) -> list[Path]:
    """The files of a draft that this rank wrote: those that bear its number, and for rank 0 all without one."""
    mine = []
    for path in sorted(draft.rglob("*")):
        match = _RANK_OF_FILE.search(path.name)
        if path.is_file() and (int(match[1]) if match else 0) == rank:
            mine.append(path)
    return mine


def save_random_state(draft: Path, rank: int) -> None:
    """Random generators of one global rank: torch, NumPy, Python."""
    state = {"torch": torch.get_rng_state(), "numpy": np.random.get_state(), "python": random.getstate()}
    torch.save(state, draft / f"rng_rank_{rank:05d}.pt")


def load_random_state(checkpoint: Path, rank: int) -> None:
    """The reverse of `save_random_state`; only for a checkpoint whose hashes were verified (it unpickles)."""
    state = torch.load(checkpoint / f"rng_rank_{rank:05d}.pt", weights_only=False)
    torch.set_rng_state(state["torch"])
    np.random.set_state(state["numpy"])
    random.setstate(state["python"])

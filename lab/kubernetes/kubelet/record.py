"""What the kubelet remembers of a pod on disk (`pod.json`), beside the records of its containers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .admission import GpuShares
from .client import Json
from .launch import read, save

FILE = "pod.json"


@dataclass(slots=True)
class Record:
    """A pod that was taken in. `verdict` is set once it has to end for another reason than its containers; `ended`
    once nothing of it runs any more and its volumes are gone."""

    pod: Json
    started_at: float
    gpus: GpuShares
    verdict: dict[str, str] | None = None
    ended: bool = False

    def save(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        save(
            directory / FILE,
            {
                "pod": self.pod, "started_at": self.started_at, "gpus": self.gpus, "verdict": self.verdict,
                "ended": self.ended,
            },
        )  # fmt: skip


def load(directory: Path) -> Record | None:
    """The record of a pod, or None where there is none."""
    data = read(directory / FILE)
    return None if data is None else Record(**data)

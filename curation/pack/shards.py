"""WebDataset shards: plain tar files, equal input to equal bytes, with an index of where each member lies."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Readers on several ranks each want a shard of their own.
_MINIMUM_SHARDS = 4


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample. `image` [size, size] int16 or uint16, `ecg` float32 [leads, samples]; None when there is none."""

    key: str
    meta: dict[str, Any]
    text: str
    image: NDArray[np.integer[Any]] | None
    ecg: NDArray[np.float32] | None

    def members(self) -> list[tuple[str, bytes]]:
        """(extension, content) in the order in which they are stored."""
        found = [("json", json.dumps(self.meta, sort_keys=True).encode()), ("txt", self.text.encode())]
        found += [("image.npy", _npy(self.image))] if self.image is not None else []
        found += [("ecg.npy", _npy(self.ecg))] if self.ecg is not None else []
        return found


def write_shards(directory: Path, split: str, samples: Sequence[Sample], per_shard: int) -> list[dict[str, Any]]:
    """Write `shards/<split>-NNNNNN.tar` with at most `per_shard` samples each; return the index, one entry a sample."""
    count = max(-(-len(samples) // per_shard), min(_MINIMUM_SHARDS, len(samples)))
    index: list[dict[str, Any]] = []
    (directory / "shards").mkdir(parents=True, exist_ok=True)
    for number in range(count):
        name = f"shards/{split}-{number:06d}.tar"
        chunk = samples[number * len(samples) // count : (number + 1) * len(samples) // count]
        with (
            (directory / name).open("wb") as stream,
            tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar,
        ):
            for sample in chunk:
                members = {}
                for extension, content in sample.members():
                    info = tarfile.TarInfo(f"{sample.key}.{extension}")
                    info.size, info.mode = len(content), 0o644
                    # The header takes one block of 512 bytes in this format.
                    members[extension] = [tar.offset + tarfile.BLOCKSIZE, len(content)]
                    tar.addfile(info, io.BytesIO(content))
                index.append({"key": sample.key, "split": split, "shard": name, "members": members})
        (directory / name).chmod(0o644)
    return index


def _npy(array: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()

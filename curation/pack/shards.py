"""WebDataset shards: plain tar files, equal input to equal bytes, with an index of where each member lies."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medllm.arrays import encode_array
from medllm.shard_index import EEG, IMAGE, TEXT, WAVEFORM, IndexEntry, checksum, volume_member

# Readers on several ranks each want a shard of their own.
_MINIMUM_SHARDS = 4


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample. `image` [size, size] int16 or uint16, `ecg` float32 [leads, samples]; None when there is none.

    volumes: each [slices, size, size], int16 or uint16
    eeg: float32 [channels, samples]
    """

    key: str
    meta: dict[str, Any]
    text: str
    image: NDArray[np.integer[Any]] | None
    ecg: NDArray[np.float32] | None
    volumes: tuple[NDArray[np.integer[Any]], ...] = ()
    eeg: NDArray[np.float32] | None = None

    def arrays(self) -> dict[str, NDArray[Any]]:
        """By the extension of their member."""
        found: dict[str, NDArray[Any] | None] = {IMAGE: self.image, WAVEFORM: self.ecg, EEG: self.eeg}
        found |= {volume_member(number): volume for number, volume in enumerate(self.volumes)}
        return {kind: array for kind, array in found.items() if array is not None}

    def members(self) -> dict[str, bytes]:
        """Extension → content, in the order in which they are stored."""
        found = {"json": json.dumps(self.meta, sort_keys=True).encode(), TEXT: self.text.encode()}
        return found | {kind: encode_array(array) for kind, array in self.arrays().items()}


def write_shards(
    directory: Path, split: str, samples: Sequence[Sample], per_shard: int, count_tokens: Callable[[str], int]
) -> list[IndexEntry]:
    """Write `shards/<split>-NNNNNN.tar` with at most `per_shard` samples each; return the index, one entry a sample."""
    count = max(-(-len(samples) // per_shard), min(_MINIMUM_SHARDS, len(samples)))
    index: list[IndexEntry] = []
    (directory / "shards").mkdir(parents=True, exist_ok=True)
    for number in range(count):
        name = f"shards/{split}-{number:06d}.tar"
        chunk = samples[number * len(samples) // count : (number + 1) * len(samples) // count]
        with (
            (directory / name).open("w+b") as stream,
            tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar,
        ):
            for sample in chunk:
                begin, members = tar.offset, {}
                for extension, content in sample.members().items():
                    info = tarfile.TarInfo(f"{sample.key}.{extension}")
                    info.size, info.mode = len(content), 0o644
                    # The header takes one block of 512 bytes in this format.
                    members[extension] = (tar.offset + tarfile.BLOCKSIZE, len(content))
                    tar.addfile(info, io.BytesIO(content))
                end = tar.offset
                stream.seek(begin)
                stretch = stream.read(end - begin)
                index.append(
                    IndexEntry(
                        sample.key, split, name, begin, end - begin, members,
                        {kind: (array.dtype.str, array.shape) for kind, array in sample.arrays().items()},
                        count_tokens(sample.text), checksum(stretch),
                    )
                )  # fmt: skip
        (directory / name).chmod(0o644)
    return index

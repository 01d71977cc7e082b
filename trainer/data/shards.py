"""Reading WebDataset shards by index: plain tar files whose members `<key>.<kind>` belong to one sample."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medllm.errors import user_error

TEXT, IMAGE, WAVEFORM = "txt", "image.npy", "ecg.npy"
_REPACK = "pack the data set again (`medllm data pack`) and publish it"


@dataclass(frozen=True, slots=True)
class Entry:
    """Where one sample lies: byte offset and size of each of its members in a shard."""

    key: str
    shard: int
    members: dict[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class RawSample:
    """One sample as stored. `image` [height, width] integer, `waveform` float32 [leads, samples]; None when absent."""

    key: str
    text: str
    image: NDArray[np.generic] | None
    waveform: NDArray[np.float32] | None


class ShardSet:
    """All samples of a split, by number, in the order of the shards' names and of the members in them."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Index the shards (one pass over their tar headers).

        Raises:
            UserError: a shard is missing or torn, a sample has no text or stands there twice.
        """
        self.paths = sorted(paths)
        self.entries = [entry for number, path in enumerate(self.paths) for entry in _index(path, number)]
        self._descriptors: dict[int, int] = {}
        seen: set[str] = set()
        for entry in self.entries:
            if entry.key in seen:
                raise user_error(f"sample {entry.key!r} stands twice", _REPACK, file=self.paths[entry.shard])
            seen.add(entry.key)

    def __len__(self) -> int:
        return len(self.entries)

    def read(self, number: int) -> RawSample:
        """Sample `number`, 0 ≤ number < len.

        Raises:
            UserError: a member can't be decoded.
        """
        entry = self.entries[number]
        try:
            image, waveform = self._array(entry, IMAGE), self._array(entry, WAVEFORM)
            return RawSample(
                entry.key,
                self._bytes(entry, TEXT).decode("utf-8"),
                image,
                None if waveform is None else waveform.astype(np.float32, copy=False),
            )
        except (ValueError, EOFError) as error:
            raise user_error(
                f"sample {entry.key!r} can't be decoded ({type(error).__name__})",
                _REPACK,
                file=self.paths[entry.shard],
            ) from None

    def shape(self, number: int, member: str) -> tuple[tuple[int, ...], np.dtype[np.generic]] | None:
        """Shape and dtype of an array member from its header alone; None when the sample has no such member."""
        entry = self.entries[number]
        if member not in entry.members:
            return None
        stream = io.BytesIO(self._bytes(entry, member, limit=256))
        try:
            version = np.lib.format.read_magic(stream)
            reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = reader(stream)
        except ValueError:
            raise user_error(
                f"{member} of sample {entry.key!r} is not a NumPy array", _REPACK, file=self.paths[entry.shard]
            ) from None
        return shape, dtype

    def _array(self, entry: Entry, member: str) -> NDArray[np.generic] | None:
        if member not in entry.members:
            return None
        array: NDArray[np.generic] = np.load(io.BytesIO(self._bytes(entry, member)), allow_pickle=False)
        return array

    def _bytes(self, entry: Entry, member: str, limit: int | None = None) -> bytes:
        descriptor = self._descriptors.get(entry.shard)
        if descriptor is None:
            descriptor = os.open(self.paths[entry.shard], os.O_RDONLY | os.O_CLOEXEC)
            self._descriptors[entry.shard] = descriptor
        offset, size = entry.members[member]
        wanted = size if limit is None else min(size, limit)
        data = os.pread(descriptor, wanted, offset)
        if len(data) != wanted:
            raise user_error("the shard became shorter while it was read", _REPACK, file=self.paths[entry.shard])
        return data

    def close(self) -> None:
        """Close the files; a later read opens them again."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])


def _index(path: Path, number: int) -> list[Entry]:
    grouped: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if member.isfile():
                    key, _, kind = member.name.rpartition("/")[2].partition(".")
                    grouped.setdefault(key, {})[kind] = (member.offset_data, member.size)
    except FileNotFoundError:
        raise user_error("the shard is missing", "publish the data set again", file=path) from None
    except (tarfile.TarError, OSError) as error:
        raise user_error(f"the shard is not a whole tar file ({error})", _REPACK, file=path) from None
    for key, members in grouped.items():
        if TEXT not in members:
            raise user_error(f"sample {key!r} has no .{TEXT}", _REPACK, file=path)
    return [Entry(key, number, members) for key, members in grouped.items()]

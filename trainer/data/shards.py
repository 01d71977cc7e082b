"""Reading WebDataset shards by index: plain tar files whose members `<key>.<kind>` belong to one sample."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medllm.arrays import decode_array
from medllm.errors import user_error
from medllm.shard_index import EEG, IMAGE, INDEX, TEXT, WAVEFORM, IndexEntry, volume_member

_REPACK = "pack the data set again (`medllm data pack`) and publish it"


@dataclass(frozen=True, slots=True)
class RawSample:
    """One sample as stored. `image` [height, width] integer, `waveform` float32 [leads, samples]; None when absent.

    volumes: each [slices, height, width] integer; eeg: float32 [channels, samples]. No model here takes these two yet.
    """

    key: str
    text: str
    image: NDArray[np.generic] | None
    waveform: NDArray[np.float32] | None
    volumes: tuple[NDArray[np.generic], ...] = ()
    eeg: NDArray[np.float32] | None = None


class ShardSet:
    """The samples of a split, by number, in the order of the index. Threads may read at once."""

    def __init__(self, directory: Path, entries: Sequence[IndexEntry]) -> None:
        """
        Raises:
            UserError: a shard is missing or shorter than the index says.
        """
        self.directory, self.entries = directory, tuple(entries)
        self._descriptors: dict[str, int] = {}
        self._lock = threading.Lock()
        ends: dict[str, int] = {}
        for entry in self.entries:
            ends[entry.shard] = max(ends.get(entry.shard, 0), entry.offset + entry.size)
        for shard, end in ends.items():
            path = directory / shard
            if not path.is_file():
                raise user_error("the shard is missing", "publish the data set again", file=path)
            if path.stat().st_size < end:
                raise user_error("the shard is shorter than the index says", _REPACK, file=path)

    def __len__(self) -> int:
        return len(self.entries)

    def stretch(self, number: int) -> bytes:
        """All members of sample `number`, 0 ≤ number < len, with their tar headers, in one read.

        Raises:
            OSError: the storage does not answer, or the file became shorter.
        """
        entry = self.entries[number]
        data = os.pread(self._descriptor(entry.shard), entry.size, entry.offset)
        if len(data) != entry.size:
            raise OSError(f"{entry.shard} became shorter while it was read")
        return data

    def read(self, number: int) -> RawSample:
        """Sample `number`, read and decoded.

        Raises:
            OSError, ValueError: see `stretch` and `decode`.
        """
        return decode(self.entries[number], self.stretch(number))

    def _descriptor(self, shard: str) -> int:
        with self._lock:
            if shard not in self._descriptors:
                self._descriptors[shard] = os.open(self.directory / shard, os.O_RDONLY | os.O_CLOEXEC)
            return self._descriptors[shard]

    def close(self) -> None:
        """Close the files; a later read opens them again."""
        with self._lock:
            while self._descriptors:
                os.close(self._descriptors.popitem()[1])


def decode(entry: IndexEntry, stretch: bytes, *, whole: bool = True) -> RawSample:
    """The sample in a stretch as `ShardSet.stretch` gives it; not `whole`: without volumes and EEG, to save their time.

    Raises:
        ValueError: a member can't be decoded. The message holds nothing from the sample but its key.
    """
    view = memoryview(stretch)

    def member(kind: str) -> memoryview | None:
        if kind not in entry.members:
            return None
        begin, size = entry.members[kind]
        return view[begin - entry.offset : begin - entry.offset + size]

    text, image, waveform = member(TEXT), member(IMAGE), member(WAVEFORM)
    eeg = member(EEG) if whole else None
    volumes = [member(volume_member(number)) for number in range(len(entry.arrays))] if whole else []
    try:
        return RawSample(
            entry.key,
            "" if text is None else str(text, "utf-8"),
            None if image is None else decode_array(image),
            None if waveform is None else decode_array(waveform).astype(np.float32, copy=False),
            tuple(decode_array(volume) for volume in volumes if volume is not None),
            None if eeg is None else decode_array(eeg),
        )
    except ValueError as error:
        raise ValueError(f"sample {entry.key!r} can't be decoded ({type(error).__name__})") from None


def read_index(directory: Path) -> list[IndexEntry]:
    """The samples of all splits.

    Raises:
        UserError: missing or not an index, a sample that stands twice.
    """
    path = directory / INDEX
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise user_error(f"the index can't be read ({error.strerror})", _REPACK, file=path) from None
    entries: list[IndexEntry] = []
    seen: set[str] = set()
    for number, line in enumerate(lines, 1):
        try:
            entry = IndexEntry.parse(line)
        except (ValueError, RecursionError) as error:
            reason = "no JSON" if isinstance(error, UnicodeDecodeError | RecursionError) else str(error)
            raise user_error(f"not an index entry ({reason})", _REPACK, file=path, line=number) from None
        if entry.key in seen:
            raise user_error(f"sample {entry.key!r} stands twice", _REPACK, file=path, line=number)
        seen.add(entry.key)
        entries.append(entry)
    return entries

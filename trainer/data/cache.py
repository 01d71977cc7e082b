"""Where a sample's bytes come from: memory, then local NVMe, then the shared file system, then the object store.

What is kept is the stretch as stored (compressed), under its checksum, so that a damaged copy is noticed and every data
set and run shares what is equal. The caches are an optimisation: a full or broken one costs speed, never a run.
"""

from __future__ import annotations

import heapq
import os
import tempfile
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from medllm.shard_index import IndexEntry, checksum
from trainer.data.shards import RawSample, ShardSet, decode

MEMORY, NVME, SHARED, OBJECTS = LEVELS = ("memory", "nvme", "shared", "objects")
# After this long without use a sample counts half as often used: an epoch's order changes, so old use says little.
HALF_LIFE_S = 3600.0
# When the disk's cache is full, this share is freed at once: choosing what to drop costs a look at all of it.
_FREED_SHARE = 0.05


class MemoryCache:
    """The least recently used goes first. Threads may call at once."""

    def __init__(self, capacity: int) -> None:
        """`capacity` in bytes; 0 keeps nothing."""
        self.capacity, self.used = capacity, 0
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes | None:
        """What was put under `key`, if it is still there."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def put(self, key: str, data: bytes) -> None:
        """Keep it, if it is not larger than all room there is."""
        with self._lock:
            if len(data) > self.capacity or key in self._kept:
                return
            self._kept[key] = data
            self.used += len(data)
            while self.used > self.capacity:
                self.used -= len(self._kept.popitem(last=False)[1])


@dataclass(slots=True)
class _Use:
    size: int
    score: float
    seen: float

    def now(self, time_s: float, half_life_s: float) -> float:
        """How often it was used, with use long ago counting less."""
        return self.score * float(0.5 ** ((time_s - self.seen) / half_life_s))


class DiskCache:
    """Files on a local disk; the least often used goes first, with use decaying over time.

    Several processes may share a directory: each finds what any of them has put there, and each drops only what is its
    own, which is decided by the key.
    """

    def __init__(
        self, directory: Path, capacity: int, *, share: int = 0, shares: int = 1,
        half_life_s: float = HALF_LIFE_S, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """
        Args:
            capacity: bytes for all processes together
            share: this process's number among `shares`
        """
        self.directory, self.capacity = directory, capacity // shares
        self._share, self._shares, self._half_life_s, self._clock = share, shares, half_life_s, clock
        self._uses: dict[str, _Use] = {}
        self._lock = threading.Lock()
        self.used = 0
        self.problem: OSError | None = None
        """Why nothing more is put there; None while all is well."""
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            for path, size in list(self._existing()):
                self._uses[path.name] = _Use(size, 1.0, clock())
                self.used += size
        except OSError as error:
            self.problem = error

    def _existing(self) -> Iterator[tuple[Path, int]]:
        for path in self.directory.glob("??/*"):
            if path.name.startswith("."):
                path.unlink(missing_ok=True)  # left by a process that was killed
            elif self._is_mine(path.name):
                yield path, path.stat().st_size

    def _is_mine(self, key: str) -> bool:
        return int(key, 16) % self._shares == self._share

    def path(self, key: str) -> Path:
        """Where the file of a key lies. Keys are hexadecimal."""
        return self.directory / key[:2] / key

    def __contains__(self, key: str) -> bool:
        return key in self._uses or self.path(key).exists()

    def get(self, key: str) -> bytes | None:
        """What was put under `key`; None when it is not there or can't be read. The caller checks it."""
        try:
            data = self.path(key).read_bytes()
        except OSError:
            return None
        with self._lock:
            use = self._uses.get(key)
            if use is not None:
                use.score, use.seen = use.now(self._clock(), self._half_life_s) + 1, self._clock()
        return data

    def put(self, key: str, data: bytes) -> None:
        """Keep it, in place of what is used least."""
        if self.problem is not None or len(data) > self.capacity or not self._is_mine(key):
            return
        with self._lock:
            if key in self._uses:
                return
            self._uses[key] = _Use(len(data), 1.0, self._clock())
            self.used += len(data)
            dropped = self._overflow(key)
        try:
            for old in dropped:
                self.path(old).unlink(missing_ok=True)
            self._write(key, data)
        except OSError as error:
            self.problem = error  # full or broken: training goes on with what the other levels give
            self.drop(key)

    def drop(self, key: str) -> None:
        """Forget a damaged copy."""
        with self._lock:
            use = self._uses.pop(key, None)
            self.used -= use.size if use else 0
        try:
            self.path(key).unlink(missing_ok=True)
        except OSError as error:
            self.problem = error

    def _overflow(self, new: str) -> list[str]:
        if self.used <= self.capacity:
            return []
        now = self._clock()
        ranked = [(use.now(now, self._half_life_s), key) for key, use in self._uses.items() if key != new]
        heapq.heapify(ranked)
        dropped: list[str] = []
        while ranked and self.used > self.capacity * (1 - _FREED_SHARE):
            _, key = heapq.heappop(ranked)
            self.used -= self._uses.pop(key).size
            dropped.append(key)
        return dropped

    def _write(self, key: str, data: bytes) -> None:
        place = self.path(key)
        place.parent.mkdir(exist_ok=True, mode=0o700)
        # Not synced: after a crash a torn file fails its checksum and is read anew.
        descriptor, draft = tempfile.mkstemp(dir=place.parent, prefix=".")
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(data)
            Path(draft).replace(place)
        except OSError:
            Path(draft).unlink(missing_ok=True)
            raise


class ObjectStore(Protocol):
    """Holds copies of the shards."""

    def read(self, shard: str, offset: int, size: int) -> bytes:
        """Bytes of a shard. Raises OSError: it does not answer, or has no such bytes."""


@dataclass(slots=True)
class CacheCounts:
    """Since the start. `hits[level]`: samples that came from there; `damaged[level]`: copies there that failed their
    checksum; `lost`: samples that no level could give.
    """

    hits: Counter[str] = field(default_factory=Counter)
    damaged: Counter[str] = field(default_factory=Counter)
    lost: int = 0


class SampleReader:
    """Samples of a split from the nearest level that has them. Threads may call at once."""

    def __init__(
        self, shards: ShardSet, memory: MemoryCache, disk: DiskCache | None = None, objects: ObjectStore | None = None
    ) -> None:
        self.shards, self.memory, self.disk, self.objects = shards, memory, disk, objects
        self.counts = CacheCounts()
        self._lock = threading.Lock()

    def stretch(self, number: int) -> bytes | None:
        """A sample's bytes, checked; None when no level has them whole."""
        entry = self.shards.entries[number]
        found = self.memory.get(entry.xxh3)
        if found is not None:
            self._count(MEMORY)
            return found
        for level, read in self._levels(entry, number):
            try:
                data = read()
            except OSError:
                data = b""
            if data is None:
                continue
            if checksum(data) == entry.xxh3:
                self._count(level)
                self.memory.put(entry.xxh3, data)
                if self.disk is not None and level != NVME:
                    self.disk.put(entry.xxh3, data)
                return data
            with self._lock:
                self.counts.damaged[level] += 1
            if self.disk is not None and level == NVME:
                self.disk.drop(entry.xxh3)
        with self._lock:
            self.counts.lost += 1
        return None

    def _levels(self, entry: IndexEntry, number: int) -> Iterator[tuple[str, Callable[[], bytes | None]]]:
        disk, objects = self.disk, self.objects
        if disk is not None:
            yield NVME, lambda: disk.get(entry.xxh3)
        yield SHARED, lambda: self.shards.stretch(number)
        if objects is not None:
            yield OBJECTS, lambda: objects.read(entry.shard, entry.offset, entry.size)

    def _count(self, level: str) -> None:
        with self._lock:
            self.counts.hits[level] += 1

    def read(self, number: int) -> RawSample | None:
        """A sample; None when it is damaged wherever it lies."""
        return self.decode(number, self.stretch(number))

    def decode(self, number: int, data: bytes | None) -> RawSample | None:
        """A sample from its bytes; None when there are none, or none that can be decoded."""
        if data is None:
            return None
        try:
            return decode(self.shards.entries[number], data, whole=False)
        except ValueError:
            with self._lock:
                self.counts.lost += 1
            return None

    def warm(self, number: int) -> None:
        """Have a sample on the disk before it is asked for."""
        entry = self.shards.entries[number]
        if self.disk is None or self.disk.problem is not None or entry.xxh3 in self.disk:
            return
        try:
            data = self.shards.stretch(number)
        except OSError:
            return
        if checksum(data) == entry.xxh3:
            self.disk.put(entry.xxh3, data)

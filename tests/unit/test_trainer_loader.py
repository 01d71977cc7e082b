"""Caches and loader: what comes out is what was packed, in order, whatever breaks below."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch

from medllm.shard_index import IndexEntry, checksum
from tests.trainer_helpers import tiny_config, write_dataset
from trainer.data.cache import MEMORY, NVME, OBJECTS, SHARED, DiskCache, MemoryCache, SampleReader
from trainer.data.collate import Batch, Collator, batches_of
from trainer.data.gate import Dataset, open_dataset
from trainer.data.loader import Loader, rank_batches
from trainer.data.shards import ShardSet

CONFIG = tiny_config()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    directory = tmp_path_factory.mktemp("data") / "notes"
    return open_dataset(directory, write_dataset(directory), CONFIG)


@pytest.fixture
def spoiled(tmp_path: Path) -> Dataset:
    """One byte of sample 3's shard differs from what the index says, after the gate let it pass."""
    directory = tmp_path / "notes"
    data = open_dataset(directory, write_dataset(directory), CONFIG)
    entry = data.train.entries[3]
    with (directory / entry.shard).open("r+b") as stream:
        stream.seek(entry.members["txt"][0])
        stream.write(b"\0")
    return data


def order(data: Dataset, consumed: int = 0, rank: int = 0, world_size: int = 1) -> Iterator[tuple[list[int], int]]:
    return rank_batches(batches_of(data.train, CONFIG), consumed, 4, rank, world_size)


def loader(data: Dataset, reader: SampleReader, *, threads: int = 3, ahead: int = 5) -> Loader:
    collator = Collator(CONFIG, data.tokenizer)
    return Loader(reader, collator, lambda: order(data), threads=threads, ahead=ahead)


def same(first: Batch, second: Batch) -> bool:
    return first.target_tokens == second.target_tokens and all(
        torch.equal(one, other)
        for one, other in zip((first.targets, *first.inputs()), (second.targets, *second.inputs()), strict=True)
    )


@pytest.mark.parametrize(("threads", "ahead"), [(1, 1), (4, 8)])
def test_batches_come_in_order_however_many_threads_make_them(dataset: Dataset, threads: int, ahead: int) -> None:
    collator = Collator(CONFIG, dataset.tokenizer)
    with loader(dataset, SampleReader(dataset.train, MemoryCache(0)), threads=threads, ahead=ahead) as made:
        got = list(islice(made, 40))
    for (batch, consumed), (numbers, expected) in zip(got, order(dataset), strict=False):
        assert consumed == expected
        assert same(batch, collator.collate([dataset.train.read(number) for number in numbers]))


def test_closing_ends_all_threads(dataset: Dataset, tmp_path: Path) -> None:
    before = threading.active_count()
    made = loader(dataset, SampleReader(dataset.train, MemoryCache(0), DiskCache(tmp_path / "c", 2**20)))
    assert threading.active_count() > before
    next(made)
    made.close()
    assert threading.active_count() == before


def test_each_level_is_asked_in_turn(dataset: Dataset, tmp_path: Path) -> None:
    disk = DiskCache(tmp_path / "cache", 2**20)
    reader = SampleReader(dataset.train, MemoryCache(2**20), disk)
    assert reader.stretch(0) == reader.stretch(0) == dataset.train.stretch(0)
    assert reader.counts.hits == {SHARED: 1, MEMORY: 1}
    again = SampleReader(dataset.train, MemoryCache(0), DiskCache(tmp_path / "cache", 2**20))
    again.read(0)
    assert again.counts.hits == {NVME: 1}, "a new process finds what the one before has put there"


def test_a_damaged_copy_is_noticed_dropped_and_read_anew(dataset: Dataset, tmp_path: Path) -> None:
    reader = SampleReader(dataset.train, MemoryCache(0), disk := DiskCache(tmp_path / "cache", 2**20))
    whole = reader.stretch(5)
    path = disk.path(dataset.train.entries[5].xxh3)
    path.write_bytes(b"torn")
    assert reader.stretch(5) == whole
    assert reader.counts.damaged == {NVME: 1}
    assert path.read_bytes() == whole
    assert reader.counts.lost == 0


class Copies:
    """What an object store holds."""

    def __init__(self, shards: ShardSet, damaged: bool = False) -> None:
        self.content = {entry.shard: (shards.directory / entry.shard).read_bytes() for entry in shards.entries}
        self.damaged = damaged

    def read(self, shard: str, offset: int, size: int) -> bytes:
        if self.damaged:
            raise OSError("no such object")
        return self.content[shard][offset : offset + size]


def test_what_the_shared_storage_damaged_comes_from_the_object_store(tmp_path: Path) -> None:
    directory = tmp_path / "notes"
    data = open_dataset(directory, write_dataset(directory), CONFIG)
    copies, whole = Copies(data.train), data.train.read(3)
    (directory / data.train.entries[3].shard).write_bytes(b"")
    reader = SampleReader(data.train, MemoryCache(0), None, copies)
    found = reader.read(3)
    assert found is not None
    assert found.text == whole.text
    assert reader.counts.hits == {OBJECTS: 1}
    assert reader.counts.damaged == {SHARED: 1}
    copies.damaged = True
    assert reader.read(3) is None
    assert reader.counts.lost == 1


def test_a_lost_sample_leaves_an_empty_row_and_is_told_by_its_key(
    spoiled: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []
    reader = SampleReader(spoiled.train, MemoryCache(0))
    collator = Collator(CONFIG, spoiled.tokenizer)
    with Loader(reader, collator, lambda: order(spoiled), on_lost=told.extend) as made:
        batches = list(islice(made, len(spoiled.train) // CONFIG.batch.micro_size))
    assert told == [spoiled.train.entries[3].key]
    assert made.lost == 1
    empty = [row for batch, _ in batches for row in batch.targets if (row < 0).all()]
    assert len(empty) == 1
    assert capsys.readouterr() == ("", "")


def test_a_full_disk_costs_speed_and_nothing_else(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    disk = DiskCache(tmp_path / "cache", 2**20)
    monkeypatch.setattr(DiskCache, "_write", refuse)
    reader = SampleReader(dataset.train, MemoryCache(0), disk)
    assert all(reader.read(number) is not None for number in range(8))
    assert disk.problem is not None
    assert disk.used == 0
    assert reader.counts.hits == {SHARED: 8}


def test_a_directory_that_can_not_be_made_is_no_error(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "file").touch()  # nothing can be below it, whoever asks
    disk = DiskCache(tmp_path / "file" / "cache", 2**20)
    assert disk.problem is not None
    assert SampleReader(dataset.train, MemoryCache(0), disk).read(0) is not None


def test_memory_drops_what_was_not_used_for_longest() -> None:
    cache = MemoryCache(30)
    for name in "abc":
        cache.put(name, b"x" * 10)
    assert cache.get("a")
    cache.put("d", b"x" * 10)
    assert [name for name in "abcd" if cache.get(name)] == ["a", "c", "d"]
    cache.put("huge", b"x" * 31)
    assert cache.get("huge") is None
    assert cache.used == 30


def test_the_disk_drops_what_is_used_least_and_old_use_fades(tmp_path: Path) -> None:
    now = 0.0
    disk = DiskCache(tmp_path / "cache", 106, half_life_s=10, clock=lambda: now)
    names = [f"{number:016x}" for number in range(5)]
    for name in names[:4]:
        disk.put(name, b"x" * 25)
    for _ in range(8):
        disk.get(names[0])
    now = 5.0
    for name in names[1:3]:
        disk.get(name)
    disk.put(names[4], b"x" * 25)
    assert disk.get(names[3]) is None, "used once, long ago"
    now = 100.0
    for name in (*names[1:3], names[4]):
        disk.get(name)
    disk.put("f" * 16, b"x" * 25)
    assert [name for name in names if disk.get(name)] == [names[1], names[2], names[4]], "nine uses 95 s ago are old"


def test_processes_share_a_directory_and_drop_only_their_own(tmp_path: Path) -> None:
    one, other = (DiskCache(tmp_path / "cache", 200, share=share, shares=2) for share in range(2))
    even, odd = f"{2:016x}", f"{3:016x}"
    one.put(even, b"even")
    one.put(odd, b"not its own")
    other.put(odd, b"odd")
    assert (one.get(odd), other.get(even)) == (b"odd", b"even")
    for number in range(4, 40, 2):
        one.put(f"{number:016x}", b"x" * 10)
    assert one.used <= 100
    assert other.get(odd) == b"odd"


def test_a_killed_writer_leaves_nothing(tmp_path: Path) -> None:
    disk = DiskCache(tmp_path / "cache", 200)
    disk.put("a" * 16, b"whole")
    draft = disk.path("a" * 16).parent / ".draft"
    draft.write_bytes(b"half")
    assert DiskCache(tmp_path / "cache", 200).used == 5
    assert not draft.exists()


def test_the_next_epoch_is_on_the_disk_before_it_is_asked_for(dataset: Dataset, tmp_path: Path) -> None:
    disk = DiskCache(tmp_path / "cache", 2**30)
    reader = SampleReader(dataset.train, MemoryCache(0), disk)
    with loader(dataset, reader, ahead=1) as made:
        next(made)
        for _ in range(200):
            if all(entry.xxh3 in disk for entry in dataset.train.entries):
                break
            threading.Event().wait(0.05)
    assert all(entry.xxh3 in disk for entry in dataset.train.entries)


def test_memory_does_not_grow_with_the_samples_read(dataset: Dataset, tmp_path: Path) -> None:
    """Python's own account; the long run on whole processes is in benchmarks/perf/loader."""
    reader = SampleReader(dataset.train, MemoryCache(200_000), DiskCache(tmp_path / "cache", 400_000))
    with loader(dataset, reader, ahead=2) as made:
        for _ in islice(made, 100):
            pass
        tracemalloc.start()
        for _ in islice(made, 100):
            pass
        first = tracemalloc.get_traced_memory()[0]
        for _ in islice(made, 400):
            pass
        grown = tracemalloc.get_traced_memory()[0] - first
        tracemalloc.stop()
    assert grown < 1_000_000, "one batch in flight is some 200 kB"


@pytest.mark.parametrize(
    "change",
    [
        {"offset": -1}, {"size": 0}, {"tokens": 0}, {"members": {}}, {"members": {"txt": [0, 10**9]}}, {"tokens": None},
        {"arrays": {"image.blosc": ["|O", [2]]}}, {"arrays": {"none": ["<i2", [2]]}}, {"more": 1}, {"members": [1]},
    ],
)  # fmt: skip
def test_an_index_line_that_can_not_be_is_refused(dataset: Dataset, change: dict[str, object]) -> None:
    import json

    good = dataset.train.entries[0].line()
    assert IndexEntry.parse(good) == dataset.train.entries[0]
    with pytest.raises(ValueError, match=r"\w"):
        IndexEntry.parse(json.dumps({**json.loads(good), **change}))


def test_the_checksum_is_the_published_one() -> None:
    """XXH3-64 of nothing and of "abc" as the reference implementation gives them."""
    assert checksum(b"") == "2d06800538d394c2"
    assert checksum(b"abc") == "78af5f94892f3950"

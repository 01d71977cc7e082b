"""Batches made ahead of their use, in a fixed order, by a few threads.

Threads and not processes: reading, checking, decompressing and tokenising leave the interpreter's lock, so a few
threads keep up with a GPU, share one cache, and neither fork nor pickle beside DeepSpeed's and CUDA's threads.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from trainer.data.cache import SampleReader
from trainer.data.collate import Batch, Collator
from trainer.data.order import Batches
from trainer.data.stages import COLLATE, DECODE, READ, WAIT, StageClock

# A warmed sample that is dropped again before its use would be work for nothing.
_WARM_SHARE = 0.5


def rank_batches(
    batches: Batches, consumed: int, per_step: int, rank: int, world_size: int
) -> Iterator[tuple[list[int], int]]:
    """One rank's micro-batches from `consumed` samples on, and after each the samples that all ranks have consumed when
    the step that it belongs to is done. `per_step` micro-batches of all ranks are a step.
    """
    while True:
        step = batches.step(consumed, per_step)
        consumed += sum(map(len, step))
        for index in range(rank, per_step, world_size):
            yield step[index], consumed


class Loader:
    """An iterator over batches. Use it as a context manager, or close it: it has threads."""

    def __init__(
        self,
        reader: SampleReader,
        collator: Collator,
        order: Callable[[], Iterator[tuple[list[int], int]]],
        *,
        threads: int = 4,
        ahead: int = 8,
        pin_memory: bool = False,
        on_lost: Callable[[Sequence[str]], None] = lambda _keys: None,
        clock: StageClock | None = None,
    ) -> None:
        """
        Args:
            order: gives the batches from the start, as `rank_batches` does; it is called a second time to warm the disk
            ahead: batches that are made before they are asked for
            clock: told how long what took
            on_lost: told the keys of samples that could not be read, in the thread that asks for batches
        """
        self.reader, self.collator = reader, collator
        self._order, self._pin, self._on_lost = order(), pin_memory, on_lost
        self._clock = clock or StageClock()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="loader")
        self._waiting: deque[tuple[Future[tuple[Batch, list[str]]], int]] = deque()
        self._closed = threading.Event()
        self._warmer: threading.Thread | None = None
        self._taken = threading.Semaphore(0)
        self.threads = threads
        self.batches = 0
        """Batches that were taken."""
        self.starved = 0
        """Batches that were not ready when they were asked for."""
        self.lost = 0
        """Samples that could not be read; each left an empty row."""
        if reader.disk is not None and reader.disk.capacity:
            self._warmer = threading.Thread(target=self._warm, args=(order(),), name="warmer", daemon=True)
            self._warmer.start()
        for _ in range(ahead):
            self._submit()

    def _submit(self) -> None:
        numbers, consumed = next(self._order)
        self._waiting.append((self._pool.submit(self._make, numbers), consumed))

    def _make(self, numbers: Sequence[int]) -> tuple[Batch, list[str]]:
        with self._clock.stage(READ):
            found = [self.reader.stretch(number) for number in numbers]
        with self._clock.stage(DECODE):
            samples = [self.reader.decode(number, data) for number, data in zip(numbers, found, strict=True)]
        lost = [
            self.reader.shards.entries[number].key
            for number, sample in zip(numbers, samples, strict=True)
            if sample is None
        ]
        with self._clock.stage(COLLATE):
            batch = self.collator.collate(samples)
            return (batch.pin_memory() if self._pin else batch), lost

    def __iter__(self) -> Iterator[tuple[Batch, int]]:
        return self

    def __next__(self) -> tuple[Batch, int]:
        """The next batch, and the samples consumed after the step that it belongs to (see `rank_batches`)."""
        future, consumed = self._waiting.popleft()
        self.batches += 1
        self.starved += not future.done()
        self._submit()
        self._taken.release()
        with self._clock.stage(WAIT):
            batch, lost = future.result()
        if lost:
            self.lost += len(lost)
            self._on_lost(lost)
        return batch, consumed

    def _warm(self, order: Iterator[tuple[list[int], int]]) -> None:
        """Copy what comes next to the disk: an epoch ahead, or as far as half the disk's cache reaches."""
        disk, entries = self.reader.disk, self.reader.shards.entries
        assert disk is not None
        ahead: deque[tuple[int, int]] = deque()
        samples = size = 0
        while not self._closed.is_set():
            if samples > len(entries) or size > disk.capacity * _WARM_SHARE:
                if self._taken.acquire(timeout=0.2):
                    used = ahead.popleft()
                    samples, size = samples - used[0], size - used[1]
                continue
            numbers, _ = next(order)
            ahead.append((len(numbers), sum(entries[number].size for number in numbers)))
            samples, size = samples + ahead[-1][0], size + ahead[-1][1]
            for number in numbers:
                if self._closed.is_set():
                    return
                self.reader.warm(number)

    def close(self) -> None:
        """End the threads; what was made ahead is dropped."""
        self._closed.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._warmer is not None:
            self._warmer.join()

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

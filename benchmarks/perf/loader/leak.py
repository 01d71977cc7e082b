"""Does the loader's process grow? The resident memory over very many samples, as a slope."""

from __future__ import annotations

import ctypes
import gc
import os
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from curation.pack.shards import Sample, write_shards
from medllm.shard_index import write_index
from trainer.config import load_config
from trainer.data.cache import DiskCache, MemoryCache, SampleReader
from trainer.data.collate import Collator, batches_of
from trainer.data.loader import Loader, rank_batches
from trainer.data.shards import ShardSet, read_index
from trainer.data.text import NoteTokenizer

_STORED, _BATCH = 2000, 32
# Caches fill and allocators settle at first; that is no leak.
_SETTLING_SHARE = 0.25


def measure_leak(samples: int) -> dict[str, Any]:
    """Read `samples` samples through all of the loader, with caches far smaller than the data set, so that all of them
    keep dropping what they hold.
    """
    from curation.pack.tokenizer import token_counter, train_tokenizer

    config = load_config("medllm-tiny", [f"batch.micro_size={_BATCH}", f"batch.global_size={_BATCH}"])
    random = np.random.default_rng(3)
    with tempfile.TemporaryDirectory(prefix="medllm-leak-") as name:
        directory = Path(name)
        notes = [" ".join(random.choice(["lungs", "clear", "no", "effusion", "seen"], 60)) for _ in range(_STORED)]
        tokenizer = train_tokenizer(notes, 512)
        (directory / "tokenizer.json").write_text(tokenizer)
        members = [
            Sample(
                f"{number:06d}", {}, note, random.integers(0, 900, (64, 64)).astype(np.int16),
                random.normal(0, 1, (12, 500)).astype(np.float32),
            )
            for number, note in enumerate(notes)
        ]  # fmt: skip
        index = write_shards(directory, "train", members, 500, token_counter(tokenizer))
        write_index(directory, index)
        stored = sum(entry.size for entry in index)
        del members, index
        shards = ShardSet(directory, read_index(directory))
        reader = SampleReader(shards, MemoryCache(stored // 10), DiskCache(directory / "cache", stored // 4))
        collator = Collator(config, NoteTokenizer(directory / "tokenizer.json", config.model.vocabulary))
        points: list[tuple[int, int]] = []
        begin = time.perf_counter()
        with Loader(
            reader, collator, lambda: rank_batches(batches_of(shards, config), 0, 1, 0, 1), threads=2, ahead=8
        ) as loader:
            for number in count():
                next(loader)
                read = (number + 1) * _BATCH
                if number % 50 == 0:
                    gc.collect()
                    points.append((read, _resident()))
                if read >= samples:
                    break
        seconds = time.perf_counter() - begin
        hits = dict(reader.counts.hits)
    settled = [point for point in points if point[0] >= samples * _SETTLING_SHARE]
    slope, _ = np.polyfit([read for read, _ in settled], [size for _, size in settled], 1)
    return {
        "samples": read, "seconds": round(seconds, 1), "samples_per_s": round(read / seconds),
        "resident_MiB_first_last": [round(settled[0][1] / 2**20, 1), round(settled[-1][1] / 2**20, 1)],
        "slope_bytes_per_sample": round(float(slope), 3), "hits": hits,
    }  # fmt: skip


def _resident() -> int:
    """Bytes in memory, without what the allocator holds in reserve."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

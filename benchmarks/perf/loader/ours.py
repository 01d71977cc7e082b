"""Our reader for the comparison, and the pictures that all readers read: `python -m benchmarks.perf.loader.ours`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.data import get_testdata_file
from scipy.ndimage import zoom

from benchmarks.perf.loader.peers import Decoded, fingerprint, originals, timed
from curation.pack.shards import Sample, write_shards
from medllm.shard_index import write_index
from trainer.data.cache import MemoryCache, SampleReader
from trainer.data.order import epoch_order
from trainer.data.shards import ShardSet, read_index

SIZE, LEADS, LENGTH = 512, 12, 5000
# Of a CT slice: what remains in air and water after reconstruction, Hounsfield units.
_NOISE_HU = 6.0
_FILES = {
    "webdataset-png": "wds-png-*", "webdataset-raw": "wds-npy-*", "mosaic-png": "mds-png/*", "mosaic-raw": "mds-raw/*",
    "litdata-png": "lit-png/*", "litdata-raw": "lit-raw/*", "ours": "shards/*",
}  # fmt: skip


def picture(random: np.random.Generator) -> NDArray[np.int16]:
    """A slice of SIZE × SIZE, int16: a real one of 128 × 128, enlarged, with the noise that enlarging took away."""
    dataset = pydicom.dcmread(str(get_testdata_file("CT_small.dcm", download=False)))
    small = np.roll(dataset.pixel_array.astype(np.float32), tuple(random.integers(0, 128, 2)), axis=(0, 1))
    large: NDArray[Any] = zoom(small, SIZE / len(small), order=1)
    return np.rint(large + random.normal(0, _NOISE_HU, large.shape)).astype(np.int16)


def waveform(random: np.random.Generator) -> NDArray[np.float32]:
    """Ten seconds of twelve leads at 500 Hz, in steps of a microvolt as a recorder gives them; millivolts."""
    times = np.arange(LENGTH) / 500
    beats = np.exp(-(((times * random.uniform(0.9, 1.8)) % 1 - 0.5) ** 2) / 0.001)
    leads = beats * random.uniform(-1, 1.5, (LEADS, 1)) + random.normal(0, 0.01, (LEADS, LENGTH))
    return (np.rint(leads * 1000) / 1000).astype(np.float32)


def write_originals(directory: Path, count: int) -> None:
    """What every writer reads."""
    random = np.random.default_rng(7)
    (directory / "originals").mkdir()
    for number in range(count):
        text = f"Study {number}. " + " ".join(random.choice(["lungs", "clear", "no", "effusion", "seen"], 150))
        np.savez(
            directory / "originals" / f"{number:06d}.npz",
            text=np.array(text), image=picture(random), waveform=waveform(random),
        )  # fmt: skip


def write(directory: Path) -> None:
    """Our shards of the same samples."""
    samples = [Sample(key, {}, text, image, ecg) for key, text, image, ecg in originals(directory)]
    index = write_shards(directory, "train", samples, 100, len)
    write_index(directory, index)


def read(reader: SampleReader, order: NDArray[np.int64]) -> Iterator[Decoded]:
    """All samples in this order: found by index, checked against their checksum, decoded; no cache."""
    for number in order:
        sample = reader.read(int(number))
        assert sample is not None
        assert sample.image is not None
        assert sample.waveform is not None
        yield sample.text, sample.image, sample.waveform


def original_fingerprint(directory: Path) -> str:
    """What every reader must give."""
    return fingerprint((text, image, ecg) for _, text, image, ecg in originals(directory))


def stored_bytes(directory: Path, kind: str) -> int:
    """What a reader's files take."""
    return sum(path.stat().st_size for path in directory.glob(_FILES[kind]))


def main() -> None:
    """Command line, as peers.py's."""
    what, _, place = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    shards = ShardSet(place, read_index(place))
    reader, order = SampleReader(shards, MemoryCache(0)), epoch_order(1, 0, len(shards))
    if what == "check":
        print(json.dumps({"fingerprint": fingerprint(read(reader, order))}))
    else:
        print(json.dumps(timed(lambda: read(reader, order))))


if __name__ == "__main__":
    main()

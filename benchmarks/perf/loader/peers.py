"""The readers that others wrote, in an environment of their own: `python peers.py write|read|check KIND DIRECTORY`.

It imports nothing of this project, which that environment does not hold. `read` passes over all samples, decoded, again
and again for a second or longer, and prints {"samples", "seconds"}; `check` prints a hash over every pixel.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Decoded = tuple[str, NDArray[Any], NDArray[Any]]
# Long against the clock and a process's warm-up, short enough for many rounds.
_PASS_S = 1.5


def originals(directory: Path) -> Iterator[tuple[str, str, NDArray[Any], NDArray[Any]]]:
    """Key, text, image int16 [height, width] and waveform float32 [leads, samples] of each sample."""
    for path in sorted((directory / "originals").glob("*.npz")):
        with np.load(path) as data:
            yield path.stem, str(data["text"]), data["image"], data["waveform"]


def png(image: NDArray[Any]) -> bytes:
    """16-bit greyscale, lossless; the level that the libraries' users get by default."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray((image.astype(np.int32) + 32768).astype(np.uint16)).save(stream, "png")
    return stream.getvalue()


def from_png(data: bytes) -> NDArray[Any]:
    """The reverse of `png`."""
    from PIL import Image

    return (np.asarray(Image.open(io.BytesIO(data))).astype(np.int32) - 32768).astype(np.int16)


def npy(array: NDArray[Any]) -> bytes:
    """As np.save writes it."""
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def write_webdataset(directory: Path, encode: Callable[[NDArray[Any]], bytes], extension: str) -> None:
    """Tar shards."""
    import webdataset

    with webdataset.ShardWriter(str(directory / f"wds-{extension}-%03d.tar"), maxcount=100, verbose=0) as sink:
        for key, text, image, waveform in originals(directory):
            sink.write({"__key__": key, "txt": text, f"image.{extension}": encode(image), "ecg.npy": npy(waveform)})


def read_webdataset(directory: Path, extension: str) -> Iterator[Decoded]:
    """Its pipeline, with its own decoder for arrays; PNG by Pillow, for its own makes floats or 8 bits of 16."""
    import webdataset

    shards = sorted(str(path) for path in directory.glob(f"wds-{extension}-*.tar"))
    for sample in webdataset.WebDataset(shards, shardshuffle=False):
        image = sample[f"image.{extension}"]
        decoded = from_png(image) if extension == "png" else np.load(io.BytesIO(image))
        yield sample["txt"].decode(), decoded, np.load(io.BytesIO(sample["ecg.npy"]))


def write_mosaic(directory: Path, encode: Callable[[NDArray[Any]], Any], kind: str) -> None:
    """MDS shards."""
    from streaming import MDSWriter

    columns = {"text": "str", "image": "bytes" if kind == "png" else "ndarray", "waveform": "ndarray"}
    with MDSWriter(out=str(directory / f"mds-{kind}"), columns=columns) as sink:
        for _, text, image, waveform in originals(directory):
            sink.write({"text": text, "image": encode(image), "waveform": waveform})


def read_mosaic(directory: Path, kind: str) -> Iterator[Decoded]:
    """Its dataset, local files, in order."""
    from streaming import StreamingDataset

    for sample in _MOSAIC.setdefault(
        kind, StreamingDataset(local=str(directory / f"mds-{kind}"), shuffle=False, batch_size=1)
    ):
        yield sample["text"], from_png(sample["image"]) if kind == "png" else sample["image"], sample["waveform"]


# Its object claims names in shared memory: one a process.
_MOSAIC: dict[str, Any] = {}


def _litdata_sample(item: tuple[str, str, str]) -> dict[str, Any]:
    path, kind, _ = item
    with np.load(path) as data:
        image = data["image"]
        return {
            "text": str(data["text"]),
            "image": png(image) if kind == "png" else image,
            "waveform": data["waveform"],
        }


def write_litdata(directory: Path, kind: str) -> None:
    """Its optimised chunks."""
    import litdata

    litdata.optimize(
        fn=_litdata_sample,
        inputs=[(str(path), kind, "") for path in sorted((directory / "originals").glob("*.npz"))],
        output_dir=str(directory / f"lit-{kind}"),
        chunk_bytes="64MB",
        num_workers=1,
    )


def read_litdata(directory: Path, kind: str) -> Iterator[Decoded]:
    """Its dataset, local files, in order."""
    import litdata

    for sample in litdata.StreamingDataset(str(directory / f"lit-{kind}"), shuffle=False):
        yield sample["text"], from_png(sample["image"]) if kind == "png" else sample["image"], sample["waveform"]


WRITERS: dict[str, Callable[[Path], None]] = {
    "webdataset-png": lambda place: write_webdataset(place, png, "png"),
    "webdataset-raw": lambda place: write_webdataset(place, npy, "npy"),
    "mosaic-png": lambda place: write_mosaic(place, png, "png"),
    "mosaic-raw": lambda place: write_mosaic(place, lambda image: image, "raw"),
    "litdata-png": lambda place: write_litdata(place, "png"),
    "litdata-raw": lambda place: write_litdata(place, "raw"),
}
READERS: dict[str, Callable[[Path], Iterable[Decoded]]] = {
    "webdataset-png": lambda place: read_webdataset(place, "png"),
    "webdataset-raw": lambda place: read_webdataset(place, "npy"),
    "mosaic-png": lambda place: read_mosaic(place, "png"),
    "mosaic-raw": lambda place: read_mosaic(place, "raw"),
    "litdata-png": lambda place: read_litdata(place, "png"),
    "litdata-raw": lambda place: read_litdata(place, "raw"),
}


def fingerprint(samples: Iterable[Decoded]) -> str:
    """A hash over text, pixels and waveforms of all samples, in whatever order they come."""
    lines = [
        hashlib.sha256(text.encode() + image.astype("<i2").tobytes() + waveform.astype("<f4").tobytes()).hexdigest()
        for text, image, waveform in samples
    ]
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def timed(read: Callable[[], Iterable[Decoded]]) -> dict[str, float]:
    """Whole passes over all samples until they took long enough; the first pass is not counted."""
    for _ in read():
        pass
    samples, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < _PASS_S:
        for _ in read():
            samples += 1
    return {"samples": samples, "seconds": time.perf_counter() - begin}


def main() -> None:
    """Command line; the last line is JSON."""
    what, kind, place = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    if what == "write":
        WRITERS[kind](place)
        answer: object = {}
    elif what == "check":
        answer = {"fingerprint": fingerprint(READERS[kind](place))}
    else:
        answer = timed(lambda: READERS[kind](place))
    print(json.dumps(answer), flush=True)
    # Some of the libraries' threads and semaphores don't end by themselves.
    os._exit(0)


if __name__ == "__main__":
    main()

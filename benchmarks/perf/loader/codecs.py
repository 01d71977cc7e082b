"""Lossless codecs for 16-bit pictures: how small, and how quick to read."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
from numcodecs import blosc
from numpy.typing import NDArray

from benchmarks.perf.loader.ours import picture
from benchmarks.perf.loader.peers import from_png, npy, png
from medllm.arrays import decode_array, encode_array

_ROUNDS, _PICTURES = 14, 8
Codec = tuple[Callable[[NDArray[Any]], bytes], Callable[[bytes], NDArray[Any]]]


def _blosc(name: bytes, level: int, shuffle: int) -> Codec:
    def decode(data: bytes) -> NDArray[Any]:
        array = np.empty((512, 512), np.int16)
        blosc.decompress(data, array)
        return array

    return lambda image: blosc.compress(image, name, level, shuffle), decode


def _jpeg_ls() -> Codec:
    import jpeg_ls

    def encode(image: NDArray[Any]) -> bytes:
        return bytes(jpeg_ls.encode_array((image.astype(np.int32) + 32768).astype(np.uint16)))

    return encode, lambda data: (jpeg_ls.decode(np.frombuffer(data, np.uint8)).astype(np.int32) - 32768).astype(
        np.int16
    )


def measure_codecs() -> dict[str, Any]:
    """Ratio, and MB of pixels a second on one core; medians of rounds in which the codecs take turns."""
    import io

    random = np.random.default_rng(7)
    images = [picture(random) for _ in range(_PICTURES)]
    codecs: dict[str, Codec] = {
        "ours (blosc lz4hc, bytes shuffled)": (encode_array, decode_array),
        "blosc lz4, bytes shuffled": _blosc(b"lz4", 5, blosc.SHUFFLE),
        "blosc lz4, bits shuffled": _blosc(b"lz4", 5, blosc.BITSHUFFLE),
        "blosc zstd 1, bytes shuffled": _blosc(b"zstd", 1, blosc.SHUFFLE),
        "blosc zstd 1, bits shuffled": _blosc(b"zstd", 1, blosc.BITSHUFFLE),
        "16-bit PNG": (png, from_png),
        "JPEG-LS": _jpeg_ls(),
        "raw .npy": (npy, lambda data: np.load(io.BytesIO(data))),
    }
    size = images[0].nbytes * _PICTURES
    members = {name: [codec[0](image) for image in images] for name, codec in codecs.items()}
    times: dict[str, list[float]] = {name: [] for name in codecs}
    for number in range(_ROUNDS):
        # Each is first once: the first finds colder caches.
        turn = [*codecs][number % len(codecs) :] + [*codecs][: number % len(codecs)]
        for name in turn:
            decode, spent = codecs[name][1], 0.0
            for member, image in zip(members[name], images, strict=True):
                begin = time.perf_counter()
                read = decode(member)
                spent += time.perf_counter() - begin
                assert np.array_equal(read, image)
            times[name].append(spent)
    return {
        "codecs": {
            name: {
                "ratio": round(size / sum(map(len, members[name])), 2),
                "decode_MB_per_s": round(size / 1e6 / median(times[name])),
            }
            for name in codecs
        }
    }

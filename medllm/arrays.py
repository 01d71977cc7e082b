"""Arrays as shards hold them: lossless, small, and quick to read.

One member is a header and one Blosc-1 frame. The header: `MLA1`, the dtype as NumPy writes it in four bytes, the number
of dimensions and each of them as little-endian uint32. The frame: bytes shuffled by significance, then LZ4 in its slow,
close kind, for packing happens once. Decoding, not reading, is what a loader's time goes to; `benchmarks/perf/loader`
compares codecs and readers.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numcodecs import blosc
from numpy.typing import NDArray

# Several loader threads decode at once: the library's own threads and its lock would only be in their way.
blosc.use_threads = False

_MAGIC = b"MLA1"
_HEADER = struct.Struct("<4s4sI")
DTYPES = frozenset({"|u1", "|i1", "<i2", "<u2", "<i4", "<f4"})
"""What can be stored, as NumPy writes it."""
_MAXIMUM_DIMENSIONS = 4
# A Blosc-1 frame: version, LZ version, flags, item size, then bytes of content, of a block and of the frame.
_FRAME = struct.Struct("<BBBBIII")
_LEVEL = 5


def encode_array(array: NDArray[Any]) -> bytes:
    """The member of an array of one to four dimensions and of 8, 16 or 32 bits; equal arrays give equal bytes.

    Raises:
        ValueError: another dtype, no element, no or too many dimensions, 2 GiB or more.
    """
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    if array.dtype.str not in DTYPES or not 1 <= array.ndim <= _MAXIMUM_DIMENSIONS or not array.size:
        raise ValueError(f"can't store an array of {array.dtype} {list(array.shape)}")
    array = np.ascontiguousarray(array)
    header = _HEADER.pack(_MAGIC, array.dtype.str.encode(), array.ndim) + struct.pack(f"<{array.ndim}I", *array.shape)
    frame: bytes = blosc.compress(array, b"lz4hc", _LEVEL, blosc.SHUFFLE)
    return header + frame


def decode_array(data: bytes | memoryview) -> NDArray[Any]:
    """The reverse of `encode_array`: a new array.

    Raises:
        ValueError: these bytes are no such member, or not a whole one.
    """
    view = memoryview(data)
    shape, dtype, begin = _header(view)
    frame = view[begin:]
    if len(frame) < _FRAME.size:
        raise ValueError("the array's frame is cut off")
    _, _, _, item, content, _, whole = _FRAME.unpack_from(frame)
    array = np.empty(shape, dtype)
    if (item, content, whole) != (dtype.itemsize, array.nbytes, len(frame)):
        raise ValueError("the array's frame does not fit its header")
    try:
        blosc.decompress(frame, array)
    except RuntimeError:
        raise ValueError("the array's frame can't be decompressed") from None
    return array


def _header(view: memoryview) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Shape, dtype, and where the frame begins."""
    if len(view) < _HEADER.size:
        raise ValueError("too short for an array")
    magic, kind, dimensions = _HEADER.unpack_from(view)
    name = kind.rstrip(b"\0").decode("ascii", "replace")
    if magic != _MAGIC or name not in DTYPES or not 1 <= dimensions <= _MAXIMUM_DIMENSIONS:
        raise ValueError("not an array of this format")
    begin = _HEADER.size + 4 * dimensions
    if len(view) < begin:
        raise ValueError("the array's header is cut off")
    shape = struct.unpack_from(f"<{dimensions}I", view, _HEADER.size)
    dtype = np.dtype(name)
    # The frame says its size in 32 bits, so nothing larger can be meant.
    size = dtype.itemsize
    for length in shape:
        size *= length
    if not 0 < size < 2**31:
        raise ValueError("an array of an impossible size")
    return shape, dtype, begin

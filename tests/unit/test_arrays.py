"""The arrays of shards: nothing is lost, and damaged bytes are refused."""

from __future__ import annotations

import threading
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from medllm.arrays import DTYPES, decode_array, encode_array

ARRAYS = st.sampled_from(sorted(DTYPES)).flatmap(
    lambda name: arrays(np.dtype(name), array_shapes(max_dims=4, max_side=9))
)


@given(ARRAYS)
def test_every_bit_comes_back(array: NDArray[np.generic]) -> None:
    read = decode_array(encode_array(array))
    assert (read.dtype, read.shape) == (array.dtype, array.shape)
    assert read.tobytes() == array.tobytes(), "not a number is a value, too"


def test_other_byte_orders_and_layouts_are_stored_as_they_read() -> None:
    array = np.arange(24, dtype=">i2").reshape(4, 6).T
    read = decode_array(encode_array(array))
    assert read.dtype == np.dtype("<i2")
    assert np.array_equal(read, array)


@pytest.mark.parametrize(
    "array", [np.zeros((0, 3), np.int16), np.float64([1]), np.int16(1), np.zeros((1,) * 5, np.int16), np.array(["a"])]
)
def test_what_has_no_place_in_a_shard_is_refused(array: NDArray[np.generic]) -> None:
    with pytest.raises(ValueError, match="can't store"):
        encode_array(array)


@given(st.data())
def test_damaged_members_are_refused_or_have_the_declared_shape(data: st.DataObject) -> None:
    """No byte of a member, and no cut, may make the reader crash, hang or take memory at will."""
    good = bytearray(encode_array(np.arange(4096, dtype=np.int16).reshape(64, 64) % 37))
    if data.draw(st.booleans()):
        spoiled = bytes(good[: data.draw(st.integers(0, len(good) - 1))])
    else:
        good[data.draw(st.integers(0, len(good) - 1))] ^= data.draw(st.integers(1, 255))
        spoiled = bytes(good)
    with suppress(ValueError):
        assert decode_array(spoiled).nbytes == 8192


def test_a_header_that_promises_the_impossible_is_refused_before_memory_is_taken() -> None:
    good = encode_array(np.zeros((8, 8), np.int16))
    for dimensions in ((2**32 - 1, 2**32 - 1), (2**31, 1), (0, 8)):
        spoiled = good[:12] + b"".join(length.to_bytes(4, "little") for length in dimensions) + good[20:]
        with pytest.raises(ValueError, match=r"impossible|fit"):
            decode_array(spoiled)


def test_threads_decode_at_once() -> None:
    members = [encode_array(np.full((128, 128), number, np.int16)) for number in range(4)]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(50):
            if not (decode_array(members[number]) == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong

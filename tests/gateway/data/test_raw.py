"""Raw tensor buffers: the same array back, and whatever is wrong is the caller's error."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.data.codecs.raw import from_raw, to_raw
from gateway.data.servable import InputSlot
from registry.errors import PayloadTooLarge, TensorMismatch
from registry.onnx import NUMPY_DTYPES
from registry.vocabulary import TensorSpec

NUMERIC = sorted(name for name, dtype in NUMPY_DTYPES.items() if dtype.kind != "O")


def slot_of(datatype: str, shape: tuple[int | None, ...] | None = None) -> InputSlot:
    return InputSlot(TensorSpec("x", datatype, shape), NUMPY_DTYPES[datatype])


@given(
    st.sampled_from(NUMERIC),
    st.lists(st.integers(0, 4), max_size=4),
    st.integers(0, 7),
    st.randoms(use_true_random=False),
)
def test_numbers_come_back_bit_for_bit_wherever_they_lie(
    datatype: str, shape: list[int], offset: int, random: Random
) -> None:
    slot = slot_of(datatype)
    count = int(np.prod(shape, dtype=np.int64)) * slot.dtype.itemsize
    octets = random.randbytes(count)
    if datatype == "BOOL":
        octets = bytes(octet & 1 for octet in octets)
    body = b"#" * offset + octets
    array = from_raw(slot, memoryview(body)[offset:], shape, 10_000)
    assert array.dtype == slot.dtype
    assert array.shape == tuple(shape)
    assert array.flags.aligned
    assert bytes(to_raw(array)) == octets


def test_an_aligned_buffer_is_not_copied() -> None:
    body = np.arange(6, dtype=np.float32).tobytes()
    array = from_raw(slot_of("FP32"), body, [2, 3], 100)
    assert np.shares_memory(array, np.frombuffer(body, np.uint8))
    assert not array.flags.writeable


@given(st.lists(st.text(st.characters(codec="utf-8")), max_size=8))
def test_strings_come_back(words: list[str]) -> None:
    slot = slot_of("BYTES")
    raw = to_raw(np.array(words, dtype=np.object_))
    assert from_raw(slot, raw, [len(words)], 100).tolist() == words


@given(st.binary(max_size=64), st.integers(0, 2**40))
def test_any_bytes_are_strings_or_a_mismatch(data: bytes, count: int) -> None:
    try:
        array = from_raw(slot_of("BYTES"), data, [count], 2**41)
    except (TensorMismatch, PayloadTooLarge):
        return
    assert bytes(to_raw(array)) == data


@pytest.mark.parametrize(
    ("datatype", "data", "shape", "why"),
    [
        ("FP32", b"\0" * 7, [2], "got 7 bytes"),
        ("FP32", b"\0" * 8, [-2], "0 or more"),
        ("FP32", b"\0" * 4, [1] * 33, "at most 32"),
        ("BOOL", b"\2", [1], "0 or 1"),
        ("BYTES", b"\4\0\0\0abc", [1], "ends inside element 0"),
        ("BYTES", b"\1\0\0\0ab", [1], "left over"),
        ("BYTES", b"\1\0\0\0\xff", [1], "not UTF-8"),
        ("BYTES", b"", [3], "cannot hold 3"),
    ],
)
def test_what_does_not_fit_is_told(datatype: str, data: bytes, shape: list[int], why: str) -> None:
    with pytest.raises(TensorMismatch, match=why):
        from_raw(slot_of(datatype), data, shape, 1000)


def test_the_declared_shape_and_the_limit_are_looked_at_first() -> None:
    with pytest.raises(TensorMismatch, match="model wants"):
        from_raw(slot_of("FP32", (None, 3)), b"", [2**40, 4], 2**50)
    with pytest.raises(PayloadTooLarge, match="the limit is 10"):
        from_raw(slot_of("BYTES"), b"", [11], 10)

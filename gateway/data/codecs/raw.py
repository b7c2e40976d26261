"""Tensors as raw little-endian buffers: what REST binary, gRPC and msgpack have in common.

Source of the format: the Open Inference Protocol, "Raw data" of gRPC and the binary tensor data extension of REST: row
by row, no padding; BOOL is one byte, 0 or 1; an element of BYTES is its length as a uint32 and then its bytes.
Invariant: the number of elements is checked against the declared shape, the limit and the buffer before anything is
allocated. A tensor of numbers is a view of the request's own buffer wherever its alignment allows.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import numpy as np

from gateway.data.servable import InputSlot, Tensor
from registry.errors import PayloadTooLarge, TensorMismatch

_MOST_AXES = 32
_ALIGNMENT = 16
_LENGTH = struct.Struct("<I")

Buffer = bytes | memoryview


def elements(slot: InputSlot, shape: Sequence[int], max_elements: int) -> int:
    """How many elements a tensor of this shape has. Raises TensorMismatch or PayloadTooLarge."""
    if len(shape) > _MOST_AXES or any(size < 0 for size in shape):
        raise _mismatch(slot, f"a shape is at most {_MOST_AXES} sizes of 0 or more")
    count = math.prod(shape)
    if count > max_elements:
        raise PayloadTooLarge(f'input "{slot.spec.name}" has {count} elements, the limit is {max_elements}')
    slot.check_shape(shape)
    return count


def from_raw(slot: InputSlot, data: Buffer, shape: Sequence[int], max_elements: int) -> Tensor:
    """The tensor in this buffer, which must be exactly as long as the shape says. Never written to.

    Raises TensorMismatch or PayloadTooLarge.
    """
    count = elements(slot, shape, max_elements)
    dtype = slot.dtype
    if dtype.kind == "O":
        return _strings(slot, data, count).reshape(shape)
    size = count * dtype.itemsize
    if len(data) != size:
        raise _mismatch(slot, f"got {len(data)} bytes, shape {list(shape)} of {slot.spec.datatype} has {size}")
    if count == 0:
        return np.empty(shape, dtype)
    if dtype.kind == "b":
        octets = np.frombuffer(data, np.uint8)
        if octets.max() > 1:
            raise _mismatch(slot, "a byte of BOOL is 0 or 1")
        return octets.view(np.bool_).reshape(shape)
    return aligned(np.frombuffer(data, dtype).reshape(shape))


def aligned(array: Tensor) -> Tensor:
    """The array, or a copy of one whose fractions lie otherwise than in numpy's own arrays: at a multiple of 16 bytes.

    onnxruntime's sums start with single values up to the next such address, so elsewhere their last bit may differ.
    """
    step = array.itemsize if array.dtype.kind in "iub" else _ALIGNMENT
    return array.copy() if array.__array_interface__["data"][0] % step else array


def _strings(slot: InputSlot, data: Buffer, count: int) -> Tensor:
    view, size = memoryview(data), len(data)
    if count * _LENGTH.size > size:
        raise _mismatch(slot, f"{size} bytes of raw data cannot hold {count} elements of BYTES")
    array = np.empty(count, dtype=np.object_)
    at = 0
    for index in range(count):
        end = at + _LENGTH.size
        if end <= size:
            end += _LENGTH.unpack_from(view, at)[0]
        if end > size:
            raise _mismatch(slot, f"the raw data ends inside element {index} of {count}")
        array[index] = text(slot, bytes(view[at + _LENGTH.size : end]))
        at = end
    if at != size:
        raise _mismatch(slot, f"{size - at} bytes of raw data are left over after {count} elements")
    return array


def text(slot: InputSlot, octets: bytes) -> str:
    """An element of BYTES as the model takes it. Raises TensorMismatch."""
    try:
        return octets.decode()
    except UnicodeDecodeError as error:
        raise _mismatch(slot, f"an element of BYTES is not UTF-8 (byte {error.start})") from None


def to_raw(output: Tensor) -> Buffer:
    """A tensor's raw buffer: a view of the tensor where it lies in one piece."""
    if output.dtype.kind == "O":
        parts: list[bytes] = []
        for value in output.ravel().tolist():
            octets = to_bytes(value)
            parts += (_LENGTH.pack(len(octets)), octets)
        return b"".join(parts)
    if output.size == 0:
        return b""
    return np.ascontiguousarray(output).reshape(-1).view(np.uint8).data


def to_bytes(value: object) -> bytes:
    """An element of BYTES as it is sent."""
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")


def _mismatch(slot: InputSlot, what: str) -> TensorMismatch:
    return TensorMismatch(f'input "{slot.spec.name}": {what}', input=slot.spec.name)

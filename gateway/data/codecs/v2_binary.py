"""The binary tensor data extension of V2: raw buffers after the JSON, or one raw tensor as the whole body.

Source of the format: Triton's "Binary Tensor Data Extension". The header Inference-Header-Content-Length says how many
bytes of the body are JSON; buffers follow in the order of the inputs that have a `binary_data_size`. With 0 the body is
the one input's buffer, and its shape follows from its size. Called by `v2`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from gateway.data.codecs.call import Headers
from gateway.data.codecs.raw import from_raw, text
from gateway.data.servable import InputSlot, Servable, Tensor
from gateway.settings import LimitSettings
from registry.errors import MalformedRequest, TensorMismatch

HEADER = b"inference-header-content-length"
_LINE = 64  # bytes of a cache line


def json_length(headers: Headers, body: bytes) -> int:
    """How many bytes of the body are JSON. Raises MalformedRequest."""
    given = headers[HEADER]
    if not given.isdigit() or len(given) > 10:  # no sign, no space, no more than a body can have
        raise MalformedRequest("Inference-Header-Content-Length must be a whole number of bytes")
    length = int(given)
    if length > len(body):
        raise MalformedRequest(f"Inference-Header-Content-Length is {length}, the body has {len(body)} bytes")
    return length


def room(length: int, headers: Headers) -> memoryview:
    """A place for a body, laid so that its first buffer lies where onnxruntime wants it and need not be moved."""
    given = headers.get(HEADER, b"0")
    before = int(given) if given.isdigit() and len(given) <= 10 else 0
    octets = np.empty(length + _LINE, np.uint8)
    at = -(octets.__array_interface__["data"][0] + before) % _LINE
    return octets.data[at : at + length]


class Buffers:
    """The bytes of a body after its JSON, handed out in order."""

    __slots__ = ("_at", "_rest")

    def __init__(self, rest: memoryview) -> None:
        self._rest = rest
        self._at = 0

    def take(self, name: str, size: Any) -> memoryview:
        """The next `size` bytes. Raises MalformedRequest."""
        if type(size) is not int or size < 0:
            raise MalformedRequest(f'input "{name}": "binary_data_size" must be a whole number of bytes')
        left = len(self._rest) - self._at
        if size > left:
            raise MalformedRequest(f'input "{name}": "binary_data_size" is {size}, the body has {left} bytes left')
        self._at += size
        return self._rest[self._at - size : self._at]

    def end(self) -> None:
        """Raise MalformedRequest when something is left that no input has asked for."""
        left = len(self._rest) - self._at
        if left:
            raise MalformedRequest(f"{left} bytes at the end of the body belong to no input")


NOTHING = Buffers(memoryview(b""))


def from_buffer(
    slot: InputSlot, shape: Any, parameters: Mapping[str, Any], buffers: Buffers, limits: LimitSettings
) -> Tensor:
    """The tensor in an input's buffer. Raises MalformedRequest, TensorMismatch or PayloadTooLarge."""
    if type(shape) is not list or not all(type(size) is int for size in shape):
        raise TensorMismatch(f'input "{slot.spec.name}": "shape" must be a list of integers', input=slot.spec.name)
    buffer = buffers.take(slot.spec.name, parameters["binary_data_size"])
    return from_raw(slot, buffer, shape, limits.tensor_elements)


def whole_body(body: bytes, servable: Servable, limits: LimitSettings) -> Tensor:
    """The tensor of a raw request. Raises MalformedRequest, TensorMismatch or PayloadTooLarge."""
    if len(servable.slots) != 1:
        raise MalformedRequest(f"a raw request is for models of one input, this one has {len(servable.slots)}")
    slot = servable.slots[0]
    declared = slot.spec.shape
    if declared is None:
        raise MalformedRequest("a raw request is for models that declare their input's number of axes")
    shape = [
        1 if axis == 0 and size is None and declared.count(None) > 1 else size for axis, size in enumerate(declared)
    ]
    if shape.count(None) > 1:
        raise MalformedRequest("a raw request is for models with at most one free axis beside the rows")
    known = math.prod(size for size in shape if size is not None)
    if slot.dtype.kind == "O":  # the whole body is one string, without a length before it
        if known != 1:
            raise MalformedRequest("a raw request of BYTES is one string, the model wants more")
        return np.array([text(slot, bytes(body))], dtype=np.object_).reshape([size or 1 for size in shape])
    row_bytes = known * slot.dtype.itemsize
    free = len(body) // row_bytes if row_bytes else 0
    return from_raw(slot, body, [free if size is None else size for size in shape], limits.tensor_elements)

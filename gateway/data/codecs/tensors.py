"""JSON values to tensors, for every JSON protocol: checked types, checked counts, no silent conversions.

A string is never a number, a fraction never an integer, null never NaN, and a number too large for its type is an
error and not infinity.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gateway.data.servable import InputSlot, Tensor
from registry.errors import PayloadTooLarge, TensorMismatch

_INTEGER_LIMITS = {
    np.dtype(name): (np.iinfo(name).min, np.iinfo(name).max)
    for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
}
_KIND_NAMES = {"b": "true/false", "U": "strings", "O": "mixed or null values", "f": "fractions", "i": "integers"}


def from_json(slot: InputSlot, data: Any) -> Tensor:
    """An array of the slot's dtype from nested or flat JSON lists (or one value). Raises TensorMismatch."""
    dtype = slot.dtype
    if dtype.kind == "O":
        return _strings(slot, data)
    try:
        array = np.array(data)
    except (ValueError, OverflowError, RecursionError) as error:
        raise _mismatch(slot, f"the data is ragged or too deep: {error}") from None
    kind = array.dtype.kind
    if array.size == 0 and kind == "f":
        return array.astype(dtype)
    if dtype.kind == "f":
        if kind not in "fiu":
            raise _mismatch(slot, f"got {_KIND_NAMES.get(kind, kind)}, model wants numbers")
        array = array.astype(dtype)
        flat = array.ravel()
        # The square is finite unless a value is huge; only then is every value looked at.
        if not math.isfinite(float(np.dot(flat, flat))) and not np.isfinite(flat).all():
            raise _mismatch(slot, f"a number does not fit {slot.spec.datatype}")
        return array
    if dtype.kind == "b":
        if kind != "b":
            raise _mismatch(slot, f"got {_KIND_NAMES.get(kind, kind)}, model wants true/false")
        return array
    if kind not in "iu":
        raise _mismatch(slot, f"got {_KIND_NAMES.get(kind, kind)}, model wants integers ({slot.spec.datatype})")
    low, high = _INTEGER_LIMITS[dtype]
    if array.dtype != dtype and array.size and (int(array.min()) < low or int(array.max()) > high):
        raise _mismatch(slot, f"a number does not fit {slot.spec.datatype} ({low} to {high})")
    return array.astype(dtype, copy=False)


def _strings(slot: InputSlot, data: Any) -> Tensor:
    array = np.array(data, dtype=object)
    for value in array.flat:
        if type(value) is not str:
            raise _mismatch(slot, "got something else than strings, model wants strings (BYTES)")
    return array


def with_shape(slot: InputSlot, array: Tensor, shape: Any, max_elements: int) -> Tensor:
    """The array in the shape that the request states. Raises TensorMismatch or PayloadTooLarge."""
    if type(shape) is not list or not all(type(n) is int and n >= 0 for n in shape):
        raise _mismatch(slot, '"shape" must be a list of non-negative integers')
    count = math.prod(shape)
    if count > max_elements:
        raise PayloadTooLarge(f'input "{slot.spec.name}" has {count} elements, the limit is {max_elements}')
    if count != array.size:
        raise _mismatch(slot, f"shape {shape} has {count} elements, the data has {array.size}")
    slot.check_shape(shape)
    return array.reshape(shape)


def _mismatch(slot: InputSlot, what: str) -> TensorMismatch:
    return TensorMismatch(f'input "{slot.spec.name}": {what}', input=slot.spec.name)

"""JSON values to tensors, for every JSON protocol: checked types, checked counts, no silent conversions.

A string is never a number, a fraction never an integer, null never NaN, and a number too large for its type is an
error and not infinity.
"""

from __future__ import annotations

import math
from itertools import chain
from typing import Any

import numpy as np

from gateway.data.servable import InputSlot, Tensor
from registry.errors import PayloadTooLarge, TensorMismatch

_MOST_AXES = 32
_NAMES = {bool: "true/false", str: "strings", float: "fractions", int: "integers", type(None): "null", dict: "objects"}
_WANTED: dict[str, tuple[frozenset[type], str]] = {
    "f": (frozenset((int, float)), "numbers"),
    "i": (frozenset((int,)), "integers"),
    "u": (frozenset((int,)), "integers"),
    "b": (frozenset((bool,)), "true/false"),
}


def from_json(slot: InputSlot, data: Any) -> Tensor:
    """An array of the slot's dtype from nested or flat JSON lists (or one value). Raises TensorMismatch."""
    dtype = slot.dtype
    if dtype.kind == "O":
        return _strings(slot, data)
    wanted, name = _WANTED[dtype.kind]
    # Types are looked at before numpy sees the values: one long string among numbers would make all of them that long.
    others = set(map(type, _leaves(slot, data))) - wanted
    if others:
        got = ", ".join(sorted(_NAMES.get(kind, kind.__name__) for kind in others))
        raise _mismatch(slot, f"got {got}, model wants {name} ({slot.spec.datatype})")
    try:
        array = np.array(data, dtype=dtype)
    except (ValueError, OverflowError) as error:
        why = f"a number does not fit {slot.spec.datatype}" if isinstance(error, OverflowError) else f"ragged: {error}"
        raise _mismatch(slot, why) from None
    if dtype.kind == "f":
        flat = array.ravel()
        # The square is finite unless a value is huge; only then is every value looked at.
        if not math.isfinite(float(np.dot(flat, flat))) and not np.isfinite(flat).all():
            raise _mismatch(slot, f"a number does not fit {slot.spec.datatype}")
    return array


def _leaves(slot: InputSlot, data: Any) -> list[Any]:
    """The values of nested lists, flat. Raises TensorMismatch for lists beside values, or too many levels."""
    level = data if type(data) is list else [data]
    for _ in range(_MOST_AXES):
        if not level or type(level[0]) is not list:
            return level
        if any(type(item) is not list for item in level):
            raise _mismatch(slot, "the data is ragged: lists and values on one level")
        level = list(chain.from_iterable(level))
    raise _mismatch(slot, f"the data has more than {_MOST_AXES} levels of lists")


def _strings(slot: InputSlot, data: Any) -> Tensor:
    _leaves(slot, data)
    array = np.array(data, dtype=object)
    for value in array.flat:
        if type(value) is not str:
            raise _mismatch(slot, "got something else than strings, model wants strings (BYTES)")
    return array


def with_shape(slot: InputSlot, array: Tensor, shape: Any, max_elements: int) -> Tensor:
    """The array in the shape that the request states. Raises TensorMismatch or PayloadTooLarge."""
    if type(shape) is not list or len(shape) > _MOST_AXES or not all(type(n) is int and n >= 0 for n in shape):
        raise _mismatch(slot, '"shape" must be a list of at most 32 non-negative integers')
    count = math.prod(shape)
    if count > max_elements:
        raise PayloadTooLarge(f'input "{slot.spec.name}" has {count} elements, the limit is {max_elements}')
    if count != array.size:
        raise _mismatch(slot, f"shape {shape} has {count} elements, the data has {array.size}")
    slot.check_shape(shape)
    return array.reshape(shape)


def _mismatch(slot: InputSlot, what: str) -> TensorMismatch:
    return TensorMismatch(f'input "{slot.spec.name}": {what}', input=slot.spec.name)

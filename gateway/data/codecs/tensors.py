"""JSON values to tensors, for every JSON protocol: checked types, checked counts, no silent conversions.

A string is never a number, a fraction never an integer, and a number too large for its type is an error and not
infinity. null, NaN and Infinity are numbers only for versions whose options allow them (`nan`).
"""

from __future__ import annotations

import math
from itertools import chain
from typing import Any

import numpy as np

from gateway.data.codecs.json_numbers import Numbers, narrow
from gateway.data.servable import InputSlot, Tensor
from registry.errors import PayloadTooLarge, TensorMismatch

_MOST_AXES = 32
_NAMES = {bool: "true/false", str: "strings", float: "fractions", int: "integers", type(None): "null", dict: "objects"}
_WANTED: dict[str, tuple[frozenset[type], str]] = {
    "f": (frozenset((int, float)), "numbers"),
    "V": (frozenset((int, float)), "numbers"),  # bfloat16
    "i": (frozenset((int,)), "integers"),
    "u": (frozenset((int,)), "integers"),
    "b": (frozenset((bool,)), "true/false"),
}


def from_json(slot: InputSlot, data: Any, *, nan: bool = False) -> Tensor:
    """An array of the slot's dtype from nested or flat JSON lists (or one value).

    data: `Numbers` too. nan: null is NaN, and values that are not finite stay. Raises TensorMismatch.
    """
    dtype = slot.dtype
    if type(data) is Numbers:
        array = data.array(dtype)
        if array is not None:
            return array
        data = data.values()
    if dtype.kind == "O":
        return _strings(slot, data)
    wanted, name = _WANTED[dtype.kind]
    is_float = dtype.kind in "fV"
    # Types are looked at before numpy sees the values: one long string among numbers would make all of them that long.
    others = set(map(type, _leaves(slot, data))) - wanted
    if others and not (nan and is_float and others == {type(None)}):
        got = ", ".join(sorted(_NAMES.get(kind, kind.__name__) for kind in others))
        raise _mismatch(slot, f"got {got}, model wants {name} ({slot.spec.datatype})")
    try:
        with np.errstate(over="ignore"):  # what becomes infinite is found below
            is_brain = dtype.kind == "V"
            array = narrow(np.array(data, dtype=np.float64), dtype) if is_brain else np.array(data, dtype=dtype)
    except (ValueError, OverflowError) as error:
        why = f"a number does not fit {slot.spec.datatype}" if isinstance(error, OverflowError) else f"ragged: {error}"
        raise _mismatch(slot, why) from None
    if is_float and not _all_finite(array) and not (nan and _finite_as_given(array, data)):
        raise _mismatch(slot, f"a number does not fit {slot.spec.datatype}")
    return array


def _all_finite(array: Tensor) -> bool:
    if array.dtype.kind == "V":
        return bool(np.isfinite(array).all())
    flat = array.ravel()
    with np.errstate(over="ignore"):
        # The square is finite unless a value is huge; only then is every value looked at.
        return math.isfinite(float(np.dot(flat, flat))) or bool(np.isfinite(flat).all())


def _finite_as_given(array: Tensor, data: Any) -> bool:
    """Whether only what was given as null, NaN or Infinity is not finite: a number too large is no infinity."""
    return np.array_equal(np.isfinite(array), np.isfinite(np.array(data, dtype=np.float64)))


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


def check_shape(slot: InputSlot, shape: Any, max_elements: int) -> int:
    """How many elements a tensor of the shape that a request states has, before its data is looked at.

    Raises TensorMismatch or PayloadTooLarge.
    """
    if type(shape) is not list or len(shape) > _MOST_AXES or not all(type(n) is int and n >= 0 for n in shape):
        raise _mismatch(slot, '"shape" must be a list of at most 32 non-negative integers')
    count = math.prod(shape)
    if count > max_elements:
        raise PayloadTooLarge(f'input "{slot.spec.name}" has {count} elements, the limit is {max_elements}')
    slot.check_shape(shape)
    return count


def with_shape(slot: InputSlot, array: Tensor, shape: Any, max_elements: int) -> Tensor:
    """The array in the shape that the request states. Raises TensorMismatch or PayloadTooLarge."""
    count = check_shape(slot, shape, max_elements)
    if count != array.size:
        raise _mismatch(slot, f"shape {shape} has {count} elements, the data has {array.size}")
    return array.reshape(shape)


def _mismatch(slot: InputSlot, what: str) -> TensorMismatch:
    return TensorMismatch(f'input "{slot.spec.name}": {what}', input=slot.spec.name)

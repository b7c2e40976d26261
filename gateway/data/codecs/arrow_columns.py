"""Columns of an Arrow table as tensors.

What a value may be is as in JSON: integers and fractions for fractions, integers for integers that hold them, never a
string for a number or a number for a string. A null is refused, or NaN where the version allows NaN. Lists of one
length add an axis each, a fixed-shape tensor its axes; a dictionary is taken apart. Invariant: a column in one batch
and of the model's own type is not copied. Values are read from Arrow's buffers by numpy: pyarrow's own `to_numpy`
loads pandas, which stopped a worker for half a second. Works on tables that have been validated. Called by the Arrow
codec, through `frame.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from struct import Struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.data.codecs import arrow_library
from gateway.data.codecs.raw import text
from gateway.data.servable import MOST_TEXTS, InputSlot, Tensor
from gateway.settings import LimitSettings
from registry.errors import PayloadTooLarge, TensorMismatch

_MOST_AXES = 32
_DTYPES = {
    "int8": "i1",
    "int16": "<i2",
    "int32": "<i4",
    "int64": "<i8",
    "uint8": "u1",
    "uint16": "<u2",
    "uint32": "<u4",
    "uint64": "<u8",
    "halffloat": "<f2",
    "float": "<f4",
    "double": "<f8",
}
_VIEW, _VIEW_BYTES, _INSIDE_VIEW = Struct("<iiii"), 16, 12  # bytes of text, its start, buffer, offset


class Columns:
    """A table as `frame.Frame`."""

    def __init__(self, table: Any, limits: LimitSettings) -> None:
        self.names: Sequence[str] | None = table.column_names
        self.width: int = table.num_columns
        self.height: int = table.num_rows
        self._table = table
        self._limits = limits
        self._pa = arrow_library.get()

    def column(self, slot: InputSlot, index: int, nan: bool) -> Tensor:
        """One column as the slot's dtype, (rows, …)."""
        return self.array(slot, index, nan=nan)

    def matrix(self, slot: InputSlot, indexes: Sequence[int], nan: bool) -> Tensor:
        """Columns side by side as the slot's dtype, (rows, columns)."""
        slot.check_shape((self.height, len(indexes)))
        tensor = np.empty((self.height, len(indexes)), slot.dtype)
        for at, index in enumerate(indexes):
            values = self.column(slot, index, nan)
            if values.ndim != 1:
                raise _mismatch(slot, f'column "{self._named(index)}" holds lists, not values')
            tensor[:, at] = values
        return tensor

    def array(self, slot: InputSlot, index: int, *, nan: bool) -> Tensor:
        """A column as (rows, …). nan: a null is NaN, where there is NaN. Raises TensorMismatch or PayloadTooLarge."""
        column = self._table.column(index)
        parts = [self._part(slot, chunk, nan) for chunk in column.chunks or [self._pa.nulls(0, column.type)]]
        if len({part.shape[1:] for part in parts}) > 1:
            raise _mismatch(slot, f'rows of column "{self._named(index)}" differ in shape')
        array: Tensor = parts[0] if len(parts) == 1 else np.concatenate(parts)
        self._check_count(slot, array.size)
        return array

    def _named(self, index: int) -> str:
        return str(self._table.column_names[index])[:100]

    def _check_count(self, slot: InputSlot, count: int) -> None:
        most = self._limits.tensor_elements
        if slot.dtype.kind == "O":
            most = min(most, MOST_TEXTS)
        if count > most:
            raise PayloadTooLarge(f'input "{slot.spec.name}" has {count} elements, the limit is {most}')

    def _part(self, slot: InputSlot, array: Any, nan: bool) -> Tensor:
        """One batch of a column: lists are taken off, level by level, and then its values are read."""
        rows, types = len(array), self._pa.types
        sizes: list[int] = []
        stored: list[int] | None = None  # the order of a fixed-shape tensor's axes
        while len(sizes) <= _MOST_AXES:
            kind = array.type
            if isinstance(kind, self._pa.FixedShapeTensorType) and not sizes:
                stored = kind.permutation
                sizes += kind.shape
                array = _inside(_full(slot, array.storage))
            elif types.is_fixed_size_list(kind):
                sizes.append(kind.list_size)
                array = _inside(_full(slot, array))
            elif types.is_list(kind) or types.is_large_list(kind):
                size, array = _inside_lists(slot, _full(slot, array), "<i4" if types.is_list(kind) else "<i8")
                sizes.append(size)
            else:
                break
        if len(sizes) >= _MOST_AXES:
            raise _mismatch(slot, f"more than {_MOST_AXES} axes")
        self._check_count(slot, rows * math.prod(sizes))
        tensor = self._values(slot, array, nan).reshape(rows, *sizes)
        if stored is None:
            return tensor
        return tensor.transpose(0, *(1 + int(axis) for axis in np.argsort(stored)))

    def _values(self, slot: InputSlot, array: Any, nan: bool) -> Tensor:
        """The values of an array without lists, (n,)."""
        kind, dtype, types = array.type, slot.dtype, self._pa.types
        if types.is_dictionary(kind):
            values = self._values(slot, _full(slot, array.dictionary), nan)
            return np.asarray(values[_numbers(_full(slot, array.indices))])
        is_float = dtype.kind in "fV"
        if array.null_count and not (is_float and nan):
            rule = "the version does not allow NaN" if is_float else f"{slot.spec.datatype} has no missing value"
            raise _mismatch(slot, f"{array.null_count} values are null, and {rule}")
        if dtype.kind == "O":
            return self._texts(slot, array)
        if dtype.kind == "V" and types.is_fixed_size_binary(kind) and kind.byte_width == 2 and not array.null_count:
            return _of_buffer(array, 1, dtype)  # BF16, as in a raw buffer
        if dtype.kind == "b" and types.is_boolean(kind):
            return _bits(array, 1).view(np.bool_)
        if not (types.is_integer(kind) or (is_float and types.is_floating(kind))) or dtype.kind == "b":
            raise _mismatch(slot, f"got Arrow {str(kind)[:100]}, model wants {slot.spec.datatype}")
        numbers = _numbers(array)
        if array.null_count:
            numbers = numbers.astype(numbers.dtype if numbers.dtype.kind == "f" else np.float64)
            numbers[_bits(array, 0) == 0] = np.nan
        return numbers if numbers.dtype == dtype else _fitted(slot, numbers)

    def _texts(self, slot: InputSlot, array: Any) -> Tensor:
        kind, types = array.type, self._pa.types
        if types.is_string(kind) or types.is_binary(kind):
            octets = _pieces(array, "<i4")
        elif types.is_large_string(kind) or types.is_large_binary(kind):
            octets = _pieces(array, "<i8")
        elif types.is_string_view(kind) or types.is_binary_view(kind):
            # Views may all show the same long text: only here strings can be longer than their body.
            size = int(_of_buffer(array, 1, np.dtype("4<i4"))[:, 0].sum(dtype=np.int64)) if len(array) else 0
            if size > self._limits.body_bytes:
                raise PayloadTooLarge(f'input "{slot.spec.name}" has {size} bytes of text')
            octets = _viewed(array)
        else:
            raise _mismatch(slot, f"got Arrow {str(kind)[:100]}, model wants strings (BYTES)")
        texts = np.empty(len(array), np.object_)
        for at, piece in enumerate(octets):
            texts[at] = text(slot, piece)
        return texts


def _of_buffer(array: Any, index: int, dtype: np.dtype[Any], more: int = 0) -> NDArray[Any]:
    """An array's elements (and `more` behind them) in one of its buffers."""
    count, buffer = len(array) + more, array.buffers()[index]
    if buffer is None or len(array) == 0:
        return np.zeros(count, dtype)
    return np.frombuffer(buffer, dtype, count, array.offset * dtype.itemsize)


def _numbers(array: Any) -> NDArray[Any]:
    return _of_buffer(array, 1, np.dtype(_DTYPES[str(array.type)]))


def _bits(array: Any, index: int) -> NDArray[np.uint8]:
    """A buffer of bits, one for each element: 0 or 1."""
    buffer, end = array.buffers()[index], array.offset + len(array)
    if buffer is None:
        return np.zeros(len(array), np.uint8)
    octets = np.frombuffer(buffer, np.uint8, (end + 7) // 8)
    return np.unpackbits(octets, count=end, bitorder="little")[array.offset :]


def _pieces(array: Any, offsets: str) -> Iterator[bytes]:
    """The elements of a string or binary array."""
    ends = _of_buffer(array, 1, np.dtype(offsets), more=1).tolist()
    buffer = array.buffers()[2]
    octets = b"" if buffer is None else memoryview(buffer)
    return (bytes(octets[start:end]) for start, end in pairwise(ends)) if len(array) else iter(())


def _viewed(array: Any) -> Iterator[bytes]:
    """The elements of an array of string or binary views: short ones lie in the view, long ones in a buffer."""
    buffers = [memoryview(buffer) for buffer in array.buffers()[1:] if buffer is not None]
    for at in range(array.offset * _VIEW_BYTES, (array.offset + len(array)) * _VIEW_BYTES, _VIEW_BYTES):
        size, _, which, start = _VIEW.unpack_from(buffers[0], at)
        if size <= _INSIDE_VIEW:
            yield bytes(buffers[0][at + 4 : at + 4 + size])
        else:
            yield bytes(buffers[1 + which][start : start + size])


def _full(slot: InputSlot, array: Any) -> Any:
    """The array, when nothing is missing in it."""
    if array.null_count:
        raise _mismatch(slot, f"{array.null_count} lists or categories are null")
    return array


def _inside(array: Any) -> Any:
    """The elements of lists of fixed size."""
    size = array.type.list_size
    return array.values.slice(array.offset * size, len(array) * size)


def _inside_lists(slot: InputSlot, array: Any, offsets: str) -> tuple[int, Any]:
    """The one length of lists, and their elements. Raises TensorMismatch."""
    ends = _of_buffer(array, 1, np.dtype(offsets), more=1)
    sizes = np.diff(ends)
    if len(sizes) and (sizes != sizes[0]).any():
        raise _mismatch(slot, "its lists differ in length")
    start, end = int(ends[0]), int(ends[-1])
    return int(sizes[0]) if len(sizes) else 0, array.values.slice(start, end - start)


def _fitted(slot: InputSlot, numbers: NDArray[Any]) -> Tensor:
    """Numbers of another type as the slot's, as JSON's would be: rounded to a float, never changed to an integer."""
    dtype, datatype = slot.dtype, slot.spec.datatype
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if len(numbers) and (int(numbers.min()) < limits.min or int(numbers.max()) > limits.max):
            raise _mismatch(slot, f"a number does not fit {datatype}")
        return numbers.astype(dtype)
    wide = numbers.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # signalling NaN, too
        fitted: Tensor = wide.astype(dtype)
    if np.logical_and(~np.isfinite(fitted), np.isfinite(wide)).any():
        raise _mismatch(slot, f"a number does not fit {datatype}")
    return fitted


def _mismatch(slot: InputSlot, what: str) -> TensorMismatch:
    return TensorMismatch(f'input "{slot.spec.name}": {what}', input=slot.spec.name)

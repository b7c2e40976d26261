"""From Arrow to numpy: a column's storage, its numbers, and its texts with each different one held once.

Why: tables come in every Arrow type, and a text that occurs a million times should be read once. Invariants: nothing
here guesses; a null is NaN in numbers, and the place after the last text in texts. Called by `monitor/dates.py`,
`monitor/reference_moments.py` and the offline comparison (`driftgate/drift_*.py`). Imports pyarrow when a column is
looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

Floats = NDArray[np.float64]
_PER_SECOND = {"s": 1.0, "ms": 1e3, "us": 1e6}
_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Texts:
    """A text column: its different texts, without blanks around them, and each row's place among them (n,).

    A null's place is len(distinct). Different places may have equal texts: what told them apart were blanks.
    """

    distinct: pa.StringArray
    places: NDArray[np.int32]

    def rows(self) -> NDArray[np.int64]:
        """(distinct,): how many rows have each."""
        return np.bincount(self.places, minlength=len(self.distinct) + 1)[: len(self.distinct)]

    def spread(self, values: Floats) -> Floats:
        """(n,): each row's value, from those of the different texts; NaN for nulls."""
        return cast(Floats, np.append(values, np.nan)[self.places])


def texts_of(array: pa.Array) -> Texts:
    """Of a column of texts, stored plainly or as a dictionary."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_dictionary(array.type):
        array = array.dictionary_encode()
    elif len(array.dictionary) > len(array):  # a batch of a file whose dictionary is larger than it
        array = array.dictionary_decode().dictionary_encode()
    distinct = pc.utf8_trim_whitespace(array.dictionary)
    places = _raw(array.indices.cast(pa.int32()), np.dtype(np.int32))
    if array.indices.null_count:
        places = np.where(truths(array.indices.is_null()), np.int32(len(distinct)), places)
    if distinct.null_count:
        is_null = np.append(truths(distinct.is_null()), True)
        places = np.where(is_null[places], np.int32(len(distinct)), places)
    return Texts(distinct, places)


# pyarrow's own `array` and most of its `to_numpy` import pandas first, which takes longer than a small comparison.


def truths(array: pa.BooleanArray) -> NDArray[np.bool_]:
    """Truth values (n,), a null is False."""
    import pyarrow as pa

    found = _raw(array.cast(pa.uint8()), np.dtype(np.uint8)).astype(np.bool_)
    return found & truths(array.is_valid()) if array.null_count else found


def _raw(array: pa.Array, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The values of a fixed width, without a copy; anything where there is a null."""
    content = array.buffers()[1]
    if content is None or not len(array):
        return np.zeros(len(array), dtype)
    return np.frombuffer(content, dtype, len(array), array.offset * dtype.itemsize)


def strings(texts: Sequence[str]) -> pa.StringArray:
    """Few texts as an Arrow array."""
    import pyarrow as pa

    encoded = [text.encode() for text in texts]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    return pa.StringArray.from_buffers(len(encoded), pa.py_buffer(ends), pa.py_buffer(b"".join(encoded)))


def taken(array: pa.Array, places: NDArray[np.intp]) -> pa.Array:
    """The values at these places."""
    import pyarrow as pa

    return array.take(pa.Array.from_buffers(pa.int64(), len(places), [None, pa.py_buffer(places.astype(np.int64))]))


def plain(array: pa.Array) -> pa.Array:
    """Without views, large offsets, and dictionaries of anything but texts; a dictionary of texts stays one."""
    import pyarrow as pa

    if pa.types.is_dictionary(array.type):
        kind = array.type.value_type
        if not _is_text(kind):
            return array.dictionary_decode()
        return array if kind == pa.string() else array.cast(pa.dictionary(pa.int32(), pa.string()))
    return array.cast(pa.string()) if _is_text(array.type) and array.type != pa.string() else array


def storage_of(kind: pa.DataType) -> str:
    """What a file stores in a column: number, integer, boolean, date, text, null or other."""
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(kind):
        return storage_of(kind.value_type)
    if types.is_boolean(kind):
        return "boolean"
    if types.is_integer(kind):
        return "integer"
    if types.is_floating(kind) or types.is_decimal(kind) or types.is_duration(kind) or types.is_time(kind):
        return "number"
    if types.is_timestamp(kind) or types.is_date(kind):
        return "date"
    if _is_text(kind):
        return "text"
    return "null" if types.is_null(kind) else "other"


def floats(array: pa.Array) -> Floats:
    """Numbers, truths and durations (in seconds) as float64, NaN for nulls."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_time(array.type) or pa.types.is_duration(array.type):
        return _in_seconds(array)
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.int8())
    if array.type != pa.float64():
        array = pc.cast(array, pa.float64(), safe=False)
    values = _raw(array, np.dtype(np.float64))
    return np.where(truths(array.is_valid()), values, np.nan) if array.null_count else values


def seconds(array: pa.Array) -> Floats:
    """Dates and times as seconds since 1970 (UTC where they have a zone), NaN for nulls."""
    import pyarrow as pa

    if pa.types.is_date32(array.type):
        return floats(array.cast(pa.int32())) * _DAY_S
    return floats(array.cast(pa.int64())) / 1e3 if pa.types.is_date64(array.type) else _in_seconds(array)


def _in_seconds(array: pa.Array) -> Floats:
    """Of a type with a unit, NaN for nulls. A far date (the largest number often stands for "never") does not fit into
    a finer unit, so none is made."""
    import pyarrow as pa
    import pyarrow.compute as pc

    unit, count = array.type.unit, array.cast(pa.int32() if array.type.bit_width == 32 else pa.int64())
    if unit == "ns":  # cut, so that it equals the same moment of a file that stores microseconds
        unit, count = "us", pc.divide(count, 1000)
    return floats(count) / _PER_SECOND[unit]


def canonical(array: pa.Array) -> pa.Array:
    """Numbers, truths and dates as the texts that another file would hold: 3.0 is "3"."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_floating(array.type) or pa.types.is_decimal(array.type):
        distinct = pc.cast(array, pa.float64(), safe=False).dictionary_encode()
        values = distinct.dictionary.to_pylist()
        texts = [f"{value + 0.0:.0f}" if value == value // 1 else repr(value) for value in values]  # -0.0 is "0", too
        return pa.DictionaryArray.from_arrays(distinct.indices, pa.array(texts, pa.string()))
    return pc.cast(array, pa.string())


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))

"""Tables to tensors: which column of a data frame is which input of a model, or which column of its one input.

In this order: a column that has an input's name is that input; the columns that the version's reference data named (the
manifest's log schema) make up a 2-D input; a table without any known name is taken in order, if its width fits. A
column that nobody wants is ignored, as data frames carry more than features; one that is missing is an error. Values
keep the types of JSON (`tensors.py`), cells of text are read as the type that the model wants, and a missing value is
NaN where the version allows NaN and refused where it does not. Called by the codecs of forms with columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gateway.data.codecs.json_numbers import Numbers, narrow
from gateway.data.codecs.tensors import from_json
from gateway.data.servable import InputSlot, Servable, Tensor
from gateway.settings import LimitSettings
from registry.errors import MalformedRequest, PayloadTooLarge, TensorMismatch

_TOLD = 20  # names in an error message
_MOST_LACKING = 1_000_000  # cells that no record has, where they are more than the others
_MISSING = frozenset(("", "nan", "na", "n/a", "null", "none", "<na>"))
_BOOLS = {"true": True, "false": False, "1": True, "0": False}


class Frame(Protocol):
    """A table, by rows or by columns."""

    names: Sequence[str] | None  # None: columns in order
    width: int
    height: int

    def column(self, slot: InputSlot, index: int, nan: bool) -> Tensor:
        """One column as the slot's dtype, (rows, ...)."""

    def matrix(self, slot: InputSlot, indexes: Sequence[int], nan: bool) -> Tensor:
        """Columns side by side as the slot's dtype, (rows, columns)."""


class RowFrame:
    """Rows of JSON values, or of text.

    numbers: of text, all its cells as doubles (rows, columns), where they have been read already: NaN is a missing
    value, infinity whatever is no number or none that a double holds. wholes: all its cells as INT64, where they are.
    """

    def __init__(
        self,
        names: Sequence[str] | None,
        rows: list[list[Any]],
        *,
        is_text: bool = False,
        numbers: NDArray[np.float64] | None = None,
        wholes: NDArray[np.int64] | None = None,
    ) -> None:
        self.names = names
        self.height = len(rows)
        if rows and type(rows[0]) is not list:
            raise TensorMismatch("every row must be a list with a value for each column")
        self.width = len(rows[0]) if rows else len(names or ())
        self._rows = rows
        self._read = _text_values if is_text else _values
        self._numbers, self._wholes = numbers, wholes
        if names is not None and len(names) != self.width:
            raise TensorMismatch(f"there are {len(names)} column names and {self.width} columns")
        if any(type(row) is not list or len(row) != self.width for row in rows):
            raise TensorMismatch("every row must be a list with a value for each column")

    @classmethod
    def of_records(cls, records: Sequence[dict[str, Any]]) -> RowFrame:
        """Rows as objects; a key that a row lacks is null there. Raises TensorMismatch or PayloadTooLarge."""
        names = list(records[0]) if records else []
        if any(type(record) is not dict for record in records):
            raise MalformedRequest("every record must be an object keyed by column")
        for record in records:
            if record.keys() != records[0].keys():
                names = list(dict.fromkeys(name for record in records for name in record))
                break
        given, cells = sum(map(len, records)), len(records) * len(names)
        if cells > 2 * given + _MOST_LACKING:  # a new name in each record: a table that grows with their square
            raise PayloadTooLarge(
                f"{len(records)} records have {given} values and {len(names)} different columns, which makes {cells} "
                "cells: too many of them are missing"
            )
        return cls(names, [[record.get(name) for name in names] for record in records])

    def column(self, slot: InputSlot, index: int, nan: bool) -> Tensor:
        """One column as the slot's dtype, (rows, ...)."""
        ready = self._ready(slot, [index], nan)
        return self._read(slot, [row[index] for row in self._rows], nan) if ready is None else ready[:, 0]

    def matrix(self, slot: InputSlot, indexes: Sequence[int], nan: bool) -> Tensor:
        """Columns side by side as the slot's dtype, (rows, columns)."""
        ready = self._ready(slot, indexes, nan)
        if ready is not None:
            return ready
        if list(indexes) == list(range(self.width)):
            flat = [value for row in self._rows for value in row]
        else:
            flat = [row[index] for row in self._rows for index in indexes]
        array = self._read(slot, flat, nan)
        if array.ndim != 1:
            raise TensorMismatch(f'input "{slot.spec.name}": a cell holds a list, model wants one value a cell')
        return array.reshape(self.height, len(indexes))

    def _ready(self, slot: InputSlot, indexes: Sequence[int], nan: bool) -> Tensor | None:
        """Columns that have been read as numbers; None: read their text, which also finds what is wrong with it."""
        if self._wholes is not None and self.height and slot.dtype.kind in "iu":
            return _cast(slot, self._wholes[:, list(indexes)], nan)
        if self._numbers is None or not self.height or slot.dtype.kind not in "fV":
            return None
        chosen = self._numbers[:, list(indexes)]
        if np.isinf(chosen).any() or (not nan and np.isnan(chosen).any()):
            return None
        return _cast(slot, chosen, nan)


class NumberFrame:
    """Rows of JSON numbers that lie in the parser's memory, (rows, columns); at least one row."""

    def __init__(self, names: Sequence[str] | None, numbers: Numbers) -> None:
        self.height, self.width = numbers.dims
        self.names = names
        self._numbers = numbers
        self._arrays: dict[Any, Tensor | None] = {}  # by type
        self._rows: RowFrame | None = None  # the same the ordinary way, which knows what is wrong with them
        if names is not None and len(names) != self.width:
            raise TensorMismatch(f"there are {len(names)} column names and {self.width} columns")

    def column(self, slot: InputSlot, index: int, nan: bool) -> Tensor:
        """One column as the slot's dtype, (rows, ...)."""
        array = self._array(slot)
        return self._ordinary().column(slot, index, nan) if array is None else np.ascontiguousarray(array[:, index])

    def matrix(self, slot: InputSlot, indexes: Sequence[int], nan: bool) -> Tensor:
        """Columns side by side as the slot's dtype, (rows, columns)."""
        array = self._array(slot)
        if array is None:
            return self._ordinary().matrix(slot, indexes, nan)
        return array if list(indexes) == list(range(self.width)) else array[:, list(indexes)]

    def _array(self, slot: InputSlot) -> Tensor | None:
        if slot.dtype not in self._arrays:
            self._arrays[slot.dtype] = self._numbers.array(slot.dtype)
        return self._arrays[slot.dtype]

    def _ordinary(self) -> RowFrame:
        if self._rows is None:
            self._rows = RowFrame(self.names, self._numbers.values())
        return self._rows


class ColumnFrame:
    """Columns as arrays: numbers, true/false, or objects (text, None for a missing value, lists)."""

    def __init__(self, names: Sequence[str], columns: Sequence[Tensor]) -> None:
        self.names: Sequence[str] | None = names
        self.width = len(columns)
        self.height = len(columns[0]) if columns else 0
        self._columns = columns

    def column(self, slot: InputSlot, index: int, nan: bool) -> Tensor:
        """One column as the slot's dtype, (rows, ...)."""
        column = self._columns[index]
        if not self.height:  # of a file without rows the types are not known
            return np.empty(0, slot.dtype)
        if slot.dtype.kind == "O" and column.dtype.kind != "O":
            got = f"got a column of {column.dtype}, model wants strings (BYTES)"
            raise TensorMismatch(f'input "{slot.spec.name}": {got}', input=slot.spec.name)
        if column.dtype.kind == "O":
            return _values(slot, column.tolist(), nan)
        return _cast(slot, column, nan)

    def matrix(self, slot: InputSlot, indexes: Sequence[int], nan: bool) -> Tensor:
        """Columns side by side as the slot's dtype, (rows, columns)."""
        array = np.empty((self.height, len(indexes)), dtype=slot.dtype)
        for at, index in enumerate(indexes):
            column = self.column(slot, index, nan)
            if column.ndim != 1:
                raise TensorMismatch(f'input "{slot.spec.name}": a cell holds a list, model wants one value a cell')
            array[:, at] = column
        return array


def feeds_of(frame: Frame, servable: Servable, limits: LimitSettings) -> list[Tensor]:
    """The tensors of a table in the order of the servable's slots. Raises TensorMismatch or PayloadTooLarge."""
    if frame.width * frame.height > limits.tensor_elements:
        raise PayloadTooLarge(
            f"the table has {frame.width * frame.height} cells, the limit is {limits.tensor_elements}"
        )
    slots, names = servable.slots, frame.names
    nan = not servable.refuses_nonfinite
    if names is not None and len(set(names)) != len(names):
        raise TensorMismatch("a column name stands twice")
    index_of = {name: index for index, name in enumerate(names or ())}
    feeds: list[Tensor | None] = []
    missing: list[str] = []
    any_known = False
    columns = columns_of(servable)
    for slot in slots:
        name = slot.spec.name
        known = columns.get(name)
        feed = None
        if name in index_of:
            any_known = True
            feed = frame.column(slot, index_of[name], nan)
        elif known and not index_of.keys().isdisjoint(known):
            any_known = True
            lacking = [column for column in known if column not in index_of]
            missing += lacking
            feed = None if lacking else frame.matrix(slot, [index_of[column] for column in known], nan)
        else:
            missing.append(name)
        feeds.append(feed)
    if not any_known:
        return checked_texts([fitted(slot, feed, limits) for slot, feed in _in_order(frame, servable, nan)], limits)
    if missing:
        raise TensorMismatch(
            f"the table lacks columns that the model wants: {_told(missing)}; it has {_told(list(index_of))}",
            missing=missing[:_TOLD],
        )
    complete = [fitted(slot, feed, limits) for slot, feed in zip(slots, feeds, strict=True) if feed is not None]
    return checked_texts(complete, limits)


def checked_texts(feeds: list[Tensor], limits: LimitSettings) -> list[Tensor]:
    """The same, if all texts together are no longer than a body may be. Raises PayloadTooLarge.

    A table tells a text once for many rows, and onnxruntime copies it for each.
    """
    size = sum(sum(map(len, feed.ravel().tolist())) for feed in feeds if feed.dtype.kind == "O")
    if size > limits.body_bytes:
        raise PayloadTooLarge(f"the table's texts have {size} characters, the limit is {limits.body_bytes}")
    return feeds


def _in_order(frame: Frame, servable: Servable, nan: bool) -> list[tuple[InputSlot, Tensor]]:
    """A table of no known name: one column an input, or all columns for the one input."""
    slots = servable.slots
    if len(slots) == 1 and _is_flat(slots[0], 2):
        return [(slots[0], frame.matrix(slots[0], range(frame.width), nan))]
    is_named = frame.names is not None and list(frame.names) != [str(number) for number in range(frame.width)]
    if frame.width != len(slots) or (
        is_named and len(slots) > 1
    ):  # pandas numbers the columns of a frame without names
        columns = columns_of(servable)
        wanted = [name for slot in slots for name in columns.get(slot.spec.name, [slot.spec.name])]
        raise TensorMismatch(
            f"the table has {frame.width} columns ({_told(list(frame.names or ()))}), the model wants {_told(wanted)}"
        )
    return [(slot, frame.column(slot, index, nan)) for index, slot in enumerate(slots)]


def _is_flat(slot: InputSlot, axes: int) -> bool:
    return slot.spec.shape is None or len(slot.spec.shape) == axes


def columns_of(servable: Servable) -> dict[str, list[str]]:
    """The names of each input's columns in order, as the version's rows are logged; of inputs that have some."""
    schema = servable.manifest.log_schema
    found: dict[str, list[tuple[int, str]]] = {}
    for name, tensor, kind, offset, *_ in () if schema is None else schema["inputs"]:
        if kind != "summary":
            found.setdefault(tensor, []).append((offset, name))
    return {tensor: [name for _offset, name in sorted(columns)] for tensor, columns in found.items()}


def fitted(slot: InputSlot, array: Tensor, limits: LimitSettings) -> Tensor:
    """An array in the shape that the model wants: rows of plain values fit [N, 1], one instance may be the whole.

    Raises TensorMismatch or PayloadTooLarge.
    """
    if array.size > limits.tensor_elements:
        raise PayloadTooLarge(
            f'input "{slot.spec.name}" has {array.size} elements, the limit is {limits.tensor_elements}'
        )
    wanted = slot.spec.shape
    if wanted is not None and array.ndim == 1 and len(wanted) == 2 and wanted[1] in (1, None):
        array = array.reshape(-1, 1)
    elif wanted is not None and array.ndim == len(wanted) + 1 and len(array) == 1:
        array = array.reshape(array.shape[1:])
    slot.check_shape(array.shape)
    return array


# ---- cells


def _values(slot: InputSlot, values: list[Any], nan: bool) -> Tensor:
    return from_json(slot, values, nan=nan)


def _text_values(slot: InputSlot, cells: list[str], nan: bool) -> Tensor:
    """Cells of text, read as the type that the model wants."""
    kind = slot.dtype.kind
    if kind == "O":
        return from_json(slot, cells)
    if kind == "b":
        return from_json(slot, [_BOOLS.get(cell.strip().lower(), cell) for cell in cells])
    convert = _double if kind in "fV" else _whole
    values: list[Any] = []
    for cell in cells:
        try:
            value: Any = convert(cell)
        except ValueError:
            if not is_missing(cell):
                raise TensorMismatch(
                    f'input "{slot.spec.name}": {cell.strip()[:40]!r} is not a number of type {slot.spec.datatype}',
                    input=slot.spec.name,
                ) from None
            value = None
        values.append(None if value != value else value)
    return from_json(slot, values, nan=nan)


def _double(cell: str) -> float:
    if "_" in cell:  # Python reads 1_000
        raise ValueError
    number = float(cell)
    if math.isinf(number) and "inf" not in cell.lower():  # 1e400: too large is not infinity
        raise ValueError
    return number


def _whole(cell: str) -> int:
    if "_" in cell:
        raise ValueError
    return int(cell)


def is_missing(cell: str) -> bool:
    """Whether a cell of text stands for no value."""
    return cell.strip().lower() in _MISSING


def doubles(rows: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    """Cells of text as `RowFrame` wants them, (rows, columns). Rows of different lengths raise ValueError."""
    # Never all at once as Python's floats, which take four times as much.
    return np.fromiter(map(_number, _cells(rows)), np.float64).reshape(len(rows), -1)


def wholes(rows: Sequence[Sequence[str]]) -> NDArray[np.int64] | None:
    """As `doubles`, for cells that are all INT64; None when one is not."""
    try:
        return np.fromiter(map(_whole, _cells(rows)), np.int64).reshape(len(rows), -1)
    except (ValueError, OverflowError):
        return None


def _cells(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    if any(len(row) != len(rows[0]) for row in rows):
        raise ValueError("rows of different lengths")
    return chain.from_iterable(rows)


def _number(cell: str) -> float:
    try:
        return _double(cell)
    except ValueError:
        return np.nan if is_missing(cell) else np.inf


def _cast(slot: InputSlot, column: Tensor, nan: bool) -> Tensor:
    """Numbers of another width, if every value fits. column: no objects."""
    have, want = column.dtype.kind, slot.dtype.kind
    if have not in {"i": "iu", "u": "iu", "b": "b"}.get(want, "fiu"):
        raise TensorMismatch(
            f'input "{slot.spec.name}": got a column of {column.dtype}, model wants {slot.spec.datatype}',
            input=slot.spec.name,
        )
    with np.errstate(over="ignore", invalid="ignore"):  # what does not fit is found below
        array = narrow(column.astype(np.float64), slot.dtype) if want == "V" else column.astype(slot.dtype)
    if want in "iu":
        fits = bool((array == column).all()) and bool(((array < 0) == (column < 0)).all())
    else:
        finite = np.isfinite(array)
        fits = bool(finite.all()) or (nan and np.array_equal(finite, np.isfinite(column)))
    if not fits:
        raise TensorMismatch(
            f'input "{slot.spec.name}": a number is missing or does not fit {slot.spec.datatype}', input=slot.spec.name
        )
    return array


def _told(names: Sequence[str]) -> str:
    return ", ".join(str(name)[:100] for name in names[:_TOLD]) + (", ..." if len(names) > _TOLD else "")

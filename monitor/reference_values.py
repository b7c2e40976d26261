"""A column of a table in a model's dtype: never a value changed in silence.

Invariant: what the dtype cannot hold is refused with its column, row and value; row 1 follows the header. Called by
`monitor/reference.py`; with it, the only importer of pandas in monitor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from monitor.reference_columns import Wanted
from registry.errors import ArtifactRejected
from registry.onnx import FLOATS, NUMPY_DTYPES

if TYPE_CHECKING:
    import pyarrow as pa

_INTEGERS: dict[str, Any] = {
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
}
_TRUTHS = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0}
_RANGES = {name: (float(np.iinfo(kind).min), float(np.iinfo(kind).max)) for name, kind in _INTEGERS.items()}


def convert(values: pd.Series[Any], item: Wanted, first_row: int) -> NDArray[Any]:
    """A column in the model's dtype, (n,). Missing numbers are NaN, missing text is ""; row 1 follows the header.

    Raises ArtifactRejected naming column, row and value.
    """
    if item.spec.datatype == "BYTES":
        return _texts(values, item)
    numbers = _numbers(values, item, first_row)
    if item.spec.datatype in FLOATS:
        with np.errstate(over="ignore"):  # beyond the dtype is infinity, as it is for a caller
            return numbers.astype(NUMPY_DTYPES[item.spec.datatype])
    what, low, high = f"{item.spec.datatype} input", 0.0, 1.0
    if item.spec.datatype != "BOOL":
        low, high = _RANGES[item.spec.datatype]
    if numbers.dtype.kind == "f":
        _refuse(np.isnan(numbers), values, item.column, first_row, f"a missing value, which an {what} cannot hold")
        _refuse(
            numbers != np.floor(numbers), values, item.column, first_row, f"not a whole number, as the {what} wants"
        )
    _refuse((numbers < low) | (numbers > high), values, item.column, first_row, f"out of the range of the {what}")
    return numbers.astype(np.bool_ if item.spec.datatype == "BOOL" else _INTEGERS[item.spec.datatype])


def arrow_of(values: pd.Series[Any]) -> pa.Array:
    """A column as Arrow has it, null where it is missing: for what reads texts, dates and numbers alike."""
    import pyarrow as pa

    array = pa.array(values, from_pandas=True)
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def _texts(values: pd.Series[Any], item: Wanted) -> NDArray[Any]:
    absent = values.isna().to_numpy(dtype=bool)
    out = np.empty(len(values), object)
    out[:] = [_text(value) for value in values.tolist()]
    out[absent] = ""
    return out


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _numbers(values: pd.Series[Any], item: Wanted, first_row: int) -> NDArray[Any]:
    """Integers stay integers (a float64 would round large ones); everything else becomes float64."""
    if pd.api.types.is_bool_dtype(values.dtype) and not values.hasnans:
        return values.to_numpy(dtype=np.int64)
    if pd.api.types.is_integer_dtype(values.dtype) and not values.hasnans:
        return values.to_numpy()
    if pd.api.types.is_numeric_dtype(values.dtype):
        return values.to_numpy(dtype=np.float64, na_value=np.nan)
    if pd.api.types.is_datetime64_any_dtype(values.dtype):
        raise ArtifactRejected(f"column {item.column!r} holds times; the model wants numbers ({item.spec.datatype})")
    told = values.map(lambda value: _TRUTHS.get(str(value).strip().lower(), value))
    numbers = pd.to_numeric(told, errors="coerce").astype(np.float64)
    bad = numbers.isna().to_numpy(dtype=bool) & values.notna().to_numpy(dtype=bool)
    _refuse(bad, values, item.column, first_row, f"not a number, as the {item.spec.datatype} input wants")
    return numbers.to_numpy(dtype=np.float64)


def _refuse(bad: NDArray[np.bool_], values: pd.Series[Any], column: str, first_row: int, why: str) -> None:
    if not bad.any():
        return
    at = int(np.flatnonzero(bad)[0])
    value = str(values.iloc[at])
    shown = value if len(value) <= 60 else value[:57] + "..."
    raise ArtifactRejected(
        f"column {column!r}, row {first_row + at + 1}: {shown!r} is {why}",
        column=column,
        row=first_row + at + 1,
    )

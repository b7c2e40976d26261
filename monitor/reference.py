"""A table of reference rows (CSV or Parquet) as a model's input tensors.

Why: people keep reference data as tables and models take tensors; this file is the only place that maps one to the
other, and the only importer of pandas in monitor. Invariants: a value is never changed in silence: what the model's
dtype cannot hold is refused with its column, row and value; memory is bounded by MOST_ROWS and MOST_VALUES: a
larger file is thinned evenly by chance with a fixed seed, its order kept. Called at registration, in the parent.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from monitor.reference_columns import Wanted, wanted_columns
from registry.errors import ArtifactRejected
from registry.onnx import FLOATS, NUMPY_DTYPES
from registry.vocabulary import TensorSpec

MOST_ROWS = 200_000  # far more change no bin share by more than .3 %
MOST_VALUES = 40_000_000
_CHUNK_ROWS = 50_000
_CHUNK_VALUES = 5_000_000
_SEED = 20_13
_NULLS = ["", "NA", "N/A", "n/a", "NaN", "nan", "-nan", "null", "NULL", "None", "<NA>"]

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

Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class ReferenceRows:
    """Reference rows as the model takes them.

    feeds: each input's rows on axis 0, in the model's dtype, text as object arrays of str. columns: the table's columns
    that were used, which name the columns of a single 2-D input. rows were kept of rows_read.
    """

    feeds: dict[str, NDArray[Any]]
    columns: tuple[str, ...]
    rows: int
    rows_read: int


def read_reference(
    path: Path,
    inputs: Sequence[TensorSpec],
    columns: Sequence[str] | None,
    target: str | None,
    prediction: str | None,
    progress: Progress,
) -> ReferenceRows:
    """Read a table whose columns carry the inputs' names or, for one 2-D input, the names of that input's columns.

    `columns` picks and orders; `target` and `prediction` name columns that are no input. progress(text, share done).
    Raises ArtifactRejected with the reason: unreadable, no rows, missing columns, a value that the dtype cannot hold.
    """
    path = Path(path)
    if not path.is_file():
        raise ArtifactRejected(f"reference {path}: there is no such file")
    with path.open("rb") as file:
        magic = file.read(4)
    try:
        if magic == b"PAR1":
            names, chunks = _open_parquet(path)
        else:
            names, chunks = _open_csv(path, gzipped=magic[:2] == b"\x1f\x8b")
        wanted = wanted_columns(names, inputs, columns, target, prediction)
        feeds, rows, rows_read = _collect(chunks(wanted), wanted, inputs, progress)
    except ArtifactRejected as error:
        raise ArtifactRejected(f"reference {path.name}: {error.message}", **error.details) from None
    except (ValueError, OSError, EOFError, MemoryError, ArithmeticError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ArtifactRejected(f"reference {path.name}: cannot be read as CSV or Parquet: {reason}") from None
    progress("reference read", 1.0)
    return ReferenceRows(feeds, tuple(item.column for item in wanted), rows, rows_read)


_Chunks = Callable[[Sequence[Wanted]], Iterator[tuple[pd.DataFrame, float]]]


def _open_parquet(path: Path) -> tuple[list[str], _Chunks]:
    from pyarrow import ArrowException, parquet

    try:
        table = parquet.ParquetFile(path)
    except ArrowException as error:
        raise ValueError(str(error)) from None

    def chunks(wanted: Sequence[Wanted]) -> Iterator[tuple[pd.DataFrame, float]]:
        total, done = max(table.metadata.num_rows, 1), 0
        size = _chunk_rows(wanted)
        for batch in table.iter_batches(batch_size=size, columns=[item.column for item in wanted]):
            done += batch.num_rows
            yield batch.to_pandas(), done / total

    return [str(name) for name in table.schema_arrow.names], chunks


def _open_csv(path: Path, *, gzipped: bool) -> tuple[list[str], _Chunks]:
    compression: Any = "gzip" if gzipped else None
    first = pd.read_csv(
        path, nrows=1, header=None, compression=compression, dtype=str, keep_default_na=False, encoding="utf-8-sig"
    )
    names = [name for name in first.iloc[0] if name]  # one without a name is a table's own row number
    size = max(path.stat().st_size, 1)

    def chunks(wanted: Sequence[Wanted]) -> Iterator[tuple[pd.DataFrame, float]]:
        texts = {item.column: str for item in wanted if item.spec.datatype == "BYTES"}
        with (
            path.open("rb") as file,
            pd.read_csv(
                file,
                compression=compression,
                encoding="utf-8-sig",
                index_col=False,
                dtype=texts,
                keep_default_na=False,
                na_values={item.column: _NULLS for item in wanted if item.column not in texts},
                chunksize=_chunk_rows(wanted),
                low_memory=False,
            ) as reader,
        ):
            while True:
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("error", pd.errors.ParserWarning)  # a row longer than the header
                        chunk = reader.get_chunk()
                except StopIteration:
                    return
                except pd.errors.ParserWarning:
                    raise ArtifactRejected(f"a row has more values than the header's {len(first.columns)}") from None
                yield chunk, min(file.tell() / size, 1.0)

    return names, chunks


def _chunk_rows(wanted: Sequence[Wanted]) -> int:
    return max(min(_CHUNK_ROWS, _CHUNK_VALUES // len(wanted)), 100)


def _collect(
    chunks: Iterator[tuple[pd.DataFrame, float]],
    wanted: Sequence[Wanted],
    inputs: Sequence[TensorSpec],
    progress: Progress,
) -> tuple[dict[str, NDArray[Any]], int, int]:
    """The kept rows of every column, put together as tensors."""
    limit = max(min(MOST_ROWS, MOST_VALUES // len(wanted)), 1000)
    chance = np.random.default_rng(_SEED)
    kept: list[list[NDArray[Any]]] = []  # per chunk, per wanted column
    keys: list[NDArray[np.float64]] = []
    rows_read = rows = 0
    for frame, share in chunks:
        kept.append([convert(frame[item.column], item, rows_read) for item in wanted])
        keys.append(chance.random(len(frame)))
        rows_read += len(frame)
        rows += len(frame)
        if rows > limit * 1.5:
            kept, keys = _thinned(kept, keys, limit)
            rows = limit
        progress(f"reading reference rows: {rows_read:,}", share)
    if rows_read == 0:
        raise ArtifactRejected("it has no rows")
    if rows > limit:
        kept, keys = _thinned(kept, keys, limit)
        rows = limit
    whole = [np.concatenate([part[at] for part in kept]) for at in range(len(wanted))]
    feeds: dict[str, NDArray[Any]] = {}
    for spec in inputs:
        mine = [values for item, values in zip(wanted, whole, strict=True) if item.spec.name == spec.name]
        flat = len(spec.shape or ()) == 1
        feeds[spec.name] = mine[0] if flat else np.column_stack(mine)
    return feeds, rows, rows_read


def _thinned(
    kept: list[list[NDArray[Any]]], keys: list[NDArray[np.float64]], limit: int
) -> tuple[list[list[NDArray[Any]]], list[NDArray[np.float64]]]:
    """The `limit` rows with the smallest random keys: every row read so far is as likely as any other."""
    key = np.concatenate(keys)
    chosen = np.sort(np.argpartition(key, limit - 1)[:limit])
    return [[np.concatenate(column)[chosen] for column in zip(*kept, strict=True)]], [key[chosen]]


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
        _refuse(np.isnan(numbers), values, item, first_row, f"a missing value, which an {what} cannot hold")
        _refuse(numbers != np.floor(numbers), values, item, first_row, f"not a whole number, as the {what} wants")
    _refuse((numbers < low) | (numbers > high), values, item, first_row, f"out of the range of the {what}")
    return numbers.astype(np.bool_ if item.spec.datatype == "BOOL" else _INTEGERS[item.spec.datatype])


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
    _refuse(bad, values, item, first_row, f"not a number, as the {item.spec.datatype} input wants")
    return numbers.to_numpy(dtype=np.float64)


def _refuse(bad: NDArray[np.bool_], values: pd.Series[Any], item: Wanted, first_row: int, why: str) -> None:
    if not bad.any():
        return
    at = int(np.flatnonzero(bad)[0])
    value = str(values.iloc[at])
    shown = value if len(value) <= 60 else value[:57] + "..."
    raise ArtifactRejected(
        f"column {item.column!r}, row {first_row + at + 1}: {shown!r} is {why}",
        column=item.column,
        row=first_row + at + 1,
    )

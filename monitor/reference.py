"""A table of reference rows (CSV or Parquet) as a model's input tensors.

Why: people keep reference data as tables and models take tensors; this file is the only place that maps one to the
other. Invariants: a value is never changed in silence (`reference_values.py`); memory is bounded by MOST_ROWS and
MOST_VALUES, of a larger file runs of neighbours are kept (`reference_order.py`). Called at registration and by
`driftgate profile`, in a process that serves nobody.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from monitor.reference_columns import Wanted, wanted_columns
from monitor.reference_moments import Moments
from monitor.reference_order import Order, RunKeeper, SortedBy
from monitor.reference_values import arrow_of, convert
from registry.errors import ArtifactRejected
from registry.vocabulary import TensorSpec

MOST_ROWS = 1_000_000
MOST_VALUES = 50_000_000
_CHUNK_ROWS = 50_000
_STRIP_ROWS = 4096
_CHUNK_VALUES = 5_000_000
_NULLS = ["", "NA", "N/A", "n/a", "NaN", "nan", "-nan", "null", "NULL", "None", "<NA>"]

Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class ReferenceRows:
    """Reference rows as the model takes them.

    feeds: each input's rows on axis 0, in the model's dtype, text as object arrays of str. columns: the table's columns
    that were used, which name the columns of a single 2-D input. rows were kept of rows_read. order: what is known of
    their order; they are put into that of time where a column has it. notes: what their owner should know.
    """

    feeds: dict[str, NDArray[Any]]
    columns: tuple[str, ...]
    rows: int
    rows_read: int
    order: Order = field(default_factory=Order)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Told:
    """What the owner of a table says of its rows."""

    target: str | None
    by_time: str | None
    date_format: str | None
    unordered: bool
    missing: Mapping[str, Sequence[str]]


def read_reference(
    path: Path,
    inputs: Sequence[TensorSpec],
    columns: Sequence[str] | None,
    target: str | None,
    prediction: str | None,
    progress: Progress,
    *,
    by_time: str | None = None,
    date_format: str | None = None,
    unordered: bool = False,
    missing: Mapping[str, Sequence[str]] | None = None,
) -> ReferenceRows:
    """Read a table whose columns carry the inputs' names or, for one 2-D input, the names of that input's columns.

    `columns` picks and orders; `target`, `prediction` and `by_time` (the rows' moments) name columns that are no input.
    date_format: how texts write the moments, where that can be read in two ways (`dates.check_format`). unordered: the
    rows are in no order of time. missing: column → texts that stand for a number that is missing.
    progress(text, share done). Raises ArtifactRejected with the reason: unreadable, no rows, missing columns, a value
    that the dtype cannot hold.
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
        wanted = wanted_columns(names, inputs, columns, target, prediction, by_time)
        told = _Told(target, by_time, date_format, unordered, missing or {})
        found = _collect(chunks(wanted, told), wanted, inputs, told, progress)
    except ArtifactRejected as error:
        raise ArtifactRejected(f"reference {path.name}: {error.message}", **error.details) from None
    except (ValueError, OSError, EOFError, MemoryError, ArithmeticError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ArtifactRejected(f"reference {path.name}: cannot be read as CSV or Parquet: {reason}") from None
    progress("reference read", 1.0)
    return found


_Chunks = Callable[[Sequence[Wanted], _Told], Iterator[tuple[pd.DataFrame, float]]]


def _used(wanted: Sequence[Wanted], told: _Told) -> list[str]:
    """The table's columns that are read: the inputs', its moments, and a target that it may be sorted by."""
    return list(dict.fromkeys([*(i.column for i in wanted), *filter(None, (told.by_time, told.target))]))


def _open_parquet(path: Path) -> tuple[list[str], _Chunks]:
    from pyarrow import ArrowException, parquet

    try:
        table = parquet.ParquetFile(path)
    except ArrowException as error:
        raise ValueError(str(error)) from None

    def chunks(wanted: Sequence[Wanted], told: _Told) -> Iterator[tuple[pd.DataFrame, float]]:
        total, done = max(table.metadata.num_rows, 1), 0
        size = _chunk_rows(wanted)
        for batch in table.iter_batches(batch_size=size, columns=_used(wanted, told)):
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

    def chunks(wanted: Sequence[Wanted], told: _Told) -> Iterator[tuple[pd.DataFrame, float]]:
        texts = {item.column: str for item in wanted if item.spec.datatype == "BYTES"}
        if told.by_time is not None and told.by_time not in {item.column for item in wanted}:
            texts[told.by_time] = str  # one kind in all chunks, however a few of its rows look
        with (
            path.open("rb") as file,
            pd.read_csv(
                file,
                compression=compression,
                encoding="utf-8-sig",
                index_col=False,
                dtype=texts,
                keep_default_na=False,
                na_values={
                    name: [*_NULLS, *told.missing.get(name, ())] for name in _used(wanted, told) if name not in texts
                },
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
    told: _Told,
    progress: Progress,
) -> ReferenceRows:
    """The kept rows of every column, put together as tensors, in the order of time where that is known."""
    keeper = RunKeeper(max(min(MOST_ROWS, MOST_VALUES // len(wanted)), 1000))
    is_open = told.by_time is None and not told.unordered
    watch = SortedBy(_used(wanted, told) if is_open else ())
    clock = None if told.by_time is None else Moments(told.by_time, told.date_format)
    for frame, share in chunks:
        watch.see(frame)
        parts = [convert(_present(frame[i.column], i, told), i, keeper.read) for i in wanted]
        if clock is not None:
            parts += clock.read(arrow_of(frame[clock.column]))
        keeper.add(parts, len(frame))
        progress(f"reading reference rows: {keeper.read:,}", share)
    if keeper.read == 0:
        raise ArtifactRejected("it has no rows")
    whole = keeper.whole()
    order, notes = Order(False if told.unordered else None), []
    sorted_by = watch.column()
    if sorted_by is not None:
        order = Order(False)
        notes.append(f"its rows are sorted by {sorted_by!r}; if that is the order of time, say --by-time {sorted_by}")
    if clock is not None:
        at, times_s = clock.settle(whole[len(wanted) :])
        del whole[len(wanted) :]
        in_time: bool | None = True
        if (np.diff(at) < 0).any():
            by_time = np.argsort(at, kind="stable")
            whole, times_s = [column[by_time] for column in whole], times_s if times_s is None else times_s[by_time]
            if keeper.rows < keeper.read:  # the runs that were kept are no runs of time
                in_time = None
                notes.append(f"it is too large to be put into the order of {clock.column!r}: sort it beforehand")
        order = Order(in_time, times_s)
    if keeper.rows < keeper.read:
        notes.append(f"{keeper.rows:,} of its {keeper.read:,} rows were kept, in runs of neighbours")
    feeds: dict[str, NDArray[Any]] = {}
    for spec in inputs:
        mine = [values for item, values in zip(wanted, whole, strict=True) if item.spec.name == spec.name]
        feeds[spec.name] = mine[0] if len(spec.shape or ()) == 1 else _rows_of(mine)
    return ReferenceRows(feeds, tuple(i.column for i in wanted), keeper.rows, keeper.read, order, tuple(notes))


def _rows_of(columns: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """(n, C) from C columns (n,), in strips of rows: each row's memory is written while it is near."""
    rows = len(columns[0])
    whole = np.empty((rows, len(columns)), np.result_type(*columns))
    for start in range(0, rows, _STRIP_ROWS):
        for at, column in enumerate(columns):
            whole[start : start + _STRIP_ROWS, at] = column[start : start + _STRIP_ROWS]
    return whole


def _present(values: pd.Series[Any], item: Wanted, told: _Told) -> pd.Series[Any]:
    """The column with the texts that its owner calls missing taken out; CSV's reader has done so already."""
    codes = told.missing.get(item.column)
    if not codes or item.spec.datatype == "BYTES" or pd.api.types.is_numeric_dtype(values.dtype):
        return values
    return values.mask(values.isin(list(codes)))

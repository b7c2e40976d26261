"""CSV, JSON Lines and Parquet bodies, parsed before it is known which model they are for.

Long bodies are parsed in a thread, so that the event loop goes on answering. What a body can make of memory is bounded
before it is parsed: cells are counted in CSV, and rows, columns and uncompressed bytes are read from a Parquet file's
own footer and counted again while it is read. pyarrow is loaded at the first Parquet body. Called by the MLflow codecs.
"""

from __future__ import annotations

import asyncio
import csv
import io
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import orjson

from gateway.data.codecs import json_body, parquet_footer
from gateway.data.codecs.frame import ColumnFrame, Frame, RowFrame, doubles, is_missing, wholes
from gateway.data.servable import Tensor
from gateway.settings import LimitSettings
from registry.errors import MalformedRequest, PayloadTooLarge, UnsupportedMedia

MOST_CSV_CELLS = 4_000_000  # 60 to 100 bytes each while they are text
MOST_LINES = 4_000_000  # of JSON, each a value of its own
MOST_OBJECTS = 4_000_000  # cells of Parquet that are text, or in a column with missing integers
MOST_COLUMNS = 65_536
_LONG_BYTES = 64 * 1024  # parsing less than this takes under a millisecond
_BATCH_ROWS = 16_384
_COMPRESSIONS = frozenset(("UNCOMPRESSED", "SNAPPY"))  # others make any size of a few bytes, whatever the footer says
_INDEX = "__index_level_0__"  # pandas wrote it for a frame's index
_NUMBER = re.compile(r"\s*[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?\s*")

_Made = TypeVar("_Made")


async def aside(make: Callable[[], _Made], body: bytes) -> _Made:
    """Call it, in a thread if the body is long."""
    return make() if len(body) < _LONG_BYTES else await in_thread(make)


async def in_thread(make: Callable[[], _Made]) -> _Made:
    """Call it in a thread."""
    return await asyncio.to_thread(make)


def read_csv(body: bytes, limits: LimitSettings, has_header: bool | None = None) -> Frame:
    """A CSV file (RFC 4180, UTF-8) as a table of text.

    has_header: None: the first line names the columns unless all of it is numbers and missing values. Raises
    MalformedRequest or PayloadTooLarge.
    """
    cells = sum(json_body.count_byte(body, mark) for mark in (b",", b"\n", b"\r")) - body.count(b"\r\n") + 1
    most = min(MOST_CSV_CELLS, limits.tensor_elements)
    if cells > most:
        raise PayloadTooLarge(f"the CSV file has about {cells} cells, the limit is {most}; send Parquet", limit=most)
    try:
        # Lines end as CSV's do: str.splitlines would also cut a cell at U+2028, U+0085 and their like.
        lines = io.StringIO(body.decode("utf-8-sig"), newline="")
        rows = [row for row in csv.reader(lines, strict=True) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise MalformedRequest(f"the body is not CSV in UTF-8: {error}") from None
    if not rows:
        raise MalformedRequest("the CSV file is empty")
    if has_header is None:
        has_header = not _is_data(rows[0])
    names, rows = (rows[0], rows[1:]) if has_header else (None, rows)
    frame = RowFrame(names, rows, is_text=True)  # TensorMismatch when rows differ in length
    # Of a long file the numbers are read here, away from the event loop, rather than when the model is known.
    if len(body) < _LONG_BYTES or not rows:
        return frame
    return RowFrame(names, rows, is_text=True, numbers=doubles(rows), wholes=wholes(rows))


def _is_data(row: Sequence[str]) -> bool:
    """Whether a CSV file's first line is no header: numbers, and missing values among them."""
    numbers = [_NUMBER.fullmatch(cell) is not None for cell in row]
    return any(numbers) and all(is_number or is_missing(cell) for is_number, cell in zip(numbers, row, strict=True))


def read_lines(body: bytes, limits: LimitSettings) -> list[Any]:
    """The values of a JSON Lines body, one a line. Raises MalformedRequest or PayloadTooLarge."""
    count, most = json_body.count_byte(body, b"\n") + 1, min(MOST_LINES, limits.tensor_elements)
    if count > most:
        raise PayloadTooLarge(f"the body has {count} lines, the limit is {most}; send Parquet", limit=most)
    json_body.check_containers(body)
    values = []
    for number, line in enumerate(body.split(b"\n"), 1):
        if not line.strip():
            continue
        json_body.check_depth(line, limits.json_depth)
        try:
            values.append(orjson.loads(line))
        except orjson.JSONDecodeError as error:
            raise MalformedRequest(f"line {number} of the body is not JSON: {error}") from None
    if not values:
        raise MalformedRequest("the body has no lines")
    return values


def read_parquet(body: bytes, limits: LimitSettings) -> Frame:
    """A Parquet file as a table. Raises MalformedRequest, PayloadTooLarge or UnsupportedMedia."""
    import pyarrow as pa
    from pyarrow import parquet

    most = {"thrift_string_size_limit": 2**20, "thrift_container_size_limit": 2**20}
    try:
        file = parquet.ParquetFile(pa.BufferReader(body), **most)
        _check_claims(file, limits)
        others = parquet_footer.compressions(body) - _COMPRESSIONS
        if others:
            raise UnsupportedMedia(f"Parquet compressed with {min(others)} is not read; write it with snappy or none")
        names = list(file.schema_arrow.names)
        texts = [name for name, kind in zip(names, file.schema_arrow.types, strict=True) if _is_text(pa, kind)]
        # A dictionary's texts are kept once, however many rows have them.
        file = parquet.ParquetFile(pa.BufferReader(body), read_dictionary=texts, **most)
        kept = [index for index, name in enumerate(names) if name != _INDEX]
        columns: list[list[Tensor]] = [[] for _ in kept]
        rows = objects = 0
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, use_threads=False):
            rows += batch.num_rows
            if rows > file.metadata.num_rows:
                raise PayloadTooLarge("the Parquet file has more rows than it says")
            for into, index in zip(columns, kept, strict=True):
                into.append(_column(pa, names[index], batch.column(index)))
                objects += len(into[-1]) if into[-1].dtype.kind == "O" else 0
            if objects > MOST_OBJECTS:
                raise PayloadTooLarge(
                    f"the Parquet file has more than {MOST_OBJECTS} cells of text, or beside missing integers",
                    limit_cells=MOST_OBJECTS,
                )
    except (pa.ArrowException, OSError, ValueError, OverflowError, LookupError) as error:
        first = str(error).splitlines() or [type(error).__name__]
        raise MalformedRequest(f"the body is no Parquet file that can be read: {first[0][:200]}") from None
    return ColumnFrame([names[index] for index in kept], [_joined(parts) for parts in columns])


def _check_claims(file: Any, limits: LimitSettings) -> None:
    about = file.metadata
    if about.num_columns > MOST_COLUMNS:
        raise PayloadTooLarge(f"the table has {about.num_columns} columns, the limit is {MOST_COLUMNS}")
    for index in range(about.num_columns):
        if file.schema.column(index).max_repetition_level:  # a few bytes may stand for a list of any length
            raise UnsupportedMedia("a column of the Parquet file holds lists, which are not read from Parquet")
    cells = max(0, about.num_rows) * max(1, about.num_columns)
    if cells > limits.tensor_elements:
        raise PayloadTooLarge(f"the table has {cells} cells, the limit is {limits.tensor_elements}")
    size = sum(max(0, about.row_group(index).total_byte_size) for index in range(about.num_row_groups))
    if size > limits.body_bytes:
        raise PayloadTooLarge(
            f"the Parquet file has {size} bytes when decompressed, the limit is {limits.body_bytes}",
            limit_bytes=limits.body_bytes,
        )


def _is_text(pa: Any, kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _column(pa: Any, name: str, column: Any) -> Tensor:
    """A column as an array: numbers as they are (a missing one is NaN, or None among integers), else objects."""
    kind = column.type
    if pa.types.is_floating(kind):
        return np.asarray(column.to_numpy(zero_copy_only=False))
    if (pa.types.is_integer(kind) or pa.types.is_boolean(kind)) and not column.null_count:
        return np.asarray(column.to_numpy(zero_copy_only=False))
    if pa.types.is_dictionary(kind) and _is_text(pa, kind.value_type):
        texts = np.array([*column.dictionary.to_pylist(), None], dtype=object)
        chosen: Tensor = texts[column.indices.fill_null(len(texts) - 1).to_numpy(zero_copy_only=False)]
        return chosen
    if any(is_kind(kind) for is_kind in (pa.types.is_integer, pa.types.is_boolean, pa.types.is_null)):
        values = np.empty(len(column), dtype=object)
        values[:] = column.to_pylist()
        return values
    raise UnsupportedMedia(f"column {name[:100]!r} of the Parquet file has type {kind}, which is not read")


def _joined(parts: Sequence[Tensor]) -> Tensor:
    if not parts:
        return np.empty(0)
    if any(part.dtype.kind == "O" for part in parts) and len(parts) > 1:
        parts = [part.astype(object) for part in parts]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)

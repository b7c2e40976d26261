"""Tables from CSV, Parquet or memory, a batch of rows at a time.

Why: files larger than memory must be compared too, and a file is read twice when it does not fit (once to learn its
types and edges, once to count). Invariants: batches come in the file's order and have the same columns each time; CSV
values are text here, so a type is never guessed from the first rows. Called by `driftgate/drift_compare.py`. Imports
pyarrow when a table is opened, and nothing else that is slow.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from monitor.arrow import storage_of
from registry.errors import ArtifactRejected

if TYPE_CHECKING:
    import pyarrow as pa

MOST_COLUMNS = 10_000
BATCH_VALUES = 4_000_000  # of a batch: 32 MB as float64
LEAST_BATCH_ROWS, MOST_BATCH_ROWS = 256, 65_536
_CSV_BLOCK_BYTES = 8 << 20  # parsed at a time; no row may be longer
_READ_BYTES = 1 << 16  # of a Parquet column at a time: else the whole of a row group lies in memory beside its values
_DELIMITERS = ",;\t|"

Progress = Callable[[str, float], None]  # what is being done, share done


class Batches(Protocol):
    """Opens the rows anew: batches of these columns, each with the share of the table read so far."""

    def __call__(self, columns: Sequence[str]) -> Iterator[tuple[pa.RecordBatch, float]]: ...


@dataclass(frozen=True, slots=True)
class Source:
    """A table that can be read more than once. `rows` is None where only reading tells; `label` is for errors."""

    label: str
    name: str
    columns: tuple[str, ...]
    rows: int | None
    batches: Batches = field(repr=False)


def batch_rows(columns: int) -> int:
    """Rows of a batch of so many columns.

    >>> batch_rows(50), batch_rows(100_000)
    (65536, 256)
    """
    return max(min(BATCH_VALUES // max(columns, 1), MOST_BATCH_ROWS), LEAST_BATCH_ROWS)


def open_table(table: Any, label: str) -> Source:
    """A path to CSV (also gzip) or Parquet, a data frame, an Arrow table, or a mapping of names to columns.

    Raises ArtifactRejected with the reason.
    """
    import pyarrow as pa

    try:
        if isinstance(table, str | os.PathLike):
            source = _open_file(Path(table), label)
        else:
            source = _in_memory(_as_arrow(table), label)
    except (pa.ArrowException, OSError, TypeError, ValueError) as error:
        what = "read as CSV or Parquet" if isinstance(table, str | os.PathLike) else "taken as a table"
        raise ArtifactRejected(f"{label}: cannot be {what}: {_reason(error)}") from None
    doubles = sorted({name for name in source.columns if source.columns.count(name) > 1})
    if doubles:
        raise ArtifactRejected(f"{label}: columns appear twice: {', '.join(doubles[:10])}")
    if len(source.columns) > MOST_COLUMNS:
        raise ArtifactRejected(f"{label}: has {len(source.columns):,} columns, more than {MOST_COLUMNS:,}")
    if not source.columns:
        raise ArtifactRejected(f"{label}: has no columns")
    return source


def read(source: Source, columns: Sequence[str], what: str, progress: Progress) -> Iterator[pa.RecordBatch]:
    """All batches of these columns, telling progress. Raises ArtifactRejected for a file that breaks on the way."""
    import pyarrow as pa

    try:
        for batch, share in source.batches(columns):
            progress(what, min(share, 1.0))
            yield batch
    except (pa.ArrowException, OSError, EOFError, UnicodeError) as error:
        raise ArtifactRejected(f"{source.label}: {_reason(error)}") from None
    progress(what, 1.0)


class Rows:
    """A table's rows, read once though the first of them are wanted beforehand."""

    def __init__(self, source: Source, columns: Sequence[str], most: int) -> None:
        """most: of the first rows that are wanted; a batch more may come."""
        self._tell: tuple[str, Progress] | None = None
        self._batches = read(source, columns, "", self._told)
        self._most = most
        self._first: list[pa.RecordBatch] = []

    def first(self) -> pa.Table | None:
        """The first rows; None where there are none."""
        import pyarrow as pa

        rows = sum(batch.num_rows for batch in self._first)
        while rows < self._most and (batch := next(self._batches, None)) is not None:
            self._first.append(batch)
            rows += batch.num_rows
        return pa.Table.from_batches(self._first) if rows else None

    def all(self, columns: Sequence[str], what: str, progress: Progress) -> Iterator[pa.RecordBatch]:
        """All rows, once, the first ones too: batches of some of the columns."""
        self._tell = (what, progress)
        self._first.reverse()
        while self._first:
            yield self._first.pop().select(list(columns))
        for batch in self._batches:
            yield batch.select(list(columns))
        progress(what, 1.0)

    def _told(self, _: str, share: float) -> None:
        if self._tell is not None:
            what, progress = self._tell
            progress(what, share)


def nearest(name: str, names: Sequence[str]) -> str:
    """The name that was probably meant, as a hint.

    >>> nearest("agee", ["age", "sex"])
    " (did you mean 'age'?)"
    """
    near = difflib.get_close_matches(name, list(names), 1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _reason(error: Exception) -> str:
    text = (str(error) or type(error).__name__).splitlines()[0]
    if "straddling" in text:  # Arrow's word for a row that does not end within two blocks
        return f"a row is longer than {_CSV_BLOCK_BYTES >> 20} MB, or a quote is opened and never closed"
    return text if len(text) <= 300 else f"{text[:297]}..."


# -- files ---------------------------------------------------------------------------------------------------------


def _open_file(path: Path, label: str) -> Source:
    if not path.is_file():
        raise ArtifactRejected(f"{label} {path}: there is no such file")
    label = f"{label} {path.name}"
    with path.open("rb") as file:
        magic = file.read(4)
    return _open_parquet(path, label) if magic == b"PAR1" else _open_csv(path, label)


def _open_parquet(path: Path, label: str) -> Source:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        names, rows = tuple(map(str, file.schema_arrow.names)), file.metadata.num_rows
        texts = [str(field.name) for field in file.schema_arrow if storage_of(field.type) == "text"]

    def batches(columns: Sequence[str]) -> Iterator[tuple[pa.RecordBatch, float]]:
        done = 0
        # Texts are taken as the dictionaries that most files store: each different one is then read once.
        with parquet.ParquetFile(path, pre_buffer=False, buffer_size=_READ_BYTES, read_dictionary=texts) as file:
            for batch in file.iter_batches(batch_rows(len(columns)), columns=list(columns)):
                done += batch.num_rows
                yield batch.select(list(columns)), done / max(rows, 1)

    return Source(label, path.name, names, rows, batches)


def _open_csv(path: Path, label: str) -> Source:
    from pyarrow import csv

    with _bytes_of(path)[0] as file:
        head = file.read(1 << 20).decode("utf-8-sig", "replace")
    if not head.strip():
        raise ArtifactRejected(f"{label}: is empty")
    if "\0" in head.lstrip("\r\n").splitlines()[0]:
        raise ArtifactRejected(f"{label}: is neither CSV nor Parquet")
    parse = csv.ParseOptions(delimiter=delimiter_of(head), newlines_in_values=True)
    reading = csv.ReadOptions(block_size=_CSV_BLOCK_BYTES)

    def start(columns: Sequence[str] | None) -> tuple[Any, Any]:
        import pyarrow as pa

        stream, raw = _bytes_of(path)
        convert = csv.ConvertOptions(
            strings_can_be_null=True,
            quoted_strings_can_be_null=True,
            null_values=[""],
            column_types=dict.fromkeys(columns, pa.string()) if columns is not None else None,
            include_columns=list(columns) if columns is not None else None,
        )
        return csv.open_csv(stream, read_options=reading, parse_options=parse, convert_options=convert), raw

    reader, raw = start(None)
    with reader, raw:
        names = tuple(reader.schema.names)
    kept = tuple(name for name in names if name)  # a column without a name is a table's own row number
    size = max(path.stat().st_size, 1)

    def batches(columns: Sequence[str]) -> Iterator[tuple[pa.RecordBatch, float]]:
        reader, raw = start(columns)
        most = batch_rows(len(columns))
        with reader, raw:
            for block in reader:
                for at in range(0, block.num_rows, most):
                    yield block.slice(at, most), raw.tell() / size

    return Source(label, path.name, kept, None, batches)


def delimiter_of(head: str) -> str:
    """What separates the names of a CSV file's header: most frequent of comma, semicolon, tab and bar outside quotes.

    >>> delimiter_of('id;"price, in EUR, with tax";"a;b"\\n1;2,5;3\\n'), delimiter_of("x\\n1;2\\n")
    (';', ',')
    """
    found = dict.fromkeys(_DELIMITERS, 0)
    is_quoted, may_open = False, True  # a quote opens at a name's start only: 3.5" disk; two of them are one within
    for character in head.lstrip("\r\n"):
        if is_quoted:
            is_quoted, may_open = character != '"', True
        elif character in "\r\n":
            break
        else:
            is_quoted, may_open = may_open and character == '"', character in found
            if may_open:
                found[character] += 1
    return max(found, key=found.__getitem__)


def _bytes_of(path: Path) -> tuple[Any, Any]:
    """The file's text as a stream, decompressed if need be, and the file itself, whose position is the progress."""
    import pyarrow as pa

    raw = pa.OSFile(str(path))
    magic = raw.read(2)
    raw.seek(0)
    return (pa.CompressedInputStream(raw, "gzip") if magic == b"\x1f\x8b" else raw), raw


# -- memory --------------------------------------------------------------------------------------------------------


def _as_arrow(table: Any) -> pa.Table:
    import pyarrow as pa

    if isinstance(table, pa.Table):
        return table
    if isinstance(table, pa.RecordBatch):
        return pa.Table.from_batches([table])
    if isinstance(table, Mapping):
        return pa.table({str(name): values for name, values in table.items()})
    if type(table).__module__.split(".")[0] == "pandas":
        return pa.Table.from_pandas(table, preserve_index=False)
    if hasattr(table, "__arrow_c_stream__"):
        return pa.table(table)
    raise ArtifactRejected(f"a table is a path, a data frame, an Arrow table or a mapping, got {type(table).__name__}")


def _in_memory(table: pa.Table, label: str) -> Source:
    def batches(columns: Sequence[str]) -> Iterator[tuple[pa.RecordBatch, float]]:
        done = 0
        for batch in table.select(list(columns)).to_batches(batch_rows(len(columns))):
            done += batch.num_rows
            yield batch, done / max(table.num_rows, 1)

    return Source(label, label, tuple(map(str, table.column_names)), table.num_rows, batches)

"""One turn's rows as the bytes of a lane: a head that holds once what all rows share, then column after column.

Why: a worker pays for every step that it takes between a run and its answers, in caches that are cold by then. A block
is one `join` of buffers that exist already, whatever the number of rows; the monitor, which may take its time, makes
columns of them. Invariant: n rows take at most n slots of the ring, so a lane's positions are row numbers.

Layout, little endian: check sum (u4, of all that follows), rows (u4), seq of the first row (u8), wall_ns (i8), epoch
(u8), started_ns (i8), infer_us (f4), role (u1), flags (u1), form (u2); then a hash a row (16 bytes), with form & 1 when
each row was decoded (i8, of the clock of started_ns), with form & 2 each row's number in its request (u4) and then each
row's request's rows (u4), then the features and the outputs, row by row. Lanes of version 1 held whole rows one after
another (`record.row_dtype`); `RowBlocks` still reads them.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from monitor.record import ROLE_CODES, LogSchema, row_dtype
from registry.vocabulary import Role

MOST_ROWS = 256  # in one block; a larger offer is several, published together
_HEAD = struct.Struct("<IQqQqfBBH")  # all but the check sum
_AT = 4 + _HEAD.size  # where the columns begin
_HAS_TIMES, _HAS_PLACES = 1, 2
_SCALARS = (
    *(("wall_ns", "<i8", 2), ("epoch", "<u8", 3), ("infer_us", "<f4", 5), ("role", "u1", 6), ("flags", "u1", 7)),
)


class Rows:
    """Rows as columns of one length, by name: seq, wall_ns, hash0, hash1, epoch, row, rows, queue_us, infer_us, role,
    flags, features (n, F), outputs (n, O).

    >>> rows = Rows({"seq": np.arange(3)})
    >>> len(rows), rows[rows["seq"] > 0]["seq"].tolist()
    (3, [1, 2])
    """

    __slots__ = ("_columns",)

    def __init__(self, columns: dict[str, NDArray[Any]]) -> None:
        self._columns = columns

    @classmethod
    def empty(cls, schema: LogSchema) -> Rows:
        """No rows of a schema."""
        none = np.empty(0, row_dtype(schema))
        return cls({name: none[name] for name in _names(none.dtype)})

    def __len__(self) -> int:
        return len(self._columns["seq"])

    def __getitem__(self, key: Any) -> Any:
        """A column by its name, or the rows of a slice, a mask or an array of positions."""
        if isinstance(key, str):
            return self._columns[key]
        return Rows({name: column[key] for name, column in self._columns.items()})


class Block(NamedTuple):
    """What is found of one whole block."""

    start: int  # its first row among those looked at
    head: tuple[Any, ...]


class Blocks(Protocol):
    """How the rows of one lane lie in its ring."""

    slot_bytes: int  # of a row in the ring

    def whole(self, view: memoryview, total: int, position: int) -> list[Block]:
        """The whole blocks with good sums from the first row on; position is that row's number."""

    def starts(self, raw: NDArray[np.uint8], position: int) -> list[int]:
        """Rows at which a block may begin."""

    def rows(self, view: memoryview, blocks: Sequence[Block]) -> Rows:
        """What blocks hold, as columns of their own."""


class ColumnBlocks:
    """Blocks of a schema's rows, written and read."""

    def __init__(self, schema: LogSchema, role: Role) -> None:
        self._features = np.dtype(schema.input_dtype), len(schema.inputs)
        self._outputs = np.dtype(schema.output_dtype), len(schema.outputs)
        self._role = ROLE_CODES[role]
        self._features_bytes, self._outputs_bytes = (
            dtype.itemsize * columns for dtype, columns in (self._features, self._outputs)
        )
        width = self._features_bytes + self._outputs_bytes
        self._row_bytes = 16 + width
        self.slot_bytes = -(-(_AT + 32 + width) // 8) * 8

    def pack(
        self,
        n: int,
        seq: int,
        hashes: bytes,
        wall_ns: int,
        epoch: int,
        flags: int,
        started_ns: int,
        infer_us: float,
        times: Any,
        places: Any,
        features: Any,
        outputs: Any,
    ) -> bytes:
        """A block without its check sum. Arguments as of `LaneWriter.offer`. Raises ValueError for other sizes."""
        form = (0 if times is None else _HAS_TIMES) | (0 if places is None else _HAS_PLACES)
        head = _HEAD.pack(n, seq, wall_ns, epoch, started_ns, infer_us, self._role, flags, form)
        block = b"".join((head, hashes, b"" if times is None else times, places or b"", features, outputs))
        if len(block) != _HEAD.size + self._columns_bytes(n, form):
            raise ValueError(f"a block of {n} rows has {len(block)} bytes")
        return block

    def whole(self, view: memoryview, total: int, position: int) -> list[Block]:
        found, good, slot = [], 0, self.slot_bytes
        while good < total:
            at = good * slot
            head = _HEAD.unpack_from(view, at + 4)
            count = head[0]
            if not 0 < count <= total - good or head[1] != position + good or head[8] > _HAS_TIMES | _HAS_PLACES:
                break
            end = at + _AT + self._columns_bytes(count, head[8])
            if zlib.crc32(view[at + 4 : end]) != int.from_bytes(view[at : at + 4], "little"):
                break
            found.append(Block(good, head))
            good += count
        return found

    def starts(self, raw: NDArray[np.uint8], position: int) -> list[int]:
        numbers = raw.reshape(-1, self.slot_bytes)[:, 8:16].copy().view("<u8").ravel()
        return [
            int(i) for i in np.flatnonzero(numbers == np.arange(position, position + len(numbers), dtype=np.uint64))
        ]

    def rows(self, view: memoryview, blocks: Sequence[Block]) -> Rows:
        cuts = [self._cut(view, block) for block in blocks]
        hashes, times, row, rows, features, outputs = (b"".join(parts) for parts in zip(*cuts, strict=True))
        counts = np.array([block.head[0] for block in blocks])
        columns: dict[str, NDArray[Any]] = {}
        for name, dtype, at in _SCALARS:
            columns[name] = np.repeat(np.array([block.head[at] for block in blocks], dtype), counts)
        total = int(counts.sum())
        pairs = np.frombuffer(hashes, "<u8").reshape(total, 2)
        started = np.repeat(np.array([block.head[4] for block in blocks], np.int64), counts)
        columns["seq"] = _numbers(blocks[0].head[1], total)
        columns["hash0"], columns["hash1"] = pairs[:, 0], pairs[:, 1]
        columns["queue_us"] = ((started - np.frombuffer(times, "<i8")) / 1000.0).astype(np.float32)
        columns["row"], columns["rows"] = np.frombuffer(row, "<u4"), np.frombuffer(rows, "<u4")
        for name, (dtype_of, width), part in (
            ("features", self._features, features),
            ("outputs", self._outputs, outputs),
        ):
            columns[name] = np.frombuffer(part, dtype_of).reshape(total, width)
        return Rows(columns)

    def _columns_bytes(self, n: int, form: int) -> int:
        more = (8 if form & _HAS_TIMES else 0) + (8 if form & _HAS_PLACES else 0)
        return n * (self._row_bytes + more)

    def _cut(self, view: memoryview, block: Block) -> tuple[Any, ...]:
        """Where each column lies: a slice costs a tenth of what an array costs."""
        n, form, at = block.head[0], block.head[8], block.start * self.slot_bytes + _AT
        hashes = view[at : at + 16 * n]
        at += 16 * n
        if form & _HAS_TIMES:
            times: Any = view[at : at + 8 * n]
            at += 8 * n
        else:
            times = block.head[4].to_bytes(8, "little", signed=True) * n
        if form & _HAS_PLACES:
            row: Any = view[at : at + 4 * n]
            rows: Any = view[at + 4 * n : at + 8 * n]
            at += 8 * n
        else:
            row, rows = bytes(4 * n), b"\1\0\0\0" * n
        middle = at + n * self._features_bytes
        return hashes, times, row, rows, view[at:middle], view[middle : middle + n * self._outputs_bytes]


class RowBlocks:
    """Blocks of version 1, read only: whole rows; a block's first row has its sum, its rows and its number."""

    def __init__(self, schema: LogSchema) -> None:
        self._dtype = row_dtype(schema)
        self.slot_bytes = self._dtype.itemsize

    def whole(self, view: memoryview, total: int, position: int) -> list[Block]:
        rows = np.frombuffer(view, self._dtype, total)
        found, good, slot = [], 0, self.slot_bytes
        sizes, sums, numbers = rows["block_rows"].tolist(), rows["block_crc"].tolist(), rows["seq"].tolist()
        while good < total:
            count = sizes[good]
            if not 0 < count <= total - good or numbers[good] != position + good:
                break
            if zlib.crc32(view[good * slot + 4 : (good + count) * slot]) != sums[good]:
                break
            found.append(Block(good, (count, position + good)))
            good += count
        return found

    def starts(self, raw: NDArray[np.uint8], position: int) -> list[int]:
        del position
        return [int(i) for i in np.flatnonzero(raw.reshape(-1).view(self._dtype)["block_rows"])]

    def rows(self, view: memoryview, blocks: Sequence[Block]) -> Rows:
        total = sum(block.head[0] for block in blocks)
        rows = np.frombuffer(view, self._dtype, total, blocks[0].start * self.slot_bytes)
        columns = {name: rows[name] for name in _names(self._dtype)}
        first = blocks[0].head[1]
        columns["seq"] = _numbers(first, total)  # the writer numbered first rows only
        return Rows(columns)


def _numbers(first: int, count: int) -> NDArray[np.uint64]:
    return np.arange(count, dtype=np.uint64) + np.uint64(first)


def _names(dtype: np.dtype[np.void]) -> Iterator[str]:
    return (name for name in dtype.names or () if not name.startswith("block_"))

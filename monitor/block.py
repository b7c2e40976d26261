"""One turn's rows as the bytes of a lane: a head that holds once what all rows share, then column after column.

Why: a worker pays for every step that it takes between a run and its answers, in caches that are cold by then. A block
is one `join` of buffers that exist already, whatever the number of rows; the monitor, which may take its time, makes
columns of them: of many blocks of one row in a row, which calm traffic makes, all at once. Invariant: n rows take at
most n slots of the ring, so a lane's positions are row numbers.

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
from functools import lru_cache
from itertools import groupby
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from monitor.pauses import pause
from monitor.record import ROLE_CODES, LogSchema, row_dtype
from registry.vocabulary import Role

MOST_ROWS = 256  # in one block; a larger offer is several, published together
_HEAD = struct.Struct("<IQqQqfBBH")  # all but the check sum
_AT = 4 + _HEAD.size  # where the columns begin
_HAS_TIMES, _HAS_PLACES = 1, 2
_SCALARS = (
    ("wall_ns", "<i8", 2),
    ("epoch", "<u8", 3),
    ("started_ns", "<i8", 4),
    ("infer_us", "<f4", 5),
    ("role", "u1", 6),
    ("flags", "u1", 7),
)
_ALIKE = 8  # blocks of one row one after another, after which more are looked for at once
_STRIP = 64, 1024  # so many at once: at first, and at most


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
    """What is found of one whole block, or of several alike: of one row each, and of one form."""

    start: int  # its first row among those looked at
    head: tuple[Any, ...]  # of the first
    alike: int = 1

    @property
    def rows(self) -> int:
        return self.alike if self.alike > 1 else int(self.head[0])

    @property
    def end(self) -> int:
        """The row after its last."""
        return self.start + self.rows


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
        found: list[Block] = []
        good, slot, singles = 0, self.slot_bytes, 0
        while good < total:
            at = good * slot
            head = _HEAD.unpack_from(view, at + 4)
            count = head[0]
            singles = singles + 1 if count == 1 else 0
            if singles > _ALIKE and head[8] <= _HAS_TIMES | _HAS_PLACES:
                singles, alike = 0, self._alike(view, good, total, position, head[8])
                if alike > 1:
                    found.append(Block(good, head, alike))
                    good += alike
                    continue
            if not 0 < count <= total - good or head[1] != position + good or head[8] > _HAS_TIMES | _HAS_PLACES:
                break
            end = at + _AT + self._columns_bytes(count, head[8])
            if zlib.crc32(view[at + 4 : end]) != int.from_bytes(view[at : at + 4], "little"):
                break
            found.append(Block(good, head))
            good += count
        return found

    def _alike(self, view: memoryview, first: int, total: int, position: int, form: int) -> int:
        """How many blocks of one row and this form with good sums follow one another, from row `first` on."""
        heads = np.frombuffer(view, self._single(form), total)[first:]
        slot, size = self.slot_bytes, _AT + self._columns_bytes(1, form)
        found, (strip, most) = 0, _STRIP
        while found < len(heads):
            part = heads[found : found + strip]
            same = (part["rows"] == 1) & (part["form"] == form)
            same &= part["seq"] == _numbers(position + first + found, len(part))
            many = len(part) if same.all() else int(same.argmin())
            at = (first + found) * slot
            for given in part["sum"][:many].tolist():
                if zlib.crc32(view[at + 4 : at + size]) != given:
                    return found
                found, at = found + 1, at + slot
            if many < len(part):
                break
            strip = min(2 * strip, most)
            pause()
        return found

    def _single(self, form: int) -> np.dtype[np.void]:
        """A slot that holds a block of one row."""
        return _single_dtype(self.slot_bytes, form, self._features_bytes, self._outputs_bytes)

    def starts(self, raw: NDArray[np.uint8], position: int) -> list[int]:
        numbers = raw.reshape(-1, self.slot_bytes)[:, 8:16].copy().view("<u8").ravel()
        return [
            int(i) for i in np.flatnonzero(numbers == np.arange(position, position + len(numbers), dtype=np.uint64))
        ]

    def rows(self, view: memoryview, blocks: Sequence[Block]) -> Rows:
        cuts = [(self._cut_alike if block.alike > 1 else self._cut)(view, block) for block in blocks]
        hashes, times, row, rows, features, outputs = (b"".join(parts) for parts in zip(*cuts, strict=True))
        columns = self._scalars(view, blocks)
        total, started = blocks[-1].end - blocks[0].start, columns.pop("started_ns")
        pairs = np.frombuffer(hashes, "<u8").reshape(total, 2)
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

    def _scalars(self, view: memoryview, blocks: Sequence[Block]) -> dict[str, NDArray[Any]]:
        """What all rows of a block share, for each row."""
        parts: dict[str, list[NDArray[Any]]] = {name: [] for name, _, _ in _SCALARS}
        for are_alike, group in groupby(blocks, lambda block: block.alike > 1):
            some = list(group)
            if are_alike:
                for block in some:
                    slots = self._slots(view, block)
                    for name, _, _ in _SCALARS:
                        parts[name].append(slots[name])
            else:
                counts = np.array([block.head[0] for block in some])
                for name, dtype, at in _SCALARS:
                    parts[name].append(np.repeat(np.array([block.head[at] for block in some], dtype), counts))
        return {name: np.concatenate(arrays) for name, arrays in parts.items()}

    def _slots(self, view: memoryview, block: Block) -> NDArray[np.void]:
        return np.frombuffer(view, self._single(block.head[8]), block.alike, block.start * self.slot_bytes)

    def _columns_bytes(self, n: int, form: int) -> int:
        more = (8 if form & _HAS_TIMES else 0) + (8 if form & _HAS_PLACES else 0)
        return n * (self._row_bytes + more)

    def _cut_alike(self, view: memoryview, block: Block) -> tuple[bytes, ...]:
        n, form, slots = block.alike, block.head[8], self._slots(view, block)
        times = slots["times" if form & _HAS_TIMES else "started_ns"].tobytes()
        row, rows = bytes(4 * n), b"\1\0\0\0" * n
        if form & _HAS_PLACES:
            row, rows = slots["row"].tobytes(), slots["rows_of"].tobytes()
        pause()
        return slots["hash"].tobytes(), times, row, rows, slots["features"].tobytes(), slots["outputs"].tobytes()

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


@lru_cache(64)
def _single_dtype(slot_bytes: int, form: int, features_bytes: int, outputs_bytes: int) -> np.dtype[np.void]:
    fields: list[tuple[str, Any, int]] = [("sum", "<u4", 0), ("rows", "<u4", 4), ("seq", "<u8", 8)]
    fields += [("wall_ns", "<i8", 16), ("epoch", "<u8", 24), ("started_ns", "<i8", 32), ("infer_us", "<f4", 40)]
    fields += [("role", "u1", 44), ("flags", "u1", 45), ("form", "<u2", 46), ("hash", ("u1", (16,)), _AT)]
    at = _AT + 16
    if form & _HAS_TIMES:
        fields.append(("times", "<i8", at))
        at += 8
    if form & _HAS_PLACES:
        fields += [("row", "<u4", at), ("rows_of", "<u4", at + 4)]
        at += 8
    fields += [("features", ("u1", (features_bytes,)), at), ("outputs", ("u1", (outputs_bytes,)), at + features_bytes)]
    names, formats, offsets = (list(part) for part in zip(*fields, strict=True))
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": slot_bytes})


def _numbers(first: int, count: int) -> NDArray[np.uint64]:
    return np.arange(count, dtype=np.uint64) + np.uint64(first)


def _names(dtype: np.dtype[np.void]) -> Iterator[str]:
    return (name for name in dtype.names or () if not name.startswith("block_"))

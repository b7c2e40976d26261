"""The ring between a worker and the monitor: one producer, one consumer, fixed-width rows in a file-backed mapping.

Why: what a worker answered must be counted without ever making an answer wait, and every count must survive `kill -9`
of either side. One lane per (worker slot, model, version, role), so each count is one word that one process writes.
Invariants: a row is published by storing `tail` after its bytes; space is given back only by storing `head`, which the
monitor does after its database has committed; offered >= committed + dropped, and they differ by at most one turn's
rows per kill. Positions are row numbers that rise for ever, also over the generations of a lane's file.
Who calls: the writer's end is one worker's event loop, the reader's end the controller's monitor thread.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitor.lane_file import (
    DROPPED,
    HEAD,
    OFFERED,
    PAGE,
    PID,
    SAMPLED,
    TAIL,
    TORN,
    LaneFile,
    LaneHeader,
    LaneStatistics,
    capacity_of,
    generation_of,
    is_locked,
    lane_path,
    lock,
    read_header,
)
from monitor.record import HEAD_BYTES, ROLE_CODES, LogSchema, row_dtype
from registry.errors import StateDamaged
from registry.vocabulary import Role

__all__ = ["LaneReader", "LaneStatistics", "LaneWriter", "generation_of", "lane_path", "read_header"]

TRIES = 8  # reads of a block with a bad sum before its rows are given up as torn
_MASK = 2**64 - 1
Column = float | NDArray[Any]  # of an offer: one value for all its rows, or one a row
_HEAD_AT = 16  # of a row: what comes before is written by `_seal`
_STAGE_ROWS = 256  # rows written at once; a larger offer is several blocks, published together


class LaneWriter(LaneFile):
    """The producer's end. One thread; `offer` never waits and never raises."""

    def __init__(self, path: Path, header: LaneHeader, file: int) -> None:
        super().__init__(path, header, file)
        self._stage = np.zeros(_STAGE_ROWS, self.dtype)
        self._stage["role"] = ROLE_CODES[header.role]
        self._stage_bytes = self._stage.view(np.uint8).reshape(_STAGE_ROWS, self.dtype.itemsize)
        self._stage_view = self._stage_bytes.reshape(-1).data
        self._marks = self._stage_view.cast("Q")  # a row's first word: rows << 32 | sum; its second: seq
        self._size = self.dtype.itemsize
        # Views of the stage by field, made once: a lookup by name in a structured array costs more than the copy.
        self._hashes = self._stage_bytes[:, 24:40].view("<u8")
        stage = self._stage
        # In the order of `offer`'s arguments. What is one value for all rows is set in one row's head, which is then
        # copied to all of them.
        self._targets = (
            *(stage["row"], stage["rows"], stage["wall_ns"], stage["epoch"]),
            *(stage["flags"], stage["queue_us"], stage["infer_us"]),
        )
        self._heads = self._stage_bytes[:, _HEAD_AT:HEAD_BYTES].view("<u8")
        text: Any = memoryview(bytearray(self._stage_bytes[0, _HEAD_AT:HEAD_BYTES].tobytes()))
        self._head = np.frombuffer(text, "<u8")
        places = (("I", 48), ("I", 52), ("q", 16), ("Q", 40), ("B", 65), ("f", 56), ("f", 60))
        self._values = [(text.cast(form), (at - _HEAD_AT) // struct.calcsize(form)) for form, at in places]
        self._features = self._stage["features"]
        self._outputs = self._stage["outputs"]
        self._ring_view = self.ring.reshape(-1).data
        self.words[PID] = os.getpid()

    @classmethod
    def open(
        cls,
        folder: Path,
        slot: int,
        model: str,
        version: int,
        role: str,
        schema: LogSchema,
        lane_bytes: int,
        boot_id: str,
        *,
        first_row: int = 0,
    ) -> LaneWriter:
        """The lane of this slot, version and role: the newest file if it matches, else a new generation after it.

        A generation starts at the position and with the counts at which the one before ended; the reader drains that
        one first, then removes it. `first_row` is where a lane that never existed starts (tests: near a power of two).
        Raises: OSError when the file cannot be made (a full disk), StateDamaged when another process writes this lane.
        """
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        capacity = capacity_of(schema, lane_bytes)
        newest = -1
        counts = {TAIL: first_row, OFFERED: first_row, DROPPED: 0, SAMPLED: 0}
        lineage = secrets.token_hex(8)
        for path in folder.glob(f"{slot}-*.lane"):
            generation = generation_of(path)
            if path != lane_path(folder, slot, model, version, role, generation) or generation <= newest:
                continue
            newest = generation
        if newest >= 0:
            path = lane_path(folder, slot, model, version, role, newest)
            try:
                old = cls._continue(path)
            except FileNotFoundError:  # drained and removed between the look and the opening
                old = None
            except StateDamaged:
                if is_locked(path):
                    raise
                old = None  # the reader sets it aside
            if old is not None:
                same = old.header.schema == schema and old.header.capacity == capacity
                if same and old.header.boot_id == boot_id:
                    return old
                counts = {at: old.words[at] for at in counts}
                lineage = old.header.lineage
                old.close()
        header = LaneHeader(
            boot_id=boot_id,
            slot=slot,
            model=model,
            version=version,
            role=Role(role),
            schema=schema,
            capacity=capacity,
            generation=newest + 1,
            base=counts[TAIL],
            lineage=lineage,
            words_at=0,
            rows_at=0,
        )
        return cls._create(lane_path(folder, slot, model, version, role, newest + 1), header, counts)

    @classmethod
    def _continue(cls, path: Path) -> LaneWriter:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            lock(file, path)
            return cls(path, read_header(path), file)
        except BaseException:
            os.close(file)
            raise

    @classmethod
    def _create(cls, path: Path, header: LaneHeader, counts: Mapping[int, int]) -> LaneWriter:
        draft = header.to_bytes()
        words_at = -(-(len(draft) + 64) // PAGE) * PAGE  # 64: the two offsets grow from one digit
        values = {name: getattr(header, name) for name in header.__slots__}
        header = LaneHeader(**{**values, "words_at": words_at, "rows_at": words_at + PAGE})
        aside = path.with_name(f".{path.name}.{os.getpid()}.new")
        file = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            lock(file, path)
            # Reserved, not only sized: writing into a hole of a full disk is a SIGBUS.
            os.posix_fallocate(file, 0, header.rows_at + header.capacity * row_dtype(header.schema).itemsize)
            os.pwrite(file, header.to_bytes(), 0)
            words = np.zeros(PAGE // 8, "<u8")
            for at, value in {**counts, HEAD: header.base}.items():
                words[at] = value
            os.pwrite(file, words.tobytes(), header.words_at)
            lane = cls(path, header, file)
            os.rename(aside, path)
            return lane
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(aside)
            os.close(file)
            raise

    def offer(
        self,
        hashes: NDArray[np.uint64],
        row: Column,
        rows: Column,
        wall_ns: Column,
        epoch: Column,
        flags: Column,
        queue_us: Column,
        infer_us: Column,
        features: NDArray[Any] | None,
        outputs: NDArray[Any] | None,
    ) -> int:
        """Publish rows with one store; the newest that find no room are dropped and counted. Returns rows committed.

        Shapes: hashes (n, 2), features (n, F), outputs (n, O) or None for NaN; the others (n,) or one value for all.
        """
        words = self.words
        n = len(hashes)
        words[OFFERED] = (words[OFFERED] + n) & _MASK
        tail = words[TAIL]
        room = self.capacity - (tail - words[HEAD])
        fits = n if n <= room else max(room, 0)
        written = 0
        columns = (row, rows, wall_ns, epoch, flags, queue_us, infer_us)
        try:
            if fits == n <= _STAGE_ROWS:
                if n:
                    self._write(tail, n, hashes, columns, features, outputs)
                written = n
            else:
                while written < fits:
                    part = slice(written, min(fits, written + _STAGE_ROWS))
                    cut = tuple(x[part] if isinstance(x, np.ndarray) and x.ndim else x for x in columns)
                    x = None if features is None else features[part]
                    y = None if outputs is None else outputs[part]
                    self._write(tail + written, part.stop - written, hashes[part], cut, x, y)
                    written = part.stop
        except (ValueError, TypeError, IndexError, OverflowError):
            pass  # a caller's shapes were wrong: its rows are dropped, and counted below
        if written:
            words[TAIL] = (tail + written) & _MASK
        if written < n:
            words[DROPPED] = (words[DROPPED] + n - written) & _MASK
        return written

    def _write(
        self,
        at: int,
        n: int,
        hashes: NDArray[np.uint64],
        columns: tuple[Column, ...],
        features: NDArray[Any] | None,
        outputs: NDArray[Any] | None,
    ) -> None:
        arrays = []
        for target, value, (view, place) in zip(self._targets, columns, self._values, strict=True):
            if isinstance(value, np.ndarray):
                arrays.append((target, value))
            else:
                view[place] = value
        self._heads[:n] = self._head
        self._hashes[:n] = hashes
        for target, value in arrays:
            target[:n] = value
        self._features[:n] = np.nan if features is None else features
        self._outputs[:n] = np.nan if outputs is None else outputs
        start = at % self.capacity
        first = min(n, self.capacity - start)
        self._seal(0, first, start, at)
        if first < n:  # the lap ends inside: two blocks, each whole
            self._seal(first, n, 0, at + first)

    def _seal(self, begin: int, end: int, slot: int, position: int) -> None:
        size, marks, at = self._size, self._marks, begin * self._size // 8
        view = self._stage_view[begin * size : end * size]
        marks[at + 1] = position
        marks[at] = (end - begin) << 32
        marks[at] |= zlib.crc32(view[4:])
        self._ring_view[slot * size : (slot + end - begin) * size] = view
        marks[at] = marks[at + 1] = 0

    def count_sampled(self, rows: int) -> None:
        """Count rows that were left out by sampling and so never offered."""
        self.words[SAMPLED] = (self.words[SAMPLED] + rows) & _MASK

    def close(self) -> None:
        if self._file >= 0:
            self._ring_view.release()
        super().close()


class LaneReader(LaneFile):
    """The consumer's end. `read` moves a position in memory; `release` gives the space back for good."""

    def __init__(self, path: Path, header: LaneHeader, file: int) -> None:
        super().__init__(path, header, file)
        self.position = self.words[HEAD]
        self.torn = self.words[TORN]
        self._tries = 0
        self.check()

    @classmethod
    def open(cls, path: Path) -> LaneReader:
        """Raises StateDamaged or FormatTooNew for a file that is no lane of ours, FileNotFoundError when it is gone."""
        header = read_header(path)
        return cls(path, header, os.open(path, os.O_RDWR | os.O_CLOEXEC))

    def check(self) -> None:
        """Raise StateDamaged when the words cannot be true."""
        head, tail = self.words[HEAD], self.words[TAIL]
        if not self.header.base <= head <= tail or tail - head > self.capacity:
            raise StateDamaged(f"{self.path} says head {head}, tail {tail}, capacity {self.capacity}")

    @property
    def waiting(self) -> int:
        """Committed rows that `read` has not given yet."""
        return self.words[TAIL] - self.position

    @property
    def unreleased(self) -> int:
        """Rows whose space the writer cannot use yet."""
        return self.words[TAIL] - self.words[HEAD]

    @property
    def head(self) -> int:
        """The first row whose space has not been given back."""
        return self.words[HEAD]

    def skip_to(self, position: int) -> None:
        """Start reading at a position that a database remembers, as far as this file goes."""
        self.position = min(max(self.position, position), self.words[TAIL])

    def read(self, max_rows: int) -> NDArray[np.void]:
        """A copy of the next whole blocks, at least one if one waits: (n,) of the lane's dtype, in order.

        A block with a bad sum or another lap's number stops the reading; after `TRIES` reads its rows are skipped and
        counted as torn.
        """
        tail = self.words[TAIL]
        available = tail - self.position
        if available <= 0:
            return np.empty(0, self.dtype)
        start = self.position
        rows = self._copy(start, min(available, max(max_rows, _STAGE_ROWS)))
        good = self._check(rows, start)
        if good == 0:
            self._tries += 1
            if self._tries >= TRIES:
                self._skip(rows)
            return rows[:0]
        self._tries = 0
        self.position += good
        rows["seq"][:good] = np.arange(good, dtype=np.uint64) + np.uint64(start)  # the writer numbers only first rows
        return rows[:good]

    def release(self, position: int) -> None:
        """Give the space before position back to the writer, after what came from it is stored."""
        self.words[TORN] = self.torn
        self.words[HEAD] = position

    def history(self, max_rows: int) -> NDArray[np.void]:
        """What the ring still holds of the rows before `position`: for memories that a restart lost. May be empty."""
        tail = self.words[TAIL]
        oldest = max(self.header.base, tail - self.capacity, self.position - max_rows)
        if oldest >= self.position:
            return np.empty(0, self.dtype)
        rows = self._copy(oldest, self.position - oldest)
        for start in np.flatnonzero(rows["block_rows"]).tolist():
            good = self._check(rows[start:], oldest + start)
            if good == len(rows) - start:
                return rows[start:]
        return rows[:0]

    def _copy(self, position: int, n: int) -> NDArray[np.void]:
        start = position % self.capacity
        first = min(n, self.capacity - start)
        out = np.empty((n, self.dtype.itemsize), np.uint8)
        out[:first] = self.ring[start : start + first]
        if first < n:
            out[first:] = self.ring[: n - first]
        return out.reshape(-1).view(self.dtype)

    def _check(self, rows: NDArray[np.void], position: int) -> int:
        """How many rows, from the first on, are whole blocks with good sums. Checked on the copy, so it stays true."""
        view = rows.view(np.uint8).data
        size, total, good = self.dtype.itemsize, len(rows), 0
        sizes, sums, numbers = rows["block_rows"].tolist(), rows["block_crc"].tolist(), rows["seq"]
        while good < total:
            count = sizes[good]
            if not 0 < count <= total - good or int(numbers[good]) != position + good:
                break
            if zlib.crc32(view[good * size + 4 : (good + count) * size]) != sums[good]:
                break
            good += count
        return good

    def _skip(self, rows: NDArray[np.void]) -> None:
        """Give up rows up to the next block that can be read, or all that were looked at."""
        lost = len(rows)
        for start in np.flatnonzero(rows["block_rows"]).tolist():
            if start and self._check(rows[start:], self.position + start):
                lost = start
                break
        self.position += lost
        self.torn += lost
        self._tries = 0

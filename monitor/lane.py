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
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitor.block import MOST_ROWS, Block, Blocks, ColumnBlocks, Rows
from monitor.lane_file import (
    DROPPED,
    HEAD,
    LAYOUT,
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
    grown_capacity,
    is_locked,
    lane_path,
    layout_of,
    lock,
    read_header,
)
from monitor.record import LogSchema
from registry.errors import StateDamaged
from registry.vocabulary import Role

__all__ = ["LaneReader", "LaneStatistics", "LaneWriter", "generation_of", "lane_path", "read_header"]

TRIES = 8  # reads of a block with a bad sum before its rows are given up as torn
_MASK = 2**64 - 1
Buffer = Any  # bytes, or an array in C order


class LaneWriter(LaneFile):
    """The producer's end. One thread; `offer` never waits and never raises."""

    def __init__(self, path: Path, header: LaneHeader, file: int) -> None:
        super().__init__(path, header, file)
        self._layout = ColumnBlocks(header.schema, header.role)
        self._bytes = self.ring.reshape(-1).data
        self._sums = self._bytes.cast("I")
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
                same = old.header == replace(old.header, layout=LAYOUT, schema=schema, capacity=capacity)
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
            layout=LAYOUT,
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
        header = replace(header, words_at=words_at, rows_at=words_at + PAGE)
        aside = path.with_name(f".{path.name}.{os.getpid()}.new")
        file = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            lock(file, path)
            # Reserved, not only sized: writing into a hole of a full disk is a SIGBUS.
            os.posix_fallocate(file, 0, header.rows_at + header.capacity * layout_of(header).slot_bytes)
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

    def grown(self, lane_bytes: int, rows: int) -> LaneWriter | None:
        """The generation after this one, with room for so many rows; None where it has that, or may not be larger.

        The caller closes this one. Raises OSError when the file cannot be made: then this one goes on.
        """
        h = self.header
        capacity = grown_capacity(h, lane_bytes, rows)
        if capacity <= h.capacity:
            return None
        counts = {at: self.words[at] for at in (TAIL, OFFERED, DROPPED, SAMPLED)}
        header = replace(
            h, capacity=capacity, generation=h.generation + 1, base=counts[TAIL], words_at=0, rows_at=0, layout=LAYOUT
        )
        path = lane_path(self.path.parent, h.slot, h.model, h.version, h.role, header.generation)
        return self._create(path, header, counts)

    def offer(
        self,
        hashes: bytes,
        wall_ns: int,
        epoch: int,
        flags: int,
        started_ns: int,
        infer_us: float,
        times: Buffer | None,
        places: bytes | None,
        features: Buffer,
        outputs: Buffer,
    ) -> int:
        """Publish rows with one store; the newest that find no room are dropped and counted. Returns rows committed.

        n rows are n hashes of 16 bytes. The others are buffers of as many rows: times, when each was decoded (i8, of
        the clock of started_ns; None: it did not wait); places, each row's number in its request, then each row's
        request's rows (u4; None: every request is one row); features (n, F) and outputs (n, O) in C order, of the
        schema's dtypes. The rest is of all rows.
        """
        words = self.words
        n = len(hashes) // 16
        words[OFFERED] = (words[OFFERED] + n) & _MASK
        tail = words[TAIL]
        room = self.capacity - (tail - words[HEAD])
        slot = tail % self.capacity
        written = 0
        shared = wall_ns, epoch, flags, started_ns, infer_us
        try:
            if n <= room and n <= MOST_ROWS and slot + n <= self.capacity:
                if n:
                    self._put(slot, self._layout.pack(n, tail, hashes, *shared, times, places, features, outputs))
                written = n
            else:
                fits = min(n, max(room, 0))
                cut = _Cut(n, hashes, times, places, features, outputs)
                while written < fits:  # a lap that ends inside: two blocks, each whole
                    slot = (tail + written) % self.capacity
                    end = min(fits, written + MOST_ROWS, written + self.capacity - slot)
                    hashes_of, *parts = cut(written, end)
                    block = self._layout.pack(end - written, tail + written, hashes_of or b"", *shared, *parts)
                    self._put(slot, block)
                    written = end
        except (ValueError, TypeError, BufferError, struct.error):
            pass  # a caller's shapes were wrong: its rows are dropped, and counted below
        if written:
            words[TAIL] = (tail + written) & _MASK
        if written < n:
            words[DROPPED] = (words[DROPPED] + n - written) & _MASK
        return written

    def _put(self, slot: int, block: bytes) -> None:
        at = slot * self.slot_bytes
        self._bytes[at + 4 : at + 4 + len(block)] = block
        self._sums[at >> 2] = zlib.crc32(block)

    @property
    def is_full(self) -> bool:
        """There is room for no row more."""
        return bool(self.words[TAIL] - self.words[HEAD] >= self.capacity)

    @property
    def offered(self) -> int:
        """Rows that were offered, ever."""
        return int(self.words[OFFERED])

    def count_sampled(self, rows: int) -> None:
        """Count rows that were left out by sampling and so never offered."""
        self.words[SAMPLED] = (self.words[SAMPLED] + rows) & _MASK

    def close(self) -> None:
        if self._file >= 0:
            self._sums.release()
            self._bytes.release()
        super().close()


class _Cut:
    """Some rows of an offer, as buffers of their own."""

    def __init__(
        self, n: int, hashes: bytes, times: Buffer | None, places: bytes | None, features: Buffer, outputs: Buffer
    ) -> None:
        half = 0 if places is None else len(places) // 2
        columns = hashes, times, None if places is None else places[:half], places and places[half:], features, outputs
        views = [None if column is None else memoryview(column).cast("B") for column in columns]
        self._views = [(view, 0 if view is None else len(view) // n) for view in views]

    def __call__(self, begin: int, end: int) -> list[bytes | None]:
        hashes, times, row, rows, features, outputs = (
            None if view is None else bytes(view[begin * size : end * size]) for view, size in self._views
        )
        return [hashes, times, None if row is None or rows is None else row + rows, features, outputs]


class LaneReader(LaneFile):
    """The consumer's end. `read` moves a position in memory; `release` gives the space back for good."""

    def __init__(self, path: Path, header: LaneHeader, file: int) -> None:
        super().__init__(path, header, file)
        self._layout: Blocks = layout_of(header)
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

    def read(self, max_rows: int) -> Rows:
        """The next whole blocks, at least one if one waits, in order. What is given is a copy.

        A block with a bad sum or another lap's number stops the reading; after `TRIES` reads its rows are skipped and
        counted as torn.
        """
        available = self.words[TAIL] - self.position
        if available <= 0:
            return self._rows(b"", [])
        raw = self._copy(self.position, min(available, max(max_rows, MOST_ROWS)))
        view = raw.data
        blocks = self._layout.whole(view, len(raw) // self.slot_bytes, self.position)
        if not blocks:
            self._tries += 1
            if self._tries >= TRIES:
                self._skip(raw)
        else:
            self._tries = 0
            self.position += blocks[-1].end
        return self._rows(view, blocks)

    def _rows(self, view: Any, blocks: list[Block]) -> Rows:
        return self._layout.rows(view, blocks) if blocks else Rows.empty(self.header.schema)

    def release(self, position: int) -> None:
        """Give the space before position back to the writer, after what came from it is stored."""
        self.words[TORN] = self.torn
        self.words[HEAD] = position

    def history(self, max_rows: int) -> Rows:
        """What the ring still holds of the rows before `position`: for memories that a restart lost. May be empty."""
        oldest = max(self.header.base, self.words[TAIL] - self.capacity, self.position - max_rows)
        if oldest >= self.position:
            return self._rows(b"", [])
        raw = self._copy(oldest, self.position - oldest)
        total, view = self.position - oldest, raw.data
        for start in self._layout.starts(raw, oldest):
            blocks = self._layout.whole(view[start * self.slot_bytes :], total - start, oldest + start)
            if blocks and start + blocks[-1].end == total:
                return self._rows(view[start * self.slot_bytes :], blocks)
        return self._rows(b"", [])

    def _copy(self, position: int, n: int) -> NDArray[np.uint8]:
        start = position % self.capacity
        first = min(n, self.capacity - start)
        out = np.empty((n, self.slot_bytes), np.uint8)
        out[:first] = self.ring[start : start + first]
        if first < n:
            out[first:] = self.ring[: n - first]
        return out.reshape(-1)

    def _skip(self, raw: NDArray[np.uint8]) -> None:
        """Give up rows up to the next block that can be read, or all that were looked at."""
        total = lost = len(raw) // self.slot_bytes
        view = raw.data
        for start in self._layout.starts(raw, self.position):
            if start and self._layout.whole(view[start * self.slot_bytes :], total - start, self.position + start):
                lost = start
                break
        self.position += lost
        self.torn += lost
        self._tries = 0

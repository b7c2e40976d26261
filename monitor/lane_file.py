"""A lane's file: its header, its name, and its words and rows as both ends see them.

Why: `lane.py` holds what writer and reader do, this file what they agree on. Layout: magic, JSON, NUL, padding to a
page; a page of words, each written by one process; the ring. Invariant: a header is written once, before the name is.

Who may touch which word: the writer all but `head` and `torn`, the reader those two.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monitor.block import Blocks, ColumnBlocks, RowBlocks
from monitor.record import LogSchema
from registry.errors import StateDamaged
from registry.formats import VERSIONS, check_stamp, stamped
from registry.vocabulary import Role

MAGIC = b"DGLANE01"
LAYOUT = VERSIONS["lane"]  # how rows lie in the ring: `block.py`
PAGE = 4096
MIN_ROWS = 64  # a lane of very wide rows is larger than asked for rather than shorter than this
WIDE_BYTES, MOST_TIMES = 1024, 8.0  # of a row in a lane, and of a lane's size
MAX_HEADER = 4 * 1024 * 1024

# Words on cache lines of their own: the writer's, then the reader's.
TAIL, OFFERED, DROPPED, SAMPLED, PID = 0, 8, 16, 24, 32
HEAD, TORN = 64, 72


@dataclass(frozen=True, slots=True)
class LaneStatistics:
    """A lane's counts, in rows, since the lane first existed. committed = consumed + waiting."""

    offered: int
    committed: int
    dropped: int
    sampled: int
    consumed: int
    waiting: int
    torn: int  # of the consumed: rows given up because their sum stayed bad


@dataclass(frozen=True, slots=True)
class LaneHeader:
    """What a lane's file says of itself; written once."""

    boot_id: str
    slot: int
    model: str
    version: int
    role: Role
    schema: LogSchema
    capacity: int
    generation: int
    base: int  # the position of the first row of this file
    lineage: str  # random, shared by the generations of one lane: a wiped folder starts another
    words_at: int
    rows_at: int
    layout: int  # the version of the format

    @property
    def key(self) -> str:
        """The lane's name in the database."""
        return f"{self.slot}-{self.model}-{self.version}-{self.role}-{self.lineage}"

    def to_bytes(self) -> bytes:
        body = {name: getattr(self, name) for name in self.__slots__ if name not in ("schema", "layout")}
        body = {**body, "role": str(self.role), "schema": self.schema.to_dict()}
        return MAGIC + json.dumps(stamped("lane", body, self.layout), separators=(",", ":")).encode() + b"\0"


def read_header(path: Path) -> LaneHeader:
    """Raises StateDamaged or FormatTooNew, naming the file."""
    with path.open("rb") as file:
        start = file.read(PAGE)
        while b"\0" not in start and len(start) < MAX_HEADER:
            more = file.read(PAGE * 16)
            if not more:
                break
            start += more
        size = os.fstat(file.fileno()).st_size
    if not start.startswith(MAGIC) or b"\0" not in start:
        raise StateDamaged(f"{path} is not a lane")
    try:
        document: Mapping[str, Any] = json.loads(start[len(MAGIC) : start.index(b"\0")])
    except ValueError:
        raise StateDamaged(f"{path} has a header that cannot be read") from None
    check_stamp("lane", document)
    try:
        header = LaneHeader(
            boot_id=str(document["boot_id"]),
            slot=int(document["slot"]),
            model=str(document["model"]),
            version=int(document["version"]),
            role=Role(document["role"]),
            schema=LogSchema.from_dict(document["schema"]),
            capacity=int(document["capacity"]),
            generation=int(document["generation"]),
            base=int(document["base"]),
            lineage=str(document["lineage"]),
            words_at=int(document["words_at"]),
            rows_at=int(document["rows_at"]),
            layout=int(document["v"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StateDamaged(f"{path} has a header that cannot be read: {error!r}") from None
    whole = header.rows_at + header.capacity * layout_of(header).slot_bytes
    if header.capacity < 1 or header.words_at % PAGE or header.rows_at != header.words_at + PAGE or size < whole:
        raise StateDamaged(f"{path} is shorter than its header says")
    return header


def layout_of(header: LaneHeader) -> Blocks:
    """How this lane's rows lie in its ring."""
    return RowBlocks(header.schema) if header.layout == 1 else ColumnBlocks(header.schema, header.role)


def capacity_of(schema: LogSchema, lane_bytes: int) -> int:
    """Rows that a lane of so many bytes holds.

    One of rows wider than `WIDE_BYTES` is made larger in proportion, up to `MOST_TIMES`: a thousand columns would else
    leave room for a fifth of a second of a busy model.
    """
    slot_bytes = ColumnBlocks(schema, Role.CHAMPION).slot_bytes
    times = min(max(1.0, slot_bytes / WIDE_BYTES), MOST_TIMES)
    return max(MIN_ROWS, (int(lane_bytes * times) - 2 * PAGE) // slot_bytes)


def grown_capacity(header: LaneHeader, lane_bytes: int, rows: int) -> int:
    """What a lane of this size should hold where so many rows ought to find room: at most MOST_TIMES lane_bytes.

    In doublings, so that a rate that moves a little asks for no other file; nor does less than half more.
    """
    slot_bytes = ColumnBlocks(header.schema, header.role).slot_bytes
    most = max(header.capacity, (int(lane_bytes * MOST_TIMES) - 2 * PAGE) // slot_bytes)
    capacity = header.capacity
    while capacity < min(rows, most):
        capacity *= 2
    capacity = min(capacity, most)
    return capacity if capacity >= 1.5 * header.capacity else header.capacity


def lane_path(folder: Path, slot: int, model: str, version: int, role: str, generation: int) -> Path:
    """`<slot>-<model>-<version>-<role>[.gN].lane`; the header, not the name, says what is inside."""
    suffix = f".g{generation}" if generation else ""
    return folder / f"{slot}-{model}-{version}-{role}{suffix}.lane"


def generation_of(path: Path) -> int:
    """The number in a lane's file name."""
    last = path.name.removesuffix(".lane").rpartition(".g")[2]
    return int(last) if last.isdecimal() else 0


class LaneFile:
    """One lane's file mapped: words by offset, rows as bytes. The base of writer and reader."""

    def __init__(self, path: Path, header: LaneHeader, file: int) -> None:
        self.path = path
        self.header = header
        self.slot_bytes = layout_of(header).slot_bytes
        self.capacity = header.capacity
        self._file = file
        self._map = mmap.mmap(file, header.rows_at + header.capacity * self.slot_bytes)
        # Writes of one aligned word through a memoryview are single stores, so a reader sees old or new, never half.
        self.words = memoryview(self._map)[header.words_at : header.rows_at].cast("Q")
        size = self.slot_bytes * header.capacity
        ring = np.frombuffer(self._map, np.uint8, size, header.rows_at)
        self.ring = ring.reshape(header.capacity, self.slot_bytes)

    def statistics(self) -> LaneStatistics:
        """The counts as they stand. The reader's words are read first, so waiting is never negative."""
        words = self.words
        consumed, torn = words[HEAD], words[TORN]
        committed, dropped = words[TAIL], words[DROPPED]
        return LaneStatistics(
            offered=words[OFFERED],
            committed=committed,
            dropped=dropped,
            sampled=words[SAMPLED],
            consumed=consumed,
            waiting=committed - consumed,
            torn=torn,
        )

    def close(self) -> None:
        """Unmap and give back the lock. Idempotent."""
        if self._file < 0:
            return
        self.words.release()
        del self.ring
        with contextlib.suppress(BufferError):  # somebody still looks at it: unmapped when they let go
            self._map.close()
        os.close(self._file)
        self._file = -1


def lock(file: int, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StateDamaged(f"{path} is written by another process") from None


def is_locked(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False

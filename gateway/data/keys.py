"""First assignment and first events of each routing key in a rollout: the unit of evidence when a key decides the arm.

A key that always fails would repeat its arm in every segment, so counting requests (or a key once a segment) breaks
the promised false-rollback probability (measured: 10-18 % instead of .1 % over a 20-step ramp). What holds is a key's
first event in the whole rollout, booked to the arm and weight of that moment.

Invariant: one file per worker slot and model, written by that worker only; a row is complete before `count` includes
it. The table is bounded; a key that finds it full sets `full`, and the controller then says `unknown`, cause `error`.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MAGIC = b"DGKEYS02"
HEADER_BYTES = 4096
CAPACITY = 32_768
ERROR, SLOW, BAD_OUTPUT = 0, 1, 2  # kinds of event, the second axis of the event fields
ROW = np.dtype(
    [
        ("key", "u8"),
        ("assigned_ns", "i8"),
        ("assigned_weight", "f8"),
        ("assigned_canary", "i8"),
        ("assigned_judged", "i8"),  # a latency threshold was known then
        ("event_ns", "i8", (3,)),
        ("event_weight", "f8", (3,)),
        ("event_canary", "i8", (3,)),
    ]
)
_COUNT, _FULL, _ROLLOUT_LENGTH = 1, 2, 3
_ROLLOUT_AT = 64


def key_number(key: bytes) -> int:
    """Eight bytes of a hash stand for the key: nothing of the caller's own text is stored."""
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "little")


class KeyTable:
    """The writing side for one model. Only the worker's event loop calls it."""

    def __init__(self, run: Path, slot: int, model: str, rollout_id: str) -> None:
        path = run / f"worker-{slot}-{model}.keys"
        size = HEADER_BYTES + CAPACITY * ROW.itemsize
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_size != size:
                os.ftruncate(descriptor, 0)
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(descriptor, 0, size)
                else:
                    os.ftruncate(descriptor, size)
            self._mm = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
        self._words = memoryview(self._mm).cast("q")
        self._rows: NDArray[np.void] = np.frombuffer(self._mm, dtype=ROW, offset=HEADER_BYTES)
        text = rollout_id.encode()[:512]
        same = self._mm[:8] == MAGIC and self._mm[_ROLLOUT_AT : _ROLLOUT_AT + self._words[_ROLLOUT_LENGTH]] == text
        if not same:
            self._words[_COUNT] = 0
            self._words[_FULL] = 0
            self._mm[_ROLLOUT_AT : _ROLLOUT_AT + len(text)] = text
            self._words[_ROLLOUT_LENGTH] = len(text)
            self._mm[:8] = MAGIC
        self._index = {int(key): i for i, key in enumerate(self._rows["key"][: self._words[_COUNT]])}

    def assigned(self, key: int, now_ns: int, weight: float, canary: bool, judged: bool) -> int | None:
        """The key's row, made at its first assignment; None when the table is full (which is recorded)."""
        row = self._index.get(key)
        if row is None:
            row = self._words[_COUNT]
            if row >= CAPACITY:
                self._words[_FULL] = 1
                return None
            self._rows[row] = (key, now_ns, weight, int(canary), int(judged), (0, 0, 0), (0.0, 0.0, 0.0), (0, 0, 0))
            self._words[_COUNT] = row + 1
            self._index[key] = row
        return row

    def event(self, row: int, kind: int, now_ns: int, weight: float, canary: bool) -> None:
        """Book the key's first event of this kind; later ones change nothing."""
        entry = self._rows[row]
        if entry["event_ns"][kind] == 0:
            entry["event_weight"][kind] = weight
            entry["event_canary"][kind] = int(canary)
            entry["event_ns"][kind] = now_ns

    def close(self) -> None:
        """Let the file go; it stays on disk."""
        del self._rows
        self._words.release()
        self._mm.close()


@dataclass(frozen=True, slots=True)
class KeySnapshot:
    """One worker's keys of one model and rollout."""

    slot: int
    model: str
    rollout_id: str
    rows: NDArray[np.void]  # dtype ROW
    full: bool


def read_keys(run: Path) -> list[KeySnapshot]:
    """Every key table in the run folder."""
    found = []
    for path in sorted(run.glob("worker-*-*.keys")):
        data = path.read_bytes()
        if len(data) < HEADER_BYTES or data[:8] != MAGIC:
            continue
        words = np.frombuffer(data, dtype=np.int64, count=8)
        rollout = data[_ROLLOUT_AT : _ROLLOUT_AT + int(words[_ROLLOUT_LENGTH])].decode(errors="replace")
        rows = np.frombuffer(data, dtype=ROW, offset=HEADER_BYTES, count=min(int(words[_COUNT]), CAPACITY)).copy()
        _, slot, model = path.name.removesuffix(".keys").split("-", 2)
        found.append(KeySnapshot(int(slot), model, rollout, rows, bool(words[_FULL])))
    return found

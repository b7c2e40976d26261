"""What the workers' pages say: snapshots, read without disturbing who writes.

Invariant: a page is read as a file and never mapped, since one that becomes shorter would end the reader; a page that
is being made is none. `page.py` writes them. Standard library and numpy only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gateway.data.blame import Blame, blame_of
from gateway.data.page_layout import (
    ACKED,
    BATCH_ROWS,
    BATCH_ROWS_SUM,
    BLAME_FIELDS,
    BLAMES_TABLE,
    BOOT0,
    BREAKER_OPENED,
    CODE,
    CODES,
    CONSTANTS,
    DRAINING,
    ENDED_BY,
    ENTRIES,
    FAILED,
    FATAL,
    FLAGS,
    HEADER_BYTES,
    HEADER_JSON,
    HEADER_WORDS,
    HEADER_WORDS_USED,
    HEARTBEAT,
    INFLIGHT,
    KEPT_HITS,
    KEPT_MISSES,
    KEY_BYTES,
    LANELESS_DROPPED,
    LANELESS_OFFERED,
    LATENCY,
    LATENCY_EDGES_US,
    LATENCY_SUM_NS,
    LOAD_STATES_IN_ORDER,
    LOADS_TABLE,
    MAGIC,
    MEMORY,
    NO_ROOM,
    OFFSETS,
    OPEN_BREAKERS,
    OVERFLOWED,
    PAGE_BYTES,
    PID,
    PROTOCOLS,
    READY,
    REASON,
    ROLLOUT,
    ROLLOUT_BYTES,
    SEGMENTS_TABLE,
    SHADOW_DROPPED,
    SHED,
    SHED_REASONS,
    SLOT,
    STAGE,
    STAGE_SUM_NS,
    STAGE_WIDTH,
    STAGES,
    STARTED,
    TOTALS_TABLE,
    VETOED,
    VETOES_TABLE,
    WORDS,
)
from gateway.data.processes import is_alive
from registry.formats import check_stamp
from registry.vocabulary import LoadState

TotalsKey = tuple[str, int, str]  # model, version, role


@dataclass(frozen=True, slots=True)
class Totals:
    """Cumulative counters of one (model, version, role)."""

    latency_counts: NDArray[np.int64]  # (len(LATENCY_EDGES_US) + 1,)
    latency_sum_us: float
    stage_counts: NDArray[np.int64]  # (4, len(STAGE_EDGES_US) + 1)
    stage_sum_us: tuple[float, ...]
    batch_rows_counts: NDArray[np.int64]  # (len(BATCH_EDGES) + 1,)
    batch_rows_sum: int
    codes: dict[tuple[str, str], int]
    lane_less: tuple[int, int]  # rows offered and dropped because no lane file could be made
    shed: dict[str, int]
    shadow_dropped: int
    kept: tuple[int, int]  # requests answered by a kept answer, and those that ran where answers are kept
    failed: int  # requests whose run failed, whoever answered them then
    breaker_opened: int  # times
    constants: int  # requests answered by a constant
    overflowed: int  # requests that a canary had no room or time for, and the champion took
    fatal: int  # times that the worker ended in a run of it, or in its load, and did not try it for a while


@dataclass(frozen=True, slots=True)
class Segment:
    """Evidence of one arm at one effective weight; exact."""

    model: str
    version: int
    role: str
    rollout_id: str
    weight: float
    judged: bool  # a latency threshold was known: `slow` says something about these requests
    requests: int
    errors: int
    slow: int
    bad_outputs: int


@dataclass(frozen=True, slots=True)
class Held:
    """What holding a version costs one worker."""

    size_bytes: int  # measured when it was loaded
    load_us: int


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """One worker's memory, and its loads since the page was made."""

    used_bytes: int = 0
    budget_bytes: int = 0  # 0: no limit
    loaded: int = 0
    waiting: int = 0  # requests that wait for a load
    loads: int = 0
    failed: int = 0
    load_us: int = 0
    evictions: int = 0
    refused: int = 0


class TotalsTable(Mapping[TotalsKey, Totals]):
    """Totals by (model, version, role). An entry is read when it is asked for: most readers want a few of thousands."""

    def __init__(self, places: Mapping[TotalsKey, int], words: NDArray[np.int64]) -> None:
        self._places = places
        self._words = words  # (entries, words)
        self._read: dict[TotalsKey, Totals] = {}

    def __getitem__(self, key: TotalsKey) -> Totals:
        found = self._read.get(key)
        if found is None:
            found = self._read[key] = _read_totals(self._words[self._places[key]])
        return found

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def __iter__(self) -> Iterator[TotalsKey]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


@dataclass(frozen=True, slots=True)
class PageSnapshot:
    """All that one worker page says."""

    slot: int
    pid: int
    alive: bool
    boot_id: str
    heartbeat_ns: int
    acked_epoch: int
    ready: bool
    draining: bool
    inflight: int
    no_room: int  # entries that found a table full; evidence is incomplete when this is not 0
    loads: dict[tuple[str, int], tuple[LoadState, str]]
    totals: Mapping[TotalsKey, Totals]
    segments: tuple[Segment, ...]
    vetoes: dict[str, str]  # model → the rollout whose canary gets nothing more here
    ended_by: dict[str, int]  # of vetoes: the signal that ended a worker in a run of the candidate
    held: Mapping[tuple[str, int], Held] = field(default_factory=dict)
    memory: MemoryUse = field(default_factory=MemoryUse)
    open_breakers: int = 0  # versions that are not tried now
    blames: Mapping[tuple[str, int], Blame] = field(default_factory=dict)  # versions that ended the worker, or may have

    @property
    def shed(self) -> dict[tuple[str, str], int]:
        """Refusals by (model, reason)."""
        return {(m, reason): n for (m, _, _), total in self.totals.items() for reason, n in total.shed.items() if n}

    @property
    def shadow_dropped(self) -> dict[tuple[str, int], int]:
        """Shadow rows that were dropped, by (model, version)."""
        return {(m, v): t.shadow_dropped for (m, v, role), t in self.totals.items() if role == "shadow"}


def read_pages(run: Path) -> list[PageSnapshot]:
    """Every worker page in the run folder, of living and of dead workers, in slot order."""
    pages = [read_page(path) for path in run.glob("worker-*.page")]
    return sorted((page for page in pages if page is not None), key=lambda page: page.slot)


def read_page(path: Path) -> PageSnapshot | None:
    """One page; None when the file is being made or is gone. Raises FormatTooNew for a newer layout."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return _read_open_page(descriptor)
    except (OSError, _Torn):
        return None
    finally:
        os.close(descriptor)


class _Torn(Exception):
    """The file became shorter while it was read: its worker begins it anew."""


def _pread(descriptor: int, size: int, at: int) -> bytes:
    # Not a mapping: of a file that becomes shorter, one would end this process with SIGBUS.
    data = os.pread(descriptor, size, at)
    if len(data) != size:
        raise _Torn
    return data


def _read_open_page(descriptor: int) -> PageSnapshot | None:
    if os.fstat(descriptor).st_size != PAGE_BYTES:
        return None
    data = _pread(descriptor, HEADER_BYTES, 0)
    if data[:8] != MAGIC:
        return None
    header = json.loads(data[HEADER_JSON : HEADER_JSON + int.from_bytes(data[8:16], "little")])
    check_stamp("page", header)
    head = np.frombuffer(data, dtype=np.int64)[HEADER_WORDS : HEADER_WORDS + HEADER_WORDS_USED].tolist()
    boot_at = 8 * (HEADER_WORDS + BOOT0)
    loads: dict[tuple[str, int], tuple[LoadState, str]] = {}
    held: dict[tuple[str, int], Held] = {}
    keys, words = _entries(descriptor, LOADS_TABLE)
    for key, index in keys:
        model, version = key.split("|")
        state, length, size, took_us, *_ = words[index, :REASON].tolist()
        if 1 <= state <= len(LOAD_STATES_IN_ORDER):
            reason = words[index, REASON:].tobytes()[: max(0, length)].decode(errors="replace")
            loads[model, int(version)] = (LOAD_STATES_IN_ORDER[state - 1], reason)
            if size:
                held[model, int(version)] = Held(size, took_us)
    places: dict[TotalsKey, int] = {}
    keys, total_words = _entries(descriptor, TOTALS_TABLE)
    for key, index in keys:
        model, version, role = key.split("|")
        places[model, int(version), role] = index
    segments = []
    keys, words = _entries(descriptor, SEGMENTS_TABLE)
    for key, index in keys:
        model, version, role, rollout_id, weight, judged = key.split("|")
        counts = words[index, :4].tolist()
        segments.append(Segment(model, int(version), role, rollout_id, float(weight), judged == "1", *counts))
    blames: dict[tuple[str, int], Blame] = {}
    keys, words = _entries(descriptor, BLAMES_TABLE)
    for key, index in keys:
        model, version = key.split("|")
        blames[model, int(version)] = blame_of(words[index, :BLAME_FIELDS].tolist())
    keys, words = _entries(descriptor, VETOES_TABLE)
    vetoed = [(key, words[index]) for key, index in keys if words[index, VETOED] > 0]
    vetoes = {key: entry[ROLLOUT:ROLLOUT_BYTES].tobytes()[: int(entry[VETOED])].decode() for key, entry in vetoed}
    return PageSnapshot(
        slot=head[SLOT],
        pid=head[PID],
        alive=is_alive(head[PID], head[STARTED]),
        boot_id=data[boot_at : boot_at + 16].hex(),
        heartbeat_ns=head[HEARTBEAT],
        acked_epoch=head[ACKED],
        ready=bool(head[FLAGS] & READY),
        draining=bool(head[FLAGS] & DRAINING),
        inflight=head[INFLIGHT],
        no_room=head[NO_ROOM],
        loads=loads,
        totals=TotalsTable(places, total_words),
        segments=tuple(segments),
        vetoes=vetoes,
        ended_by={key: int(entry[ENDED_BY]) for key, entry in vetoed if entry[ENDED_BY] > 0},
        held=held,
        memory=MemoryUse(*head[MEMORY:OPEN_BREAKERS]),
        open_breakers=head[OPEN_BREAKERS],
        blames=blames,
    )


def _entries(descriptor: int, table: int) -> tuple[list[tuple[str, int]], NDArray[np.int64]]:
    """The keys of a table with their places, and the words of all places up to the last that is used."""
    lengths_at, keys_at, words_at = OFFSETS[table]
    lengths = np.frombuffer(_pread(descriptor, 8 * ENTRIES[table], lengths_at), dtype=np.int64)
    used = np.flatnonzero((lengths > 0) & (lengths <= KEY_BYTES)).tolist()
    count, width = (used[-1] + 1 if used else 0), WORDS[table]
    text = _pread(descriptor, count * KEY_BYTES, keys_at)
    words = np.frombuffer(_pread(descriptor, 8 * count * width, words_at), dtype=np.int64).reshape(count, width)
    sizes = lengths.tolist()
    keys = [(text[i * KEY_BYTES : i * KEY_BYTES + sizes[i]].decode(), i) for i in used]
    return keys, words


def _read_totals(words: NDArray[np.int64]) -> Totals:
    codes = words[CODE:BATCH_ROWS].reshape(len(PROTOCOLS), len(CODES))
    return Totals(
        latency_counts=words[LATENCY : LATENCY + len(LATENCY_EDGES_US) + 1].copy(),
        latency_sum_us=float(words[LATENCY_SUM_NS]) / 1000.0,
        stage_counts=words[STAGE:LATENCY].reshape(len(STAGES), STAGE_WIDTH).copy(),
        stage_sum_us=tuple(float(words[STAGE_SUM_NS + i]) / 1000.0 for i in range(len(STAGES))),
        batch_rows_counts=words[BATCH_ROWS:STAGE].copy(),
        batch_rows_sum=int(words[BATCH_ROWS_SUM]),
        codes={(PROTOCOLS[p], CODES[c]): int(codes[p, c]) for p, c in zip(*np.nonzero(codes), strict=True)},
        lane_less=(int(words[LANELESS_OFFERED]), int(words[LANELESS_DROPPED])),
        shed={reason: int(words[SHED + i]) for i, reason in enumerate(SHED_REASONS)},
        shadow_dropped=int(words[SHADOW_DROPPED]),
        kept=(int(words[KEPT_HITS]), int(words[KEPT_MISSES])),
        failed=int(words[FAILED]),
        breaker_opened=int(words[BREAKER_OPENED]),
        constants=int(words[CONSTANTS]),
        overflowed=int(words[OVERFLOWED]),
        fatal=int(words[FATAL]),
    )

"""The worker page: one file of counters per worker slot, in shared memory, exact and cumulative.

Invariant: one process writes (the worker that holds the slot), anybody reads. Every counter is one aligned 8-byte word
that only grows, so a reader never sees a torn value and a kill -9 loses at most the increment in progress. The file
stays when its worker dies, and the successor goes on counting in it. Guardrails and /metrics read pages, never lanes:
lanes may drop rows, evidence may not.

Who touches it: the worker's event loop writes; `read_pages` runs in the controller. Standard library and numpy only.

Layout: a header, then four tables. A table is its entries' key lengths, their keys (UTF-8 text), and their words, each
side by side, so that a table with room for thousands costs memory and reading for what is used of it only. An entry's
key length is stored last, so it is seen whole or not at all; low places are taken first.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.errors import StateDamaged
from registry.formats import check_stamp, stamped
from registry.vocabulary import LoadState

MAGIC = b"DGPAGE01"
STAGES = ("decode", "queue", "infer", "encode")
PROTOCOLS = ("v2", "v1", "mlflow", "sagemaker", "vertex", "azureml", "grpc", "other")
_STATUSES = (200, 400, 401, 403, 404, 405, 408, 409, 413, 415, 421, 422, 429, 499, 500, 501, 503, 504)
CODES = tuple(str(status) for status in _STATUSES)
SHED_REASONS = ("overloaded", "deadline", "draining", "not_ready", "quota", "breaker", "bodies")
BATCH_EDGES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

# Contract: metric buckets, in milliseconds.
REQUEST_BUCKETS_MS = (0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000)
STAGE_BUCKETS_MS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, *REQUEST_BUCKETS_MS)


def _fine_edges_us(width: float = 1.05, first_us: float = 20.0) -> tuple[float, ...]:
    """Bucket bounds at most `width` apart, with every metric bucket's bound among them."""
    anchors = [first_us, *(ms * 1000.0 for ms in REQUEST_BUCKETS_MS)]
    edges = [first_us]
    for low, high in pairwise(anchors):
        steps = math.ceil(math.log(high / low) / math.log(width))
        edges += [low * (high / low) ** (i / steps) for i in range(1, steps)] + [high]
    return tuple(edges)


LATENCY_EDGES_US = _fine_edges_us()
STAGE_EDGES_US = tuple(ms * 1000.0 for ms in STAGE_BUCKETS_MS)

# Words of a totals entry.
LATENCY_SUM_NS = 0
STAGE_SUM_NS = 1  # four words
BATCH_ROWS_SUM = 5
LANELESS_OFFERED = 6
LANELESS_DROPPED = 7
SHADOW_DROPPED = 8
KEPT_HITS = 9  # requests answered by a kept answer
KEPT_MISSES = 10
FAILED = 11  # requests whose run failed, whoever answered them then
BREAKER_OPENED = 12
CONSTANTS = 13  # requests answered by a constant
OVERFLOWED = 14  # requests that a canary had no room or time for, and the champion took
SHED = 16
CODE = 32
BATCH_ROWS = CODE + len(PROTOCOLS) * len(CODES)
STAGE = BATCH_ROWS + len(BATCH_EDGES) + 1
STAGE_WIDTH = len(STAGE_EDGES_US) + 1
LATENCY = STAGE + len(STAGES) * STAGE_WIDTH
_TOTAL_WORDS = 8 * math.ceil((LATENCY + len(LATENCY_EDGES_US) + 1) / 8)

# Words of a segment entry.
REQUESTS, ERRORS, SLOW, BAD_OUTPUTS = range(4)
_SEGMENT_WORDS = 8

_KEY_BYTES = 248  # after the 8-byte length
_TOTALS, _SEGMENTS, _LOADS, _VETOES = range(4)
_ENTRIES = (4096, 1024, 4096, 256)
_WORDS = (_TOTAL_WORDS, _SEGMENT_WORDS, 40, 16)  # a load and a veto: as below

# Words of a load entry.
_LOAD_STATE, _REASON_BYTES, _LOAD_BYTES, _LOAD_US, _REASON = range(5)

# Words of a veto entry: of a rollout that this worker has something to say of. Its id's length, when it is vetoed; the
# id; its length in any case; runs of its candidate under way; the signal that ended a worker in one of them.
_VETOED, _ROLLOUT = 0, 1
_ROLLOUT_BYTES, _RUNS, _ENDED_BY = range(12, 15)

_HEADER_BYTES = 4096
_HEADER_JSON = 16
_HEADER_WORDS = 2048 // 8
_PID, _STARTED, _BOOT0, _BOOT1, _HEARTBEAT, _ACKED, _FLAGS, _INFLIGHT, _NO_ROOM, _SLOT = range(10)
_MEMORY, _BUDGET, _LOADED, _WAITING_LOADS = range(10, 14)  # as they are now
_LOADS_DONE, _LOADS_FAILED, _LOADS_US, _EVICTIONS, _LOADS_REFUSED = range(14, 19)  # ever
_OPEN_BREAKERS = 19  # as they are now
_HEADER_WORDS_USED = 20
_DRAINING, _READY = 1, 2

_NOBODY = "|0|"
_SPARE_TOTALS = 64

_LOAD_STATES = tuple(LoadState)

TotalsKey = tuple[str, int, str]  # model, version, role


def _offsets() -> tuple[tuple[tuple[int, int, int], ...], int]:
    """Where each table's lengths, keys and words begin, in bytes; and where the last one ends."""
    offsets, at = [], _HEADER_BYTES
    for entries, words in zip(_ENTRIES, _WORDS, strict=True):
        offsets.append((at, at + entries * 8, at + entries * (8 + _KEY_BYTES)))
        at += entries * (8 + _KEY_BYTES + 8 * words)
    return tuple(offsets), at


_OFFSETS, PAGE_BYTES = _offsets()


def process_start(pid: int) -> int:
    """The kernel's start time of a process in clock ticks since boot, 0 when there is none (or not Linux)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return 0
    fields = text[text.rindex(b")") + 2 :].split()
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def is_alive(pid: int, started: int) -> bool:
    """Whether the process that wrote (pid, started) still runs; a reused pid has another start."""
    if pid <= 0:
        return False
    if started:
        return process_start(pid) == started
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def page_path(run: Path, slot: int) -> Path:
    """Where the page of a worker slot lies."""
    return run / f"worker-{slot}.page"


def _header_json() -> bytes:
    layout = {
        "entries": _ENTRIES,
        "words": _WORDS,
        "latency_edges": len(LATENCY_EDGES_US),
        "stages": STAGES,
        "segment_key": 6,
        "by_columns": 1,
    }
    return json.dumps(stamped("page", layout)).encode()


def _is_wanted(key: str, wanted: set[tuple[str, int]]) -> bool:
    model, version, _ = key.split("|")
    return version == "0" or (model, int(version)) in wanted


class RunMark:
    """Says in the page that a rollout's candidate is being run, so that a run which ends the process can be told of.

    Any thread may run it; the word that it writes is its own until it is closed.
    """

    def __init__(self, words: memoryview, place: int) -> None:
        self._words = words
        self._place = place
        self._lock = threading.Lock()
        self._runs = 0
        self._is_open = True

    def __enter__(self) -> None:
        self._count(1)

    def __exit__(self, *_error: object) -> None:
        self._count(-1)

    def _count(self, more: int) -> None:
        with self._lock:
            self._runs += more
            if self._is_open:
                self._words[self._place] = self._runs

    def close(self) -> None:
        """Write nothing more: the rollout has ended, and its place may be another's."""
        with self._lock:
            self._is_open = False


class WorkerPage:
    """The writing side. One per worker process; only its event loop may call it.

    ended_by: the signal by which the process before this one ended, 0 unless it was by its own fault.
    """

    def __init__(self, path: Path, slot: int, boot_id: str, ended_by: int = 0) -> None:
        self.path = path
        self._open(path)
        self._mm[0:8] = MAGIC
        text = _header_json()
        self._mm[8:16] = len(text).to_bytes(8, "little")
        self._mm[_HEADER_JSON : _HEADER_JSON + len(text)] = text
        self.words = memoryview(self._mm).cast("q")
        self.array: NDArray[np.int64] = np.frombuffer(self._mm, dtype=np.int64)
        self._known: list[dict[str, int]] = [{} for _ in _ENTRIES]
        self._free: list[list[int]] = [[] for _ in _ENTRIES]
        self._scan()
        self._set(_SLOT, slot)
        boot = bytes.fromhex(boot_id)
        self._mm[8 * (_HEADER_WORDS + _BOOT0) : 8 * (_HEADER_WORDS + _BOOT0) + 16] = boot
        now = (_HEARTBEAT, _ACKED, _FLAGS, _INFLIGHT, _MEMORY, _BUDGET, _LOADED, _WAITING_LOADS, _OPEN_BREAKERS)
        for name in now:
            self._set(name, 0)
        self._release_where(_LOADS, lambda _key: True)
        self._release_where(_VETOES, lambda model: not self._ended_in_a_run(model, ended_by))
        self._find(_TOTALS, _NOBODY)  # what finds the table full is counted here
        self._set(_STARTED, process_start(os.getpid()))
        self._set(_PID, os.getpid())

    def _open(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_size == PAGE_BYTES:
                head = os.pread(descriptor, 2048, 0)
                text = _header_json()
                if head[:8] == MAGIC and head[_HEADER_JSON : _HEADER_JSON + len(text)] == text:
                    self._mm = mmap.mmap(descriptor, PAGE_BYTES)
                    return
            # Another release's layout, or a new file: begin at zero. Counters of another layout cannot be continued.
            os.ftruncate(descriptor, 0)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, PAGE_BYTES)  # a sparse file is a SIGBUS when the disk is full
            else:
                os.ftruncate(descriptor, PAGE_BYTES)
            self._mm = mmap.mmap(descriptor, PAGE_BYTES)
        finally:
            os.close(descriptor)

    def _set(self, name: int, value: int) -> None:
        self.words[_HEADER_WORDS + name] = value

    def _place(self, table: int, index: int) -> tuple[int, int, int]:
        """Of an entry: the word of its key's length, the byte of its key, and its first word."""
        lengths, keys, words = _OFFSETS[table]
        return lengths // 8 + index, keys + index * _KEY_BYTES, words // 8 + index * _WORDS[table]

    def _scan(self) -> None:
        for table, entries in enumerate(_ENTRIES):
            first, _, _ = self._place(table, 0)
            lengths = self.array[first : first + entries]
            used = (lengths > 0) & (lengths <= _KEY_BYTES)
            for index in np.flatnonzero(used).tolist():
                word, at, _ = self._place(table, index)
                self._known[table][bytes(self._mm[at : at + self.words[word]]).decode()] = index
            self._free[table] = np.flatnonzero(~used)[::-1].tolist()

    def _find(self, table: int, key: str) -> int | None:
        """The first word's index of an entry, made when new; None when the table is full (counted)."""
        index = self._known[table].get(key)
        if index is None:
            text = key.encode()
            if not self._free[table] or len(text) > _KEY_BYTES:
                self.count_no_room()
                return None
            index = self._free[table].pop()
            word, at, first = self._place(table, index)
            self.array[first : first + _WORDS[table]] = 0
            self._mm[at : at + len(text)] = text
            self.words[word] = len(text)
            self._known[table][key] = index
        return self._place(table, index)[2]

    def count_no_room(self) -> None:
        """Something could not be counted: evidence from this worker is incomplete."""
        self._set(_NO_ROOM, self.words[_HEADER_WORDS + _NO_ROOM] + 1)

    def _add(self, name: int, more: int) -> None:
        self.words[_HEADER_WORDS + name] += more

    def _release_where(self, table: int, unwanted: Any) -> None:
        for key in [key for key in self._known[table] if unwanted(key)]:
            self._release(table, key)

    def _release(self, table: int, key: str) -> None:
        index = self._known[table].pop(key, None)
        if index is not None:
            self.words[self._place(table, index)[0]] = 0
            self._free[table].append(index)

    def totals(self, model: str, version: int, role: str) -> int:
        """Index of the first word of these totals; the shared entry of no model when the table is full."""
        found = self._find(_TOTALS, f"{model}|{version}|{role}")
        if found is None:
            found = self._find(_TOTALS, _NOBODY)
            if found is None:
                raise StateDamaged(f"{self.path} has no entry left for its own totals")
        return found

    def make_room(self, wanted: set[tuple[str, int]]) -> None:
        """When the table of totals is nearly full, forget versions that are not wanted any more.

        Only while nothing can still be booked to them: their counters end, as after a version is removed.
        """
        if len(self._free[_TOTALS]) < _SPARE_TOTALS:
            self._release_where(_TOTALS, lambda key: key != _NOBODY and not _is_wanted(key, wanted))

    def segment(self, model: str, version: int, role: str, rollout_id: str, weight: float, judged: bool) -> int | None:
        """Index of the first word of this evidence segment; None when the table is full, which the reader sees.

        judged: a latency threshold is known, so an answer that is not slow is one that was looked at.
        Keyed by effective weight, not by epoch: sums over epochs of one weight are valid, because given an event the
        arm's probability depends on the weight alone (delivery research, B.3).
        """
        return self._find(_SEGMENTS, f"{model}|{version}|{role}|{rollout_id}|{weight!r}|{int(judged)}")

    def keep_segments(self, rollouts: set[str]) -> None:
        """Free what is said of every other rollout: their evidence has been decided on."""
        self._release_where(_SEGMENTS, lambda key: key.split("|")[3] not in rollouts)
        self._release_where(_VETOES, lambda model: self._rollout_of(self._first(_VETOES, model)) not in rollouts)

    def set_load(
        self, model: str, version: int, state: LoadState, reason: str = "", *, size_bytes: int = 0, load_us: int = 0
    ) -> None:
        """Say what this worker holds; of what is READY, what it takes of memory and how long it took to load.

        The reason of a version that is READY says what is not as it was asked for.
        """
        first = self._find(_LOADS, f"{model}|{version}")
        if first is None:
            return
        text = reason.encode()[: 8 * (_WORDS[_LOADS] - _REASON)]
        at = 8 * (first + _REASON)
        self._mm[at : at + len(text)] = text
        self.words[first + _REASON_BYTES] = len(text)
        self.words[first + _LOAD_BYTES] = size_bytes
        self.words[first + _LOAD_US] = load_us
        self.words[first + _LOAD_STATE] = _LOAD_STATES.index(state) + 1

    def clear_load(self, model: str, version: int) -> None:
        """This worker no longer holds the version."""
        self._release(_LOADS, f"{model}|{version}")

    def set_memory(self, *, used_bytes: int, budget_bytes: int, loaded: int, waiting: int) -> None:
        """What this process takes and may take (0: no limit), versions that it holds, requests that wait for one."""
        self._set(_MEMORY, used_bytes)
        self._set(_BUDGET, budget_bytes)
        self._set(_LOADED, loaded)
        self._set(_WAITING_LOADS, waiting)

    def count_load(self, load_us: int, *, failed: bool = False) -> None:
        """A load has ended."""
        self._add(_LOADS_FAILED if failed else _LOADS_DONE, 1)
        self._add(_LOADS_US, load_us)

    def count_eviction(self) -> None:
        """A version left, so that another had room."""
        self._add(_EVICTIONS, 1)

    def count_refused_load(self) -> None:
        """A request could not wait for a load, or there was no room for it."""
        self._add(_LOADS_REFUSED, 1)

    def veto(self, model: str, rollout_id: str) -> None:
        """Say that this worker has lowered the canary to 0 by itself, for this rollout."""
        first = self._of_rollout(model, rollout_id)
        if first is not None:
            self.words[first + _VETOED] = self.words[first + _ROLLOUT_BYTES]

    def is_vetoed(self, model: str, rollout_id: str) -> bool:
        """Whether this worker, or one before it in its slot, has lowered the canary of this rollout to 0."""
        if model not in self._known[_VETOES]:
            return False
        first = self._first(_VETOES, model)
        return self.words[first + _VETOED] > 0 and self._rollout_of(first) == rollout_id

    def run_mark(self, model: str, rollout_id: str) -> RunMark | None:
        """What is to be entered for each run of the rollout's candidate; None when the table is full (counted)."""
        first = self._of_rollout(model, rollout_id)
        return None if first is None else RunMark(self.words, first + _RUNS)

    def _of_rollout(self, model: str, rollout_id: str) -> int | None:
        """The first word of a model's veto entry, begun anew for a rollout that it does not speak of yet."""
        first = self._find(_VETOES, model)
        if first is not None and self._rollout_of(first) != rollout_id:
            text = rollout_id.encode()[: 8 * (_ROLLOUT_BYTES - _ROLLOUT)]
            for name in (_VETOED, _ROLLOUT_BYTES, _RUNS, _ENDED_BY):
                self.words[first + name] = 0
            self._mm[8 * (first + _ROLLOUT) : 8 * (first + _ROLLOUT) + len(text)] = text
            self.words[first + _ROLLOUT_BYTES] = len(text)
        return first

    def _first(self, table: int, key: str) -> int:
        return self._place(table, self._known[table][key])[2]

    def _rollout_of(self, first: int) -> str:
        at = 8 * (first + _ROLLOUT)
        return bytes(self._mm[at : at + self.words[first + _ROLLOUT_BYTES]]).decode(errors="replace")

    def _ended_in_a_run(self, model: str, ended_by: int) -> bool:
        """Whether a worker ended by its own fault while it ran the candidate: then its veto stands."""
        first = self._first(_VETOES, model)
        if ended_by and self.words[first + _RUNS] > 0:
            self.words[first + _ENDED_BY] = ended_by
            self.words[first + _VETOED] = self.words[first + _ROLLOUT_BYTES]
        self.words[first + _RUNS] = 0
        return bool(self.words[first + _ENDED_BY])

    def heartbeat(self, host_ns: int, inflight: int, open_breakers: int = 0) -> None:
        """The event loop turned."""
        self._set(_HEARTBEAT, host_ns)
        self._set(_INFLIGHT, inflight)
        self._set(_OPEN_BREAKERS, open_breakers)

    def acknowledge(self, epoch: int) -> None:
        """No later request of this worker is routed by an older epoch."""
        self._set(_ACKED, epoch)

    def set_state(self, *, ready: bool, draining: bool) -> None:
        """What `/readyz` says."""
        self._set(_FLAGS, (_READY if ready else 0) | (_DRAINING if draining else 0))

    def close(self) -> None:
        """Let the file go (it stays on disk)."""
        del self.array
        self.words.release()
        self._mm.close()


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
    data = _pread(descriptor, _HEADER_BYTES, 0)
    if data[:8] != MAGIC:
        return None
    header = json.loads(data[_HEADER_JSON : _HEADER_JSON + int.from_bytes(data[8:16], "little")])
    check_stamp("page", header)
    head = np.frombuffer(data, dtype=np.int64)[_HEADER_WORDS : _HEADER_WORDS + _HEADER_WORDS_USED].tolist()
    boot_at = 8 * (_HEADER_WORDS + _BOOT0)
    loads: dict[tuple[str, int], tuple[LoadState, str]] = {}
    held: dict[tuple[str, int], Held] = {}
    keys, words = _entries(descriptor, _LOADS)
    for key, index in keys:
        model, version = key.split("|")
        state, length, size, took_us = words[index, :_REASON].tolist()
        if 1 <= state <= len(_LOAD_STATES):
            reason = words[index, _REASON:].tobytes()[: max(0, length)].decode(errors="replace")
            loads[model, int(version)] = (_LOAD_STATES[state - 1], reason)
            if size:
                held[model, int(version)] = Held(size, took_us)
    places: dict[TotalsKey, int] = {}
    keys, total_words = _entries(descriptor, _TOTALS)
    for key, index in keys:
        model, version, role = key.split("|")
        places[model, int(version), role] = index
    segments = []
    keys, words = _entries(descriptor, _SEGMENTS)
    for key, index in keys:
        model, version, role, rollout_id, weight, judged = key.split("|")
        counts = words[index, :4].tolist()
        segments.append(Segment(model, int(version), role, rollout_id, float(weight), judged == "1", *counts))
    keys, words = _entries(descriptor, _VETOES)
    vetoed = [(key, words[index]) for key, index in keys if words[index, _VETOED] > 0]
    vetoes = {key: entry[_ROLLOUT:_ROLLOUT_BYTES].tobytes()[: int(entry[_VETOED])].decode() for key, entry in vetoed}
    return PageSnapshot(
        slot=head[_SLOT],
        pid=head[_PID],
        alive=is_alive(head[_PID], head[_STARTED]),
        boot_id=data[boot_at : boot_at + 16].hex(),
        heartbeat_ns=head[_HEARTBEAT],
        acked_epoch=head[_ACKED],
        ready=bool(head[_FLAGS] & _READY),
        draining=bool(head[_FLAGS] & _DRAINING),
        inflight=head[_INFLIGHT],
        no_room=head[_NO_ROOM],
        loads=loads,
        totals=TotalsTable(places, total_words),
        segments=tuple(segments),
        vetoes=vetoes,
        ended_by={key: int(entry[_ENDED_BY]) for key, entry in vetoed if entry[_ENDED_BY] > 0},
        held=held,
        memory=MemoryUse(*head[_MEMORY:_OPEN_BREAKERS]),
        open_breakers=head[_OPEN_BREAKERS],
    )


def _entries(descriptor: int, table: int) -> tuple[list[tuple[str, int]], NDArray[np.int64]]:
    """The keys of a table with their places, and the words of all places up to the last that is used."""
    lengths_at, keys_at, words_at = _OFFSETS[table]
    lengths = np.frombuffer(_pread(descriptor, 8 * _ENTRIES[table], lengths_at), dtype=np.int64)
    used = np.flatnonzero((lengths > 0) & (lengths <= _KEY_BYTES)).tolist()
    count, width = (used[-1] + 1 if used else 0), _WORDS[table]
    text = _pread(descriptor, count * _KEY_BYTES, keys_at)
    words = np.frombuffer(_pread(descriptor, 8 * count * width, words_at), dtype=np.int64).reshape(count, width)
    sizes = lengths.tolist()
    keys = [(text[i * _KEY_BYTES : i * _KEY_BYTES + sizes[i]].decode(), i) for i in used]
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
    )

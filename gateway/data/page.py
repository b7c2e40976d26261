"""The worker page: one file of counters per worker slot, in shared memory, exact and cumulative. The writing side.

Invariant: one process writes (the worker that holds the slot), anybody reads. Every counter is one aligned 8-byte word
that only grows, so a reader never sees a torn value and a kill -9 loses at most the increment in progress. The file
stays when its worker dies, and the successor goes on counting in it. Guardrails and /metrics read pages, never lanes:
lanes may drop rows, evidence may not. `page_layout.py` says where things lie, `page_reader.py` reads them. Called by
the worker's event loop. Standard library and numpy only.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.data.blame import Blame, blame_of
from gateway.data.page_layout import (
    ACKED,
    BLAME_FIELDS,
    BLAMES_TABLE,
    BOOT0,
    BUDGET,
    DRAINING,
    ENDED_BY,
    ENTRIES,
    EVICTIONS,
    FLAGS,
    HEADER_JSON,
    HEADER_WORDS,
    HEARTBEAT,
    INFLIGHT,
    KEY_BYTES,
    LOAD_BYTES,
    LOAD_STATE,
    LOAD_STATES_IN_ORDER,
    LOAD_US,
    LOADED,
    LOADS_DONE,
    LOADS_FAILED,
    LOADS_REFUSED,
    LOADS_TABLE,
    LOADS_US,
    MAGIC,
    MEMORY,
    NO_ROOM,
    NOBODY,
    OFFSETS,
    OPEN_BREAKERS,
    OPENING,
    PAGE_BYTES,
    PID,
    READY,
    REASON,
    REASON_BYTES,
    ROLLOUT,
    ROLLOUT_BYTES,
    RUNNING,
    RUNS,
    SEGMENTS_TABLE,
    SLOT,
    STARTED,
    TOTALS_TABLE,
    VETOED,
    VETOES_TABLE,
    WAITING_LOADS,
    WORDS,
    header_json,
)
from gateway.data.processes import process_start
from gateway.data.residency import Key
from gateway.data.run_mark import RunMark
from registry.errors import StateDamaged
from registry.vocabulary import LoadState

_SPARE_TOTALS = 64


def _text(key: Key) -> str:
    return f"{key[0]}|{key[1]}"


def _key(text: str) -> Key:
    model, version = text.split("|")
    return model, int(version)


def _is_wanted(key: str, wanted: set[tuple[str, int]]) -> bool:
    model, version, _ = key.split("|")
    return version == "0" or (model, int(version)) in wanted


class WorkerPage:
    """The writing side. One per worker process; only its event loop may call it.

    ended_by: the signal by which the process before this one ended, 0 unless it was by its own fault.
    """

    def __init__(self, path: Path, slot: int, boot_id: str, ended_by: int = 0) -> None:
        self.path = path
        self._open(path)
        self._mm[0:8] = MAGIC
        text = header_json()
        self._mm[8:16] = len(text).to_bytes(8, "little")
        self._mm[HEADER_JSON : HEADER_JSON + len(text)] = text
        self.words = memoryview(self._mm).cast("q")
        self.array: NDArray[np.int64] = np.frombuffer(self._mm, dtype=np.int64)
        self._known: list[dict[str, int]] = [{} for _ in ENTRIES]
        self._free: list[list[int]] = [[] for _ in ENTRIES]
        self._scan()
        self._set(SLOT, slot)
        boot, boot_at = bytes.fromhex(boot_id), 8 * (HEADER_WORDS + BOOT0)
        if self._mm[boot_at : boot_at + 16] != boot:
            self._release_where(BLAMES_TABLE, lambda _key: True)
        self._mm[boot_at : boot_at + 16] = boot
        now = (HEARTBEAT, ACKED, FLAGS, INFLIGHT, MEMORY, BUDGET, LOADED, WAITING_LOADS, OPEN_BREAKERS)
        for name in now:
            self._set(name, 0)
        # What the process before this one was at, where it marked that: versions, and whether they were being loaded.
        self.ended_in = self._under_way()
        self._release_where(LOADS_TABLE, lambda _key: True)
        self._release_where(VETOES_TABLE, lambda model: not self._ended_in_a_run(model, ended_by))
        self._find(TOTALS_TABLE, NOBODY)  # what finds the table full is counted here
        self._set(STARTED, process_start(os.getpid()))
        self._set(PID, os.getpid())

    def _open(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_size == PAGE_BYTES:
                head = os.pread(descriptor, 2048, 0)
                text = header_json()
                if head[:8] == MAGIC and head[HEADER_JSON : HEADER_JSON + len(text)] == text:
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
        self.words[HEADER_WORDS + name] = value

    def _place(self, table: int, index: int) -> tuple[int, int, int]:
        """Of an entry: the word of its key's length, the byte of its key, and its first word."""
        lengths, keys, words = OFFSETS[table]
        return lengths // 8 + index, keys + index * KEY_BYTES, words // 8 + index * WORDS[table]

    def _scan(self) -> None:
        for table, entries in enumerate(ENTRIES):
            first, _, _ = self._place(table, 0)
            lengths = self.array[first : first + entries]
            used = (lengths > 0) & (lengths <= KEY_BYTES)
            for index in np.flatnonzero(used).tolist():
                word, at, _ = self._place(table, index)
                self._known[table][bytes(self._mm[at : at + self.words[word]]).decode()] = index
            self._free[table] = np.flatnonzero(~used)[::-1].tolist()

    def _find(self, table: int, key: str) -> int | None:
        """The first word's index of an entry, made when new; None when the table is full (counted)."""
        index = self._known[table].get(key)
        if index is None:
            text = key.encode()
            if not self._free[table] or len(text) > KEY_BYTES:
                self.count_no_room()
                return None
            index = self._free[table].pop()
            word, at, first = self._place(table, index)
            self.array[first : first + WORDS[table]] = 0
            self._mm[at : at + len(text)] = text
            self.words[word] = len(text)
            self._known[table][key] = index
        return self._place(table, index)[2]

    def count_no_room(self) -> None:
        """Something could not be counted: evidence from this worker is incomplete."""
        self._set(NO_ROOM, self.words[HEADER_WORDS + NO_ROOM] + 1)

    def _add(self, name: int, more: int) -> None:
        self.words[HEADER_WORDS + name] += more

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
        found = self._find(TOTALS_TABLE, f"{model}|{version}|{role}")
        if found is None:
            found = self._find(TOTALS_TABLE, NOBODY)
            if found is None:
                raise StateDamaged(f"{self.path} has no entry left for its own totals")
        return found

    def make_room(self, wanted: set[tuple[str, int]]) -> None:
        """When the table of totals is nearly full, forget versions that are not wanted any more.

        Only while nothing can still be booked to them: their counters end, as after a version is removed.
        """
        if len(self._free[TOTALS_TABLE]) < _SPARE_TOTALS:
            self._release_where(TOTALS_TABLE, lambda key: key != NOBODY and not _is_wanted(key, wanted))

    def segment(self, model: str, version: int, role: str, rollout_id: str, weight: float, judged: bool) -> int | None:
        """Index of the first word of this evidence segment; None when the table is full, which the reader sees.

        judged: a latency threshold is known, so an answer that is not slow is one that was looked at.
        Keyed by effective weight, not by epoch: sums over epochs of one weight are valid, because given an event the
        arm's probability depends on the weight alone (delivery research, B.3).
        """
        return self._find(SEGMENTS_TABLE, f"{model}|{version}|{role}|{rollout_id}|{weight!r}|{int(judged)}")

    def keep_segments(self, rollouts: set[str]) -> None:
        """Free what is said of every other rollout: their evidence has been decided on."""
        self._release_where(SEGMENTS_TABLE, lambda key: key.split("|")[3] not in rollouts)
        self._release_where(
            VETOES_TABLE, lambda model: self._rollout_of(self._first(VETOES_TABLE, model)) not in rollouts
        )

    def set_load(
        self, model: str, version: int, state: LoadState, reason: str = "", *, size_bytes: int = 0, load_us: int = 0
    ) -> None:
        """Say what this worker holds; of what is READY, what it takes of memory and how long it took to load.

        The reason of a version that is READY says what is not as it was asked for.
        """
        first = self._find(LOADS_TABLE, _text((model, version)))
        if first is None:
            return
        text = reason.encode()[: 8 * (WORDS[LOADS_TABLE] - REASON)]
        at = 8 * (first + REASON)
        self._mm[at : at + len(text)] = text
        self.words[first + REASON_BYTES] = len(text)
        self.words[first + LOAD_BYTES] = size_bytes
        self.words[first + LOAD_US] = load_us
        self.words[first + LOAD_STATE] = LOAD_STATES_IN_ORDER.index(state) + 1

    def clear_load(self, model: str, version: int) -> None:
        """This worker no longer holds the version."""
        self._release(LOADS_TABLE, _text((model, version)))

    def load_mark(self, key: Key, word: int) -> RunMark | None:
        """What is to be entered while a version that is told of is loaded (OPENING) or run (RUNNING)."""
        index = self._known[LOADS_TABLE].get(_text(key))
        return None if index is None else RunMark(self.words, self._place(LOADS_TABLE, index)[2] + word)

    def _under_way(self) -> dict[Key, bool]:
        found: dict[Key, bool] = {}
        for text, index in self._known[LOADS_TABLE].items():
            first = self._place(LOADS_TABLE, index)[2]
            if self.words[first + OPENING] or self.words[first + RUNNING]:
                found[_key(text)] = bool(self.words[first + OPENING])
        return found

    def blames(self) -> dict[Key, Blame]:
        """What is held against versions since the server was started."""
        firsts = {_key(text): self._place(BLAMES_TABLE, index)[2] for text, index in self._known[BLAMES_TABLE].items()}
        return {key: blame_of(self.array[first : first + BLAME_FIELDS].tolist()) for key, first in firsts.items()}

    def set_blame(self, key: Key, blame: Blame | None) -> None:
        """Keep what is held against a version for the processes after this one; None: nothing."""
        if blame is None:
            self._release(BLAMES_TABLE, _text(key))
            return
        first = self._find(BLAMES_TABLE, _text(key))
        if first is not None:
            self.array[first : first + BLAME_FIELDS] = astuple(blame)

    def set_memory(self, *, used_bytes: int, budget_bytes: int, loaded: int, waiting: int) -> None:
        """What this process takes and may take (0: no limit), versions that it holds, requests that wait for one."""
        self._set(MEMORY, used_bytes)
        self._set(BUDGET, budget_bytes)
        self._set(LOADED, loaded)
        self._set(WAITING_LOADS, waiting)

    def count_load(self, load_us: int, *, failed: bool = False) -> None:
        """A load has ended."""
        self._add(LOADS_FAILED if failed else LOADS_DONE, 1)
        self._add(LOADS_US, load_us)

    def count_eviction(self) -> None:
        """A version left, so that another had room."""
        self._add(EVICTIONS, 1)

    def count_refused_load(self) -> None:
        """A request could not wait for a load, or there was no room for it."""
        self._add(LOADS_REFUSED, 1)

    def veto(self, model: str, rollout_id: str) -> None:
        """Say that this worker has lowered the canary to 0 by itself, for this rollout."""
        first = self._of_rollout(model, rollout_id)
        if first is not None:
            self.words[first + VETOED] = self.words[first + ROLLOUT_BYTES]

    def is_vetoed(self, model: str, rollout_id: str) -> bool:
        """Whether this worker, or one before it in its slot, has lowered the canary of this rollout to 0."""
        if model not in self._known[VETOES_TABLE]:
            return False
        first = self._first(VETOES_TABLE, model)
        return self.words[first + VETOED] > 0 and self._rollout_of(first) == rollout_id

    def run_mark(self, model: str, rollout_id: str) -> RunMark | None:
        """What is to be entered for each run of the rollout's candidate; None when the table is full (counted)."""
        first = self._of_rollout(model, rollout_id)
        return None if first is None else RunMark(self.words, first + RUNS)

    def _of_rollout(self, model: str, rollout_id: str) -> int | None:
        """The first word of a model's veto entry, begun anew for a rollout that it does not speak of yet."""
        first = self._find(VETOES_TABLE, model)
        if first is not None and self._rollout_of(first) != rollout_id:
            text = rollout_id.encode()[: 8 * (ROLLOUT_BYTES - ROLLOUT)]
            for name in (VETOED, ROLLOUT_BYTES, RUNS, ENDED_BY):
                self.words[first + name] = 0
            self._mm[8 * (first + ROLLOUT) : 8 * (first + ROLLOUT) + len(text)] = text
            self.words[first + ROLLOUT_BYTES] = len(text)
        return first

    def _first(self, table: int, key: str) -> int:
        return self._place(table, self._known[table][key])[2]

    def _rollout_of(self, first: int) -> str:
        at = 8 * (first + ROLLOUT)
        return bytes(self._mm[at : at + self.words[first + ROLLOUT_BYTES]]).decode(errors="replace")

    def _ended_in_a_run(self, model: str, ended_by: int) -> bool:
        """Whether a worker ended by its own fault while it ran the candidate: then its veto stands."""
        first = self._first(VETOES_TABLE, model)
        if ended_by and self.words[first + RUNS] > 0:
            self.words[first + ENDED_BY] = ended_by
            self.words[first + VETOED] = self.words[first + ROLLOUT_BYTES]
        self.words[first + RUNS] = 0
        return bool(self.words[first + ENDED_BY])

    def heartbeat(self, host_ns: int, inflight: int, open_breakers: int = 0) -> None:
        """The event loop turned."""
        self._set(HEARTBEAT, host_ns)
        self._set(INFLIGHT, inflight)
        self._set(OPEN_BREAKERS, open_breakers)

    def acknowledge(self, epoch: int) -> None:
        """No later request of this worker is routed by an older epoch."""
        self._set(ACKED, epoch)

    def set_state(self, *, ready: bool, draining: bool) -> None:
        """What `/readyz` says."""
        self._set(FLAGS, (READY if ready else 0) | (DRAINING if draining else 0))

    def close(self) -> None:
        """Let the file go (it stays on disk)."""
        del self.array
        self.words.release()
        self._mm.close()

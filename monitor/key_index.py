"""Where 64-bit keys stand in a stream of them: found among the last so many, without a word of work for the others.

Why: of a busy version's rows one in hundreds is ever looked for (a shadow's copy, a delayed label), so remembering a
row must cost next to nothing. Keys are kept in runs in the order they came; a run is sorted when something is first
looked for in it (numpy sorts keys ten times as fast as a dictionary takes them), and its order is worked out only when
much is found there. Invariants: what `find` tells is a function of the keys added and of `oldest`, not of earlier
finds; whether or not anything is ever looked for, no more is kept than the keys from `oldest` on and one run.
Used by `joins.JoinMemory`, in its thread.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from monitor.pauses import pause

RUN = 16384  # keys in a run: many small steps make few runs, and each run costs every search
_FEW = 64  # keys found in a run one by one; for more its order is worked out


class _Run:
    """Up to `RUN` keys that came one after another: `keys[i]` is number first + i."""

    __slots__ = ("_order", "_room", "_sorted", "_start", "_stop", "first")

    def __init__(self) -> None:
        self._room = np.empty(RUN, np.uint64)
        self.begin(0)

    def begin(self, first: int) -> None:
        """Be empty, for keys from number `first` on."""
        self.first = first
        self._hold(0, 0)

    def _hold(self, start: int, stop: int) -> None:
        self._start, self._stop = start, stop
        self._sorted: NDArray[np.uint64] | None = None
        self._order: NDArray[np.int64] | None = None

    @property
    def keys(self) -> NDArray[np.uint64]:
        return self._room[self._start : self._stop]

    @property
    def end(self) -> int:
        """The number after the last key's."""
        return self.first + self._stop - self._start

    def take(self, keys: NDArray[np.uint64]) -> int:
        """Hold as many of these as there is room for; how many."""
        taken = min(len(keys), RUN - self._stop)
        self._room[self._stop : self._stop + taken] = keys[:taken]
        self._hold(self._start, self._stop + taken)
        return taken

    def forget(self, oldest: int) -> None:
        """Let go of the keys before number `oldest`, one of those that are here."""
        self._hold(self._start + oldest - self.first, self._stop)
        self.first = oldest

    def find(self, wanted: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Of those wanted keys that are here: their place in `wanted`, the number of the newest, and of the oldest."""
        keys = self.keys
        if self._sorted is None:
            self._sorted = np.sort(keys)
        left = self._sorted.searchsorted(wanted)
        here = np.flatnonzero(self._sorted[np.minimum(left, len(self._sorted) - 1)] == wanted)
        if len(here) <= _FEW:
            found = [np.flatnonzero(keys == key) for key in wanted[here]]
            newest, oldest = [where[-1] for where in found], [where[0] for where in found]
            return here, self.first + np.array(newest, np.int64), self.first + np.array(oldest, np.int64)
        if self._order is None:
            self._order = np.argsort(keys, kind="stable")
        right = self._sorted.searchsorted(wanted[here], "right")
        return here, self.first + self._order[right - 1], self.first + self._order[left[here]]


class KeyIndex:
    """The numbers of keys.

    >>> index = KeyIndex()
    >>> index.add(np.array([7, 8, 7], np.uint64))
    >>> [found.tolist() for found in index.find(np.array([8, 7, 9], np.uint64), oldest=0)]
    [[1, 2, -1], [1, 0, -1]]
    """

    def __init__(self) -> None:
        self._runs: deque[_Run] = deque()
        self._spare: _Run | None = None  # one that was forgotten, for the next keys: a full memory allocates nothing
        self._next = 0

    def __len__(self) -> int:
        """Keys that are kept: those that can be found, and fewer than `RUN` older ones."""
        return sum(run.end - run.first for run in self._runs)

    def add(self, keys: NDArray[np.uint64], oldest: int = 0) -> None:
        """Keys (n,), numbered on from the last; what is older than number `oldest` is forgotten."""
        taken = 0
        while taken < len(keys):
            more = self._runs[-1].take(keys[taken:]) if self._runs else 0
            taken += more
            self._next += more
            if taken < len(keys):
                self._forget(oldest)
                self._append()
        self._forget(oldest)

    def _append(self) -> None:
        run, self._spare = self._spare or _Run(), None
        run.begin(self._next)
        self._runs.append(run)

    def _forget(self, oldest: int) -> None:
        while self._runs and self._runs[0].end <= oldest:
            self._spare = self._runs.popleft()

    def find(self, wanted: NDArray[np.uint64], oldest: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The numbers (n,) of the newest and of the oldest of each wanted key from number `oldest` on; -1: none.

        They differ where a key came more than once. What is older than `oldest` is forgotten.
        """
        self._forget(oldest)
        if self._runs and self._runs[0].first < oldest:
            self._runs[0].forget(oldest)
        newest = np.full(len(wanted), -1, np.int64)
        eldest = newest.copy()
        if not len(wanted):
            return newest, eldest
        for run in self._runs:
            pause()
            here, last, first = run.find(wanted)
            if not len(here):
                continue
            newest[here] = last
            unseen = eldest[here] < 0
            eldest[here[unseen]] = first[unseen]
        return newest, eldest

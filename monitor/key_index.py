"""Where 64-bit keys stand in a stream of them: found among the last so many, without a word of work for the others.

Why: of a busy version's rows one in hundreds is ever looked for (a shadow's copy, a delayed label), so remembering a
row must cost next to nothing. Keys are kept in runs in the order they came; a run is sorted when something is first
looked for in it (numpy sorts keys ten times as fast as a dictionary takes them), and its order is worked out only when
much is found there. Invariant: what `find` tells is a function of the keys added and of `oldest`, not of earlier finds.
Used by `joins.JoinMemory`, in its thread.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RUN = 16384  # keys in a run, at least: many small steps make few runs, and each run costs every search
_FEW = 64  # keys found in a run one by one; for more its order is worked out


class _Run:
    """Keys that came one after another: `keys[i]` is number first + i."""

    __slots__ = ("_order", "_sorted", "first", "keys")

    def __init__(self, first: int, keys: NDArray[np.uint64]) -> None:
        self.first = first
        self.keys = keys
        self._sorted: NDArray[np.uint64] | None = None
        self._order: NDArray[np.int64] | None = None

    def find(self, wanted: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Of those wanted keys that are here: their place in `wanted`, the number of the newest, and of the oldest."""
        if self._sorted is None:
            self._sorted = np.sort(self.keys)
        left = self._sorted.searchsorted(wanted)
        here = np.flatnonzero(self._sorted[np.minimum(left, len(self._sorted) - 1)] == wanted)
        if len(here) <= _FEW:
            found = [np.flatnonzero(self.keys == key) for key in wanted[here]]
            newest, oldest = [where[-1] for where in found], [where[0] for where in found]
            return here, self.first + np.array(newest, np.int64), self.first + np.array(oldest, np.int64)
        if self._order is None:
            self._order = np.argsort(self.keys, kind="stable")
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
        self._runs: list[_Run] = []
        self._next = 0

    def add(self, keys: NDArray[np.uint64]) -> None:
        """Keys (n,), numbered on from the last. They are kept, not copied."""
        if self._runs and len(self._runs[-1].keys) < RUN:
            last = self._runs[-1]
            self._runs[-1] = _Run(last.first, np.concatenate([last.keys, keys]))
        else:
            self._runs.append(_Run(self._next, keys))
        self._next += len(keys)

    def find(self, wanted: NDArray[np.uint64], oldest: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The numbers (n,) of the newest and of the oldest of each wanted key from number `oldest` on; -1: none.

        They differ where a key came more than once. What is older than `oldest` is forgotten.
        """
        while self._runs and self._runs[0].first + len(self._runs[0].keys) <= oldest:
            del self._runs[0]
        if self._runs and self._runs[0].first < oldest:
            self._runs[0] = _Run(oldest, self._runs[0].keys[oldest - self._runs[0].first :])
        newest = np.full(len(wanted), -1, np.int64)
        eldest = newest.copy()
        if not len(wanted):
            return newest, eldest
        for run in self._runs:
            here, last, first = run.find(wanted)
            if not len(here):
                continue
            newest[here] = last
            unseen = eldest[here] < 0
            eldest[here[unseen]] = first[unseen]
        return newest, eldest

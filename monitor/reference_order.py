"""What is known of the order of reference rows, and which rows of a large table are kept.

Why: how rows depend on each other can be seen only of neighbours in time. A file may be in that order, shuffled, or
sorted by something else, and only the second looks harmless. Invariants: rows are kept in runs of neighbours, chosen
by a fixed seed, so the same file gives the same rows; a file sorted by a value is never taken for one in the order of
time. Called by `monitor/reference.py`; numpy only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SEED = 20_13
_RUNS = 64  # of neighbours, that a table's share is kept in
_LEAST_ROWS = 200  # fewer may be in some column's order by chance
_TIMELY = re.compile(r"(?:^|[^a-z])(?:time|date|datetime|timestamp|ts|day|week|month|year|hour|period|id|index|seq)")
_EPOCHS = ((1e8, 1e11, 1.0), (1e11, 1e14, 1e-3), (1e14, 1e17, 1e-6), (1e17, 1e20, 1e-9))


@dataclass(frozen=True, slots=True)
class Order:
    """What is known of the order of some rows.

    in_time: True, they are in the order of time; False, they are not; None, nobody said. times_s (n,) are the rows'
    moments in Unix seconds, where known.
    """

    in_time: bool | None = None
    times_s: NDArray[np.float64] | None = None

    def take(self, rows: NDArray[np.int64]) -> Order:
        """That of a selection of the rows, which is in order."""
        return self if self.times_s is None else replace(self, times_s=self.times_s[rows])


class RunKeeper:
    """Keeps at most `limit` rows of columns that come in chunks: all, or runs of neighbours spread by chance."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._run_rows = max(limit // _RUNS, 1)
        self._chance = np.random.default_rng(_SEED)
        self._run_keys = np.zeros(0)
        self._kept: list[list[NDArray[Any]]] = []  # per chunk, per column
        self._keys: list[NDArray[np.float64]] = []
        self.read = self.rows = 0

    def add(self, columns: list[NDArray[Any]], rows: int) -> None:
        """The next rows of every column, each (rows,)."""
        runs = np.arange(self.read, self.read + rows) // self._run_rows
        missing = (int(runs[-1]) + 1 if rows else 0) - len(self._run_keys)
        if missing > 0:
            self._run_keys = np.concatenate([self._run_keys, self._chance.random(missing)])
        self._kept.append(columns)
        self._keys.append(self._run_keys[runs])
        self.read += rows
        self.rows += rows
        if self.rows > self._limit * 1.5:
            self._thin()

    def whole(self) -> list[NDArray[Any]]:
        """Every column's kept rows, in the order in which they came. Ends the keeper."""
        if self.rows > self._limit:
            self._thin()
        kept, self._kept = self._kept, []
        width = len(kept[0]) if kept else 0
        columns = []
        for at in range(width):
            columns.append(np.concatenate([part[at] for part in kept]))
            for part in kept:
                part[at] = part[at][:0]  # one column at a time is in memory twice
        return columns

    def _thin(self) -> None:
        key = np.concatenate(self._keys)
        chosen = np.sort(np.argsort(key, kind="stable")[: self._limit])
        self._kept = [[np.concatenate(column)[chosen] for column in zip(*self._kept, strict=True)]]
        self._keys = [key[chosen]]
        self.rows = self._limit


class SortedBy:
    """Watches chunks of a table for a column that never falls, or never rises, though it is no time and no number."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._rising = dict.fromkeys((name for name in columns if not _TIMELY.search(name.lower())), True)
        self._falling = dict(self._rising)
        self._first: dict[str, Any] = {}
        self._last: dict[str, Any] = {}
        self._rows = 0

    def see(self, frame: Any) -> None:
        """A chunk, as a pandas frame."""
        self._rows += len(frame)
        for name in list(self._rising):
            values = frame[name].dropna()
            if not len(values):
                continue
            try:
                last = self._last.get(name, values.iloc[0])
                self._rising[name] &= bool(values.is_monotonic_increasing and last <= values.iloc[0])
                self._falling[name] &= bool(values.is_monotonic_decreasing and last >= values.iloc[0])
            except TypeError:  # texts and numbers in one column
                self._rising[name] = self._falling[name] = False
            self._first.setdefault(name, values.iloc[0])
            self._last[name] = values.iloc[-1]
            if not (self._rising[name] or self._falling[name]):
                del self._rising[name], self._falling[name]

    def column(self) -> str | None:
        """The column that the rows are sorted by, if any: a constant is none, and an even count of rows is a number."""
        if self._rows < _LEAST_ROWS:
            return None
        for name, first in self._first.items():
            if name in self._rising and first != self._last[name] and not self._counts(first, self._last[name]):
                return name
        return None

    def _counts(self, first: Any, last: Any) -> bool:
        try:
            return abs(float(last) - float(first)) == self._rows - 1
        except (TypeError, ValueError):
            return False


def several_units(moments: NDArray[np.float64]) -> str:
    """What is wrong with numbers (n,) that would be seconds of our days here and milliseconds there; "" if nothing is.

    >>> several_units(np.array([1.7e9, 1.8e9])), several_units(np.array([1.7e9, 1.8e12]))[:30]
    ('', 'holds times of several units, ')
    """
    low, high = (float(moments.min()), float(moments.max())) if len(moments) else (0.0, 0.0)
    first, last = (sum(value >= epoch[0] for epoch in _EPOCHS) + (value >= _EPOCHS[-1][1]) for value in (low, high))
    if not first or first == last:
        return ""
    return (
        f"holds times of several units, such as seconds and milliseconds ({low:.0f} and {high:.0f}): write them in one"
    )


def in_seconds(moments: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Unix seconds from seconds, milli-, micro- or nanoseconds by their size; None for what is no time since 1973.

    >>> in_seconds(np.array([1.7e12, 1.7e12 + 500])).tolist()
    [1700000000.0, 1700000000.5]
    """
    if not len(moments):
        return None
    middle = float(np.median(moments))
    for low, high, scale in _EPOCHS:
        if low <= middle < high:
            return moments * scale
    return None

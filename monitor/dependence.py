"""How much live rows depend on their neighbours, learned while they come, without mistaking a drift for it.

Why: a reference whose order nobody knows says nothing of dependence, and traffic may depend where the reference did
not; either makes counts say less than they seem to. Invariants: what is learned from an evaluation weakens the evidence
of later ones alone, so the promise holds (the weakening is known beforehand); it never strengthens it; bounded memory.
Owned by `monitor/watch.py`. Pure.

The measure is the difference of an event's share between two neighbouring blocks of 1, 2, 4 … evaluations (Allan's
variance): its median size over that of independent rows. One level shift lies in one difference of each length, which
a median does not notice; what comes again and again is dependence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitor.events import Events
from monitor.packing import pack, unpack

Floats = NDArray[np.float64]
LEVELS = 8  # blocks of up to 128 evaluations
LEAST_PAIRS = 6  # differences of one length, before they say anything
MOST_PAIRS = 32  # the last ones are remembered
DOUBT = 4.0  # standard errors that an excess must have
MARGIN = 1.3  # as in the profile's fit: the estimate itself is uncertain
LEARN_EVALUATIONS = 4 * LEAST_PAIRS  # the first two lengths have their differences then
LEAST_EXPECTED = 5.0  # events (and their opposites) expected in a block; a rarer one says nothing of runs
GROWS, FURTHER = 1.3, 2  # what grew by more over the last doubling is presumed to grow over so many more
MEAN_SIZE = float(np.sqrt(2.0 / np.pi))  # of a standard normal value: what independent rows come to
MEDIAN_NOISE = 0.79  # standard error of the median size of one pair


class LiveDependence:
    """The live design effect of every feature of one family, as a weakening of its events' evidence."""

    def __init__(self, events: Events) -> None:
        self._root_deff = np.sqrt(events.deff)
        self._starts = np.flatnonzero(np.diff(events.column, prepend=-1))
        self._sizes = np.diff(self._starts, append=len(events))
        e, f = len(events), len(self._starts)
        self._open = np.zeros((LEVELS, 2, e))  # the first block of each length's open pair: happened, of
        self._is_open = np.zeros(LEVELS, bool)
        self._sizes_seen = np.full((LEVELS, MOST_PAIRS, f), np.nan)  # mean sizes of the last differences, a ring each
        self._pairs = np.zeros(LEVELS)
        self._deff = np.ones((LEVELS, f))
        self._deffs = np.ones(f)
        self._is_presumed = False
        self._strength = np.ones(e)

    def strength(self) -> Floats:
        """(E,): what evidence is multiplied by, at most 1."""
        return self._strength

    def deffs(self) -> Floats:
        """(F,): rows that say as much as one of which the reference says that it is independent, at least 1."""
        return self._deffs

    def presume(self) -> None:
        """From now on rows depend, as is known from elsewhere: what is seen of it needs not be beyond doubt."""
        self._is_presumed = True

    def update(self, happened: Floats, of: Floats) -> None:
        """Take one evaluation's counts (E,) each."""
        block, count = happened, of
        for level in range(LEVELS):
            if not self._is_open[level]:
                self._open[level] = block, count
                self._is_open[level] = True
                return
            first, of_first = self._open[level]
            self._is_open[level] = False
            self._compare(level, first, of_first, block, count)
            block, count = block + first, count + of_first

    def _compare(self, level: int, k1: Floats, n1: Floats, k2: Floats, n2: Floats) -> None:
        both = np.minimum(n1, n2)
        pooled = (k1 + k2) / np.maximum(n1 + n2, 1.0)
        other = 1.0 - pooled
        told = both * np.minimum(pooled, other) >= LEAST_EXPECTED
        safe = np.where(told, both, 1.0)
        spread = np.sqrt(
            np.where(told, pooled * other, 1.0) * (1.0 / np.maximum(n1, safe) + 1.0 / np.maximum(n2, safe))
        )
        size = np.where(told, np.abs(k1 / np.maximum(n1, 1.0) - k2 / np.maximum(n2, 1.0)) / spread, 0.0)
        size /= self._root_deff
        count = np.add.reduceat(told.astype(np.float64), self._starts)
        mean = np.add.reduceat(size, self._starts) / np.maximum(count, 1.0)
        self._sizes_seen[level, int(self._pairs[level]) % MOST_PAIRS] = np.where(count > 0, mean, np.nan)
        self._pairs[level] += 1
        self._judge(level)

    def _judge(self, level: int) -> None:
        seen = self._sizes_seen[level]
        pairs = np.isfinite(seen).sum(axis=0)
        # nan sorts last, so the middle of those that are there is at half their number
        ordered = np.sort(seen, axis=0)
        middle = np.take_along_axis(ordered, np.maximum(pairs - 1, 0)[None] // 2, axis=0)[0]
        noise = MEDIAN_NOISE / np.sqrt(np.maximum(pairs, 1))
        size, least = np.nan_to_num(middle), MEAN_SIZE + DOUBT * noise
        if self._is_presumed:
            size, least = size + noise, np.zeros_like(noise)
        sure = (pairs >= LEAST_PAIRS) & (size > least)
        self._deff[level] = np.where(sure, np.maximum(MARGIN * np.square(size / MEAN_SIZE), 1.0), 1.0)
        self._deffs = self._presumed() if self._is_presumed else np.maximum(self._deff.max(axis=0), 1.0)
        self._strength = np.repeat(1.0 / self._deffs, self._sizes)

    def _presumed(self) -> Floats:
        """(F,): the largest of all lengths; more where it grew until the longest, and as others' where nothing tells.

        Of a rare event in long runs nothing is told for long, while other columns of the same rows are.
        """
        deffs = self._deff.max(axis=0)
        is_told = (np.isfinite(self._sizes_seen).sum(axis=1) >= LEAST_PAIRS) | (self._deff > 1.0)  # (levels, F)
        last = LEVELS - 1 - np.argmax(is_told[::-1], axis=0)
        top, below = (self._deff[np.maximum(last - back, 0), np.arange(len(deffs))] for back in (0, 1))
        growth = np.where((last > 0) & (below > 1.0), top / below, 1.0)
        further = np.where(growth > GROWS, np.minimum(growth, 2.0) ** FURTHER, 1.0)
        deffs = np.maximum(np.maximum(deffs, top * further), 1.0)
        some = is_told.any(axis=0)
        return np.where(some, deffs, np.median(deffs[some]) if some.any() else 1.0)

    def to_dict(self) -> dict[str, Any]:
        """The whole state as a JSON object."""
        return {
            "open": pack(self._open),
            "is_open": self._is_open.tolist(),
            "sizes": pack(np.nan_to_num(self._sizes_seen, nan=-1.0)),
            "pairs": pack(self._pairs),
            "presumed": self._is_presumed,
        }

    def take(self, document: Mapping[str, Any]) -> None:
        """Go on where `to_dict` stood. Raises KeyError, TypeError or ValueError for another state."""
        is_open = np.array([bool(each) for each in document["is_open"]])
        if is_open.shape != self._is_open.shape:
            raise ValueError("another number of block lengths")
        for name, mine in (("open", self._open), ("sizes", self._sizes_seen), ("pairs", self._pairs)):
            mine[:] = unpack(document[name], "<f8", mine.size).reshape(mine.shape)
        self._sizes_seen[self._sizes_seen < 0.0] = np.nan
        self._is_open[:] = is_open
        self._is_presumed = bool(document.get("presumed", False))
        for level in range(LEVELS):
            self._judge(level)

"""Whether live rows resemble the rows next to them, told from a few hundred of them: the runs test of many values.

Why: a reference in no order says nothing of how rows depend on each other, and counts of evaluations say it only after
a dozen of them. Sessions, sensors and prices show it within one: equal values stand together. Rows that do not need no
learning, and are judged at once. Invariants: pure; blind to where the values lie, so a shift is no resemblance; rows in
an order of chance pass for dependent in fewer than one of 10,000 streams. Called by `monitor/stream.py`.

Source: the runs test of k categories, Barton and David, "Multiple runs" (1957): under every order alike the number of
runs has mean (n(n+1) - Q) / n and variance (Q(Q + n(n+1)) - 2nC - n³) / (n²(n-1)), Q and C being the sums of the
squares and cubes of how often each value is there.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitor.bins import BinSet
from monitor.design_effect import places

MOST_COLUMNS = 64  # that are looked at, spread evenly: dependent rows show in many
LEAST_ROWS = 24  # of each half
_DOUBT = 3.7  # standard errors, in either half: one in 8,000, and so one in 80 million for both
_LEAST_OTHER = 0.25  # of the rows in other bins than the fullest; else too few runs are expected for a normal law


def resemble(bins: BinSet, block: NDArray[np.floating[Any]]) -> bool:
    """Whether in some column of block (n, C), rows in the order in which they came, neighbours resemble each other.

    Both halves must show it, so that one step between two levels does not.

    >>> from monitor.bins import ColumnBins
    >>> bins = BinSet((ColumnBins("x", "number", edges=(1.0, 2.0, 3.0)),))
    >>> resemble(bins, np.arange(100.0)[:, None] % 4), resemble(bins, np.arange(100.0)[:, None] // 7 % 4)
    (False, True)
    """
    half = len(block) // 2
    if half < LEAST_ROWS:
        return False
    columns = np.linspace(0, len(bins.columns) - 1, min(len(bins.columns), MOST_COLUMNS)).astype(np.intp)
    for at in np.unique(columns).tolist():
        place = places(bins.columns[at], block[:, at])
        if all(_excess_of_runs(part) < -_DOUBT for part in (place[:half], place[half:])):
            return True
    return False


def _excess_of_runs(place: NDArray[np.intp]) -> float:
    """By how many standard errors there are more runs of equal values than chance makes; 0 where nobody could tell."""
    n = len(place)
    often = np.bincount(place).astype(np.float64)
    if n - often.max() < _LEAST_OTHER * n:
        return 0.0
    squares, cubes = float((often**2).sum()), float((often**3).sum())
    mean = (n * (n + 1.0) - squares) / n
    variance = (squares * (squares + n * (n + 1.0)) - 2.0 * n * cubes - n**3) / (n**2 * (n - 1.0))
    runs = 1.0 + float(np.count_nonzero(place[1:] != place[:-1]))
    return (runs - mean) / math.sqrt(variance) if variance > 1e-9 else 0.0

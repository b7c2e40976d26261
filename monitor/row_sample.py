"""Which of a version's rows are looked at as a whole: a bounded number a second, spread evenly over all of them.

Why: counting a column is cheap and every row is counted; asking how columns go together costs more, so it is asked of a
sample, whose rate is declared. Invariants: what waits is bounded, whatever came; a row is chosen by its number in its
lane and the rate alone, so the same rows read again are the same sample. Owned by `monitor/together_stream.py`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitor.block import Rows

MOST_ROWS, MOST_VALUES = 200, 50_000  # a second
LEAST_ROWS = 20  # a second, however wide they are
BURST_S = 5  # seconds' worth that may wait: a rate is found from traffic that was
_GOLDEN = 0x9E3779B97F4A7C15


class RowSample:
    """Rows (n, C) of one version that wait to be asked."""

    def __init__(self, columns: int) -> None:
        self.rows_per_s = max(min(MOST_ROWS, MOST_VALUES // max(columns, 1)), LEAST_ROWS)
        self.rate = 1.0  # of rows that are chosen
        self._waiting: list[NDArray[Any]] = []
        self._rows = 0

    def add(self, rows: Rows, salt: int) -> None:
        """Choose among rows that came; salt tells lanes apart."""
        room = self.rows_per_s * BURST_S - self._rows
        at = np.flatnonzero(chosen(rows["seq"], salt, self.rate))[:room] if self.rate < 1.0 else slice(0, room)
        some = rows["features"][at]
        if len(some):
            self._waiting.append(np.array(some))
            self._rows += len(some)

    @property
    def is_waiting(self) -> bool:
        """Whether rows were chosen since `take`."""
        return bool(self._waiting)

    def take(self) -> NDArray[Any] | None:
        """The rows that wait, which wait no more; None without any."""
        if not self._waiting:
            return None
        block = np.concatenate(self._waiting)
        self._waiting, self._rows = [], 0
        return block

    def pace(self, rows: int, seconds: float) -> None:
        """So many rows came in this time: choose so many of the next that as many a second are taken as may be."""
        if rows > 0 and 0.0 < seconds < math.inf:
            self.rate = min(1.0, self.rows_per_s * seconds / rows)


def chosen(seq: NDArray[np.uint64], salt: int, rate: float) -> NDArray[np.bool_]:
    """Multiples of the golden ratio have fractions that are spread most evenly (Knuth 6.4): those below the rate.

    >>> np.flatnonzero(chosen(np.arange(20, dtype=np.uint64), 0, 0.2)).tolist()
    [0, 5, 10, 13, 18]
    """
    with np.errstate(over="ignore"):
        fractions = (seq + np.uint64(salt)) * np.uint64(_GOLDEN)
    return np.asarray(fractions < np.uint64(min(int(rate * 2.0**64), 2**64 - 1)))

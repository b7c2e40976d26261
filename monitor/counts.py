"""Counting: the only thing that is done to every record. A matrix of rows becomes counts for each column's bins.

Why: counts add up exactly over workers, time and machines, so every window, statistic and decision is a pure function
of them. Invariants: bins of a column plus its missing values are its rows; counts merge only under equal edges, exactly
(sums and moments up to rounding). Edges come from a version's reference profile; without one a column has one bin.
Called by the monitor's step and by the profile's fit, so live and reference values fall into bins by the same code.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitor.bins import BinSet, ColumnBins
from monitor.pauses import pause
from registry.errors import StateDamaged

__all__ = ["BinSet", "ColumnBins", "Counter", "Counts"]


@dataclass
class Counts:
    """What was counted of one side of some rows. Mutable; `add` and `merge` change it in place.

    Shapes: counts (C, width) int64, bins beyond a column's own stay 0; missing, infinite, negative, mistyped (C,)
    int64; tails (C, 2), mean, m2 (C,) float64.

    Every value is missing (NaN) or in one bin. Besides, counted in their bins too: `infinite` ones, `negative` of them
    -inf (they lie in the overflow bins), and `mistyped` ones: a fraction where the reference has whole numbers, and,
    if whoever read the rows said so, a missing value that was there but no number. mean and m2 are over the finite
    values, rows - missing - infinite. tails are the sums of the finite values in a number's first and last bin, the
    range aside: how far out they lie; nan in counts that release 0.1 stored.
    """

    bins: BinSet
    rows: int
    counts: NDArray[np.int64]
    missing: NDArray[np.int64]
    infinite: NDArray[np.int64]
    negative: NDArray[np.int64]
    mistyped: NDArray[np.int64]
    tails: NDArray[np.float64]
    mean: NDArray[np.float64]
    m2: NDArray[np.float64]

    @classmethod
    def empty(cls, bins: BinSet) -> Counts:
        c = len(bins.columns)
        return cls(
            bins,
            0,
            np.zeros((c, bins.width), np.int64),
            np.zeros(c, np.int64),
            np.zeros(c, np.int64),
            np.zeros(c, np.int64),
            np.zeros(c, np.int64),
            np.zeros((c, 2)),
            np.zeros(c),
            np.zeros(c),
        )

    @property
    def finite(self) -> NDArray[np.int64]:
        """(C,): how many values the moments are of."""
        return self.rows - self.missing - self.infinite

    @property
    def sd(self) -> NDArray[np.float64]:
        """(C,): standard deviation of the finite values, NaN without any."""
        n = self.finite
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.sqrt(np.where(n > 0, self.m2 / n, np.nan))

    @property
    def outside(self) -> NDArray[np.int64]:
        """(C, 2): values below and above a number's range, infinite ones too; 0 for a column without a range."""
        found = np.zeros((len(self.bins.columns), 2), np.int64)
        for at, column in enumerate(self.bins.columns):
            if column.edges:
                found[at] = self.counts[at, 0], self.counts[at, column.bins - 1]
        return found

    @property
    def unseen(self) -> NDArray[np.int64]:
        """(C,): values of a category without a bin of their own; 0 for a number."""
        found = np.zeros(len(self.bins.columns), np.int64)
        for at, column in enumerate(self.bins.columns):
            if column.kind == "category":
                found[at] = self.counts[at, column.bins - 1]
        return found

    def of(self, column: int) -> NDArray[np.int64]:
        """The counts of one column's own bins."""
        return self.counts[column, : self.bins.columns[column].bins]

    def merge(self, other: Counts) -> Counts:
        """Add the other's counts to these. Raises ValueError under other edges. Moments by Chan, Golub and LeVeque."""
        if other.bins is not self.bins and other.bins.digest != self.bins.digest:
            raise ValueError("counts of different bins do not merge")
        n, m = self.finite, other.finite
        share = m / np.maximum(n + m, 1)
        with np.errstate(invalid="ignore", over="ignore"):  # values whose squares float64 cannot hold
            delta = other.mean - self.mean
            self.mean += delta * share
            self.m2 += other.m2 + delta * delta * (n * share)
            self.tails += other.tails
        self.rows += other.rows
        self.counts += other.counts
        self.missing += other.missing
        self.infinite += other.infinite
        self.negative += other.negative
        self.mistyped += other.mistyped
        return self

    def copy(self) -> Counts:
        return Counts(self.bins, self.rows, *(getattr(self, name).copy() for name in _ARRAYS))

    def to_dict(self) -> dict[str, Any]:
        """A JSON object that names the bins by digest; arrays are packed, as a wide model has 100,000 bins."""
        return {
            "bins": self.bins.digest,
            "rows": self.rows,
            "width": self.bins.width,
            **{name: _pack(getattr(self, name)) for name in _ARRAYS},
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any], bins: BinSet) -> Counts:
        """Raises StateDamaged if it is not of these bins, or not what `to_dict` wrote, in this release or before."""
        try:
            if document["bins"] != bins.digest:
                raise StateDamaged("counts name other bins than expected")
            counts = cls.empty(bins)
            counts.rows = int(document["rows"])
            for name in _ARRAYS:
                if name in document or name not in _SINCE_0_2:
                    empty = getattr(counts, name)
                    setattr(counts, name, _unpack(document[name], empty.dtype).reshape(empty.shape))
        except (KeyError, TypeError, ValueError, zlib.error) as error:
            raise StateDamaged(f"counts cannot be read: {error!r}") from None
        if "negative" not in document:
            counts.negative = np.minimum(counts.infinite, counts.outside[:, 0])  # release 0.1 kept no sign
        if "tails" not in document:
            counts.tails[counts.outside > 0] = np.nan
        return counts


_ARRAYS = tuple(field.name for field in fields(Counts))[2:]
_SINCE_0_2 = ("negative", "mistyped", "tails")


def _pack(array: NDArray[Any]) -> str:
    return base64.b64encode(zlib.compress(array.tobytes(), 1)).decode()


def _unpack(text: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype.newbyteorder("<")).astype(dtype)


CHUNK_ROWS = 8192  # counted at once
_TURN_ROWS, _TURN_BYTES = 512, 1 << 20  # a matrix is turned in strips, while its rows' cache lines are near
_HOT_BYTES = 1 << 19  # columns that stay in a core's own cache from the sort to the sums


class Counter:
    """The counting kernel for one set of bins and one dtype of block. Stateless.

    Each column is sorted and its edges are looked up in it: exact, several times faster than looking up each value, and
    what is missing, infinite or out of range then lies at the ends. Edges are rounded up to the block's dtype, which
    changes no bin.
    """

    def __init__(self, bins: BinSet, dtype: str, *, only_bins: bool = False) -> None:
        """only_bins: mean, m2 and tails stay 0, for whoever looks at counts alone."""
        self.bins = bins
        self._only_bins = only_bins
        self._dtype = np.dtype(dtype)
        columns = bins.columns
        most = max((len(column.edges) for column in columns), default=0)
        # Values below each mark are counted: below -max lie the -infinities, below NaN all but the missing ones, and so
        # below what fills up the rows of columns with fewer edges.
        self._marks = np.full((len(columns), most + 3), np.nan, self._dtype)
        self._marks[:, 0], self._marks[:, -2] = -np.finfo(self._dtype).max, np.inf
        for at, column in enumerate(columns):
            self._marks[at, 1 : len(column.edges) + 1] = _round_up(column.edges, self._dtype)
        self._last = np.array([len(column.edges) for column in columns], np.intp)  # mark of the last edge; 0: none
        self._numbers = np.array([at for at, column in enumerate(columns) if column.kind == "number"], np.intp)
        self._special = [at for at, column in enumerate(columns) if column.kind == "category" or column.whole]

    def add(self, into: Counts, block: NDArray[Any]) -> None:
        """Count a block of rows (n, C) into these counts."""
        with np.errstate(invalid="ignore", over="ignore"):  # inf - inf, and sums that float64 cannot hold
            for start in range(0, len(block), CHUNK_ROWS):
                into.merge(self._chunk(block[start : start + CHUNK_ROWS]))

    def count(self, block: NDArray[Any]) -> Counts:
        """The counts of a block of rows (n, C)."""
        part = Counts.empty(self.bins)
        self.add(part, block)
        return part

    def _chunk(self, block: NDArray[Any]) -> Counts:
        n, width = block.shape
        part = Counts.empty(self.bins)
        part.rows = n
        below = np.empty(self._marks.shape, np.int64)  # per column and mark: how many values lie below it
        column_bytes = n * self._dtype.itemsize
        wide, hot = max(_TURN_BYTES // column_bytes, 1), max(_HOT_BYTES // column_bytes, 1)
        for first in range(0, width, wide):
            columns = np.empty((min(wide, width - first), n), self._dtype)
            for row in range(0, n, _TURN_ROWS):
                columns[:, row : row + _TURN_ROWS] = block[row : row + _TURN_ROWS, first : first + wide].T
            pause()
            for at in range(0, len(columns), hot):
                here = slice(first + at, min(first + at + hot, width, first + wide))
                self._sort(columns[at : at + hot], below[here], first + at)
                if not self._only_bins:
                    low, high = below[here, 0], below[here, -2]
                    part.mean[here], part.m2[here] = _moments(columns[at : at + hot], low, high)
                pause()
            self._ends(part, below, columns, first)
        present = below[:, -1]
        part.missing[:] = n - present
        part.negative[:] = below[:, 0]
        part.infinite[:] = below[:, 0] + present - below[:, -2]
        ends = below[self._numbers, 1:-1]  # where each bin ends
        ends[:, -1] = present[self._numbers]  # +inf's mark: the last bin holds it, and all that is present ends there
        part.counts[self._numbers, 0] = ends[:, 0]
        part.counts[self._numbers, 1 : ends.shape[1]] = np.diff(ends)
        return part

    def _sort(self, columns: NDArray[Any], below: NDArray[np.int64], first: int) -> None:
        """Sort these columns, the bins' column `first` and those after it, and look their marks up."""
        columns.sort(axis=1)  # NaN sorts last
        for at, column in enumerate(columns):
            below[at] = column.searchsorted(self._marks[first + at])

    def _ends(self, part: Counts, below: NDArray[np.int64], columns: NDArray[Any], first: int) -> None:
        """Take what else only sorted columns can tell: what lies in the outer bins, and values of another type."""
        here = slice(first, first + len(columns))
        low, high = below[here, 0], below[here, -2]  # the finite values lie between
        last = self._last[here]
        under, over = below[here, 1], below[np.arange(here.start, here.stop), last]
        is_tailed = np.flatnonzero((last > 0) & ((low < under) | (over < high)))
        if len(is_tailed) and not self._only_bins:
            ends = np.stack([low, under, over, high], axis=1)[is_tailed].reshape(-1, 2)
            part.tails[first + is_tailed] = _sums(columns, np.repeat(is_tailed, 2), ends).reshape(-1, 2)
        for at in self._special:
            if here.start <= at < here.stop:
                self._own_type(part, columns[at - first], at, low[at - first], high[at - first], below[at, -1])

    def _own_type(self, part: Counts, column: NDArray[Any], at: int, low: int, high: int, present: int) -> None:
        """Count one sorted column's categories, or its fractions where there should be none."""
        own = self.bins.columns[at]
        if own.whole:
            finite = column[low:high]
            part.mistyped[at] = int(np.count_nonzero(np.floor(finite) != finite))
        if own.kind == "category":
            values = np.array(own.values, np.float64)
            known = column.searchsorted(values, "right") - column.searchsorted(values, "left")
            part.counts[at, : len(values)] = known
            part.counts[at, len(values)] = present - known.sum()


def _sums(columns: NDArray[Any], rows: NDArray[np.intp], ends: NDArray[np.int64]) -> NDArray[np.float64]:
    """(k,): the sum of what lies in [start, end) of each of these rows of columns; ends (k, 2)."""
    sizes = ends[:, 1] - ends[:, 0]
    begins = np.cumsum(sizes) - sizes
    total = int(sizes.sum())
    places = np.repeat(rows * columns.shape[1] + ends[:, 0] - begins, sizes) + np.arange(total)
    values = np.append(columns.reshape(-1)[places].astype(np.float64), 0.0)  # an empty last one begins behind them
    return np.where(sizes > 0, np.add.reduceat(values, begins), 0.0)


def _moments(
    columns: NDArray[Any], low: NDArray[np.int64], high: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and m2 of the values [low, high) of each sorted column.

    Taken about the median, which lies within a standard deviation of the mean: so the squares lose no digits.
    """
    (width, n), rows = columns.shape, high - low
    median = columns[np.arange(width), np.minimum((low + high) // 2, n - 1)].astype(np.float64)
    median[rows == 0] = 0.0
    rest = np.subtract(columns, median[:, None], dtype=np.float64)
    first, last = int(low.max()), int(high.min())  # outside of these some columns have values that are not finite
    if first:
        rest[:, :first][np.arange(first) < low[:, None]] = 0.0
    if last < n:
        rest[:, last:][np.arange(last, n) >= high[:, None]] = 0.0
    sums = rest.sum(axis=1)
    shift = sums / np.maximum(rows, 1)
    return median + shift, np.maximum(np.vecdot(rest, rest) - sums * shift, 0.0)


def _round_up(edges: Sequence[float], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The smallest numbers of dtype that are not below the edges: x < edge is the same as x < these, for x of dtype."""
    exact = np.array(edges, np.float64)
    with np.errstate(over="ignore"):
        rounded = exact.astype(dtype)
    low = rounded.astype(np.float64) < exact
    rounded[low] = np.nextafter(rounded[low], dtype.type(np.inf))
    return rounded

"""How long a run of so many rows takes: a line, a·n + b, for each bucket of shapes, learned from the runs themselves.

A run's time is not proportional to its rows (8.5 us for one row, 1.2 us a row for 64, measured on a tree model): b is
what a run costs whatever its rows, a what each row adds. Sizes are kept apart by powers of two, each as an average
that takes no notice of single outliers, and the line is fitted through these averages: so an unseen size is predicted
from those that were seen, and what is seen most does not hide the others. Warm-up gives the first points
(`gateway/data/warm_up.py`). Used by the batcher, for every run; event loop only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_LEARNING = 0.2  # weight of the newest run in its size's average
_UP, _DOWN = 2.0, 0.5  # a run beyond this much slower or faster than its size's average is an outlier
_BELIEVED = 3  # the third outlier in a row is none: the average begins anew with it
_REFIT_EVERY = 32  # runs, unless one is an outlier
_FADE = 0.5  # of a size's weight from one fit to the next, while it is not seen
_LEAST_WEIGHT = 0.01
_MOST_BUCKETS = 64


@dataclass(frozen=True, slots=True)
class Line:
    """us = per_row_us · rows + fixed_us; neither is negative."""

    per_row_us: float
    fixed_us: float

    def at(self, rows: int) -> float:
        """The time of a run of this many rows."""
        return self.per_row_us * rows + self.fixed_us


def fit(points: Sequence[tuple[float, float, float]]) -> Line:
    """The line through points (rows, us, weight) with the least weighted sum of squared *relative* errors.

    Relative, because a small run's 10 us matter as much as a large one's 10 ms. Rows may be 0. A line through one size
    is flat. Raises ValueError without points.

    >>> line = fit([(1, 110.0, 1.0), (64, 740.0, 1.0)])
    >>> round(line.per_row_us, 6), round(line.fixed_us, 6)
    (10.0, 100.0)
    """
    if not points:
        raise ValueError("a line needs a point")
    s = sn = snn = st = snt = 0.0
    for rows, us, weight in points:
        w = weight / max(us, 1e-3) ** 2
        s += w
        sn += w * rows
        snn += w * rows * rows
        st += w * us
        snt += w * rows * us
    spread = s * snn - sn * sn
    if spread <= 1e-9 * s * snn:  # one size
        return Line(0.0, st / s)
    per_row = (s * snt - sn * st) / spread
    if per_row < 0.0:
        return Line(0.0, st / s)
    fixed = (st - per_row * sn) / s
    return Line(per_row, fixed) if fixed >= 0.0 else Line(snt / snn, 0.0)


class _Size:
    """What is known of runs of about one size."""

    __slots__ = ("outliers", "rows", "us", "weight")

    def __init__(self, rows: float, us: float) -> None:
        self.rows = rows
        self.us = us
        self.weight = 1.0
        self.outliers = 0  # in a row


class _Bucket:
    """What is known of runs of one bucket of shapes."""

    __slots__ = ("largest", "line", "sizes", "until_refit")

    def __init__(self) -> None:
        self.sizes: dict[int, _Size] = {}  # by power of two
        self.line = Line(0.0, 0.0)
        self.largest = 0.0  # rows of the largest size
        self.until_refit = _REFIT_EVERY

    def learn(self, rows: int, us: float) -> None:
        size = self.sizes.get(rows.bit_length())
        if size is None:
            self.sizes[rows.bit_length()] = _Size(float(rows), us)
            self.refit()
            return
        known_us = size.us
        if us > _UP * known_us or us < _DOWN * known_us:
            size.outliers += 1
            if size.outliers < _BELIEVED:
                return
            known_us = us
            self.until_refit = 1
        size.outliers = 0
        size.us = known_us + _LEARNING * (us - known_us)
        size.rows += _LEARNING * (rows - size.rows)
        size.weight = 1.0
        self.until_refit -= 1
        if self.until_refit <= 0:
            self.refit()

    def refit(self) -> None:
        self.line = fit([(size.rows, size.us, size.weight) for size in self.sizes.values()])
        self.largest = max(size.rows for size in self.sizes.values())
        self.until_refit = _REFIT_EVERY
        for size in self.sizes.values():
            size.weight = max(_LEAST_WEIGHT, size.weight * _FADE)

    def expected_us(self, rows: int) -> float:
        line = self.line
        if rows > self.largest > 0.0 and len(self.sizes) == 1:
            return line.fixed_us * rows / self.largest  # rather too much than too little: then it is known
        return line.per_row_us * rows + line.fixed_us


class RunTimes:
    """Expected times of one servable's runs.

    `shape` is the bucket of the runs' shapes (`Servable.shape_bucket`): each has a line of its own; one never seen is
    expected to cost as the nearest smaller one, times two for each power of two of elements between them, or else as
    the nearest larger one.

    >>> times = RunTimes([(1, 110.0), (64, 740.0)])
    >>> round(times.expected_us(1), 6), round(times.expected_us(32), 6)
    (110.0, 420.0)
    """

    __slots__ = ("_buckets", "_unknown_us")

    def __init__(self, points: Iterable[tuple[int, float]] = (), shape: int = 0, unknown_us: float = 0.0) -> None:
        """points: (rows, us) as warm-up measured them, of runs in this bucket of shapes.

        unknown_us: what a run is expected to take while nothing is known.
        """
        self._buckets: dict[int, _Bucket] = {}
        self._unknown_us = unknown_us
        for rows, us in points:
            self.learn(rows, us, shape)

    def learn(self, rows: int, took_us: float, shape: int = 0) -> None:
        """One run of this many rows took so long."""
        bucket = self._buckets.get(shape)
        if bucket is None:
            if len(self._buckets) >= _MOST_BUCKETS:
                return
            bucket = self._buckets[shape] = _Bucket()
        bucket.learn(rows, took_us)

    def expected_us(self, rows: int, shape: int = 0) -> float:
        """What a run of this many rows is expected to take."""
        bucket = self._buckets.get(shape)
        if bucket is not None:
            return bucket.expected_us(rows)
        if not self._buckets:
            return self._unknown_us
        smaller = [known for known in self._buckets if known < shape]
        nearest = max(smaller) if smaller else min(self._buckets)
        return self._buckets[nearest].expected_us(rows) * 2.0 ** max(0, shape - nearest)

    def line(self, shape: int = 0) -> Line | None:
        """The line of a bucket of shapes; None when no run of it is known."""
        bucket = self._buckets.get(shape)
        return None if bucket is None else bucket.line

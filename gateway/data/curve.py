"""How long runs of so many rows take, as warm-up measured it, and which of them is the largest that pays. Pure.

Measured by `warm_up.py`; the batcher's first prediction of run times; told to people by `curve_files.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gateway.data.run_times import Line, RunTimes

RUN_OVERHEAD_US = 50.0  # what the worker itself does for a run, whatever its rows: joining, logging, booking, waking
PAYS = 1.05  # a larger run pays when it brings this much more rows a second than the best smaller one
_SLOWER = 1.25  # where one row alone misses the target, a joined run may take this much longer than it


@dataclass(frozen=True, slots=True)
class Point:
    """Runs of this many rows took so long."""

    rows: int
    us: float

    @property
    def rows_per_s(self) -> float:
        """Rows that a worker doing nothing else answers in a second, its own work for each run included."""
        return self.rows / (self.us + RUN_OVERHEAD_US) * 1e6


@dataclass(frozen=True, slots=True)
class Curve:
    """What warm-up found. source: reference, golden or made-up rows. points: by rising rows, at least one."""

    source: str
    points: tuple[Point, ...]
    chosen_rows: int  # in one joined run, at most
    line: Line
    shape: int  # the bucket of shapes of these runs


def choose(points: Sequence[Point], latency_target_ms: float) -> int:
    """The rows of the largest run that pays and leaves a request time to wait for the run before its own.

    So a run may take half the latency target, or, where one row already takes longer, a quarter longer than that row.

    >>> choose([Point(1, 100.0), Point(2, 110.0), Point(4, 130.0), Point(8, 320.0)], 100.0)
    4
    """
    longest_us = max(latency_target_ms * 1000.0 / 2, points[0].us * _SLOWER)
    best = points[0]
    for point in points[1:]:
        if point.us > longest_us:
            break
        if point.rows_per_s >= PAYS * best.rows_per_s:
            best = point
    return best.rows


def sizes(most_rows: int) -> Iterator[int]:
    """1, 2, 4, 8 … and the largest.

    >>> list(sizes(20))
    [1, 2, 4, 8, 16, 20]
    """
    rows = 1
    while rows < most_rows:
        yield rows
        rows *= 2
    yield most_rows


def run_times(curve: Curve | None, unknown_us: float = 0.0) -> RunTimes:
    """Run times that know what warm-up measured; where it could not, a run is expected to take unknown_us."""
    if curve is None:
        return RunTimes(unknown_us=unknown_us)
    return RunTimes(((point.rows, point.us) for point in curve.points), curve.shape)

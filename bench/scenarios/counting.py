"""How fast rows are counted: the kernel of `monitor/counts.py` on one core, and numpy's searchsorted beside it.

Blocks of rows (n, F) become the bins of all features, missing and infinite values, tails, means and deviations. The
same blocks are counted by np.searchsorted and np.bincount, column by column, bins alone; both must agree to the last
integer. What counts is values per second of processor time, so that neighbours disturb little; runs alternate.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.result import Result
from bench.scenario import Options
from monitor.counts import BinSet, ColumnBins, Counter, Counts

SUMMARY = "values counted per second on one core, all features at once, against numpy's searchsorted"
SHAPES = ((30, 8192), (30, 65_536), (1000, 5000), (30, 512), (30, 64), (30, 1))  # features, rows of a block
BARRED = SHAPES[:3]
BAR = 60.0
EDGES = 17  # those of a profile's sixteen quantile bins
MISSING = 0.01


@dataclass(frozen=True)
class Case:
    """A block, its bins, and the dtype of the lane that it would come from."""

    bins: BinSet
    block: NDArray[np.floating]

    @property
    def name(self) -> str:
        """Features x rows, dtype."""
        rows, features = self.block.shape
        return f"{features} x {rows:,} {self.block.dtype.name}"


def run(options: Options) -> Result:
    """Run it."""
    result = Result("counting")
    rng = np.random.default_rng(20)
    shapes = (SHAPES[0], *SHAPES[3:]) if options.quick else SHAPES
    for features, rows in shapes:
        for dtype in ("f4", "f8"):
            case = _case(rng, features, rows, dtype)
            counter, into = Counter(case.bins, dtype), Counts.empty(case.bins)
            marks = [np.array(column.edges, dtype) for column in case.bins.columns]
            _must_agree(counter.count(case.block), _by_searchsorted(case.block, marks))
            ours: list[float] = []
            numpys: list[float] = []
            for _ in range(options.pairs_or(15, 2)):
                ours.append(_speed(lambda: counter.add(into, case.block), case.block.size, options))  # noqa: B023
                numpys.append(_speed(lambda: _by_searchsorted(case.block, marks), case.block.size, options))  # noqa: B023
            mine = result.add(f"{case.name}: Driftgate", "M values/s", ours, "higher")
            result.add(f"{case.name}: searchsorted", "M values/s", numpys)
            options.say(f"{case.name}: {mine}")
            if (features, rows) in BARRED:
                result.bar(f"{case.name} is counted fast enough", f"{case.name}: Driftgate", ">=", BAR)
    result.facts = {"edges": EDGES, "missing": MISSING}
    result.notes.append("Moments, tails, missing and infinite values are in Driftgate's figure alone.")
    result.notes.append("Normal values; a block is in memory already, as a lane's rows are.")
    return result


def _case(rng: np.random.Generator, features: int, rows: int, dtype: str) -> Case:
    shares = np.linspace(0.0, 1.0, EDGES)
    fitted = np.quantile(rng.normal(size=(100_000, 1)), shares, axis=0)[:, 0]
    columns = tuple(ColumnBins(f"x{at}", "number", tuple(map(float, fitted + at * 1e-9))) for at in range(features))
    block = rng.normal(size=(rows, features)).astype(dtype)
    block[rng.random((rows, features)) < MISSING] = np.nan
    return Case(BinSet(columns), block)


def _by_searchsorted(block: NDArray[np.floating], marks: list[NDArray[np.floating]]) -> list[NDArray[np.int64]]:
    found = []
    for at, edges in enumerate(marks):
        values = block[:, at]
        place = np.searchsorted(edges, values[~np.isnan(values)], side="right")
        found.append(np.bincount(place, minlength=len(edges) + 1))
    return found


def _must_agree(counts: Counts, bins: list[NDArray[np.int64]]) -> None:
    for at, expected in enumerate(bins):
        if counts.of(at).tolist() != expected.tolist():
            raise AssertionError(f"column {at}: counted {counts.of(at)}, searchsorted says {expected}")


def _speed(work: Callable[[], object], values: int, options: Options) -> float:
    """Millions of values a second of this thread's processor time, over a tenth of a second of work."""
    least_s = options.seconds_or(0.1, 0.005)
    times, started = 0, time.thread_time()
    while True:
        work()
        times += 1
        spent_s = time.thread_time() - started
        if spent_s >= least_s:
            return times * values / spent_s / 1e6

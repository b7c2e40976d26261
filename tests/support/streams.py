"""Reference profiles and live counts of stated shares, made without rows: what simulations of months are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import signal, stats

from monitor.budget import Budget
from monitor.counts import BinSet, ColumnBins, Counts
from monitor.design_effect import dependences
from monitor.detectors import FastDetector, Limits
from monitor.profile import ColumnProfile

BINS = 16


def number(name: str, counts: Sequence[int], missing: int = 0, deff: float = 1.0) -> ColumnProfile:
    """A numeric column whose reference rows fell into bins between 0 and 1 as told, none outside."""
    edges = tuple(float(edge) for edge in np.linspace(0.0, 1.0, len(counts) + 1))
    bins = ColumnBins(name, "number", edges=edges)
    return ColumnProfile(bins, (0, *counts, 0), missing, 0, 0.0, 1.0, 0.5, 0.29, False, deff, False)


def category(name: str, counts: Sequence[int], complete: bool = True) -> ColumnProfile:
    """A categorical column with values 0, 1, 2 …"""
    bins = ColumnBins(name, "category", values=tuple(float(at) for at in range(len(counts))))
    return ColumnProfile(bins, (*counts, 0), 0, 0, 0.0, 1.0, 0.5, 0.5, complete, 1.0, False)


def uniform(features: int, rows: int, rng: np.random.Generator | None = None) -> tuple[ColumnProfile, ...]:
    """Numeric columns with equal bins: exactly, or as a reference of so many rows happens to come out."""
    exact = np.full(BINS, rows // BINS)
    return tuple(
        number(f"x{at}", exact.tolist() if rng is None else rng.multinomial(rows, exact / exact.sum()).tolist())
        for at in range(features)
    )


def drawn(bins: BinSet, rows: int, shares: NDArray[np.float64], rng: np.random.Generator) -> Counts:
    """Counts of independent rows; shares (C, width) are of the bins, outer ones included."""
    counts = Counts.empty(bins)
    counts.rows = rows
    counts.counts[:] = rng.multinomial(rows, shares, size=len(shares))
    return counts


def alarms_in(
    detector: FastDetector, evaluations: int, budget: Budget, period: int, look: Callable[[int], Counts]
) -> int:
    """How many alarms so many evaluations raise under a budget for `period` evaluations; look(t) gives the counts."""
    limits = limits_for(detector, budget, period)
    return sum(len(detector.update(look(t), float(t), limits).raised) for t in range(evaluations))


def limits_for(detector: FastDetector, budget: Budget, evaluations: float, rows_each: int = 500) -> Limits:
    """The thresholds with which so many evaluations keep to the budget."""
    rows = evaluations * rows_each
    return Limits(
        budget.log_threshold("inputs", detector.evaluations_of("shape", rows, evaluations)),
        budget.log_threshold("quality", detector.evaluations_of("quality", rows, evaluations)),
    )


class DependentRows:
    """Rows of standard normal features that depend on each other: sessions of equal rows, or AR(1). Seeded."""

    def __init__(self, features: int, rng: np.random.Generator, *, session: int = 1, rho: float = 0.0) -> None:
        self._features, self._rng, self._session, self._rho = features, rng, session, rho
        self._last = rng.normal(size=features)

    def take(self, rows: int) -> NDArray[np.float64]:
        """The next rows (rows, features); a multiple of the session."""
        fresh = self._rng.normal(size=(rows // self._session, self._features))
        if self._rho:
            block = signal.lfilter(
                [np.sqrt(1.0 - self._rho**2)], [1.0, -self._rho], fresh, axis=0, zi=self._rho * self._last[None]
            )[0]
            self._last = block[-1]
            return np.asarray(block, np.float64)
        return np.repeat(fresh, self._session, axis=0)


def exact_profile(features: int, sample: NDArray[np.float64]) -> tuple[ColumnProfile, ...]:
    """Columns of standard normal values in 16 equal bins, shares known exactly; dependence as found in sample rows."""
    inner = stats.norm.ppf(np.linspace(0.0, 1.0, BINS + 1)[1:-1])
    edges = (-50.0, *map(float, inner), 50.0)
    bins = BinSet(tuple(ColumnBins(f"x{at}", "number", edges=edges) for at in range(features)))
    counts = (0, *[10**8] * BINS, 0)
    return tuple(
        ColumnProfile(
            column,
            counts,
            0,
            0,
            -9.0,
            9.0,
            0.0,
            1.0,
            False,
            found.deff,
            False,
            bin_deffs=found.bins,
            edge_deffs=found.edges,
            missing_deff=found.missing,
            block_rows=found.block_rows,
        )
        for column, found in zip(bins.columns, dependences(bins, sample), strict=True)
    )

"""Reference profiles and live counts of stated shares, made without rows: what simulations of months are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from monitor.budget import Budget
from monitor.counts import BinSet, ColumnBins, Counts
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

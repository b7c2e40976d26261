"""Dependence of rows that may have drifted: sessions and slow noise are seen, a step among the rows is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import signal

from monitor.bins import BinSet, ColumnBins
from monitor.robust_dependence import RobustDependence, at_least, robust_dependences
from tests.support.streams import exact_profile

N = 20_000
BINS = BinSet((ColumnBins("x", "number", edges=tuple(np.linspace(-3.0, 3.0, 13).tolist())),))


def noise(rho: float = 0.0, rows: int = N, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float64]]:
    fresh = np.random.default_rng(seed).normal(size=rows)
    return np.asarray(signal.lfilter([np.sqrt(1.0 - rho**2)], [1.0, -rho], fresh), np.float64)


def found(values: np.ndarray[Any, np.dtype[np.float64]]) -> RobustDependence:
    (one,) = robust_dependences(BINS, values[:, None])
    return one


@pytest.mark.parametrize("step", [0.0, 0.2, 1.0, 3.0])
@pytest.mark.parametrize("at", [N // 2, N // 7, N - 500])
def test_a_step_among_independent_rows_is_no_dependence(step: float, at: int) -> None:
    values = noise()
    values[at:] += step
    assert found(values) == RobustDependence(1.0, 1.0, 1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("rho", "true"), [(0.9, 19.0), (0.97, 66.0)])
def test_slow_noise_is_measured_with_a_margin_though_it_steps(rho: float, true: float, seed: int) -> None:
    """The variance of a mean of AR(1) values is (1 + rho) / (1 - rho) times that of independent ones."""
    values = noise(rho, seed=seed)
    values[N // 2 :] += 1.0
    one = found(values)
    assert 0.3 * true < one.deff < 2.5 * true  # events of values depend a little less than the values
    assert one.block_rows is not None
    assert one.block_rows >= true


def test_sessions_of_equal_rows_count_once() -> None:
    one = found(np.repeat(noise(rows=N // 20), 20))
    assert 14.0 < one.deff < 40.0


def test_outages_are_runs_of_missing_values() -> None:
    values = noise()
    for start in range(0, N, 400):
        values[start : start + 80] = np.nan
    one = found(values)
    assert one.deff == 1.0
    assert one.missing > 10.0


@pytest.mark.parametrize("rows", [0, 1, 100, 300])
@pytest.mark.parametrize("value", [np.nan, 1.0, np.inf])
def test_few_or_equal_rows_tell_nothing(rows: int, value: float) -> None:
    one = found(np.full(rows, value))
    assert (one.deff, one.missing) == (1.0, 1.0)


def test_a_column_is_never_taken_for_less_dependent_than_it_was() -> None:
    (column,) = exact_profile(1, noise(0.9)[:, None])
    (same,) = at_least([column], [RobustDependence(1.0, 1.0, 1)])
    assert same == column
    (more,) = at_least([column], [RobustDependence(1000.0, 70.0, 10**6, False)])
    assert (more.deff, set(more.bin_deffs), set(more.edge_deffs)) == (1000.0, {1000.0}, {1000.0})
    assert (more.missing_deff, more.block_rows, more.levelled) == (70.0, 10**6, False)

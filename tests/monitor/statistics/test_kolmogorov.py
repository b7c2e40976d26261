"""The exact two-sample law against scipy's, and the decisions of the limit law against the exact ones."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from monitor import statistics
from monitor.statistics.kolmogorov import EXACT_CELLS, ks_exact_limit


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 7), (5, 5), (10, 12), (30, 41), (100, 100), (37, 200), (400, 90)])
def test_the_probability_is_scipys_exact_one(n: int, m: int) -> None:
    rng = np.random.default_rng(n * m)
    for shift in (0.0, 0.4, 2.0):
        a, b = rng.normal(size=n), rng.normal(shift, 1.0, m)
        expected = stats.ks_2samp(a, b, method="exact")
        got = statistics.ks_exact_p(float(expected.statistic), n, m)
        assert got == pytest.approx(max(expected.pvalue, 1e-11), rel=1e-6, abs=2e-11)


def test_no_distance_is_certain_and_more_than_all_is_least_likely() -> None:
    assert statistics.ks_exact_p(0.0, 10, 10) == 1.0
    assert statistics.ks_exact_p(0.5, 0, 10) == 1.0
    assert statistics.ks_exact_p(1.0, 3, 3) == pytest.approx(2 / 20)


@pytest.mark.parametrize(("n", "m", "critical"), [(20, 20, 11), (10, 10, 8), (25, 25, 12)])
def test_critical_values_are_those_of_the_printed_tables(n: int, m: int, critical: int) -> None:
    """Two-sided, 1 %: so many steps of 1/n or more are significant."""
    limit = float(statistics.ks_limit(n, m, 0.01))
    assert (critical - 1) / n < limit < critical / n


@pytest.mark.parametrize(("n", "m"), [(150, 150), (200, 200), (100, 400), (130, 300)])
@pytest.mark.parametrize("level", [0.05, 1e-3, 1e-6, 1e-9])
def test_the_exact_limit_and_the_law_that_takes_over_decide_alike(n: int, m: int, level: float) -> None:
    assert n * m <= EXACT_CELLS
    law = float(stats.kstwobign.isf(level) * np.sqrt(1 / n + 1 / m))
    exact = ks_exact_limit(n, m, level, law)
    assert statistics.ks_exact_p(exact + 0.6 / (n * m), n, m) <= level * (1 + 1e-9) or exact == 1.0
    assert exact == pytest.approx(law, rel=0.03)


def test_a_thousand_against_a_thousand_at_one_in_a_thousand_needs_087() -> None:
    limit = float(statistics.ks_limit(1000, 1000, 0.001))
    assert limit == pytest.approx(0.0872, abs=1e-4)
    assert statistics.ks_exact_p(0.088, 1000, 1000) <= 0.001 < statistics.ks_exact_p(0.087, 1000, 1000)


def test_evidence_of_small_samples_is_exact_too() -> None:
    got = statistics.ks_log10_p(np.array([0.5, 0.2]), 20, 20, tolerance=0.0, deff=1.0)
    expected = [np.log10(statistics.ks_exact_p(d, 20, 20)) for d in (0.5, 0.2)]
    assert got.tolist() == pytest.approx(expected)
    runs = statistics.ks_log10_p(0.5, 40, 40, tolerance=0.0, deff=2.0)
    assert float(runs) == pytest.approx(expected[0])


def test_without_drift_small_samples_alarm_no_more_often_than_the_level() -> None:
    rng = np.random.default_rng(3)
    runs, level = 2000, 0.05
    for n, m in ((10, 10), (30, 100)):
        limit = float(statistics.ks_limit(n, m, level))
        hits = 0
        for _ in range(runs):
            both = np.concatenate([np.zeros(n), np.ones(m)])[rng.permutation(n + m)]
            gap = np.cumsum(np.where(both == 0, 1 / n, -1 / m))
            hits += np.abs(gap).max() > limit
        assert hits <= stats.binom.isf(1e-4, runs, level)


def test_no_rows_against_very_many_take_no_time() -> None:
    for n, m in ((0, 10**9), (10**9, 0), (0, 0), (1, 10**9)):
        assert 0.0 < float(statistics.ks_limit(n, m, 1e-6)) <= 1.0
        assert float(statistics.ks_log10_p(0.5, n, m, tolerance=0.0, deff=1.0)) <= 0.0

"""Limits on distances, against scipy, published critical values and simulation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from monitor import statistics
from monitor.statistics.limits import Divergence

Counts = NDArray[np.int64]
DIVERGENCES: tuple[Divergence, ...] = ("psi", "js", "kl", "hellinger", "contrast")


def _limit(reference: Counts, current: Counts) -> Any:
    return statistics.psi_limit(reference, current, 1e-4)


def test_all_features_at_once_are_each_alone() -> None:
    rng = np.random.default_rng(3)
    reference, current = rng.integers(0, 900, (5, 12)), rng.integers(0, 300, (5, 12))
    for function in (statistics.psi, statistics.ks, statistics.total_variation, statistics.chi_square, _limit):
        together = function(reference, current)
        assert together == pytest.approx([float(function(r, c)) for r, c in zip(reference, current, strict=True)])


def test_pooling_keeps_every_row() -> None:
    reference, current = np.array([[5000, 12, 3, 0, 900]]), np.array([[500, 0, 1, 2, 90]])
    pooled = statistics.pooled(reference, current)
    assert [part.sum() for part in pooled] == [5915, 593]
    assert pooled[0].shape == (1, 6)


def test_the_psi_limit_has_the_published_critical_values() -> None:
    """Yurdakul (2018): 10 bins, 1000 against 1000 rows, 5 % and 1 %: about .034 and .043."""
    even = np.full(10, 100)
    assert float(statistics.psi_limit(even, even, 0.05)) == pytest.approx(0.0338, abs=2e-4)
    assert float(statistics.psi_limit(even, even, 0.01)) == pytest.approx(0.0433, abs=2e-4)


def test_the_ks_limit_is_the_exact_tests() -> None:
    limit = float(statistics.ks_limit(1000, 1000, 0.001))
    assert limit == pytest.approx(0.087, abs=5e-4)
    # At the limit, scipy's exact p-value is at most the level.
    a = np.arange(1000.0)
    shifted = a + np.ceil(limit * 1000)
    assert stats.ks_2samp(a, shifted, method="exact").pvalue <= 0.001


@pytest.mark.parametrize(("events", "m"), [(0, 50_000), (3, 800), (400, 1000), (1000, 1000)])
def test_share_limits_hold_the_binomial_tail(events: int, m: int) -> None:
    level, n = 1e-4, 2000
    low, high = (float(x) for x in statistics.share_limits(events, m, n, level))
    share = events / m
    assert low <= share <= high
    assert stats.binom.sf(np.floor(high * n), n, share) <= level
    assert stats.binom.cdf(np.ceil(low * n) - 1, n, share) <= level


@pytest.mark.parametrize("share", [0.0, 1e-7, 1e-3, 0.5, 1.0 - 1e-7, 1.0])
def test_share_limits_hold_for_a_thousand_million_rows_too(share: float) -> None:
    level, n = 1e-6, 10**9
    low, high = (float(x) for x in statistics.share_limits(share * 1e5, 1e5, n, level))
    below, above = (float(x) for x in statistics.share_limits(share * 1e5, 1e5, 10**6, level))
    assert below - 1e-6 <= low <= share <= high <= above + 1e-6
    exact = [float(x) for x in statistics.share_limits(share * 1e12, 1e12, n, level)]
    assert stats.binom.cdf(exact[0] * n - 1, n, share) <= level
    assert stats.binom.sf(exact[1] * n, n, share) <= level


def test_a_tolerated_shift_is_no_drift_in_however_many_rows() -> None:
    share = np.full(10, 0.1)
    moved = share.copy()
    moved[0], moved[1] = 0.103, 0.097
    reference, current = share * 1e9, moved * 1e9
    assert statistics.psi(reference, current) > statistics.psi_limit(reference, current, 1e-9)
    assert statistics.psi(reference, current) < statistics.psi_limit(reference, current, 1e-9, tolerance=0.0025)


def test_limits_shrink_with_rows_and_grow_with_runs() -> None:
    small, large = np.full(10, 100), np.full(10, 10_000)
    assert statistics.js_limit(large, large, 1e-6) < statistics.js_limit(small, small, 1e-6)
    assert statistics.js_limit(large, large, 1e-6, deff=10.0) > statistics.js_limit(large, large, 1e-6)


def test_a_p_value_at_the_limit_is_the_level() -> None:
    even = np.full(10, 5000)
    limit = statistics.psi_limit(even, even, 1e-3, tolerance=0.0025)
    got = statistics.psi_log10_p(limit, even, even, tolerance=0.0025, deff=1.0)
    assert float(got) == pytest.approx(-3.0, abs=1e-6)
    ks = statistics.ks_log10_p(statistics.ks_limit(900, 700, 1e-5), 900, 700, tolerance=0.0, deff=1.0)
    assert float(ks) == pytest.approx(-5.0, abs=1e-6)


@pytest.mark.parametrize(("level", "point"), [(0.10, 1.620), (0.05, 1.747), (0.025, 1.862), (0.01, 2.001)])
def test_kuipers_law_has_the_printed_points(level: float, point: float) -> None:
    """Stephens (1970)."""
    assert float(statistics.kuiper_limit(2e6, 2e6, level)) * 1000 == pytest.approx(point, abs=1e-3)


def test_kuipers_law_is_never_below_the_probability_of_so_few_rows() -> None:
    """frouros: a distance of .55 at 100 against 100 rows has p 5.066e-13."""
    got = float(statistics.kuiper_log10_p(0.55, 100, 100, tolerance=0.0, deff=1.0))
    assert 5.066e-13 < 10**got < 1e-11
    assert float(statistics.kuiper_limit(2, 2, 0.05)) == 1.0


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_divergence_at_its_limit_has_the_levels_probability(name: Divergence) -> None:
    even = np.full(10, 5000)
    limit = statistics.divergence_limit(name, even, even, 1e-3, tolerance=0.002)
    got = statistics.divergence_log10_p(name, limit, even, even, tolerance=0.002, deff=1.0)
    assert float(got) == pytest.approx(-3.0, abs=1e-6)


def test_bounds_at_their_limit_have_the_levels_probability() -> None:
    r, c = np.full(10, 5000), np.full(10, 900)
    for limit, log10_p in (
        (statistics.total_variation_limit, statistics.total_variation_log10_p),
        (statistics.l_infinity_limit, statistics.l_infinity_log10_p),
    ):
        value = limit(r, c, 1e-4, tolerance=0.01)
        assert float(log10_p(value, r, c, tolerance=0.01, deff=1.0)) == pytest.approx(-4.0, abs=1e-6)


@pytest.mark.parametrize(("n", "m"), [(100, 100), (1000, 1000), (10**9, 10**9)])
def test_every_limit_is_positive_and_finite_for_any_counts(n: int, m: int) -> None:
    for share in ([1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [1e-9, 0.5, 0.5]):
        r, c = np.rint(np.array(share) * m), np.rint(np.array(share) * n)
        for name in DIVERGENCES:
            assert 0.0 < float(statistics.divergence_limit(name, r, c, 1e-8)) < np.inf
        assert 0.0 <= float(statistics.total_variation_limit(r, c, 1e-8)) <= 1.0
        assert 0.0 <= float(statistics.l_infinity_limit(r, c, 1e-8)) <= 1.0


@pytest.mark.slow
@pytest.mark.parametrize(("n", "m"), [(150, 5000), (1000, 1000), (3000, 50_000)])
@pytest.mark.parametrize("bins", [2, 18, 40])
def test_without_drift_each_limit_is_passed_no_more_often_than_its_level(n: int, m: int, bins: int) -> None:
    level, runs = 0.01, 3000
    rng = np.random.default_rng(bins * n)
    share = rng.dirichlet(np.full(bins, 3.0))
    reference, current = rng.multinomial(m, share, runs), rng.multinomial(n, share, runs)
    r, c = statistics.pooled(reference, current)
    alarms = {
        "psi": statistics.psi(r, c) > statistics.psi_limit(r, c, level),
        "js": statistics.js(r, c) > statistics.js_limit(r, c, level),
        "kl": statistics.kl(r, c) > statistics.divergence_limit("kl", r, c, level),
        "hellinger": statistics.hellinger(r, c) > statistics.divergence_limit("hellinger", r, c, level),
        "tv": statistics.total_variation(r, c) > statistics.total_variation_limit(r, c, level),
        "l_infinity": statistics.l_infinity(r, c) > statistics.l_infinity_limit(r, c, level),
        "chi_square": statistics.contrast(statistics.chi_square(r, c), r, c)
        > statistics.divergence_limit("contrast", r, c, level),
        "g": statistics.contrast(statistics.g_statistic(r, c), r, c)
        > statistics.divergence_limit("contrast", r, c, level),
        "kuiper": statistics.kuiper(reference, current) > statistics.kuiper_limit(n, m, level),
        "ks": statistics.ks(reference, current) > statistics.ks_limit(n, m, level),
    }
    most = stats.binom.isf(1e-4, runs, 1.3 * level)  # the law is a large-sample one: 30 % is allowed for that
    assert {name: int(hit.sum()) for name, hit in alarms.items() if hit.sum() > most} == {}


def test_limits_of_many_counts_at_once_are_those_of_each_alone() -> None:
    rng = np.random.default_rng(3)
    events = rng.integers(0, 40, size=(3, 700)).astype(float)
    rows = rng.integers(40, 43, size=(3, 700)).astype(float)
    low, high = statistics.clopper_pearson(events, rows, 1e-3)
    assert low.shape == high.shape == events.shape
    for at in [(0, 0), (1, 350), (2, 699)]:
        test = stats.binomtest(int(events[at]), int(rows[at])).proportion_ci(1 - 2e-3, "exact")
        assert (low[at], high[at]) == pytest.approx((test.low, test.high), rel=1e-9)

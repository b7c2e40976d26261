"""Distances and limits on counts, against scipy, published numbers and properties."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import stats
from scipy.spatial import distance

from monitor import statistics

Counts = NDArray[np.int64]

counts = arrays(np.int64, 8, elements=st.integers(0, 5000))
positive = arrays(np.int64, 8, elements=st.integers(1, 5000))
DISTANCES = {"psi": statistics.psi, "js": statistics.js, "ks": statistics.ks, "tv": statistics.total_variation}


@pytest.mark.parametrize("name", DISTANCES)
@given(sample=counts)
def test_equal_counts_are_at_no_distance(name: str, sample: Counts) -> None:
    assume(sample.sum() > 0)
    assert float(DISTANCES[name](sample, sample)) == pytest.approx(0.0, abs=1e-7)


@given(reference=counts, current=counts, order=st.permutations(range(8)))
def test_all_but_ks_are_blind_to_the_order_of_bins(reference: Counts, current: Counts, order: list[int]) -> None:
    assume(reference.sum() > 0 < current.sum())
    for name in ("psi", "js", "tv"):
        moved = DISTANCES[name](reference[order], current[order])
        assert float(moved) == pytest.approx(float(DISTANCES[name](reference, current)), abs=1e-9)


@given(reference=positive, current=positive)
def test_merging_bins_never_raises_psi_the_floor_aside(reference: Counts, current: Counts) -> None:
    merged = [np.append(sample[:-2], sample[-2:].sum()) for sample in (reference, current)]
    assert statistics.psi(*merged, floor=0.0) <= statistics.psi(reference, current, floor=0.0) + 1e-12


@given(reference=positive, current=positive)
def test_psi_is_the_sum_of_both_relative_entropies(reference: Counts, current: Counts) -> None:
    both = stats.entropy(current, reference) + stats.entropy(reference, current)
    assert float(statistics.psi(reference, current, floor=0.0)) == pytest.approx(float(both), abs=1e-9)


@given(reference=counts, current=counts)
def test_js_is_scipys_distance_in_bits_and_a_share(reference: Counts, current: Counts) -> None:
    assume(reference.sum() > 0 < current.sum())
    got = float(statistics.js(reference, current))
    expected = float(distance.jensenshannon(reference, current, base=2))
    assert 0.0 <= got <= 1.0 + 1e-12
    assert got == pytest.approx(0.0 if np.isnan(expected) else expected, abs=1e-6)


@given(
    first=arrays(np.int64, 60, elements=st.integers(-20, 20)),
    second=arrays(np.int64, 45, elements=st.integers(-20, 20)),
)
def test_ks_with_an_edge_at_every_value_is_scipys_and_blind_to_increasing_maps(first: Counts, second: Counts) -> None:
    def binned(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
        edges = np.unique(np.concatenate([a, b]))
        both = [np.bincount(np.searchsorted(edges, x), minlength=len(edges)) for x in (a, b)]
        return float(statistics.ks(*both))

    a, b = first.astype(np.float64), second.astype(np.float64)
    assert binned(a, b) == pytest.approx(float(stats.ks_2samp(a, b, method="asymp").statistic), abs=1e-12)
    assert binned(np.exp(a / 3) + a, np.exp(b / 3) + b) == pytest.approx(binned(a, b), abs=1e-12)


def test_total_variation_is_half_the_city_block_distance_of_the_shares() -> None:
    reference, current = np.array([10, 20, 30]), np.array([3, 3, 9])
    expected = distance.cityblock(reference / 60, current / 15) / 2
    assert float(statistics.total_variation(reference, current)) == pytest.approx(expected)


def test_an_empty_bin_costs_much_but_not_infinity() -> None:
    assert 0.5 < float(statistics.psi([500, 500], [1000, 0])) < 10.0
    assert statistics.psi([500, 500], [1000, 0], floor=0.0) == np.inf


def test_a_bin_that_is_empty_in_both_changes_nothing() -> None:
    assert float(statistics.psi([10, 30, 0], [7, 9, 0])) == float(statistics.psi([10, 30], [7, 9]))


def test_different_bins_are_refused() -> None:
    with pytest.raises(ValueError, match="same bins"):
        statistics.psi([1, 2, 3], [1, 2])


def _limit(reference: Counts, current: Counts) -> Any:
    return statistics.psi_limit(reference, current, 1e-4)


def test_all_features_at_once_are_each_alone() -> None:
    rng = np.random.default_rng(3)
    reference, current = rng.integers(0, 900, (5, 12)), rng.integers(0, 300, (5, 12))
    for function in (*DISTANCES.values(), _limit):
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
        "ks": statistics.ks(reference, current) > statistics.ks_limit(n, m, level),
    }
    most = stats.binom.isf(1e-4, runs, 1.3 * level)  # the law is a large-sample one: 30 % is allowed for that
    assert {name: int(hit.sum()) for name, hit in alarms.items() if hit.sum() > most} == {}

"""Distances in the values' own unit: scipy's on the same values, published answers, and limits by simulation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from monitor import statistics

Floats = NDArray[np.float64]
values = st.lists(st.integers(-50, 50).map(lambda v: v / 4), min_size=1, max_size=30)


def own_bins(u: Any, v: Any, u_weights: Any = None, v_weights: Any = None) -> tuple[Floats, Floats, Floats]:
    """Both samples with a bin for each value, as the profile makes one for a heavy value."""
    u, v = np.asarray(u, np.float64), np.asarray(v, np.float64)
    seen = np.unique(np.concatenate([u, v]))
    edges = np.sort(np.concatenate([seen, np.nextafter(seen, np.inf)]))

    def binned(sample: Floats, weights: Any) -> Floats:
        place = np.searchsorted(edges, sample, side="right")
        return np.bincount(place, weights, minlength=len(edges) + 1).astype(np.float64)

    return binned(u, u_weights), binned(v, v_weights), edges


@settings(max_examples=60, deadline=None)
@given(u=values, v=values)
def test_with_a_bin_for_each_value_both_are_scipys(u: list[float], v: list[float]) -> None:
    r, c, edges = own_bins(u, v)
    assert float(statistics.wasserstein(r, c, edges)) == pytest.approx(stats.wasserstein_distance(u, v), abs=1e-9)
    assert float(statistics.energy(r, c, edges)) == pytest.approx(stats.energy_distance(u, v), abs=1e-6)


def test_published_answers() -> None:
    """From scipy's documentation."""
    for given_, w in (
        (([0, 1, 3], [5, 6, 8]), 5.0),
        (([0, 1], [0, 1], [3, 1], [2, 2]), 0.25),
        (([3.4, 3.9, 7.5, 7.8], [4.5, 1.4], [1.4, 0.9, 3.1, 7.2], [3.2, 3.5]), 4.078133143804786),
    ):
        assert float(statistics.wasserstein(*own_bins(*given_))) == pytest.approx(w)
    for given_, e in (
        (([0], [2]), 2.0),
        (([0, 8], [0, 8], [3, 1], [2, 2]), 1.0),
        (([0.7, 7.4, 2.4, 6.8], [1.4, 8], [2.1, 4.2, 7.4, 8], [7.6, 8.8]), 0.88003340976158217),
    ):
        assert float(statistics.energy(*own_bins(*given_))) == pytest.approx(e)


def test_frouros_documented_samples_give_its_documented_distances() -> None:
    rng = np.random.RandomState(31)
    r, c, edges = own_bins(rng.normal(0, 1, 100), rng.normal(1, 1, 100))
    assert float(statistics.wasserstein(r, c, edges)) == pytest.approx(1.0686078744674332)
    assert float(statistics.energy(r, c, edges)) == pytest.approx(0.8359206395514527)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 20), min_size=6, max_size=6).filter(any),
    st.lists(st.integers(0, 20), min_size=6, max_size=6).filter(any),
    st.lists(st.integers(1, 9), min_size=4, max_size=4),
)
def test_values_spread_evenly_in_their_bins_lie_where_scipy_puts_very_many_of_them(
    r: list[int], c: list[int], steps: list[int]
) -> None:
    edges = np.cumsum([0.0, *steps])
    fine = 200
    inner = [edges[k] + (np.arange(fine) + 0.5) * steps[k] / fine for k in range(4)]
    points = np.concatenate([[edges[0]], *inner, [edges[-1]]])  # out of the range counts as at its end

    def weights(counts: list[int]) -> Floats:
        return np.concatenate([[counts[0]], *(np.full(fine, n / fine) for n in counts[1:-1]), [counts[-1]]])

    w = stats.wasserstein_distance(points, points, weights(r), weights(c))
    e = stats.energy_distance(points, points, weights(r), weights(c))
    assert float(statistics.wasserstein(r, c, edges)) == pytest.approx(w, abs=0.02)
    assert float(statistics.energy(r, c, edges)) == pytest.approx(e, abs=0.02)


def test_how_far_out_the_tails_lie_is_added_exactly() -> None:
    u, v = [0.0, 1.0, 2.0], [0.0, 1.0, 1e4, -7.0]
    edges = np.array([0.0, np.nextafter(0.0, 1), 1.0, np.nextafter(1.0, 2), 2.0, np.nextafter(2.0, 3)])
    r, c = (np.bincount(np.searchsorted(edges, s, side="right"), minlength=7) for s in (u, v))
    none = statistics.tail_excess([0.0, 0.0], [0, 0], 3, edges)
    some = statistics.tail_excess([-7.0, 1e4], [1, 1], 4, edges)
    assert some.tolist() == [7.0 / 4, (1e4 - np.nextafter(2.0, 3)) / 4]
    expected = stats.wasserstein_distance(u, v)
    assert float(statistics.wasserstein(r, c, edges, (none, some))) == pytest.approx(expected)
    assert float(statistics.wasserstein(r, c, edges)) < 1.0  # winsorised: one wild value moves it by its share


def test_unknown_tails_and_no_rows_are_nan() -> None:
    edges = [0.0, 1.0]
    unknown = statistics.tail_excess([np.nan, 0.0], [2, 0], 10, edges)
    assert np.isnan(unknown[0])
    assert unknown[1] == 0.0
    assert np.isnan(statistics.wasserstein([1, 2, 3], [0, 0, 0], edges))
    assert np.isnan(statistics.energy([0, 0, 0], [1, 2, 3], edges))
    assert np.isnan(statistics.quantile([0, 0, 0], edges, 0.5))
    assert np.isnan(statistics.quantile([7], [], 0.5))


def test_edges_that_repeat_change_nothing_and_other_edges_are_refused() -> None:
    alone = statistics.wasserstein([1, 5, 4], [4, 5, 1], [0.0, 2.0])
    padded = statistics.wasserstein([1, 5, 4, 0, 0], [4, 5, 1, 0, 0], [0.0, 2.0, 2.0, 2.0])
    assert float(alone) == pytest.approx(float(padded)) == pytest.approx(0.6)
    with pytest.raises(ValueError, match="edges"):
        statistics.wasserstein([1, 2, 3], [1, 2, 3], [0.0])


def test_quantiles_of_even_bins_are_numpys() -> None:
    x = np.random.default_rng(1).uniform(0, 10, 50_000)
    edges = np.linspace(0, 10, 21)
    counts = np.bincount(np.searchsorted(edges, x, side="right"), minlength=22)
    for share in (0.0, 0.1, 0.25, 0.5, 0.975, 1.0):
        assert float(statistics.quantile(counts, edges, share)) == pytest.approx(np.quantile(x, share), abs=0.05)


@pytest.mark.parametrize("n", [300, 5000])
def test_without_drift_the_limits_are_passed_no_more_often_than_their_level(n: int) -> None:
    m, runs, level = 5000, 1000, 0.05
    rng = np.random.default_rng(n)
    share = np.concatenate([[0.0], rng.dirichlet(np.full(16, 2.0)), [0.0]])
    edges = np.concatenate([[-40.0], np.sort(rng.standard_t(2, 15)), [60.0]])
    r, c = rng.multinomial(m, share, runs), rng.multinomial(n, share, runs)
    edges = np.broadcast_to(edges, (runs, 17))
    of = statistics.spread(r + c, edges)
    for distance, limit, log10_p in (
        (statistics.wasserstein, statistics.wasserstein_limit, statistics.wasserstein_log10_p),
        (statistics.energy, statistics.energy_limit, statistics.energy_log10_p),
    ):
        value, most = distance(r, c, edges), limit(of, n, m, level)
        hits = value > most
        assert hits.sum() <= stats.binom.isf(1e-4, runs, level)
        p = log10_p(value, of, n, m, tolerance=0.0, deff=1.0)
        assert ((p < np.log10(level)) == hits).all()
        assert (most < 3.0 * np.quantile(value, 1 - level)).all()  # and a limit that is of use


def test_the_limits_know_the_closed_form_of_the_uniform_distribution() -> None:
    edges = np.linspace(0.0, 1.0, 401)
    of = statistics.spread(np.concatenate([[0], np.full(400, 25), [0]]), edges)
    assert float(of.sd) == pytest.approx(12**-0.5, rel=1e-3)
    assert float(of.reach) == pytest.approx(np.pi / 8, rel=1e-3)
    assert float(of.gini) == pytest.approx(1 / 6, rel=1e-3)
    assert float(of.top) == pytest.approx(90**-0.5, rel=1e-3)  # root of the eigenvalues' squares, 1/(kπ)² each
    assert float(of.top) >= np.pi**-2.0

"""Distances on counts, against scipy, published numbers and properties, on whatever counts can come."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import stats
from scipy.spatial import distance

from monitor import statistics

Counts = NDArray[np.int64]

# Empty bins, bins of one, ties, and as many rows as a window of years has.
counts = arrays(np.int64, 8, elements=st.one_of(st.integers(0, 5), st.integers(0, 5000), st.integers(0, 10**9)))
positive = arrays(np.int64, 8, elements=st.one_of(st.integers(1, 5000), st.integers(1, 10**9)))
DISTANCES: dict[str, Any] = {
    "psi": statistics.psi,
    "kl": statistics.kl,
    "js": statistics.js,
    "hellinger": statistics.hellinger,
    "tv": statistics.total_variation,
    "l_infinity": statistics.l_infinity,
    "ks": statistics.ks,
    "kuiper": statistics.kuiper,
    "chi_square": statistics.chi_square,
    "g": statistics.g_statistic,
}
ORDERED = ("ks", "kuiper")
SHARES = ("js", "hellinger", "tv", "l_infinity", "ks", "kuiper")  # between 0 and 1


@pytest.mark.parametrize("name", DISTANCES)
@settings(max_examples=40, deadline=None)
@given(sample=counts)
def test_equal_counts_are_at_no_distance(name: str, sample: Counts) -> None:
    assume(sample.sum() > 0)
    assert float(DISTANCES[name](sample, sample)) == pytest.approx(0.0, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(reference=counts, current=counts, order=st.permutations(range(8)))
def test_all_but_the_ordered_are_blind_to_the_order_of_bins(
    reference: Counts, current: Counts, order: list[int]
) -> None:
    assume(reference.sum() > 0 < current.sum())
    for name in set(DISTANCES).difference(ORDERED):
        moved = DISTANCES[name](reference[order], current[order])
        assert float(moved) == pytest.approx(float(DISTANCES[name](reference, current)), rel=1e-9, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(reference=positive, current=positive)
def test_merging_bins_never_raises_psi_the_floor_aside(reference: Counts, current: Counts) -> None:
    merged = [np.append(sample[:-2], sample[-2:].sum()) for sample in (reference, current)]
    assert statistics.psi(*merged, floor=0.0) <= statistics.psi(reference, current, floor=0.0) + 1e-12


@settings(max_examples=40, deadline=None)
@given(reference=positive, current=positive)
def test_psi_is_the_sum_of_both_relative_entropies(reference: Counts, current: Counts) -> None:
    both = stats.entropy(current, reference) + stats.entropy(reference, current)
    assert float(statistics.psi(reference, current, floor=0.0)) == pytest.approx(float(both), rel=1e-9, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(reference=counts, current=counts)
def test_js_is_scipys_distance_in_bits_and_a_share(reference: Counts, current: Counts) -> None:
    assume(reference.sum() > 0 < current.sum())
    got = float(statistics.js(reference, current))
    expected = float(distance.jensenshannon(reference, current, base=2))
    assert 0.0 <= got <= 1.0 + 1e-12
    assert got == pytest.approx(0.0 if np.isnan(expected) else expected, abs=1e-6)


@settings(max_examples=40, deadline=None)
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


@settings(max_examples=40, deadline=None)
@given(reference=positive, current=counts)
def test_kl_is_scipys_relative_entropy(reference: Counts, current: Counts) -> None:
    assume(current.sum() > 0)
    expected = float(stats.entropy(current, reference))
    assert float(statistics.kl(reference, current, floor=0.0)) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(reference=counts, current=counts)
def test_hellinger_is_the_euclidean_distance_of_the_roots(reference: Counts, current: Counts) -> None:
    assume(reference.sum() > 0 < current.sum())
    roots = [np.sqrt(sample / sample.sum()) for sample in (reference, current)]
    expected = distance.euclidean(*roots) / np.sqrt(2.0)
    assert float(statistics.hellinger(reference, current)) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(reference=counts, current=counts)
def test_the_largest_difference_is_chebyshevs_and_kuiper_the_sum_of_both_one_sided_distances(
    reference: Counts, current: Counts
) -> None:
    assume(reference.sum() > 0 < current.sum())
    p, q = reference / reference.sum(), current / current.sum()
    assert float(statistics.l_infinity(reference, current)) == pytest.approx(distance.chebyshev(p, q), abs=1e-12)
    gap = np.cumsum(q) - np.cumsum(p)
    both = max(gap.max(), 0.0) + max((-gap).max(), 0.0)
    assert float(statistics.kuiper(reference, current)) == pytest.approx(both, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(reference=counts, current=counts)
def test_shares_stay_shares_and_nothing_is_negative(reference: Counts, current: Counts) -> None:
    assume(reference.sum() > 0 < current.sum())
    for name, function in DISTANCES.items():
        value = float(function(reference, current))
        assert 0.0 <= value < np.inf
        assert value <= 1.0 + 1e-9 or name not in SHARES


@settings(max_examples=40, deadline=None)
@given(reference=counts, current=counts)
def test_known_inequalities_between_the_distances_hold(reference: Counts, current: Counts) -> None:
    assume(reference.sum() > 0 < current.sum())
    tv = float(statistics.total_variation(reference, current))
    h, ks, kuiper = (float(DISTANCES[name](reference, current)) for name in ("hellinger", "ks", "kuiper"))
    assert h * h - 1e-9 <= tv <= np.sqrt(2.0) * h + 1e-9  # Le Cam
    assert ks - 1e-9 <= kuiper <= tv + 1e-9
    assert 2.0 * tv * tv <= float(statistics.kl(reference, current, floor=0.0)) + 1e-9  # Pinsker


@pytest.mark.parametrize("name", DISTANCES)
def test_a_sample_without_rows_is_never_far_away(name: str) -> None:
    with np.errstate(all="raise"):
        for empty in ([0, 0, 0], [1, 2, 3]), ([1, 2, 3], [0, 0, 0]), ([0, 0, 0], [0, 0, 0]):
            value = float(DISTANCES[name](*empty))
            assert np.isnan(value) or value < 2.0


def test_published_answers() -> None:
    """scipy's own and those of frouros and nannyml, as research on monitoring found them."""
    assert float(statistics.js([1, 0, 0], [0, 1, 0])) == 1.0
    js_nats = float(statistics.js([1, 0], [0.5, 0.5])) * np.sqrt(np.log(2.0))
    assert js_nats == pytest.approx(0.464501404022459)
    assert float(statistics.kl([0.9, 0.1], [0.5, 0.5], floor=0.0)) == pytest.approx(0.5108256237659906)
    # nannyml's tests: categories a to d against a, b, c, e; a new category in aabbcc.
    assert float(statistics.js([1, 1, 1, 1, 0], [1, 1, 1, 0, 1])) == pytest.approx(0.5)
    assert float(statistics.hellinger([1, 1, 1, 1, 0], [1, 1, 1, 0, 1])) == pytest.approx(0.5)
    assert float(statistics.l_infinity([2, 2, 2, 0], [2, 2, 2, 1])) == pytest.approx(0.14, abs=0.005)
    # evidently's tests.
    assert float(statistics.hellinger([16, 18, 16, 14, 12, 12], [16, 16, 16, 16, 16, 8])) == pytest.approx(
        0.06812, abs=5e-5
    )


def test_frouros_documented_samples_give_its_documented_distances() -> None:
    rng = np.random.RandomState(31)
    x, y = rng.normal(0, 1, 100), rng.normal(1, 1, 100)
    every = np.unique(np.concatenate([x, y]))
    fine = [np.bincount(np.searchsorted(every, sample), minlength=len(every)) for sample in (x, y)]
    assert float(statistics.ks(*fine)) == pytest.approx(0.55)
    assert float(statistics.kuiper(*fine)) == pytest.approx(0.55)
    even = np.linspace(every[0], every[-1], 21)
    r, c = (np.histogram(sample, even)[0] for sample in (x, y))
    assert float(statistics.hellinger(r, c)) == pytest.approx(0.467129645775421)
    assert float(statistics.total_variation(r, c)) == pytest.approx(0.53)
    # An empty bin with a floor of sys.float_info.min makes frouros' PSI 134.95; half a count makes it this.
    assert float(statistics.psi(r, c)) == pytest.approx(1.20, abs=0.01)


def test_the_expected_psi_without_drift_can_be_taken_off() -> None:
    rng = np.random.default_rng(5)
    share = rng.dirichlet(np.full(10, 5.0))
    reference, current = rng.multinomial(4000, share, 2000), rng.multinomial(1000, share, 2000)
    psi = statistics.psi(reference, current)
    assert statistics.psi_noise(reference[0], current[0]) == pytest.approx(9 * (1 / 4000 + 1 / 1000))
    rest = psi - statistics.psi_noise(reference, current)
    assert abs(rest.mean()) < 4.0 * rest.std() / np.sqrt(2000) + 3e-4

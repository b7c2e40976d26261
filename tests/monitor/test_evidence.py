"""E-processes: valid however often one looks, exact over any grouping of counts, and as quick as published."""

from __future__ import annotations

from math import inf, log10

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from monitor import evidence

COUNT = st.integers(0, 10**6)
WEIGHT = st.floats(0.001, 0.99)


def test_no_requests_are_no_evidence() -> None:
    assert evidence.ratio_above([0.05], [0], [0], 1.0) == pytest.approx(0.0)
    assert evidence.ratio_below([0.05], [0], [0], 2.0) == pytest.approx(0.0)
    assert evidence.excess_below([0.5], [0], [0], [0], [0], 0.005) == pytest.approx(0.0)
    assert evidence.share_above(0, 0, 0.3) == pytest.approx(0.0)
    assert evidence.not_inferior(0, 0, 0, 0.01) == pytest.approx(0.0)


def test_1150_canary_requests_without_a_failure_are_evidence_that_promotes() -> None:
    def promotion(canary: int) -> float:
        ratio = evidence.ratio_below([0.5], [0], [0], 2.0)
        excess = evidence.excess_below([0.5], [0], [canary], [0], [canary], 0.005)
        return float(evidence.average(ratio, excess))

    assert promotion(1350) >= log10(20) > promotion(1000)
    assert promotion(0) == pytest.approx(0.0)


def test_a_canary_that_alone_fails_is_found_after_four_failures_at_five_percent() -> None:
    limit = -log10(0.001 * 0.4)
    assert evidence.ratio_above([0.05], [4], [0], 1.0) >= limit > evidence.ratio_above([0.05], [3], [0], 1.0)


@given(st.lists(st.tuples(WEIGHT, COUNT, COUNT), min_size=1, max_size=5), st.floats(1.0, 5.0))
def test_splitting_a_segment_changes_nothing(segments: list[tuple[float, int, int]], null: float) -> None:
    whole = np.array(segments)
    left = whole.copy()
    left[:, 1:] //= 2
    right = whole.copy()
    right[:, 1:] -= left[:, 1:]
    both = np.concatenate([left, right])
    for test in (evidence.ratio_above, evidence.ratio_below):
        one = test(whole[:, 0], whole[:, 1], whole[:, 2], null)
        two = test(both[:, 0], both[:, 1], both[:, 2], null)
        assert np.isfinite(one)
        assert one == pytest.approx(two, rel=1e-6, abs=1e-6)


@given(WEIGHT, st.integers(0, 500), st.integers(0, 500))
def test_one_more_bad_event_never_helps_the_canary(weight: float, canary: int, champion: int) -> None:
    worse = evidence.ratio_above([weight], [canary + 1], [champion], 1.0)
    assert worse > evidence.ratio_above([weight], [canary], [champion], 1.0)
    better = evidence.excess_below([weight], [canary + 1], [1000], [champion], [1000], 0.005)
    assert better < evidence.excess_below([weight], [canary], [1000], [champion], [1000], 0.005)


@pytest.mark.parametrize("weight", [0.01, 0.05, 0.5, 0.9])
def test_expected_values_on_the_boundary_are_at_most_one(weight: float) -> None:
    """One event, or one request, enumerated: an e-value's mean under its own null."""
    for null in (1.0, 1.5, 2.0):
        share = weight * null / (weight * null + 1 - weight)
        for test in (evidence.ratio_above, evidence.ratio_below):
            of_canary, of_champion = test([weight], [1], [0], null), test([weight], [0], [1], null)
            assert share * 10**of_canary + (1 - share) * 10**of_champion == pytest.approx(1.0)
    base, excess = 0.01, 0.005
    outcomes = [
        (weight * (base + excess), (1, 1, 0, 0)),
        (weight * (1 - base - excess), (0, 1, 0, 0)),
        ((1 - weight) * base, (0, 0, 1, 1)),
        ((1 - weight) * (1 - base), (0, 0, 0, 1)),
    ]
    mean = sum(
        chance * 10 ** float(evidence.excess_below([weight], [a], [n], [b], [m], excess))
        for chance, (a, n, b, m) in outcomes
    )
    assert mean == pytest.approx(1.0)


@pytest.mark.parametrize("limit", [0.01, 0.3, 0.9])
def test_bets_on_shares_and_labels_are_fair_on_their_boundary(limit: float) -> None:
    for test in (evidence.share_above, evidence.share_below):
        assert limit * 10 ** test(1, 1, limit) + (1 - limit) * 10 ** test(0, 1, limit) == pytest.approx(1.0)
    even = 10 ** evidence.farther_more_often(1, 0) + 10 ** evidence.farther_more_often(0, 1)
    assert even == pytest.approx(2.0)
    farther, closer = 0.055, 0.045  # a difference of the margin
    mean = (
        farther * 10 ** evidence.not_inferior(1, 0, 0, 0.01)
        + closer * 10 ** evidence.not_inferior(0, 1, 0, 0.01)
        + (1 - farther - closer) * 10 ** evidence.not_inferior(0, 0, 1, 0.01)
    )
    assert mean == pytest.approx(1.0)


@pytest.mark.parametrize("limit", [0.01, 0.3, 0.6])
def test_shares_between_0_and_1_keep_the_promise(limit: float) -> None:
    """Half of a request's rows, with the mean at the limit: the e-value's mean is at most 1."""
    whole, half = limit / 2.0, limit  # probabilities of 1 and of one half: limit / 2 + limit / 2
    for test in (evidence.share_above, evidence.share_below):
        values = [10.0 ** float(test(value, 1, limit)) for value in (1.0, 0.5, 0.0)]
        assert whole * values[0] + half * values[1] + (1.0 - whole - half) * values[2] <= 1.0 + 1e-12


def test_total_variation_knows_how_little_it_knows() -> None:
    assert evidence.total_variation_band([0, 0], [3, 4]) == (0.0, 0.0, 1.0)
    estimate, low, high = evidence.total_variation_band([100_000, 0], [70_000, 30_000])
    assert estimate == pytest.approx(0.3)
    assert 0.28 < low < 0.3 < high < 0.31
    with pytest.raises(ValueError, match="shapes"):
        evidence.total_variation_band([1], [1, 2])


def _first(reached: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.where(reached.any(axis=1), reached.argmax(axis=1) + 1.0, inf)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("weight", "base", "ratio", "published"),
    [
        (0.05, 0.005, 2, 4300),
        (0.05, 0.005, 4, 652),
        (0.05, 0.005, 20, 46),
        (0.10, 0.005, 4, 715),
        (0.25, 0.005, 2, 5800),
    ],
)
def test_detection_takes_the_published_number_of_canary_requests(
    weight: float, base: float, ratio: float, published: int
) -> None:
    """The table of one test at alpha .001: medians, within a quarter."""
    random = np.random.default_rng(20261121)
    share = weight * ratio / (weight * ratio + 1 - weight)
    canary = (random.random((400, 3000)) < share).cumsum(axis=1)
    champion = np.arange(1, 3001) - canary
    reached = evidence.ratio_above([weight], canary[..., None], champion[..., None], 1.0) >= 3.0
    events = float(np.median(_first(reached)))
    requests = events / (base * (weight * ratio + 1 - weight)) * weight
    assert published * 0.75 <= requests <= published * 1.25


@pytest.mark.slow
@pytest.mark.parametrize(("alpha", "most"), [(0.05, 130), (0.01, 35), (0.001, 8)])
def test_a_healthy_canary_is_rolled_back_no_more_often_than_stated(alpha: float, most: int) -> None:
    """2,000 rollouts: ramped weights, a base rate that swings by day and jumps in an outage of both arms."""
    random = np.random.default_rng(7)
    weights = np.repeat([0.01, 0.05, 0.25, 0.5], 60)
    base = 0.005 * (1 + 0.8 * np.sin(np.arange(240) / 10)) + np.where((np.arange(240) // 12) % 7 == 3, 0.05, 0.0)
    stopped = 0
    for _ in range(4):
        total = random.poisson(400, size=(500, 240))
        canary = random.binomial(random.binomial(total, weights), base)
        champion = random.binomial((total * (1 - weights)).astype(int), base)
        segment = np.eye(4)[np.arange(240) // 60]  # (ticks, segments)
        a = (canary[..., None] * segment).cumsum(axis=1)
        b = (champion[..., None] * segment).cumsum(axis=1)
        found = evidence.ratio_above([0.01, 0.05, 0.25, 0.5], a, b, 1.0) >= -log10(alpha)
        stopped += int(found.any(axis=1).sum())
    assert stopped <= most


def _promotions(base: float, canary_base: float, seed: int = 3) -> NDArray[np.float64]:
    """Total requests until promotion evidence after 100 canary requests at 5 %, then 50 %, looks every 50."""
    random = np.random.default_rng(seed)
    looks = np.arange(1, 401) * 50
    shape = (400, looks.size)
    first_canary = np.broadcast_to(random.binomial(100, canary_base, (400, 1)), shape)
    first_champion = np.broadcast_to(random.binomial(1900, base, (400, 1)), shape)
    a = np.stack([first_canary, random.binomial(50, canary_base, shape).cumsum(axis=1)], axis=-1)
    b = np.stack([first_champion, random.binomial(50, base, shape).cumsum(axis=1)], axis=-1)
    n = np.stack([np.full(looks.size, 100), looks], axis=-1)
    m = np.stack([np.full(looks.size, 1900), looks], axis=-1)
    weights = [0.05, 0.5]
    mean = evidence.average(evidence.ratio_below(weights, a, b, 2.0), evidence.excess_below(weights, a, n, b, m, 0.005))
    return 2000 + 100 * _first((mean >= log10(20)) & (looks >= 500))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("base", "median", "p90"), [(0.0, 4600, 4800), (0.001, 5100, 7400), (0.005, 9200, 17000), (0.01, 6700, 16000)]
)
def test_promotion_takes_the_published_number_of_requests(base: float, median: int, p90: int) -> None:
    totals = _promotions(base, base)
    assert np.median(totals) <= median * 1.1
    assert np.quantile(totals, 0.9) <= p90 * 1.1
    assert np.isfinite(totals).mean() >= 0.985  # within 20,000 canary requests


@pytest.mark.slow
@pytest.mark.parametrize("base", [0.005, 0.001])
def test_a_canary_worse_than_every_limit_is_promoted_no_more_often_than_stated(base: float) -> None:
    """Worse than both: at least twice the rate and at least .005 above it. 400 rollouts at .05: at most 31."""
    inferior = max(2 * base, base + 0.005)
    assert np.isfinite(_promotions(base, inferior)).sum() <= 31


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "rate"), [(0.3, 0.3), (0.01, 0.01)])
def test_a_candidate_at_the_disagreement_limit_keeps_its_promise(limit: float, rate: float) -> None:
    random = np.random.default_rng(5)
    events = random.binomial(10, rate, size=(2000, 300)).cumsum(axis=1)
    rows = np.arange(10, 3010, 10)
    assert (evidence.share_above(events, rows, limit) >= log10(20)).any(axis=1).sum() <= 130
    assert (evidence.share_below(events, rows, limit) >= log10(20)).any(axis=1).sum() <= 130


@pytest.mark.slow
def test_labels_need_the_published_number_of_rows() -> None:
    random = np.random.default_rng(9)

    def rows(farther: float, closer: float) -> tuple[float, float]:
        counts = random.multinomial(20, [farther, closer, 1 - farther - closer], size=(200, 1500)).cumsum(axis=1)
        k, n, t = counts[..., 0], counts[..., 1], counts[..., 2]
        worse = _first(evidence.farther_more_often(k, n) >= 3.0)
        fine = _first(evidence.not_inferior(k, n, t, 0.01) >= log10(20))
        return float(np.median(worse)) * 20, float(np.median(fine)) * 20

    assert rows(0.03, 0.02)[0] <= 8000 * 1.1
    assert rows(0.06, 0.04)[0] <= 4100 * 1.1
    assert rows(0.025, 0.025)[1] <= 3100 * 1.1
    assert rows(0.05, 0.05)[1] <= 7900 * 1.1

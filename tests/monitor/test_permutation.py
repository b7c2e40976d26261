"""Blocks exchanged between two samples: against scipy's permutation test, and a level that is kept exactly."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from monitor.permutation import exchange, resolves

Floats = NDArray[np.float64]


def size(gaps: Floats) -> Floats:
    """How far two means lie apart."""
    return np.abs(gaps[:, :1])


@pytest.mark.parametrize("shift", [0.0, 0.4, 2.0])
def test_p_values_are_those_of_scipys_permutation_test(shift: float) -> None:
    rng = np.random.default_rng(0)
    before, now = rng.normal(size=(7, 1)), rng.normal(shift, 1, size=(7, 1))
    theirs = stats.permutation_test(
        (now[:, 0], before[:, 0]),
        lambda a, b, axis: np.abs(a.mean(axis=axis) - b.mean(axis=axis)),
        vectorized=True,
        n_resamples=10_000,  # so all 3,432 of them
        alternative="greater",
    )
    found = exchange(before, now, size, 0.002, rng)
    assert found.value[0] == pytest.approx(theirs.statistic)
    assert found.p[0] == pytest.approx(theirs.pvalue, abs=5 * float(theirs.pvalue / 2500) ** 0.5 + 1e-3)
    assert found.expected[0] == pytest.approx(theirs.null_distribution.mean(), rel=0.1)


def test_a_value_above_its_limit_is_a_p_value_within_the_level() -> None:
    rng = np.random.default_rng(1)
    for shift in np.linspace(0.0, 1.5, 40):
        found = exchange(rng.normal(size=(20, 1)), rng.normal(shift, 1, size=(20, 1)), size, 0.02, rng)
        assert (found.value > found.limit).tolist() == (found.p <= 0.02).tolist()


@pytest.mark.slow
def test_the_level_is_kept_where_one_side_varies_more() -> None:
    """600 comparisons without a difference of means, one side three times as wide: within a binomial's band."""
    rng = np.random.default_rng(2)
    alarms = 0
    for _ in range(600):
        found = exchange(rng.normal(size=(30, 1)), rng.normal(0, 3, size=(30, 1)), size, 0.05, rng)
        alarms += bool(found.value > found.limit)
    assert stats.binom.ppf(0.001, 600, 0.04) <= alarms <= stats.binom.ppf(0.999, 600, 0.055)


def test_too_few_blocks_for_a_level_are_refused() -> None:
    assert [resolves(blocks, 0.0005) for blocks in (0, 1, 7, 8)] == [False, False, False, True]
    assert not resolves(200, 1e-9)
    with pytest.raises(ValueError, match="told apart"):
        exchange(np.zeros((3, 1)), np.zeros((3, 1)), size, 0.0005, np.random.default_rng(0))


def test_equal_sides_do_not_alarm() -> None:
    found = exchange(np.ones((20, 1)), np.ones((20, 1)), size, 0.01, np.random.default_rng(0))
    assert found.p[0] == 1.0
    assert not (found.value > found.limit).any()

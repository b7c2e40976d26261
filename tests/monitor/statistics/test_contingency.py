"""Two-sample tests against scipy's contingency tables, and at their nominal rate where peers alarm half of the time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import stats
from scipy.stats.contingency import association

from monitor import statistics

Counts = NDArray[np.int64]
counts = arrays(np.int64, 6, elements=st.one_of(st.integers(0, 5), st.integers(0, 9000), st.integers(0, 10**9)))


@settings(max_examples=60, deadline=None)
@given(reference=counts, current=counts)
def test_chi_square_and_g_are_scipys(reference: Counts, current: Counts) -> None:
    assume(reference.sum() > 0 < current.sum())
    table = np.stack([reference, current])
    table = table[:, table.sum(axis=0) > 0]
    for function, power in ((statistics.chi_square, 1.0), (statistics.g_statistic, 0.0)):  # Cressie and Read's
        expected = stats.chi2_contingency(table, correction=False, lambda_=power)
        assert float(function(reference, current)) == pytest.approx(expected.statistic, rel=1e-6, abs=1e-4)
        if power == 1.0 and expected.dof > 0:
            value = statistics.contrast(expected.statistic, reference, current)
            log10_p = statistics.divergence_log10_p("contrast", value, reference, current, tolerance=0.0, deff=1.0)
            assert float(log10_p) == pytest.approx(max(np.log10(max(expected.pvalue, 1e-300)), -300), abs=1e-4)


def test_published_answers() -> None:
    # evidently's test: 5, 5, 8 against 4, 6, 8: p .8176. frouros, seed 31: chi-square 9.81474665685192 p .00173.
    g = float(statistics.g_statistic([5, 5, 8], [4, 6, 8]))
    assert stats.chi2.sf(g, 2) == pytest.approx(stats.chi2_contingency([[5, 5, 8], [4, 6, 8]], lambda_=0).pvalue)
    even = statistics.chi_square([10**12] * 6, [16, 18, 16, 14, 12, 12])  # a reference as good as exact
    assert float(even) == pytest.approx(2.0, rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(reference=counts, current=counts)
def test_cramers_v_without_its_correction_is_scipys_and_with_it_never_more(reference: Counts, current: Counts) -> None:
    assume(reference.sum() > 3 < current.sum())
    table = np.stack([reference, current])
    table = table[:, table.sum(axis=0) > 0]
    assume(table.shape[1] > 1)
    got = float(statistics.cramers_v(reference, current))
    assert 0.0 <= got <= 1.0
    assert got <= association(table, method="cramer") * 1.05 + 1e-3


def test_cramers_v_does_not_grow_with_the_rows() -> None:
    small, large = ([6, 4], [4, 6]), ([6_000_000, 4_000_000], [4_000_000, 6_000_000])
    assert float(statistics.cramers_v(*large)) == pytest.approx(0.2, abs=1e-3)
    assert float(statistics.cramers_v(*small)) == 0.0  # within what chance does
    assert float(statistics.cramers_v([0, 10], [10, 0])) == pytest.approx(1.0, abs=0.1)


def test_pooling_keeps_every_row_and_folding_leaves_no_rare_bin() -> None:
    rng = np.random.default_rng(1)
    reference, current = rng.poisson(rng.exponential(30, (200, 12))), rng.poisson(rng.exponential(5, (200, 12)))
    for fold in (False, True):
        r, c = statistics.pooled(reference, current, 5.0, fold=fold)
        assert (r.sum(axis=1) == reference.sum(axis=1)).all()
        assert (c.sum(axis=1) == current.sum(axis=1)).all()
    n, m = c.sum(axis=1, keepdims=True), r.sum(axis=1, keepdims=True)
    expected = np.minimum(n, m) * (r + c) / (n + m)
    kept = (r + c) > 0
    assert (expected[kept & (kept.sum(axis=1, keepdims=True) > 1)] >= 5.0 - 1e-9).all()


@pytest.mark.parametrize(("n", "m"), [(1000, 1000), (300, 5000)])
def test_without_drift_both_alarm_at_the_nominal_rate(n: int, m: int) -> None:
    """10 categories, 1,000 against 1,000 rows: a test that takes the reference for exact alarms half of the time."""
    runs, level = 4000, 0.05
    rng = np.random.default_rng(n)
    share = rng.dirichlet(np.full(10, 5.0))
    r, c = statistics.pooled(rng.multinomial(m, share, runs), rng.multinomial(n, share, runs), 5.0, fold=True)
    band = stats.binom.interval(1 - 1e-4, runs, level)
    df = ((r + c) > 0).sum(axis=1) - 1
    for function in (statistics.chi_square, statistics.g_statistic):
        hits = (function(r, c) > stats.chi2.isf(level, df)).sum()
        assert band[0] <= hits <= band[1] * 1.05
    exact_reference = ((c - n * r / m) ** 2 / np.maximum(n * r / m, 1e-9)).sum(axis=1)
    assert (exact_reference > stats.chi2.isf(level, df)).mean() > (0.4 if n == m else 0.05)

"""What `docs/drift.md` says of tolerances and of the list of suspects, against scipy and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from monitor import statistics
from monitor.budget import Budget
from monitor.detectors import FastDetector
from monitor.events import Family, Tolerance, tolerated
from monitor.measures import JS_TOLERANCE, KS_TOLERANCE, PSI_TOLERANCE
from monitor.selection import e_d_bh
from tests.support.streams import BINS, category, drawn, limits_for, uniform


def bounds(share: float, rows: float, deff: float = 1.0, family: Family = "shape") -> tuple[float, float]:
    happened, of, runs = np.array([[share * rows], [rows], [deff]])
    low, high = tolerated(happened, of, runs, family, Tolerance())
    return float(low[0]), float(high[0])


@pytest.mark.parametrize(("share", "off"), [(0.5, 0.010), (0.1, 0.006)])
def test_of_a_large_reference_a_share_may_lie_cohens_h_off(share: float, off: float) -> None:
    low, high = bounds(share, 1e9)
    assert [share - low, high - share] == pytest.approx([off, off], abs=3e-4)
    h = [float(abs(2 * np.arcsin(np.sqrt(end)) - 2 * np.arcsin(np.sqrt(share)))) for end in (low, high)]
    assert h == pytest.approx([0.02, 0.02], rel=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 1.0])
@pytest.mark.parametrize(("rows", "deff"), [(100, 1.0), (2000, 1.0), (2000, 8.0)])
def test_of_a_small_reference_it_may_lie_five_standard_errors_off(share: float, rows: int, deff: float) -> None:
    """Clopper and Pearson's limits, here by scipy's quantiles of the beta law; of the rows that count."""
    low, high = bounds(share, rows, deff)
    level = stats.norm.sf(5.0)
    events, of = share * rows / deff, rows / deff
    down = 0.0 if share == 0.0 else stats.beta.ppf(level, events, of - events + 1.0)
    up = 1.0 if share == 1.0 else stats.beta.isf(level, events + 1.0, of - events)
    h_low, h_high = bounds(share, 1e12)
    assert low == pytest.approx(min(down, h_low), rel=1e-6, abs=1e-9)
    assert high == pytest.approx(max(up, h_high), rel=1e-6, abs=1e-9)


def test_bad_values_may_always_be_five_in_ten_thousand() -> None:
    assert bounds(0.0, 1e9, family="quality")[1] == 0.0005


def strongest(shift: float, evaluations: int, rows: int) -> tuple[float, float]:
    """The largest evidence of a normal column whose mean moved, over so many evaluations; and the limit, both log10."""
    rng = np.random.default_rng(5)
    detector = FastDetector(uniform(1, 10**8), "input")
    cuts = stats.norm.ppf(np.linspace(0.0, 1.0, BINS + 1))
    shares = np.concatenate([[0.0], np.diff(stats.norm.cdf(cuts - shift)), [0.0]])
    limits = limits_for(detector, Budget(1.0), 1_000_000, rows)
    most, limit = -np.inf, np.inf
    for at in range(evaluations):
        detector.update(drawn(detector.bins, rows, shares[None], rng), float(at), limits)
        found = detector.evidence("x0", "shape")
        assert found is not None
        most, limit = max(most, found.evidence_log10), found.limit_log10
    return most, limit


def test_a_mean_that_moved_by_a_hundredth_of_a_deviation_never_alarms_in_a_billion_records() -> None:
    most, limit = strongest(0.01, 1000, 1_000_000)
    assert most < limit / 2
    most, limit = strongest(0.1, 3, 1_000_000)
    assert most > limit


def test_the_list_of_suspects_is_benjamini_and_hochbergs_of_the_evidence() -> None:
    """With 1/M for a p-value, and the level F/c."""
    rng = np.random.default_rng(6)
    for _ in range(200):
        features = int(rng.integers(1, 60))
        evidence = rng.exponential(5.0, features) * rng.random(features)
        log_c = float(rng.uniform(np.log(features) + 0.1, 12.0))
        level = features / np.exp(log_c)
        adjusted = stats.false_discovery_control(np.exp(-evidence), method="bh")
        assert e_d_bh(evidence, log_c).tolist() == (adjusted <= level).tolist()


@pytest.mark.parametrize(("n", "m"), [(100, 100), (150, 150), (200, 1000)])
def test_at_the_fewest_rows_that_are_judged_a_columns_tests_keep_to_their_share_together(n: int, m: int) -> None:
    """PSI and Jensen-Shannon distance alone pass their limits some three times as often there as χ² says, but in the
    same samples; and four tests share what a column has. A column of the reference's own bins, each of equal counts."""
    rng, runs, level = np.random.default_rng(7), 20_000, 1e-3
    base = np.array([m // BINS + (at < m % BINS) for at in range(BINS)], np.float64)
    made = rng.gamma(base, size=(runs, BINS))  # what share of all values lies in a bin of so many of the reference's
    current = rng.multinomial(n, made / made.sum(axis=1, keepdims=True)).astype(np.float64)
    reference = np.tile(base, (runs, 1))
    r, c = statistics.pooled(reference, current)
    passed = statistics.psi(r, c) > statistics.psi_limit(r, c, level, tolerance=PSI_TOLERANCE)
    passed |= statistics.js(r, c) > statistics.js_limit(r, c, level, tolerance=JS_TOLERANCE)
    passed |= statistics.ks(reference, current) > statistics.ks_limit(n, m, level, tolerance=KS_TOLERANCE)
    assert passed.sum() <= stats.binom.isf(1e-3, runs, 4 * level)


def test_what_a_short_reference_never_had_is_about_what_came_once() -> None:
    """Good (1953), by simulation: the share of later rows with a category that 300 rows had not, and its bound."""
    rng = np.random.default_rng(8)
    shares = 1.0 / np.arange(1, 400) ** 1.2
    shares /= shares.sum()
    told: list[float] = []
    true: list[float] = []
    beyond = 0
    for _ in range(300):
        counts = rng.multinomial(300, shares)
        came, deff = category("c", sorted(map(int, counts[counts > 0]))).never_seen(1.0)
        told.append(came / 300)
        true.append(float(shares[counts == 0].sum()))
        beyond += bool(true[-1] > statistics.clopper_pearson(came / deff, 300 / deff, 1e-2)[1])
    assert np.mean(told) == pytest.approx(np.mean(true), rel=0.05)
    assert beyond <= stats.binom.isf(1e-3, 300, 1e-2)

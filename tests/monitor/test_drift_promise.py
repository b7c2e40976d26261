"""The promise on false alarms, held and not by sleeping: months of evaluations without drift. One month is 1,000."""

from __future__ import annotations

import math

import numpy as np
import pytest

from monitor.budget import Budget, Spender
from monitor.counts import Counter, Counts
from monitor.detectors import FastDetector, FastSettings
from monitor.events import Tolerance
from tests.support.streams import BINS, DependentRows, alarms_in, drawn, exact_profile, limits_for, uniform

MONTH = 1000
NONE = Tolerance(shape_h=0.0, quality_h=0.0, quality_least=0.0, reference_sigmas=0.0)
FLAT = np.concatenate([[0.0], np.full(BINS, 1.0 / BINS), [0.0]])
INPUTS: tuple[Spender, ...] = ("inputs", "quality")


def independent(features: int, months: float, budget: Budget, *, exact: bool, seed: int) -> int:
    rng = np.random.default_rng(seed)
    columns = uniform(features, 10**8 if exact else 100_000, None if exact else rng)
    detector = FastDetector(columns, "input", FastSettings(tolerance=NONE if exact else Tolerance()))
    table = np.tile(FLAT, (features, 1))
    look = lambda _: drawn(detector.bins, 500, table, rng)  # noqa: E731
    return alarms_in(detector, int(months * MONTH), budget, MONTH, look)


def dependent(
    features: int, months: float, seed: int, *, handled: bool = True, session: int = 1, rho: float = 0.0
) -> int:
    """Tolerance 0, exact shares, budget 20, as the simulation behind the bar; dependence found in 50,000 rows."""
    rng = np.random.default_rng(seed)
    rows = DependentRows(features, rng, session=session, rho=rho)
    sample = rows.take(50_000) if handled else rng.normal(size=(50_000, features))
    detector = FastDetector(exact_profile(features, sample), "input", FastSettings(tolerance=NONE, learn=handled))
    counter = Counter(detector.bins, "f8")
    limits = limits_for(detector, Budget(20.0).among(["inputs"]), MONTH)
    alarms = 0
    for t in range(int(months * MONTH)):
        counts = Counts.empty(detector.bins)
        counter.add(counts, rows.take(500))
        alarms += len([row for row in detector.update(counts, float(t), limits).raised if row.family == "shape"])
    return alarms


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_budget_of_one_a_month_over_a_hundred_features_keeps_to_it() -> None:
    """Default tolerance, estimated reference: at most 18 in ten months (10 expected at most, Poisson at 1 %)."""
    assert independent(100, 10, Budget(1.0).among(INPUTS), exact=False, seed=1) <= 18


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_budget_of_twenty_without_tolerance_is_neither_broken_nor_slept_through() -> None:
    """Exact reference. The bound is 200 in ten months; a detector that cannot alarm would have none."""
    assert 20 <= independent(100, 10, Budget(20.0).among(["inputs"]), exact=True, seed=2) <= 240


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("session", "rho"), [(20, 0.0), (1, 0.9), (1, 0.99)])
def test_dependent_rows_keep_to_the_budget(session: int, rho: float) -> None:
    assert dependent(100, 10, 8, session=session, rho=rho) <= 240


@pytest.mark.slow
def test_the_same_rows_taken_for_independent_break_it() -> None:
    """So the test above can fail: without the design effect one month of AR(1) has more alarms than ten may have."""
    assert dependent(20, 1, 8, handled=False, rho=0.9) > 100


def test_a_short_budget_is_neither_broken_nor_slept_through() -> None:
    """As above in small: 8 features, 100 evaluations, 40 alarms promised at most."""
    rng = np.random.default_rng(3)
    detector = FastDetector(uniform(8, 10**8), "input", FastSettings(tolerance=NONE))
    table = np.tile(FLAT, (8, 1))
    budget = Budget(40.0).among(["inputs"])
    assert 2 <= alarms_in(detector, 100, budget, 100, lambda _: drawn(detector.bins, 500, table, rng)) <= 52


def test_a_shift_of_a_hundredth_of_a_standard_deviation_in_a_billion_rows_is_tolerated() -> None:
    detector = FastDetector(exact_profile(1, np.random.default_rng(0).normal(size=(100, 1))), "input")
    edges = np.array(detector.bins.columns[0].edges)
    below = np.array([0.5 * math.erfc(-(edge - 0.01) / math.sqrt(2.0)) for edge in edges])
    counts = Counts.empty(detector.bins)
    counts.counts[0] = np.round(np.diff(np.concatenate([[0.0], below, [1.0]])) * 1e9)
    counts.rows = int(counts.counts.sum())
    for t in range(3):
        detector.update(counts, float(t), limits_for(detector, Budget(1.0), MONTH))
    assert not detector.active()

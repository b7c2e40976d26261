"""Columns together, judged: what is seen and how soon, what is named, and a promise that is kept by simulation."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from monitor.budget import Budget
from monitor.events import Tolerance
from monitor.together import STATISTICS, Tally, Together
from monitor.together_telling import together_sentence, what_moved
from monitor.together_watch import NAME, TogetherDetector
from tests.support.streams import DependentRows
from tests.support.together import Floats, correlated, profiled

N = 50_000
NONE = Tolerance(shape_h=0.0, quality_h=0.0, quality_least=0.0, reference_sigmas=0.0)
LIMIT = Budget(1.0).among(("multivariate",)).log_threshold("multivariate", 3 * 518_400)
PROFILE = profiled(correlated(N, 0.6, np.random.default_rng(0)))


def together() -> Together:
    assert PROFILE.together is not None
    return PROFILE.together


def step(detector: TogetherDetector, rows: Floats, now_s: float) -> tuple[set[str], set[str]]:
    raised, cleared = detector.update(detector.together.questions.tally(rows), now_s, LIMIT)
    assert all(row.feature == NAME and row.side == "input" for row in (*raised, *cleared))
    return {row.family for row in raised}, {row.family for row in cleared}


def test_a_correlation_that_turns_around_is_seen_named_and_cleared_while_no_column_moves() -> None:
    rng, detector = np.random.default_rng(1), TogetherDetector(together())
    for t in range(10):
        assert step(detector, correlated(500, 0.6, rng), t) == (set(), set())
    drifted = correlated(1000, -0.6, rng)
    assert all(stats.kstest(column, "norm").pvalue > 1e-3 for column in drifted.T)
    raised, _ = step(detector, drifted, 10.0)
    assert {"pairs", "reconstruction"} <= raised
    assert {row.family for row in detector.active()} == raised
    pair = detector.pairs_that_moved()[0]
    assert (pair.first.column, pair.second.column) == (0, 1)
    assert pair.current == pytest.approx(0.5 + math.asin(-0.6) / math.pi, abs=0.05)
    worse = detector.columns_unexplained()[:2]
    assert {found.column for found in worse} == {0, 1}
    sentence = together_sentence(PROFILE, detector, [])
    assert sentence.startswith("x0 and x1 are on the same side of their medians in ")
    assert sentence.endswith("No input moved by itself.")
    assert "which may be all of it" in together_sentence(PROFILE, detector, ["x3"])
    assert what_moved(PROFILE, detector)["pairs"][0]["second"] == "x1"
    gone: set[str] = set()
    for t in range(60):
        gone |= step(detector, correlated(500, 0.6, rng), 11.0 + t)[1]
    assert gone >= {"pairs", "reconstruction"}
    assert not detector.active()


def seen_after(reference: Floats, current: Floats) -> dict[str, int]:
    """Statistic → rows until its alarm, 500 at a time."""
    found = profiled(reference).together
    assert found is not None
    detector, told = TogetherDetector(found), dict[str, int]()
    for at in range(0, len(current), 500):
        for name in step(detector, current[at : at + 500], at)[0]:
            told.setdefault(name, at + 500)
    return told


def test_columns_that_are_swapped_are_seen() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(N + 4000, 1)) @ np.array([[1.0, 0.2, 0.9, 0.7, 0.1]]) + rng.normal(size=(N + 4000, 5))
    x /= x.std(axis=0)
    current = x[N:].copy()
    current[:, [0, 1]] = current[:, [1, 0]]
    assert min(seen_after(x[:N], current).values()) <= 1000


def test_a_mixture_that_is_rotated_is_seen() -> None:
    rng = np.random.default_rng(3)
    side = np.where(rng.random((N + 4000, 1)) < 0.5, 1.0, -1.0)
    x = np.concatenate([0.5 * rng.normal(size=(N + 4000, 2)) + side, rng.normal(size=(N + 4000, 4))], axis=1)
    x[N:, 1] -= 2.0 * side[N:, 0]
    assert seen_after(x[:N], x[N:])["pairs"] <= 1000


def test_a_tie_without_any_correlation_is_seen_by_who_lies_far_out() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(N + 4000, 6))
    x[N:, 1] = np.abs(x[N:, 0]) * np.sign(x[N:, 1])
    assert abs(np.corrcoef(x[N:, 0], x[N:, 1])[0, 1]) < 0.1
    assert seen_after(x[:N], x[N:])["pairs"] <= 1000


def test_many_columns_that_loosen_a_little_are_seen_by_the_components_first() -> None:
    rng = np.random.default_rng(5)
    loads = rng.normal(size=(2, 30))

    def rows(count: int, strength: float) -> Floats:
        x = rng.normal(size=(count, 2)) @ loads * strength + rng.normal(size=(count, 30))
        return np.asarray(x / np.sqrt((loads**2).sum(axis=0) * strength**2 + 1.0))

    told = seen_after(rows(N, 1.0), rows(4000, 0.85))
    assert told["reconstruction"] <= 1000
    assert told.get("pairs", 10**9) >= told["reconstruction"]


def test_missing_values_that_grow_are_no_matter_of_pairs() -> None:
    rng, detector = np.random.default_rng(6), TogetherDetector(together())
    for t in range(20):
        x = correlated(500, 0.6, rng)
        x[rng.random(x.shape) < 0.3] = np.nan
        assert "pairs" not in step(detector, x, t)[0]


def test_its_state_goes_on_where_it_stood() -> None:
    rng = np.random.default_rng(7)
    one, tallies = TogetherDetector(together()), []
    for t in range(12):
        tallies.append(one.together.questions.tally(correlated(500, 0.6 if t < 8 else -0.6, rng)))
        one.update(tallies[-1], float(t), LIMIT)
    two = TogetherDetector(together())
    two.restore(one.to_dict())
    assert two.to_dict() == one.to_dict()
    assert [row.to_dict() for row in two.active()] == [row.to_dict() for row in one.active()]
    for each in (one, two):
        each.update(tallies[0], 20.0, LIMIT)
    assert two.to_dict() == one.to_dict()


def alarms(months: float, rows: DependentRows, *, tolerance: Tolerance | None, budget: float, exact: int = 0) -> int:
    """Of months of 1,000 evaluations of 500 rows in which nothing drifts; exact: rows that the reference really had."""
    found = profiled(rows.take(100_000)).together
    assert found is not None
    if exact:
        tally = Tally.empty(len(found.questions), 6)
        for _ in range(exact // 10_000):
            tally.merge(found.questions.tally(rows.take(10_000)))
        found = replace(found, tally=tally)
    detector, raised = TogetherDetector(found, tolerance), 0
    limit = Budget(budget).among(("multivariate",)).log_threshold("multivariate", len(STATISTICS) * 1000)
    for t in range(int(1000 * months)):
        up, _ = detector.update(found.questions.tally(rows.take(500)), float(t), limit)
        raised += len(up)
    return raised


SESSIONS = [(1, 0.0), (20, 0.0), (1, 0.9)]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("session", "rho"), SESSIONS)
def test_months_without_drift_keep_to_the_budget(session: int, rho: float) -> None:
    """Default tolerance, estimated reference, 2 alarms a month promised, 3 months: at most 12 (Poisson of 6 at 1 %)."""
    rng = np.random.default_rng(11)
    rows = DependentRows(6, rng, session=session, rho=rho)
    assert alarms(3, rows, tolerance=None, budget=2.0) <= 12


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("session", "rho"), SESSIONS)
def test_without_tolerance_the_budget_is_kept_too(session: int, rho: float) -> None:
    """An all but exact reference: only the bets hold alarms down. 20 promised: some, at most 31 (Poisson at 1 %)."""
    rows = DependentRows(6, np.random.default_rng(21), session=session, rho=rho)
    assert 0 < alarms(1, rows, tolerance=NONE, budget=20.0, exact=3_000_000) <= 31

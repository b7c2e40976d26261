from __future__ import annotations

from math import exp
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from monitor import profile, self_audit
from monitor.block import Rows
from monitor.counts import Counter, Counts
from monitor.self_audit import SplitAudit, Tally, YesterdayAudit, coins, limits_of, spread
from monitor.windows import Window
from tests.support.records import regression_schema

FEATURES = 4
SCHEMA = regression_schema(FEATURES)


def fitted(rows: int = 5000) -> profile.ReferenceProfile:
    x = np.random.default_rng(0).normal(size=(rows, FEATURES)).astype("f4")
    return profile.fit(SCHEMA, x, x[:, :1])


def rows_of(x: NDArray[Any], first: int) -> Rows:
    return Rows({"seq": np.arange(first, first + len(x), dtype=np.uint64), "features": x})


def counted(found: profile.ReferenceProfile, x: NDArray[Any]) -> Counts:
    return Counter(found.input_bins(), SCHEMA.input_dtype).count(x)


def run_split(evaluations: int, rows: int, seed: int, shift: float = 0.0, every: int = 1) -> Tally:
    """Whatever the world does: rows that drift, and come in equal groups of `every`."""
    found, rng, total = fitted(), np.random.default_rng(seed), Tally()
    audit = SplitAudit(found, SCHEMA.input_dtype)
    limits = limits_of({"shape": audit.evaluations("shape"), "quality": audit.evaluations("quality")})
    for turn in range(evaluations):
        x = (rng.normal(size=(rows // every, FEATURES)) + shift * turn / evaluations).astype("f4")
        x = np.repeat(x, every, axis=0)
        audit.add(rows_of(x, seed * 10**9 + turn * rows), counted(found, x), seed)
        tally = audit.evaluate(float(turn), limits)
        total.alarms += tally.alarms
        total.expected += tally.expected
    return total


def test_a_coin_is_fair_and_the_same_for_the_same_row() -> None:
    x = np.zeros((40_000, 1), "f4")
    thrown = coins(rows_of(x, 0), 3)
    assert stats.binomtest(int(thrown.sum()), len(thrown)).pvalue > 0.001
    assert (coins(rows_of(x[1:], 1), 3) == thrown[1:]).all()
    assert stats.binomtest(int((coins(rows_of(x, 0), 4) == thrown).sum()), len(thrown)).pvalue > 0.001
    assert stats.binomtest(int((thrown[1:] == thrown[:-1]).sum()), len(thrown) - 1).pvalue > 0.001


def test_what_is_expected_in_an_hour_of_evaluations_is_one() -> None:
    audit = SplitAudit(fitted(), SCHEMA.input_dtype)
    limits = limits_of({"shape": audit.evaluations("shape"), "quality": audit.evaluations("quality")})
    x = np.zeros((500, FEATURES), "f4")
    audit.add(rows_of(x, 0), counted(fitted(), x), 0)
    assert audit.evaluate(0.0, limits).expected * 3600 == pytest.approx(1.0)


@pytest.mark.parametrize("every", [1, 20])
def test_the_split_sees_no_drift_and_no_dependence(every: int) -> None:
    total = run_split(evaluations=150, rows=1000, seed=1, shift=3.0, every=every)
    assert total.alarms == 0
    assert total.expected == pytest.approx(150 / 3600)


@pytest.mark.slow
def test_the_split_alarms_at_most_as_often_as_it_promises(monkeypatch: pytest.MonkeyPatch) -> None:
    # 20 hours' worth of alarms in 20 x 300 evaluations: the budget of an hour is spent in 300.
    monkeypatch.setattr(self_audit, "evaluations_in", lambda _: 300.0)
    totals = [run_split(300, 500, seed) for seed in range(20)]
    expected = sum(total.expected for total in totals)
    alarms = sum(total.alarms for total in totals)
    assert expected == pytest.approx(20.0)
    assert alarms <= stats.poisson.ppf(0.999, expected)
    assert alarms >= 1  # and it is not asleep


def test_a_broken_half_is_seen() -> None:
    found, audit = fitted(), SplitAudit(fitted(), SCHEMA.input_dtype)
    rng, alarms = np.random.default_rng(2), 0
    for turn in range(20):
        x = rng.normal(size=(1000, FEATURES)).astype("f4")
        rows = rows_of(x, turn * 1000)
        x[coins(rows, 0), 0] += 0.5  # what came to one half was counted as something else
        audit.add(rows, counted(found, x), 0)
        alarms += audit.evaluate(float(turn), limits_of({"shape": 3600.0, "quality": 3600.0})).alarms
    assert alarms > 0


def test_yesterday_is_quiet_when_today_is_alike_and_alarms_when_it_is_not() -> None:
    found, rng = fitted(), np.random.default_rng(3)
    day = counted(found, (rng.normal(size=(20_000, FEATURES)) + 1.0).astype("f4"))  # far from the reference: no matter
    window = Window(0, 86_400, 0, day, Counts.empty(found.output_bins()))
    audit = YesterdayAudit(found, window)
    limits = limits_of({"shape": audit.evaluations("shape"), "quality": audit.evaluations("quality")})
    for shift, alarms in ((1.0, 0), (2.0, FEATURES)):
        seen = [
            audit.evaluate(
                counted(found, (rng.normal(size=(500, FEATURES)) + shift).astype("f4")), float(turn), limits
            ).alarms
            for turn in range(30)
        ]
        assert (sum(seen) == 0) is (alarms == 0)
        assert sum(seen) >= alarms
    assert limits.shape > 0 < exp(-limits.shape) < 1


def test_wide_models_are_audited_on_columns_spread_over_them() -> None:
    wide = profile.fit(regression_schema(100), np.zeros((50, 100), "f4"), np.zeros((50, 1), "f4"))
    assert spread(100, 8) == [0, 14, 28, 42, 57, 71, 85, 99]
    audit = SplitAudit(wide, "f4")
    x = np.zeros((600, 100), "f4")
    audit.add(rows_of(x, 0), Counter(wide.input_bins(), "f4").count(x), 0)
    assert audit.evaluate(0.0, limits_of({"shape": 1e6, "quality": 1e6})).alarms == 0

"""The fast detector: equal to its definition, quiet without drift, right about what moved, safe to restart."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from monitor.budget import MONTH_S, Budget, evaluations_in
from monitor.counts import Counter, Counts
from monitor.detectors import FastDetector, FastSettings, Limits
from monitor.events import Tolerance
from monitor.mixture import STEPS_H
from monitor.profile import ColumnProfile, Order, fit
from monitor.record import Column, LogSchema
from monitor.watch import Evidence
from registry.errors import FormatTooNew, StateDamaged
from tests.support.streams import BINS, category, drawn, limits_for, number, uniform

QUIET = Limits(math.inf, math.inf)
FLAT = np.concatenate([[0.0], np.full(BINS, 1.0 / BINS), [0.0]])


def shares(*rows: np.ndarray) -> np.ndarray:
    return np.stack(rows)


def test_evidence_is_that_of_the_definition() -> None:
    """A binary feature against the recursion written out: M = (1 + M)·e, averaged over alternatives and directions."""
    columns = (category("c", [7000, 3000]),)
    tolerance = Tolerance(shape_h=0.05, reference_sigmas=0.0)
    detector = FastDetector(columns, "input", FastSettings(tolerance=tolerance, learn=False))
    rng = np.random.default_rng(0)
    seen = rng.binomial(200, 0.33, size=40)
    for t, k in enumerate(seen.tolist()):
        counts = Counts.empty(detector.bins)
        counts.rows, counts.counts[0, :2] = 200, (200 - k, k)
        detector.update(counts, float(t), QUIET)
    total, components = 0.0, 0
    for p0, hits in ((0.7, 200 - seen), (0.3, seen)):
        for sign in (1, -1):
            limit = math.sin(math.asin(math.sqrt(p0)) + sign * 0.025) ** 2
            for h in STEPS_H:
                other = math.sin(math.asin(math.sqrt(limit)) + sign * h / 2) ** 2
                m = 0.0
                for k in hits.tolist():
                    m = (1 + m) * (other / limit) ** k * ((1 - other) / (1 - limit)) ** (200 - k)
                total, components = total + m, components + 1
    found = detector.evidence("c")
    assert found is not None
    assert found.evidence_log10 == pytest.approx(math.log10(total / components), rel=1e-9)


def test_no_drift_in_a_hundred_features_raises_nothing() -> None:
    rng = np.random.default_rng(1)
    detector = FastDetector(uniform(100, 100_000, rng), "input")
    limits = limits_for(detector, Budget(1.0), evaluations_in(MONTH_S))
    table = shares(*[FLAT] * 100)
    for t in range(30):
        assert not detector.update(drawn(detector.bins, 500, table, rng), float(t), limits).raised


def test_a_drift_is_named_dated_and_cleared_when_it_is_over() -> None:
    rng = np.random.default_rng(2)
    detector = FastDetector(uniform(2, 100_000, rng), "input")
    limits = limits_for(detector, Budget(1.0), evaluations_in(MONTH_S))
    moved = FLAT * np.r_[np.ones(9), np.full(9, 1.3)]
    moved /= moved.sum()
    raised, cleared = [], []
    for t in range(120):
        now = moved if 30 <= t < 70 else FLAT
        report = detector.update(drawn(detector.bins, 500, shares(FLAT, now), rng), float(t), limits)
        raised += [(t, row) for row in report.raised]
        cleared += [(t, row) for row in report.cleared]
    ((at, row),) = raised
    assert 30 <= at <= 45
    assert (row.feature, row.family, row.kind, row.direction) == ("x1", "shape", "edge", -1)
    assert row.place == pytest.approx(8, abs=2)  # half of the bins grew, so the share below the middle fell
    assert 27 <= row.start_s <= 32
    assert row.share < row.limit < row.reference
    assert row.evidence_log10 >= row.limit_log10
    ((back, row),) = cleared
    assert row.feature == "x1"
    assert 70 <= back <= 100
    assert not detector.active()


@pytest.mark.parametrize(
    ("event", "kind"),
    [("missing", "missing"), ("infinite", "infinite"), ("low", "below_range"), ("high", "above_range")],
)
def test_bad_values_in_one_row_of_twenty_are_an_alarm_of_quality_within_1000_rows(event: str, kind: str) -> None:
    rng = np.random.default_rng(3)
    detector = FastDetector(uniform(3, 100_000, rng), "output")
    limits = limits_for(detector, Budget(1.0), evaluations_in(MONTH_S))
    for t in range(2):
        counts = drawn(detector.bins, 500, shares(FLAT, FLAT, FLAT), rng)
        if event == "missing":
            counts.missing[1] += 25
            counts.counts[1, 5] -= 25
        else:
            counts.counts[1, 5] -= 25
            counts.counts[1, 0 if event == "low" else -1] += 25
            counts.infinite[1] += 25 if event == "infinite" else 0
        raised = detector.update(counts, float(t), limits).raised
        if raised:
            break
    assert {row.feature for row in raised} == {"x1"}
    assert kind in {row.kind for row in raised} or event == "infinite"
    assert {row.family for row in raised} == {"quality"}


def test_a_category_that_the_reference_never_had_is_unseen() -> None:
    detector = FastDetector((category("c", [6000, 4000]), category("d", [600, 400], complete=False)), "input")
    counts = Counts.empty(detector.bins)
    counts.rows = 500
    counts.counts[:] = [[280, 190, 30], [290, 210, 0]]
    (row,) = detector.update(counts, 0.0, Limits(20.0, 20.0)).raised
    assert (row.feature, row.kind, row.share) == ("c", "unseen", 0.06)


def test_a_restart_changes_nothing() -> None:
    rng = np.random.default_rng(4)
    columns = uniform(4, 50_000, rng)
    first, second = FastDetector(columns, "input"), FastDetector(columns, "input")
    moved = FLAT * np.r_[np.ones(9), np.full(9, 1.5)]
    table = shares(FLAT, moved / moved.sum(), FLAT, FLAT)
    limits = Limits(15.0, 15.0)
    for t in range(24):
        counts = drawn(first.bins, 500, table if t < 10 else shares(FLAT, FLAT, FLAT, FLAT), rng)
        copy = counts.copy()
        assert first.update(counts, float(t), limits) == second.update(counts, float(t), limits)
        assert np.array_equal(counts.counts, copy.counts)
        stored = json.loads(json.dumps(second.to_dict(), allow_nan=False))
        second = FastDetector(columns, "input")
        second.restore(stored)
        assert second.worst(9) == first.worst(9)
        assert second.active() == first.active()


def test_a_state_of_another_profile_is_refused_and_changes_nothing() -> None:
    detector, other = FastDetector(uniform(2, 5000), "input"), FastDetector(uniform(3, 5000), "input")
    before = detector.to_dict()
    for document in (other.to_dict(), {**before, "families": []}, {**before, "rows": None}):
        with pytest.raises(StateDamaged):
            detector.restore(document)
        assert detector.to_dict() == before
    with pytest.raises(FormatTooNew):
        detector.restore({**before, "v": 99})


def test_counts_of_other_bins_are_refused_and_no_rows_say_nothing() -> None:
    detector = FastDetector(uniform(2, 5000), "input")
    with pytest.raises(ValueError, match="other bins"):
        detector.update(Counts.empty(FastDetector(uniform(3, 5000), "input").bins), 0.0, QUIET)
    assert detector.update(Counts.empty(detector.bins), 0.0, QUIET).rows == 0
    assert detector.evaluations == 0


@pytest.mark.parametrize("column", [number("x", [0, 0]), number("x", [50], missing=9), category("x", [])])
def test_empty_and_constant_references_are_watched_for_what_they_can_tell(column: ColumnProfile) -> None:
    detector = FastDetector((column,), "input")
    counts = Counts.empty(detector.bins)
    counts.rows = 500
    counts.missing[0] = 500
    report = detector.update(counts, 0.0, Limits(10.0, 10.0))
    assert all(row.kind == "missing" for row in report.raised)
    assert bool(report.raised) == (sum(column.counts) > 0)


def test_too_many_categories_do_not_drift_towards_the_others_by_nature() -> None:
    """Of 2,000 equally frequent ones the 64 that the reference had most are not so frequent again."""
    rng = np.random.default_rng(5)
    seen = np.sort(rng.multinomial(7000, np.full(2000, 1 / 2000)))[::-1]
    column = category("c", [*seen[:64].tolist()], complete=False)
    column = replace(column, counts=(*column.counts[:-1], int(seen[64:].sum())))
    detector = FastDetector((column,), "input")
    for t in range(20):
        counts = Counts.empty(detector.bins)
        counts.rows = 500
        counts.counts[0] = rng.multinomial(500, [*[1 / 2000] * 64, 1936 / 2000])
        assert not detector.update(counts, float(t), Limits(7.0, 7.0)).raised


def test_the_start_is_where_the_outage_began_though_evidence_had_crept_up_before() -> None:
    """Values are missing in sessions of 50, so each row says little, and M is seldom near nothing."""
    rng = np.random.default_rng(3)
    schema = LogSchema(True, (Column("x", "x", "number", 0),), (), "f8", "f8")

    def runs(rows: int, missing: float) -> NDArray[Any]:
        values = np.where(rng.random(rows // 50) < missing, np.nan, rng.normal(size=rows // 50))
        return np.repeat(values, 50)[:, None]

    profile = fit(schema, runs(50_000, 0.02), np.zeros((50_000, 0)), order=Order(in_time=True))
    assert profile.inputs[0].missing_deff > 20.0
    detector = FastDetector(profile.inputs, "input")
    counter = Counter(detector.bins, "f8")
    raised: list[Evidence] = []
    for at in range(100):
        counts = counter.count(runs(500, 0.02 if at < 90 else 0.6))
        raised += detector.update(counts, float(at), Limits(15.0, 15.0)).raised
    (alarm,) = [row for row in raised if row.kind == "missing"]
    assert abs(alarm.start_rows - 90 * 500) <= 1000
    assert alarm.share == pytest.approx(0.6, abs=0.15)

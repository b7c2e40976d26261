"""Drift is found where it is, not where it is not; limits hold their false-alarm promise; alarms do not flap."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from monitor.alarms import quality
from monitor.counts import Counter, Counts
from monitor.drift import MONTH_S, Measurement, count_of_tests, level_per_test, measure, ranked, worst
from monitor.profile import Order, ReferenceProfile, fit
from monitor.record import Column, LogSchema, category_code
from monitor.reference import read_reference
from registry.vocabulary import Cause, TensorSpec, Verdict
from tests.support.profiles import fitted, schema

Block = NDArray[np.float64]


def live(profile: ReferenceProfile, *columns: object) -> Counts:
    counts = Counts.empty(profile.input_bins())
    block = np.column_stack([np.asarray(column, np.float64) for column in columns])
    Counter(profile.input_bins(), "f8").add(counts, block)
    return counts


def look(profile: ReferenceProfile, *columns: object, level: float = 1e-6) -> dict[tuple[str, str], Measurement]:
    found = measure(profile, live(profile, *columns), None, window="5m", level=level)
    return {(m.feature, m.statistic): m for m in found}


def breached(found: dict[tuple[str, str], Measurement]) -> set[str]:
    return {feature for (feature, _), m in found.items() if m.verdict is Verdict.BREACH}


def test_a_shift_is_found_by_every_distance_and_no_shift_by_none() -> None:
    rng = np.random.default_rng(0)
    profile = fitted(rng.normal(size=20_000), rng.normal(size=20_000))
    found = look(profile, rng.normal(size=2000), rng.normal(0.5, 1, 2000))
    assert {key for key, m in found.items() if m.verdict is Verdict.BREACH} == {("x1", s) for s in ("psi", "js", "ks")}
    assert all(m.profile == profile.digest and m.rows == 2000 for m in found.values())


def test_the_reference_itself_has_not_moved() -> None:
    values = np.random.default_rng(0).normal(size=5000)
    for m in look(fitted(values), values).values():
        assert m.verdict is Verdict.PASS
        assert m.value == pytest.approx(0.0, abs=1e-7)


def test_missing_values_that_come_or_go_are_drift_of_missing_alone() -> None:
    rng = np.random.default_rng(0)
    whole = rng.normal(size=10_000)
    holes = np.where(rng.random(10_000) < 0.3, np.nan, whole)
    found = look(fitted(whole, holes), holes, whole)
    assert {key for key, m in found.items() if m.verdict is Verdict.BREACH} == {("x0", "missing"), ("x1", "missing")}


def test_a_live_column_of_only_missing_values_is_unknown_but_for_missing() -> None:
    found = look(fitted(np.arange(5000.0) % 100), np.full(500, np.nan))
    assert found["x0", "missing"].verdict is Verdict.BREACH
    for statistic in ("psi", "js", "ks"):
        m = found["x0", statistic]
        assert (m.verdict, m.cause) == (Verdict.UNKNOWN, Cause.NOT_ENOUGH)
        assert math.isnan(m.value)
        assert m.to_dict()["value"] is None


def test_a_reference_column_of_only_missing_values_drifts_when_values_come() -> None:
    found = look(fitted(np.full(5000, np.nan)), np.arange(500.0))
    assert found["x0", "missing"].verdict is Verdict.BREACH
    assert found["x0", "psi"].verdict is Verdict.UNKNOWN


def test_a_constant_that_begins_to_move_is_drift_and_one_that_stays_is_not() -> None:
    profile = fitted(np.full(5000, 2.5))
    assert breached(look(profile, np.full(1000, 2.5))) == set()
    assert breached(look(profile, np.append(np.full(900, 2.5), np.full(100, 2.6)))) == {"x0"}


def test_new_categories_are_drift_and_unseen() -> None:
    values = np.array([category_code(text) for text in ("red", "green", "blue")])
    rng = np.random.default_rng(0)
    profile = fitted(rng.choice(values, 5000), kinds=("category",))
    current = np.append(rng.choice(values, 900), np.full(100, category_code("violet")))
    assert breached(look(profile, current)) == {"x0"}
    ratios = {(q.feature, q.problem): q.ratio for q in quality(profile, live(profile, current), None)}
    assert ratios["x0", "unseen"] == 0.1


def test_infinite_values_are_drift_and_bad() -> None:
    profile = fitted(np.random.default_rng(0).normal(size=5000))
    current = np.random.default_rng(1).normal(size=1000)
    current[:100], current[100:150] = np.inf, -np.inf
    assert breached(look(profile, current)) == {"x0"}
    ratios = {q.problem: q.ratio for q in quality(profile, live(profile, current), None)}
    assert ratios["infinite"] == 0.15
    assert ratios["out_of_range"] >= 0.15


def test_fractions_among_whole_numbers_are_drift_and_bad_by_a_profile_that_was_stored() -> None:
    rng = np.random.default_rng(0)
    profile = ReferenceProfile.from_bytes(fitted(rng.integers(0, 50, 5000)).to_bytes())
    current = rng.integers(0, 50, 1000).astype(np.float64)
    current[:100] += 0.25
    assert {m.statistic for m in look(profile, current).values() if m.verdict is Verdict.BREACH} == {"mistyped"}
    ratios = {q.problem: q.ratio for q in quality(profile, live(profile, current), None)}
    assert ratios["mistyped"] == 0.1


@pytest.mark.parametrize("rows", [0, 1, 50])
def test_too_few_rows_are_neither_good_nor_bad(rows: int) -> None:
    found = look(fitted(np.random.default_rng(0).normal(size=5000)), np.full(rows, 99.0))
    assert found["x0", "psi"].verdict is Verdict.UNKNOWN
    assert found["x0", "psi"].cause is (Cause.NOT_ENOUGH if rows else Cause.NO_TRAFFIC)


def test_counts_of_other_bins_are_refused() -> None:
    one, other = fitted(np.arange(100.0)), fitted(np.arange(50.0))
    with pytest.raises(ValueError, match="other bins"):
        measure(one, live(other, np.arange(10.0)), None, window="5m", level=1e-6)


def test_the_level_divides_the_budget_by_every_test_of_a_month() -> None:
    profile = fitted(np.arange(1000.0), np.arange(1000.0))
    assert count_of_tests(profile) == 14  # two inputs of whole numbers, five each, and one output, four
    looks = 2 * MONTH_S / 10
    assert level_per_test(profile, 1.0, looks) * 14 * looks == pytest.approx(1.0)


def test_the_worst_come_first_and_only_so_many_features() -> None:
    rng = np.random.default_rng(0)
    profile = fitted(*(rng.normal(size=5000) for _ in range(4)))
    found = list(look(profile, *(rng.normal(shift, 1, 2000) for shift in (0.0, 0.3, 1.0, 0.0))).values())
    assert ranked(found)[0].feature == "x2"
    chosen = worst(found, 2)
    assert {m.feature for m in chosen} == {"x1", "x2"}
    assert len(chosen) == 8


@pytest.mark.slow
@pytest.mark.parametrize("rows", [300, 3000])
def test_without_drift_the_share_of_looks_with_an_alarm_lies_in_its_band(rows: int) -> None:
    rng = np.random.default_rng(rows)
    looks, promise = 600, 0.05  # at most so many looks with any alarm, over all columns and statistics

    def draw(n: int) -> list[Block]:
        zipf = np.minimum(rng.zipf(1.6, n), 500).astype(np.float64)
        holes = np.where(rng.random(n) < 0.02, np.nan, rng.lognormal(size=n))
        return [rng.normal(size=n), holes, rng.integers(0, 7, n) * 1.0, np.full(n, 3.0), zipf, zipf]

    kinds = ("number", "number", "number", "number", "number", "category")
    profile = fitted(*draw(30_000), kinds=kinds)
    level = level_per_test(profile, promise, 1.0)
    alarmed = sum(bool(breached(look(profile, *draw(rows), level=level))) for _ in range(looks))
    assert alarmed <= stats.binom.isf(1e-4, looks, promise)


@pytest.mark.slow
def test_rows_that_come_in_runs_do_not_alarm_for_that() -> None:
    rng = np.random.default_rng(9)

    def walk(n: int) -> Block:
        out = rng.normal(size=n)
        for i in range(1, n):
            out[i] = 0.9 * out[i - 1] + math.sqrt(0.19) * out[i]
        return out

    profile = fitted(walk(50_000))
    looks, level = 60, 0.01 / 3
    alarmed = sum(bool(breached(look(profile, walk(5000), level=level))) for _ in range(looks))
    assert alarmed <= stats.binom.isf(1e-4, looks, 0.01)


# -- real data ---------------------------------------------------------------------------------------------------------

LOAN = ("car_value", "debt_to_income_ratio", "loan_length", "repaid_loan_on_prev_car", "driver_tenure", "y_pred_proba")


@pytest.mark.slow
def test_the_loan_set_drifts_where_and_when_its_makers_say(material: Path) -> None:
    name = "nannyml_synthetic_car_loan_{}.parquet"
    texts = ("salary_range", "size_of_downpayment")
    specs = [TensorSpec(c, "FP64", (None, 1)) for c in LOAN] + [TensorSpec(c, "BYTES", (None, 1)) for c in texts]

    def table(part: str) -> Block:
        rows = read_reference(material / "data" / name.format(part), specs, None, None, None, lambda *_: None)
        codes = [[category_code(v) for v in rows.feeds[c].ravel()] for c in texts]
        return np.column_stack([rows.feeds[c] for c in LOAN] + [np.array(c) for c in codes])

    reference, analysis = table("reference"), table("analysis")
    kinds = ("number",) * len(LOAN) + ("text",) * len(texts)
    profile = fit(schema(*kinds), reference, reference[:, :1])
    names = [*LOAN, *texts]
    level = level_per_test(profile, 1.0, MONTH_S / 10)

    def moved(rows: Block) -> set[str]:
        return {names[int(feature[1:])] for feature in breached(look(profile, *rows.T, level=level))}

    for start in range(0, 25_000, 2500):
        assert moved(analysis[start : start + 2500]) == set()
    drifted = {"car_value", "loan_length", "salary_range", "repaid_loan_on_prev_car", "y_pred_proba"}
    for start in range(25_000, 50_000, 2500):
        assert moved(analysis[start : start + 2500]) == drifted
    assert moved(analysis[25_000:26_000]) == drifted


@pytest.mark.slow
def test_constant_features_of_the_power_market_alarm_once_they_move(material: Path) -> None:
    names = ["period", "nswprice", "nswdemand", "vicprice", "vicdemand", "transfer"]
    spec = TensorSpec("x", "FP32", (None, 6))
    rows = read_reference(material / "data" / "elec2.csv.gz", [spec], names, None, None, lambda *_: None)
    block = rows.feeds["x"].astype(np.float64)
    profile = fitted(*block[:17_000].T)
    level = level_per_test(profile, 1.0, MONTH_S / 10)
    assert profile.inputs[3].counts[0] == profile.inputs[3].counts[-1] == 0
    before = breached(look(profile, *block[17_000:17_400].T, level=level))
    after = breached(look(profile, *block[17_500:18_500].T, level=level))
    assert before.isdisjoint({"x3", "x4", "x5"})
    assert after >= {"x3", "x4", "x5"}


@pytest.mark.slow
def test_the_power_market_in_random_order_does_not_drift(material: Path) -> None:
    names = ["period", "nswprice", "nswdemand", "vicprice", "vicdemand", "transfer"]
    spec = TensorSpec("x", "FP32", (None, 6))
    rows = read_reference(material / "data" / "elec2.csv.gz", [spec], names, None, None, lambda *_: None)
    block = rows.feeds["x"].astype(np.float64)
    for seed in range(10):
        mixed = np.random.default_rng(seed).permutation(block)
        profile = fitted(*mixed[:18_000].T)
        for start in range(18_000, 45_000, 3000):
            assert breached(look(profile, *mixed[start : start + 3000].T, level=1e-5)) == set()


@pytest.mark.parametrize(("different", "rows"), [(1000, 5000), (3000, 20_000)])
def test_the_most_frequent_of_many_categories_are_no_drift_for_having_been_chosen(different: int, rows: int) -> None:
    schema = LogSchema(True, (Column("c", "c", "category", 0, hashed=True),), (), "f8", "f8")
    for seed in range(5):
        rng = np.random.default_rng(seed)
        draw = [rng.integers(0, different, size=(n, 1)).astype(np.float64) for n in (rows, 60_000)]
        found = fit(schema, draw[0], np.zeros((rows, 0)), order=Order(in_time=True))
        assert not found.inputs[0].complete
        counter = Counter(found.input_bins(), "f8")
        measured = measure(found, counter.count(draw[1]), None, window="1h", level=1e-4)
        assert {m.verdict for m in measured} == {Verdict.PASS}
        draw[1][:1800] = found.inputs[0].bins.values[0]  # one of them in 3 % more of the rows
        measured = measure(found, counter.count(draw[1]), None, window="1h", level=1e-4)
        assert Verdict.BREACH in {m.verdict for m in measured}

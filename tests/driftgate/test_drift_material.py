"""Real tables with known answers, through the command line: what drifted alarms, what did not stays quiet."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from driftgate import drift
from gateway.cli import run

MATERIAL = os.environ.get("DRIFTGATE_TEST_MATERIAL")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(MATERIAL is None, reason="DRIFTGATE_TEST_MATERIAL is not set"),
]
DATA = Path(MATERIAL or "") / "data"
LOAN = "nannyml_synthetic_car_loan"
MOVED = {"car_value", "loan_length", "salary_range", "repaid_loan_on_prev_car", "y_pred_proba"}


def asked(capsys: pytest.CaptureFixture[str], reference: Path, current: Path, *more: str) -> dict[str, Any]:
    """What the command says of two files, by feature."""
    assert run(["drift", "--reference", str(reference), "--current", str(current), "--json", *more]) == 0
    document = json.loads(capsys.readouterr().out)
    return {item["feature"]: item for item in document["features"]}


@pytest.mark.parametrize("more", [(), ("--by-time", "timestamp")])
def test_the_car_loans_drift_in_exactly_the_inputs_that_do(
    more: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    found = asked(capsys, DATA / f"{LOAN}_reference.parquet", DATA / f"{LOAN}_analysis.parquet", *more)
    assert {name for name, item in found.items() if item["alarm"]} == MOVED
    assert found.keys() - MOVED == {"debt_to_income_ratio", "size_of_downpayment", "driver_tenure", "y_pred"}
    if more:
        for name in MOVED:
            assert abs(found[name]["began"]["row"] - 25_000) <= 1000
            assert 25_000 <= found[name]["began"]["found_row"] <= 26_000


def market() -> pd.DataFrame:
    """Elec2 with its moments: a row every half hour since 7 May 1996."""
    rows = pd.read_csv(DATA / "elec2.csv.gz")
    return rows.assign(at=pd.Timestamp("1996-05-07") + pd.to_timedelta(30 * np.arange(len(rows)), "min"))


def shuffled_within(rows: pd.DataFrame, seed: int, column: str = "") -> pd.DataFrame:
    """Its rows in random order, but for one column."""
    mixed = rows.sample(frac=1.0, random_state=seed).reset_index(drop=True)
    return mixed.assign(**{column: rows[column].to_numpy()}) if column else mixed


@pytest.mark.parametrize("by_time", [None, "at"])
@pytest.mark.parametrize("is_reference_shuffled", [False, True])
def test_the_electricity_market_drifts_in_its_own_order_alone(by_time: str | None, is_reference_shuffled: bool) -> None:
    rows = market() if by_time else market().drop(columns="at")
    first = int(0.4 * len(rows))
    reference = rows[:first].drop(columns="at", errors="ignore").sample(frac=1.0, random_state=0)
    in_order = drift.compare(reference if is_reference_shuffled else rows[:first], rows[first:], by_time=by_time)
    assert "nswprice" in {found.feature for found in in_order.alarms}
    for seed in range(10):
        mixed = shuffled_within(rows, seed, by_time or "")
        assert not drift.compare(mixed[:first], mixed[first:], by_time=by_time).is_alarm


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("clock", "share", "is_reference_shuffled"),
    [
        ("none", 0.4, False),
        ("new", 0.4, False),
        ("own", 0.4, False),
        ("none", 0.4, True),
        ("new", 0.4, True),
        ("new", 0.05, False),
        ("own", 0.05, False),
    ],
)
def test_whole_weeks_of_the_market_in_another_order_are_no_drift_in_19_of_20_runs(
    clock: str, share: float, is_reference_shuffled: bool
) -> None:
    """Stationary by construction. clock: none; moments in the new order; each week's own, so that they go up again."""
    rows = market()
    first, block = int(share * len(rows)), np.arange(len(rows)) // 336
    wrong = 0
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(block.max() + 1)
        mixed = rows.iloc[np.concatenate([np.flatnonzero(block == at) for at in order])].reset_index(drop=True)
        mixed = mixed.assign(at=rows["at"]) if clock == "new" else mixed
        reference, current = mixed[:first], mixed[first:]
        if is_reference_shuffled:
            reference = reference.drop(columns="at").sample(frac=1.0, random_state=seed)
        if clock == "none":
            reference, current = (table.drop(columns="at", errors="ignore") for table in (reference, current))
        by_time = None if clock == "none" else "at"
        if is_reference_shuffled:  # its own dependence is lost: under the usual probability
            wrong += drift.compare(reference, current, by_time=by_time).is_alarm
        else:  # columns, under the loosest budget that a probability can say: one false alarm a run
            wrong += bool(drift.compare(reference, current, by_time=by_time, false_alarm_probability=0.99).alarms)
    assert wrong <= 1


@pytest.mark.parametrize(
    ("file", "not_compared"),
    [
        ("adult_train.parquet", set()),
        ("german_credit.parquet", set()),
        ("bike_hourly.csv.gz", {"instant", "dteday"}),
        ("nannyml_titanic_reference.parquet", {"PassengerId"}),
        ("river_phishing.csv.gz", set()),
    ],
)
def test_a_table_split_in_two_at_random_has_not_drifted(file: str, not_compared: set[str]) -> None:
    path = DATA / file
    table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    for seed in range(10):
        first = np.random.default_rng(seed).random(len(table)) < 0.5
        found = drift.compare(table[first], table[~first])
        assert not found.is_alarm
        assert {item.feature for item in found.not_compared} == not_compared

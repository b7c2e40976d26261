"""Rows in the order of time: each feature's beginning is found, whatever order the file has, and nothing before it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import signal

from driftgate import drift, drift_timeline
from registry.errors import MalformedRequest

N = 20_000


def stream(seed: int, rows: int = N, start: int = 0, **changed: Any) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    number = np.arange(start, start + rows)
    return pd.DataFrame(
        {
            "x": rng.normal(size=rows),
            "c": rng.choice(["a", "b", "c"], rows),
            "when": pd.Timestamp("2026-01-01") + pd.to_timedelta(number, "min"),
            **changed,
        }
    )


def shifted(seed: int, first: int, last: int, by: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    values = np.random.default_rng(seed + 100).normal(size=N)
    values[first:last] += by
    return values


def test_a_feature_that_moves_half_way_is_dated_and_the_others_are_not() -> None:
    found = drift.compare(stream(0), stream(1, start=N, x=shifted(1, 10_000, N, 0.5)), by_time="when")
    (moved,) = found.alarms
    assert moved.feature == "x"
    assert moved.began is not None
    assert abs(moved.began.row - 10_000) <= 1000
    assert 10_000 <= moved.began.found_row <= 12_000
    assert moved.began.ended_row is None
    assert moved.began.time.startswith("2026-01-2")  # 30,000 minutes after New Year
    assert "values are higher" in moved.explanation


def test_a_shift_that_goes_away_again_is_found_though_the_whole_files_hardly_differ() -> None:
    current = stream(1, start=N, x=shifted(1, 9_000, 10_000, 1.0))
    assert drift.compare(stream(0), current).alarms == ()
    (moved,) = drift.compare(stream(0), current, by_time="when").alarms
    assert (moved.feature, moved.statistic) == ("x", "evidence")
    assert moved.began is not None
    assert moved.began.ended_row is not None
    assert 9_000 <= moved.began.found_row < moved.began.ended_row <= 15_000
    assert moved.explanation.startswith("Between rows ")
    assert "values are higher" in moved.explanation


def test_rows_out_of_order_are_put_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    current = stream(1, start=N, x=shifted(1, 10_000, N, 0.5))
    mixed = current.sample(frac=1, random_state=0)
    first, second = (drift.compare(stream(0), table, by_time="when").to_dict() for table in (current, mixed))
    assert first["features"] == second["features"]
    monkeypatch.setattr(drift_timeline, "KEEP_BYTES", 1000)
    with pytest.raises(MalformedRequest, match="sort the file first"):
        drift.compare(stream(0), mixed, by_time="when")
    assert drift.compare(stream(0), current, by_time="when").to_dict()["features"] == first["features"]


@pytest.mark.parametrize("form", ["date", "text", "number"])
def test_time_may_be_a_date_a_text_or_a_number(form: str) -> None:
    tables = [stream(0), stream(1, start=N, x=shifted(1, 10_000, N, 0.5))]
    for table in tables:
        if form == "text":
            table["when"] = table["when"].dt.strftime("%Y-%m-%d %H:%M:%S")
        elif form == "number":
            table["when"] = table["when"].astype("int64") / 1e9
    (moved,) = drift.compare(*tables, by_time="when").alarms
    assert moved.began is not None
    assert abs(moved.began.row - 10_000) <= 1000


def test_the_reference_need_not_have_the_time() -> None:
    current = stream(1, x=shifted(1, 10_000, N, 0.5))
    (moved,) = drift.compare(stream(0).drop(columns="when"), current, by_time="when").alarms
    assert moved.feature == "x"


def test_no_drift_raises_nothing_in_the_order_of_time() -> None:
    for seed in range(5):
        found = drift.compare(stream(seed, 5000), stream(seed + 50, 5000, start=5000), by_time="when")
        assert found.alarms == ()


@pytest.mark.parametrize(
    "changed",
    [
        {"when": ["soon", "late"] * (N // 2)},
        {"when": [None] * N},
        {"when": [pd.NaT, *pd.date_range("2026-01-01", periods=N - 1, freq="min")]},
    ],
)
def test_a_column_that_tells_no_time_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(MalformedRequest, match="by_time"):
        drift.compare(stream(0), stream(1, **changed), by_time="when")


def test_few_rows_and_none_are_followed_too() -> None:
    for rows in (3, 0):
        found = drift.compare(stream(0), stream(1, rows), by_time="when")
        assert (found.current.rows, found.alarms) == (rows, ())


@pytest.mark.parametrize("by_time", [None, "when"])
@pytest.mark.parametrize("lost", [False, True])
def test_a_short_or_shuffled_reference_of_slow_noise_raises_nothing(by_time: str | None, lost: bool) -> None:
    """200 rows of AR(1) tell little of how long rows depend, shuffled ones nothing: the current rows do."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        table = stream(seed, 4000, x=signal.lfilter([np.sqrt(0.19)], [1.0, -0.9], rng.normal(size=4000)))
        reference = table[:200].sample(frac=1.0, random_state=seed).drop(columns="when") if lost else table[:200]
        assert (
            drift.compare(
                reference, table[200:] if by_time else table[200:].drop(columns="when"), by_time=by_time
            ).alarms
            == ()
        )

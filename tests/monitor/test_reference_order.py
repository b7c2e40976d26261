"""Which rows of a large table are kept, and what its order says."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from monitor.reference_order import Order, RunKeeper, SortedBy, in_seconds


def kept(rows: int, limit: int, chunk: int) -> tuple[list[int], RunKeeper]:
    keeper = RunKeeper(limit)
    for start in range(0, rows, chunk):
        numbers = np.arange(start, min(start + chunk, rows))
        keeper.add([numbers, numbers * 2.0], len(numbers))
    first, second = keeper.whole()
    assert (second == first * 2.0).all()
    return first.tolist(), keeper


def test_what_fits_is_kept_whole() -> None:
    rows, keeper = kept(999, 1000, 100)
    assert rows == list(range(999))
    assert (keeper.rows, keeper.read) == (999, 999)


@pytest.mark.parametrize("chunk", [37, 300, 5000])
def test_of_too_many_rows_runs_of_neighbours_are_kept_from_everywhere(chunk: int) -> None:
    rows, keeper = kept(20_000, 1000, chunk)
    assert len(rows) == keeper.rows == 1000
    steps = np.diff(rows)
    assert (steps > 0).all()
    assert (steps == 1).mean() > 0.9  # neighbours
    assert np.histogram(rows, 4, (0, 20_000))[0].min() > 120  # 250 a quarter are expected
    assert rows == kept(20_000, 1000, 111)[0]  # whatever the chunks


def sorted_by(frame: pd.DataFrame, chunk: int = 77) -> str | None:
    watch = SortedBy(list(frame.columns))
    for start in range(0, len(frame), chunk):
        watch.see(frame.iloc[start : start + chunk])
    return watch.column()


def test_a_table_sorted_by_a_value_is_noticed_and_one_in_time_is_not() -> None:
    rng = np.random.default_rng(0)
    noise, classes = rng.normal(size=500), np.sort(rng.integers(0, 3, 500))
    assert sorted_by(pd.DataFrame({"a": noise, "y": classes})) == "y"
    assert sorted_by(pd.DataFrame({"a": noise, "y": classes[::-1]})) == "y"
    assert sorted_by(pd.DataFrame({"a": noise, "y": pd.Series(classes).map({0: "x", 1: "y", 2: "z"})})) == "y"
    assert sorted_by(pd.DataFrame({"a": np.sort(noise)})) == "a"
    assert sorted_by(pd.DataFrame({"a": noise})) is None
    assert sorted_by(pd.DataFrame({"a": np.ones(500)})) is None  # a constant
    assert sorted_by(pd.DataFrame({"n": np.arange(500) + 7})) is None  # the rows' own number
    assert sorted_by(pd.DataFrame({"event_time": np.sort(noise)})) is None
    assert sorted_by(pd.DataFrame({"y": classes[:100]})) is None  # too few rows to say
    assert sorted_by(pd.DataFrame({"y": [1, "a"] * 200})) is None  # nothing that can be compared


def test_moments_are_told_by_their_size() -> None:
    for scale in (1.0, 1e3, 1e6, 1e9):
        found = in_seconds(np.array([1.7e9, 1.7e9 + 60]) * scale)
        assert found is not None
        assert found == pytest.approx([1.7e9, 1.7e9 + 60])
    assert in_seconds(np.arange(10.0)) is None
    assert in_seconds(np.zeros(0)) is None


def test_a_selection_of_rows_keeps_their_moments() -> None:
    order = Order(True, np.array([1.0, 2.0, 3.0])).take(np.array([0, 2]))
    assert order.times_s is not None
    assert order.times_s.tolist() == [1.0, 3.0]
    assert Order(None).take(np.array([0])) == Order(None)

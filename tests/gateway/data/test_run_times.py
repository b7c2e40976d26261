"""Learned run times: a line through sizes, so that neither few rows nor one slow run mislead."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.data.run_times import Line, RunTimes, fit


def test_a_joined_run_is_not_judged_by_the_time_of_single_rows() -> None:
    times = RunTimes()
    for _ in range(50):
        times.learn(1, 100.0)
        times.learn(60, 300.0)
    assert times.expected_us(60) == pytest.approx(300.0)
    assert times.expected_us(1) == pytest.approx(100.0)
    assert 100.0 < times.expected_us(30) < 300.0


def test_a_size_never_seen_is_expected_to_cost_in_proportion_and_nothing_known_costs_nothing() -> None:
    times = RunTimes()
    assert times.expected_us(8) == 0.0
    assert times.line() is None
    times.learn(4, 40.0)
    assert times.expected_us(16) == pytest.approx(160.0)
    assert times.expected_us(2) == pytest.approx(40.0)  # what a run costs whatever its rows is not known yet


def test_warm_up_predicts_the_first_requests_run() -> None:
    times = RunTimes([(rows, 7.3 + 1.1 * rows) for rows in (1, 2, 4, 8, 16, 32, 64)])
    line = times.line()
    assert line is not None
    assert [line.per_row_us, line.fixed_us] == pytest.approx([1.1, 7.3])
    assert times.expected_us(200) == pytest.approx(227.3)


@given(
    per_row=st.floats(0.01, 1e4),
    fixed=st.floats(1.0, 1e5),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_noisy_line_is_found_again(per_row: float, fixed: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    times = RunTimes()
    for _ in range(400):
        rows = int(2 ** rng.integers(0, 7))
        noise = 50.0 if rng.random() < 0.02 else rng.uniform(0.95, 1.05)  # 2 % of the runs were put aside
        times.learn(rows, (per_row * rows + fixed) * noise)
    for rows in (1, 8, 64):
        assert times.expected_us(rows) == pytest.approx(per_row * rows + fixed, rel=0.4)


@pytest.mark.parametrize("factor", [1000.0, 0.001])
def test_one_outlier_hardly_counts(factor: float) -> None:
    times = RunTimes([(1, 100.0), (64, 700.0)])
    for _ in range(20):
        times.learn(1, 100.0)
        times.learn(64, 700.0)
    times.learn(1, 100.0 * factor)
    assert times.expected_us(1) == pytest.approx(100.0, rel=0.25)


@pytest.mark.parametrize(("before", "after"), [(10.0, 5000.0), (5000.0, 10.0)])
def test_a_model_that_becomes_slower_or_faster_is_believed_after_a_few_runs(before: float, after: float) -> None:
    times = RunTimes()
    for took_us in [before] * 20 + [after] * 3:
        times.learn(1, took_us)
    assert times.expected_us(1) == pytest.approx(after)


def test_a_size_no_longer_seen_gives_way() -> None:
    times = RunTimes([(1, 10.0), (2, 11.0), (4, 13.0), (64, 73.0)])
    for _ in range(400):  # the host became three times slower, and only small runs are asked for
        times.learn(1, 30.0)
        times.learn(2, 33.0)
    assert times.expected_us(1) == pytest.approx(30.0, rel=0.1)
    assert times.expected_us(2) == pytest.approx(33.0, rel=0.1)


def test_shapes_have_lines_of_their_own_and_an_unseen_one_costs_in_proportion_to_the_nearest_smaller() -> None:
    times = RunTimes([(1, 100.0)], shape=10)
    times.learn(1, 800.0, shape=13)
    assert (times.expected_us(1, 10), times.expected_us(1, 13)) == (100.0, 800.0)
    assert times.expected_us(1, 11) == 200.0
    assert times.expected_us(1, 15) == 3200.0
    assert times.expected_us(1, 4) == 100.0  # the nearest larger one, as it is


def test_shapes_without_end_do_not_fill_the_memory() -> None:
    times = RunTimes()
    for shape in range(1000):
        times.learn(1, 1.0, shape)
    assert len(times._buckets) == 64
    assert times.expected_us(1, 900) > 0


@given(
    st.lists(
        st.tuples(st.floats(0, 4096), st.floats(0.01, 1e7), st.floats(0.01, 1.0)),
        min_size=1,
        max_size=12,
    )
)
def test_no_line_is_negative_anywhere(points: list[tuple[float, float, float]]) -> None:
    line = fit(points)
    assert line.per_row_us >= 0
    assert line.fixed_us >= 0
    assert line.at(1) > 0


def test_the_line_is_that_of_weighted_least_squares() -> None:
    rng = np.random.default_rng(7)
    rows = np.array([1.0, 2, 4, 8, 16, 32, 64])
    us = (20.0 + 3.0 * rows) * rng.uniform(0.9, 1.1, 7)
    weights = rng.uniform(0.1, 1.0, 7)
    slope, intercept = np.polyfit(rows, us, 1, w=np.sqrt(weights) / us)
    line = fit(list(zip(rows.tolist(), us.tolist(), weights.tolist(), strict=True)))
    assert [line.per_row_us, line.fixed_us] == pytest.approx([slope, intercept])


def test_a_falling_line_is_flat_and_one_below_nothing_goes_through_nothing() -> None:
    assert fit([(1, 30.0, 1.0), (64, 10.0, 1.0)]).per_row_us == 0.0
    superlinear = fit([(1, 1.0, 1.0), (2, 4.0, 1.0), (4, 16.0, 1.0)])
    assert superlinear.fixed_us == 0.0
    assert isinstance(superlinear, Line)

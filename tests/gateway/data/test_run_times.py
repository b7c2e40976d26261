"""Learned run times: by size, because a run is not as long as its rows."""

from __future__ import annotations

import pytest

from gateway.data.run_times import RunTimes


def test_a_joined_run_is_not_judged_by_the_time_of_single_rows() -> None:
    times = RunTimes()
    for _ in range(50):
        times.learn(1, 100.0)
        times.learn(60, 300.0)
    assert times.expected_us(60) == pytest.approx(300.0)
    assert times.expected_us(40) == pytest.approx(300.0)
    assert times.expected_us(1) == pytest.approx(100.0)


def test_a_size_never_seen_is_expected_to_cost_in_proportion_and_nothing_known_costs_nothing() -> None:
    times = RunTimes()
    assert times.expected_us(8) == 0.0
    times.learn(4, 40.0)
    assert times.expected_us(16) == pytest.approx(160.0)
    assert times.expected_us(2) == 0.0


def test_a_model_that_becomes_slower_is_noticed() -> None:
    times = RunTimes()
    for took_us in [10.0] * 20 + [5000.0] * 20:
        times.learn(1, took_us)
    assert times.expected_us(1) > 4000.0

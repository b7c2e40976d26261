"""Seasonal shares: found where they are, absent where they are not, and never an impossible share."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from monitor.season import DAY_S, Season, Wave, fit_season

HOUR_S = 3600.0


def drawn(
    share_of_hour: NDArray[np.float64], rows: int, days: int, seed: int
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Rows at even pace over so many days; the chance of bin 1 follows the hour of the day."""
    rng = np.random.default_rng(seed)
    times = np.linspace(0.0, days * DAY_S, rows, endpoint=False)
    hour = (times // HOUR_S % 24).astype(int)
    return (rng.random(rows) < share_of_hour[hour]).astype(np.intp), times


def daily(size: float) -> NDArray[np.float64]:
    wave: NDArray[np.float64] = np.cos(2.0 * math.pi * (np.arange(24) + 0.5 - 15.0) / 24.0)
    return 0.4 + size * wave


def test_a_daily_wave_is_found_with_its_size_and_phase() -> None:
    place, times = drawn(daily(0.15), 200_000, 10, 0)
    season = fit_season(place, 2, times)
    assert season is not None
    base = np.array([0.6, 0.4])
    for hour in (3.0, 9.0, 15.0, 21.0):
        expected = 0.4 + 0.15 * math.cos(2.0 * math.pi * (hour - 15.0) / 24.0)
        assert abs(season.shares(base, hour * HOUR_S)[1] - expected) < 0.01


def test_rows_without_a_season_have_none() -> None:
    for seed in range(10):
        place, times = drawn(np.full(24, 0.4), 150_000, 10, seed)
        assert fit_season(place, 2, times) is None


def test_too_few_rows_or_too_few_days_have_none() -> None:
    assert fit_season(*_fit(drawn(daily(0.15), 50_000, 10, 0))) is None
    assert fit_season(*_fit(drawn(daily(0.15), 200_000, 3, 0))) is None


def _fit(rows: tuple[NDArray[np.intp], NDArray[np.float64]]) -> tuple[NDArray[np.intp], int, NDArray[np.float64]]:
    return rows[0], 2, rows[1]


def test_shares_stay_shares_where_waves_are_larger_than_they() -> None:
    season = Season((Wave(DAY_S, (0.3, -0.3), (0.0, 0.0)),))
    for hour in range(24):
        found = season.shares(np.array([0.925, 0.075]), hour * HOUR_S)
        assert abs(found.sum() - 1.0) < 1e-12
        assert (found >= 0.0).all()


def test_a_step_that_no_few_waves_can_follow_is_left_alone() -> None:
    place, times = drawn(np.where(np.arange(24) < 2, 0.9, 0.0), 300_000, 10, 0)
    assert fit_season(place, 2, times) is None


def test_a_season_is_stored_and_read() -> None:
    place, times = drawn(daily(0.15), 150_000, 10, 1)
    season = fit_season(place, 2, times)
    assert season is not None
    back = Season.from_dict(season.to_dict(), 2)
    base = np.array([0.6, 0.4])
    assert np.allclose(back.shares(base, 1e9), season.shares(base, 1e9), atol=1e-6)


def test_missing_values_take_no_part() -> None:
    place, times = drawn(daily(0.15), 200_000, 10, 0)
    place[::10] = 2
    assert fit_season(place, 2, times) is not None

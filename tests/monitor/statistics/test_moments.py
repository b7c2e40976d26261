"""Shifts of mean and spread against scipy and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from monitor import statistics


def test_the_mean_in_standard_errors_is_welchs_t() -> None:
    """frouros' documented samples: t = -7.651304662806378."""
    rng = np.random.RandomState(31)
    x, y = rng.normal(0, 1, 100), rng.normal(1, 1, 100)
    shift = statistics.moment_shift((x.mean(), x.std(), 100), (y.mean(), y.std(), 100))
    assert float(shift.mean / shift.mean_error) == pytest.approx(7.651304662806378)
    assert float(-shift.mean / shift.mean_error) == pytest.approx(stats.ttest_ind(x, y, equal_var=False).statistic)
    assert float(shift.mean) == pytest.approx((y.mean() - x.mean()) / x.std(ddof=1))


def test_the_standard_errors_are_what_simulation_finds() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(3000, 400)), rng.normal(size=(3000, 100))
    shift = statistics.moment_shift((x.mean(1), x.std(1), 400), (y.mean(1), y.std(1), 100))
    for value, error in ((shift.mean, shift.mean_error), (shift.log_sd, shift.log_sd_error)):
        assert value.std() == pytest.approx(error.mean(), rel=0.06)
    wider = statistics.moment_shift((0.0, 1.0, 400), (0.0, 1.0, 100), deff=4.0)
    assert float(wider.mean_error) == pytest.approx(2.0 * 0.1117, abs=1e-3)


@pytest.mark.parametrize(
    ("reference", "current"),
    [((np.nan, np.nan, 0), (0.0, 1.0, 10)), ((0.0, 1.0, 1), (0.0, 1.0, 10)), ((2.0, 0.0, 50), (2.5, 0.1, 50))],
)
def test_what_is_undefined_is_nan(reference: tuple[float, float, int], current: tuple[float, float, int]) -> None:
    shift = statistics.moment_shift(reference, current)
    assert np.isnan(shift.mean)
    assert np.isnan(shift.log_sd)
    assert np.isnan(shift.log_sd_error)

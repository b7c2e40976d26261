"""What no feature shows alone: a correlation that turns is found; rows as in the reference are not."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from monitor.multivariate import MultivariateDetector, MultivariateProfile, fit_multivariate
from registry.errors import StateDamaged


def rows(n: int, correlation: float, rng: np.random.Generator) -> np.ndarray:
    x = rng.normal(size=(n, 4))
    x[:, 1] = correlation * x[:, 0] + math.sqrt(1.0 - correlation**2) * x[:, 1]
    return x


@pytest.fixture(scope="module")
def profile() -> MultivariateProfile:
    rng = np.random.default_rng(0)
    made = fit_multivariate(rows(20_000, 0.8, rng), rng)
    assert made is not None
    return made


def test_a_correlation_that_turns_around_is_found_although_no_feature_moved(profile: MultivariateProfile) -> None:
    rng = np.random.default_rng(1)
    detector = MultivariateDetector(profile)
    assert detector.update(rows(5000, 0.8, rng)) < math.log(1e4)
    assert detector.update(rows(5000, -0.8, rng)) > math.log(1e4)


def test_the_feature_means_estimate_the_kernel_mmd(profile: MultivariateProfile) -> None:
    """Against the exact Gaussian kernel's, written out."""
    rng = np.random.default_rng(2)
    a, b = rows(800, 0.8, rng), rows(800, -0.8, rng)
    za, zb = (profile._fourier(profile._standard(part)).mean(axis=0) for part in (a, b))
    found = float((za - zb) @ (za - zb))
    width = 1.0 / np.std(profile.frequencies)

    def kernel(p: np.ndarray, q: np.ndarray) -> float:
        square = np.square(profile._standard(p)[:, None] - profile._standard(q)[None]).sum(axis=2)
        return float(np.exp(-square / (2.0 * width**2)).mean())

    assert found == pytest.approx(kernel(a, a) + kernel(b, b) - 2.0 * kernel(a, b), rel=0.35)


def test_missing_and_infinite_values_are_no_error(profile: MultivariateProfile) -> None:
    block = rows(250, 0.8, np.random.default_rng(3))
    block[0, 0], block[1, 1], block[2, 2] = np.nan, np.inf, -np.inf
    assert all(0.0 < p <= 1.0 for p in profile.p_values(block))


def test_too_few_rows_and_a_single_column_have_no_profile() -> None:
    rng = np.random.default_rng(4)
    assert fit_multivariate(rng.normal(size=(9000, 3)), rng) is None
    assert fit_multivariate(rng.normal(size=(20_000, 1)), rng) is None


def test_a_restart_between_blocks_changes_nothing_and_damage_is_refused(profile: MultivariateProfile) -> None:
    rng = np.random.default_rng(5)
    whole, stopped = MultivariateDetector(profile), MultivariateDetector(profile)
    for _ in range(8):
        block = rows(250, 0.5, rng)
        assert whole.update(block) == pytest.approx(stopped.update(block))
        stored = json.loads(json.dumps(stopped.to_dict(), allow_nan=False))
        stopped = MultivariateDetector(profile)
        stopped.restore(stored)
    for bad in ({**stored, "kind": "fast"}, {**stored, "m": "?"}, {**stored, "blocks": -1}):
        with pytest.raises(StateDamaged):
            stopped.restore(bad)


@pytest.mark.slow
def test_p_values_are_uniform_and_the_detector_keeps_to_its_run_length() -> None:
    """12 references; 400 blocks each: blocks at p <= .1, and alarms at c = 200 (24 expected at most)."""
    small, alarms = 0, 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        profile = fit_multivariate(rows(40_000, 0.8, rng), rng)
        assert profile is not None
        detector = MultivariateDetector(profile)
        for _ in range(400):
            block = rows(250, 0.8, rng)
            small += profile.p_values(block)[0] <= 0.1
            if detector.update(block) >= math.log(200.0):
                alarms += 1
                detector.reset()
    assert 0.06 <= small / 4800 <= 0.13
    assert alarms <= 36

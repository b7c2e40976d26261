"""Rows as points: normal scores against scipy, features against the exact kernel, components against an SVD."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from monitor.multivariate import Coordinates, fit_basis
from monitor.profile import ReferenceProfile, fit
from monitor.record import Column, LogSchema

Floats = NDArray[np.float64]
N = 20_000


def profile_of(block: Floats, categories: tuple[int, ...] = ()) -> ReferenceProfile:
    columns = tuple(
        Column(f"f{at}", f"f{at}", "category" if at in categories else "number", 0) for at in range(block.shape[1])
    )
    schema = LogSchema(by_rows=True, inputs=columns, outputs=(), input_dtype="f8", output_dtype="f8")
    return fit(schema, block, np.empty((len(block), 0)))


def correlated(rows: int, correlation: float, rng: np.random.Generator, columns: int = 4) -> Floats:
    x = rng.normal(size=(rows, columns))
    x[:, 1] = correlation * x[:, 0] + np.sqrt(1.0 - correlation**2) * x[:, 1]
    return x


def test_a_number_becomes_the_normal_score_of_its_rank_whatever_its_unit_and_its_outliers() -> None:
    x = np.exp(3.0 * np.random.default_rng(0).normal(size=(N, 1)))
    x[0] = 1e300
    points = Coordinates(profile_of(x).inputs).points(x)
    exact = stats.norm.ppf(stats.rankdata(x[:, 0]) / (N + 1.0))
    inner = np.abs(exact) < 1.5
    assert points[inner, 0] == pytest.approx(exact[inner], abs=0.3)  # a bin has one score
    assert np.corrcoef(points[:, 0], exact)[0, 1] > 0.98
    assert (points.mean(), points.std()) == (pytest.approx(0.0, abs=1e-9), pytest.approx(1.0, abs=1e-9))


def test_categories_have_coordinates_of_their_own_and_a_variance_of_one_together() -> None:
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.choice(4, N, p=[0.5, 0.3, 0.195, 0.005]), rng.normal(size=N)]).astype(float)
    coordinates = Coordinates(profile_of(x, categories=(0,)).inputs)
    assert [axis.column for axis in coordinates.axes] == [0, 0, 0, 1]  # the rare one has none
    variances = coordinates.points(x).var(axis=0)
    assert variances[:3].sum() == pytest.approx(1.0)
    assert variances[3] == pytest.approx(1.0)


def test_constants_and_empty_columns_have_no_coordinate_and_wide_rows_as_many_as_fit() -> None:
    x = np.column_stack([np.full(N, 3.0), np.full(N, np.nan), np.arange(N), np.arange(N) % 7])
    profile = profile_of(x)
    assert Coordinates(profile.inputs).columns == (2, 3)
    assert Coordinates(profile.inputs, most=1).columns == (2,)


def test_a_value_beyond_the_references_range_is_as_far_out_as_its_outermost() -> None:
    x = np.random.default_rng(0).normal(size=(N, 1))
    coordinates = Coordinates(profile_of(x).inputs)
    ends = coordinates.points(np.array([[x.min()], [x.max()]]))
    assert coordinates.points(np.array([[-1e9], [1e9]])).tolist() == ends.tolist()


def test_missing_infinite_and_unseen_values_are_points_within_bounds() -> None:
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.normal(size=N), rng.choice(3, N).astype(float)])
    nasty = np.array([[np.nan, np.nan], [np.inf, 99.0], [-np.inf, np.inf]])
    points = Coordinates(profile_of(x, categories=(1,)).inputs).points(nasty)
    assert (points[0] == 0.0).all()
    assert np.isfinite(points).all()
    assert np.abs(points).max() < 5.0


def test_mean_features_estimate_the_gaussian_kernels_mmd() -> None:
    """Against the exact kernel's, written out."""
    rng = np.random.default_rng(2)
    a, b = correlated(800, 0.8, rng), correlated(800, -0.8, rng)
    basis = fit_basis(correlated(2000, 0.8, rng), rng, features=2048)
    gap = basis.features(a).mean(axis=0) - basis.features(b).mean(axis=0)
    width = 1.0 / np.std(basis.frequencies)

    def kernel(p: Floats, q: Floats) -> float:
        square = np.square(p[:, None] - q[None]).sum(axis=2)
        return float(np.exp(-square / (2.0 * width**2)).mean())

    assert float(gap @ gap) == pytest.approx(kernel(a, a) + kernel(b, b) - 2.0 * kernel(a, b), rel=0.15)


def test_the_error_is_that_of_the_best_components_that_explain_nine_tenths() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(5000, 3)) @ rng.normal(size=(3, 10)) + 0.3 * rng.normal(size=(5000, 10))
    x -= x.mean(axis=0)
    basis = fit_basis(x, rng)
    singular = np.linalg.svd(x, compute_uv=False)
    explained = np.cumsum(np.square(singular)) / np.square(singular).sum()
    kept = int(np.argmax(explained >= 0.9)) + 1
    assert basis.components.shape[1] == kept
    assert basis.rows(x)[:, -1].mean() == pytest.approx(1.0 - explained[kept - 1], abs=1e-9)


def test_the_same_chance_gives_the_same_basis() -> None:
    x = correlated(500, 0.8, np.random.default_rng(0))
    first, second = (fit_basis(x, np.random.default_rng(1)).rows(x) for _ in range(2))
    assert (first == second).all()

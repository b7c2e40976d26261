"""Design effects against what is known of processes: independent rows, sessions, AR(1), and real weeks shuffled."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from monitor.counts import BinSet, ColumnBins
from monitor.design_effect import Dependence, dependences

DECILES = tuple(float(z) for z in (-1.2816, -0.8416, -0.5244, -0.2533, 0.0, 0.2533, 0.5244, 0.8416, 1.2816))
NORMAL = ColumnBins("x", "number", edges=DECILES)


def of(values: NDArray[np.float64], bins: ColumnBins = NORMAL) -> Dependence:
    return dependences(BinSet((bins,)), values[:, None])[0]


def ar1(rho: float, rows: int, seed: int) -> NDArray[np.float64]:
    noise = np.random.default_rng(seed).normal(size=rows) * math.sqrt(1.0 - rho * rho)
    noise[0] /= math.sqrt(1.0 - rho * rho)
    for i in range(1, rows):
        noise[i] += rho * noise[i - 1]
    return noise


def test_independent_rows_have_none_in_150_draws() -> None:
    found = [of(np.random.default_rng(seed).normal(size=2000)) for seed in range(150)]
    assert {one.deff for one in found} == {1.0}
    assert {one.block_rows for one in found} == {1}


def test_the_median_of_an_ar1_has_the_design_effect_that_the_arcsine_law_gives() -> None:
    # P(x_0 < 0, x_k < 0) of a Gaussian process is 1/4 + asin(rho^k) / (2 pi): Sheppard, 1899.
    for rho in (0.5, 0.9):
        true = 1.0 + 2.0 * sum(2.0 / math.pi * math.asin(rho**k) for k in range(1, 200))
        found = np.array([of(ar1(rho, 20_000, seed)).edges[4] for seed in range(5)])
        assert true <= np.median(found) <= 1.6 * true  # the estimate times 1.3, and what choosing lengths adds


def test_sessions_of_equal_rows_count_as_one_row_each() -> None:
    found = of(np.repeat(np.random.default_rng(1).normal(size=3000), 20))
    assert 20.0 <= found.deff <= 36.0
    assert all(18.0 <= deff <= 36.0 for deff in (*found.bins[:-1], *found.edges))
    assert found.block_rows is not None
    assert 20 <= found.block_rows <= 256


def test_variance_that_goes_on_growing_is_said_to_have_no_end() -> None:
    found = of(np.cumsum(np.random.default_rng(2).normal(size=30_000)) / 100.0)
    assert not found.levelled
    assert found.deff > 500.0


def test_missing_values_that_come_in_runs_have_a_design_effect_of_their_own() -> None:
    values = np.random.default_rng(3).normal(size=30_000)
    for start in range(0, 30_000, 1500):
        values[start + 37 : start + 97] = np.nan
    assert of(values).missing > 20.0


def test_too_few_rows_say_nothing() -> None:
    assert of(np.zeros(50)) == Dependence(1.0, (1.0,) * 10, (1.0,) * 9, 1.0, None)


def test_categories_have_events_but_no_edges() -> None:
    bins = ColumnBins("x", "category", values=(0.0, 1.0, 2.0))
    found = of(np.repeat(np.random.default_rng(4).integers(0, 3, size=2000), 10).astype(np.float64), bins)
    assert (len(found.bins), found.edges) == (4, ())
    assert found.bins[0] > 8.0


@pytest.mark.skipif("DRIFTGATE_TEST_MATERIAL" not in os.environ, reason="DRIFTGATE_TEST_MATERIAL is not set")
def test_a_tile_of_shuffled_weeks_of_electricity_spans_a_week() -> None:
    import pandas as pd

    table = pd.read_csv(Path(os.environ["DRIFTGATE_TEST_MATERIAL"]) / "data/elec2.csv.gz")
    rows = table["nswprice"].to_numpy(np.float64)
    weeks = rows[: len(rows) // 336 * 336].reshape(-1, 336)
    bins = ColumnBins("x", "number", edges=tuple(np.unique(np.quantile(rows, np.linspace(0.1, 0.9, 9))).tolist()))
    for seed in range(5):
        shuffled = np.random.default_rng(seed).permutation(weeks).ravel()[: int(0.4 * len(rows))]
        found = of(shuffled, bins)
        assert found.block_rows is not None
        assert found.block_rows >= 336  # half an hour a row: the promise needs tiles of a week

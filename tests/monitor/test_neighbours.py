"""Whether neighbouring rows resemble each other: runs beside their exact law, what is dependent and what is not."""

from __future__ import annotations

from itertools import pairwise, permutations
from math import sqrt
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from monitor.bins import BinSet, ColumnBins
from monitor.neighbours import _excess_of_runs, resemble

QUANTILES = tuple(np.linspace(-1.5, 1.5, 15).tolist())


def bins(columns: int = 3) -> BinSet:
    return BinSet(tuple(ColumnBins(f"x{at}", "number", edges=QUANTILES) for at in range(columns)))


def walk(rows: int, rho: float, rng: np.random.Generator) -> NDArray[Any]:
    values = np.empty(rows)
    values[0] = rng.normal()
    for at, noise in enumerate(rng.normal(scale=sqrt(1.0 - rho * rho), size=rows - 1)):
        values[at + 1] = rho * values[at] + noise
    return values


def test_the_excess_of_runs_is_that_of_all_orders_of_the_same_values() -> None:
    values = [0, 0, 0, 1, 1, 2, 2]
    runs = [1 + sum(a != b for a, b in pairwise(order)) for order in permutations(values)]
    mean, sd = float(np.mean(runs)), float(np.std(runs))
    for order in ([0, 0, 0, 1, 1, 2, 2], [0, 1, 0, 2, 0, 1, 2], [0, 0, 1, 2, 1, 2, 0]):
        found = 1 + sum(a != b for a, b in pairwise(order))
        assert _excess_of_runs(np.array(order)) == pytest.approx((found - mean) / sd)


def test_independent_rows_resemble_nothing_wherever_they_lie() -> None:
    rng = np.random.default_rng(0)
    for seed in range(20):
        block = rng.normal(size=(500, 8)) + 0.1 * seed
        block[250:] += rng.choice([0.0, 0.5, 30.0])  # a step in the middle
        assert not resemble(bins(8), block)


@pytest.mark.parametrize(
    ("kind", "rows"),
    [("sensor", 250), ("sensor", 500), ("sessions", 60), ("sessions", 500), ("hours", 60), ("hours", 500)],
)
def test_sensors_sessions_and_hours_are_seen_within_one_evaluation(kind: str, rows: int) -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        block = rng.normal(size=(rows, 3))
        if kind == "sensor":
            block[:, 1] = walk(rows, 0.95, rng)
        elif kind == "sessions":
            block[:, 1] = np.repeat(rng.normal(size=rows // 5), 5)
        else:
            block[:, 1] = np.arange(rows) // 4 % 24 / 8.0 - 1.5
        assert resemble(bins(), block)


def test_a_frozen_column_a_rare_flag_and_a_few_rows_say_nothing() -> None:
    rng = np.random.default_rng(1)
    block = rng.normal(size=(500, 3))
    block[:, 0] = 0.7
    block[:, 1] = np.where(np.arange(500) < 20, 1.0, 0.0)
    block[:, 2] = np.nan
    assert not resemble(bins(), block)
    assert not resemble(bins(), np.repeat(rng.normal(size=(4, 3)), 10, axis=0))
    assert not resemble(bins(), np.empty((0, 3)))

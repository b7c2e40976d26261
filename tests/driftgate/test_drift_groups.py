"""Rows listed by shop, machine, session or month: no false alarm from their order, and a shift is still seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.signal import lfilter

from driftgate import drift
from monitor.bins import BinSet, ColumnBins
from monitor.design_effect import dependences, dependences_within

Rng = np.random.Generator
Sides = tuple[pd.DataFrame, pd.DataFrame]


def ar(rng: Rng, rows: int, rho: float) -> NDArray[np.float64]:
    """A stationary AR(1) process with a variance of 1."""
    noise = rng.normal(size=rows + 500) * np.sqrt(1.0 - rho**2)
    return np.asarray(lfilter([1.0], [1.0, -rho], noise)[500:], np.float64)


def shops(rng: Rng, name: Callable[[int], Any] = int, by: float = 0.0) -> Sides:
    """Forty shops one after the other, each with a level of its own and its days in order."""
    parts = []
    for shop in range(40):
        level, wave = rng.normal(3, 1), ar(rng, 350, 0.95)
        columns = {"temp": 12 + 5 * ar(rng, 350, 0.95), "sales": np.exp(level + 0.3 * wave), "shop": name(shop)}
        parts.append(pd.DataFrame(columns | {"day": np.arange(350)}))
    whole = pd.concat(parts, ignore_index=True)
    before, now = whole[whole["day"] < 210], whole[whole["day"] >= 210]
    return before.drop(columns="day"), now.drop(columns="day").assign(temp=now["temp"] + by)


def named_shops(rng: Rng, by: float = 0.0) -> Sides:
    return shops(rng, lambda shop: f"Shop {shop:03d}", by)


def machines(rng: Rng, by: float = 0.0) -> Sides:
    """Every machine runs until it breaks; those of the current rows are others."""

    def side(first: int, by: float) -> pd.DataFrame:
        parts = []
        for unit in range(30):
            rows = int(rng.integers(130, 300))
            sensor = ar(rng, rows, 0.9) + by
            parts.append(pd.DataFrame({"unit": first + unit, "cycle": np.arange(1, rows + 1), "sensor": sensor}))
        return pd.concat(parts, ignore_index=True)

    return side(1, 0.0), side(31, by)


def sessions(rng: Rng, by: float = 0.0) -> Sides:
    """Numbered, of 20 rows that say the same."""

    def side(first: int, by: float) -> pd.DataFrame:
        made = {
            "session": np.arange(first, first + 400),
            "amount": rng.lognormal(3, 1, 400),
            "age": rng.normal(size=400),
        }
        return pd.DataFrame(made).assign(age=made["age"] + by).loc[np.repeat(np.arange(400), 20)]

    return side(0, 0.0), side(400, by)


def months(rng: Rng, by: float = 0.0) -> Sides:
    """Two years of hours, of which the month is all that is told."""
    month = pd.date_range("2023-01-01", periods=17_520, freq="h").month
    whole = pd.DataFrame({"x": ar(rng, 17_520, 0.95), "y": ar(rng, 17_520, 0.9), "month": month})
    return whole[:8760], whole[8760:].assign(x=whole["x"][8760:] + by)


MADE: dict[str, tuple[Callable[..., Sides], str]] = {
    "shops": (shops, "temp"),
    "named shops": (named_shops, "temp"),
    "machines": (machines, "sensor"),
    "sessions": (sessions, "age"),
    "months": (months, "x"),
}


@pytest.mark.parametrize("kind", MADE)
def test_what_somebody_listed_one_after_the_other_is_no_drift(kind: str) -> None:
    make, _ = MADE[kind]
    found = drift.compare(*make(np.random.default_rng(0)))
    assert not found.is_alarm
    assert found.alarms == ()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", MADE)
def test_it_is_no_drift_whatever_the_seed(kind: str) -> None:
    make, _ = MADE[kind]
    wrong = [seed for seed in range(1, 16) if drift.compare(*make(np.random.default_rng(seed))).is_alarm]
    assert len(wrong) <= 1  # of 15 runs, each of which may with a probability of 1 %


@pytest.mark.parametrize("kind", ["shops", "named shops", "sessions", "months"])
def test_a_shift_in_listed_rows_is_seen(kind: str) -> None:
    make, moved = MADE[kind]
    by = 6.0 if "shops" in kind else 1.5
    found = drift.compare(*make(np.random.default_rng(0), by=by))
    assert [item.feature for item in found.alarms] == [moved]


def test_a_file_that_was_sorted_by_two_columns_tells_nothing_of_dependence() -> None:
    rng = np.random.default_rng(0)
    sides = [
        pd.DataFrame({"age": rng.integers(18, 60, 5000), "score": rng.beta(2, 5, 5000) + by}) for by in (0.0, 0.06)
    ]
    found = drift.compare(*(side.sort_values(["age", "score"]) for side in sides))
    assert [item.feature for item in found.alarms] == ["score"]
    assert all(item.design_effect == 1.0 for item in found.features)


BINS = BinSet((ColumnBins("x", "number", edges=(-1.0, 0.0, 1.0)),))


def test_dependence_within_one_group_is_that_of_the_rows() -> None:
    values = ar(np.random.default_rng(0), 20_000, 0.9)[:, None]
    (whole,) = dependences(BINS, values)
    (within,) = dependences_within(BINS, values, np.array([20_000]))
    assert within.deff == pytest.approx(whole.deff, rel=0.3)  # one overlaps blocks, the other cannot
    assert within.levelled


def test_dependence_within_groups_is_theirs_and_groups_that_differ_are_none() -> None:
    """An AR(1) process' mean has (1 + rho) / (1 - rho) times the variance; its events about the same."""
    rng = np.random.default_rng(1)
    levels = rng.normal(size=60)
    for rho, low, high in ((0.0, 1.0, 1.0), (0.9, 8.0, 1.3 * 1.9 / 0.1)):
        values = np.concatenate([ar(rng, 400, rho) for _ in levels])
        (alike,) = dependences_within(BINS, values[:, None], np.full(60, 400))
        (apart,) = dependences_within(BINS, (values + 3 * np.repeat(levels, 400))[:, None], np.full(60, 400))
        assert low <= alike.deff <= high
        assert apart.deff <= alike.deff


def test_groups_that_are_too_short_tell_nothing() -> None:
    (found,) = dependences_within(BINS, np.zeros((600, 1)), np.full(60, 10))
    assert (found.deff, found.block_rows) == (1.0, None)

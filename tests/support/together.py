"""References of which nothing but relations between columns is to drift, and profiles of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from monitor.profile import Order, ReferenceProfile, fit
from monitor.record import Column, LogSchema

Floats = NDArray[np.float64]


def schema_of(columns: int, categories: Sequence[int] = ()) -> LogSchema:
    """Float inputs x0, x1, …; no outputs."""
    inputs = tuple(Column(f"x{at}", f"x{at}", "category" if at in categories else "number", 0) for at in range(columns))
    return LogSchema(True, inputs, (), "f8", "f8")


def profiled(
    block: Floats, in_time: bool | None = True, categories: Sequence[int] = (), *, together: bool = True
) -> ReferenceProfile:
    """The profile of these rows (n, C)."""
    made = schema_of(block.shape[1], categories)
    return fit(made, block, np.empty((len(block), 0)), order=Order(in_time), together=together)


def correlated(rows: int, correlation: float, rng: np.random.Generator, columns: int = 10) -> Floats:
    """Standard normal columns, independent but for the first two."""
    x = rng.normal(size=(rows, columns))
    x[:, 1] = correlation * x[:, 0] + np.sqrt(1.0 - correlation**2) * x[:, 1]
    return x

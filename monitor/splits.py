"""Splits: yes-or-no questions about one column's value; a pair of them asks how two columns go together.

Invariants: a split is a pure function of the column's profile, and of a value it asks nothing but its bin; a missing
value has no answer. A constant, or a column without a balanced split, has none. Used by `monitor/together.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from monitor.column_profile import ColumnProfile

SplitKind = Literal["high", "outer", "category"]
MOST_SPLITS = 1024
_CATEGORIES, _LEAST_SHARE = 6, 0.05  # of a column: the most frequent ones; and what either answer must have
_BALANCED = 0.2  # of either answer about a number


@dataclass(frozen=True, slots=True)
class Split:
    """A question about a column: does a number lie above the reference's median (high), outside of its quartiles
    (outer), or is a category that of this bin? answers (bins + 1,): 1 yes, -1 no, by bin; 0 for a missing value."""

    column: int
    kind: SplitKind
    bin: int | None
    answers: tuple[int, ...]


def splits_of(columns: Sequence[ColumnProfile], most: int = MOST_SPLITS) -> tuple[Split, ...]:
    """Those of all columns, in their order; where there are too many, no `outer` ones, and then the first that fit."""
    found = [split for at, column in enumerate(columns) for split in _of_column(at, column)]
    if len(found) > most:
        found = [split for split in found if split.kind != "outer"]
    return tuple(found[:most])


def _of_column(at: int, column: ColumnProfile) -> list[Split]:
    counts = np.array(column.counts, np.float64)
    total = float(counts.sum())
    if total == 0.0:
        return []
    shares = counts / total
    if column.bins.kind == "number":
        below = np.cumsum(shares)[:-1]  # by edge
        if not len(below):
            return []
        bins = np.arange(len(shares))
        low, middle, high = (int(np.argmin(np.abs(below - share))) for share in (0.25, 0.5, 0.75))
        asked: list[tuple[SplitKind, int | None, NDArray[np.bool_]]] = [
            ("high", None, bins > middle),
            ("outer", None, (bins <= low) | (bins > high)),
        ]
        least = _BALANCED
    else:
        own = shares if column.complete else shares[:-1]  # as in `multivariate.py`
        frequent = [int(bin) for bin in np.argsort(-own, kind="stable")[:_CATEGORIES]]
        asked = [("category", bin, np.arange(len(shares)) == bin) for bin in frequent]
        least = _LEAST_SHARE
    splits, seen = [], set()
    for kind, bin, yes in asked:
        share = float(shares[yes].sum())
        answers = tuple(np.where(yes, 1, -1).tolist())
        held = tuple(np.array(answers)[shares > 0.0].tolist())
        opposite = tuple(-answer for answer in held)
        if least <= share <= 1.0 - least and held not in seen and opposite not in seen:
            seen.add(held)
            splits.append(Split(at, kind, bin, (*answers, 0)))
    return splits


def tables_of(splits: Sequence[Split]) -> tuple[NDArray[np.intp], NDArray[np.int8]]:
    """All answers one after another, and where each split's begin (M,)."""
    sizes = [len(split.answers) for split in splits]
    flat = np.array([answer for split in splits for answer in split.answers], np.int8)
    return np.cumsum([0, *sizes], dtype=np.intp)[:-1], flat

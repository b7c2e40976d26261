"""From a column's reference values to its type and its bins.

Why: bins decide what drift can be seen, for as long as the profile is used. Invariants: edges rise strictly whatever
ties the values have; a value outside of what was seen falls into a bin that held nothing; pure, and the same for the
same values. Called by the profile's fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from monitor.bins import ColumnBins
from monitor.column_profile import ColumnType
from monitor.record import Column
from registry.vocabulary import FeatureType

BINS = 16  # equal shares of the reference, besides the two overflow bins
MOST_VALUES = 32  # a number with so few different values has a bin for each
MOST_CATEGORIES = 64  # the most frequent ones have a bin of their own, all others share one
_LOOKED_AT = 262_144  # rows that decide edges; all decide the range
_POINTS = 8  # values that stand out of a continuous column and get bins of their own: a code for missing, a cap
_POINT_SHARE = 0.002
_POINT_TIMES = 20  # as frequent as the median value
_SEED = 20_13
_PROBED = 1000  # values tell at once of most columns that they are no whole numbers


@dataclass(frozen=True, slots=True)
class FeatureBins:
    """What was found of a column. low, high: of finite values, None without any; complete: every category has a bin."""

    type: ColumnType
    bins: ColumnBins
    low: float | None
    high: float | None
    complete: bool


def feature_bins(
    column: Column, values: NDArray[np.floating], wanted: FeatureType | None, is_input: bool
) -> FeatureBins:
    """The bins of one column (n,). `wanted` is the type that its owner says; else it is inferred."""
    is_finite = np.isfinite(values)
    finite = values if is_finite.all() else values[is_finite]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (None, None)
    looked_at = finite
    if len(finite) > _LOOKED_AT:
        looked_at = finite[_chosen(len(finite))]
    different, counts = _different(looked_at)
    kind = wanted if wanted is not None and not column.hashed else _inferred(column, finite, different, is_input)
    if kind in ("categorical", "boolean"):
        if len(finite) > len(looked_at):
            different, counts = _different(finite)  # a rare category is seen, too
        complete = len(different) <= MOST_CATEGORIES
        kept = np.sort(different[np.argsort(-counts, kind="stable")[:MOST_CATEGORIES]])
        marks = tuple(map(float, kept)) if kind == "categorical" or len(kept) > 2 else (0.0, 1.0)
        return FeatureBins(kind, ColumnBins(column.name, "category", values=marks), low, high, complete)
    edges = _edges(different, counts, finite.min(), finite.max()) if len(finite) else ()
    whole = is_input and kind == "integer"
    return FeatureBins(kind, ColumnBins(column.name, "number", edges=edges, whole=whole), low, high, False)


def _different(values: NDArray[np.floating]) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
    """The values without repetition, rising, and how often each is there: np.unique, fast where none comes twice."""
    ordered = np.sort(values)
    begins = np.empty(len(ordered), bool)
    begins[:1] = True
    np.not_equal(ordered[1:], ordered[:-1], out=begins[1:])
    if begins.all():
        return ordered, np.ones(len(ordered), np.int64)
    places = np.flatnonzero(begins)
    return ordered[places], np.diff(places, append=len(ordered))


@lru_cache(maxsize=2)  # columns of a table have as many values mostly
def _chosen(rows: int) -> NDArray[np.int64]:
    """The places of `_LOOKED_AT` of so many values, by chance, rising."""
    return np.sort(np.random.default_rng(_SEED).choice(rows, _LOOKED_AT, replace=False))


def _inferred(
    column: Column, finite: NDArray[np.floating], different: NDArray[np.floating], is_input: bool
) -> ColumnType:
    if column.kind == "category":
        return "categorical"
    if column.kind == "summary":
        return "tensor_summary"
    if column.kind == "length":
        return "text_length"
    is_flag = is_input and len(different) == 2 and different.tolist() == [0.0, 1.0]
    if is_flag and bool(((finite == 0) | (finite == 1)).all()):
        return "boolean"
    return "integer" if len(finite) and _are_whole(different) and _are_whole(finite) else "numeric"


def _are_whole(values: NDArray[np.floating]) -> bool:
    return bool((values[:_PROBED] == np.floor(values[:_PROBED])).all() and (values == np.floor(values)).all())


def _edges(
    different: NDArray[np.floating],
    counts: NDArray[np.int64],
    low: np.floating,
    high: np.floating,
) -> tuple[float, ...]:
    """Rising edges from the smallest value to just above the largest, so that what lies outside was never seen.

    different, counts: the values, rising, and how often each was seen; low, high: of all rows.

    A value with at least a bin's share of the rows has a bin of its own: quantiles alone would repeat such a value (or,
    made unique, hide it among its neighbours), and a constant that begins to move is the drift easiest to miss. So have
    values that stand out of a continuous column, such as -999 where nothing was measured.
    """
    dtype = different.dtype
    top = np.inf * np.ones((), dtype)

    def above(values: NDArray[np.floating] | np.floating) -> NDArray[np.floating]:
        with np.errstate(over="ignore"):  # above the dtype's largest number lies infinity, which is no edge
            return np.asarray(np.nextafter(values, top), dtype)

    if len(different) <= MOST_VALUES:
        # Between two values of few lies nothing: one edge is enough, and a new value there joins the one below it.
        marks = [different]
    else:
        below = np.cumsum(counts)
        rows = int(below[-1])
        often = counts * BINS >= rows
        points = np.flatnonzero((counts >= _POINT_SHARE * rows) & ~often)
        if len(points):
            points = points[counts[points] >= _POINT_TIMES * np.median(counts)]
        most = points[np.argsort(-counts[points], kind="stable")[:_POINTS]]
        heavy = np.concatenate([different[often], different[most]])
        places = np.ceil(np.linspace(0.0, 1.0, BINS + 1)[1:-1] * (rows - 1))
        marks = [heavy, above(heavy), different[np.searchsorted(below, places, side="right")]]  # the higher quantiles
    marks.append(np.array([low, above(high)], dtype))
    edges = np.unique(np.concatenate(marks).astype(np.float64))
    return tuple(float(edge) for edge in edges[np.isfinite(edges)])

"""Events: what a fast detector bets on. A profile's side becomes a table of events, counts become a number for each.

Why: "in this bin", "below this edge", "missing" are yes-or-no questions, so whatever happens to a feature is a share
that moved, and evidence needs nothing but counts. Invariants: a table is a pure function of profile and settings, rows
of the table are ordered by feature; an event whose tolerated range says nothing is left out. Two families, as they have
two shares of the false-alarm budget: *shape* (where the values lie, among rows with a value) and *quality* (missing,
infinite, of the wrong type, outside of all that was seen, unseen categories, among all rows). Used by `watch.py`.

What is tolerated, per event: Cohen's h of `tolerance_h` either way, or as far as the reference may itself be off
(`reference_sigmas`, Clopper-Pearson at the reference's effective rows), whichever is farther. Never their sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import erfc, log, sqrt
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from monitor.counts import Counts
from monitor.profile import ColumnProfile
from monitor.statistics import clopper_pearson

Family = Literal["shape", "quality", "pairs", "reconstruction", "mmd"]  # the last three: `together.py`
EventKind = Literal[
    "bin",
    "edge",
    "category",
    "other",
    "missing",
    "infinite",
    "below_range",
    "above_range",
    "unseen",
    "mistyped",
    "alike",
    "score",
]
KINDS: tuple[EventKind, ...] = get_args(EventKind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """How far a share may lie from the reference's and be no drift."""

    shape_h: float = 0.02  # Cohen's h: .010 either way of a share of .5, .006 of .1; a mean may move by about .025 sd
    quality_h: float = 0.02
    quality_least: float = 0.0005  # a share of bad values that is never an alarm
    reference_sigmas: float = 5.0  # 0 takes the reference's shares for exact


@dataclass(frozen=True)
class Events:
    """E events of one family. All arrays (E,): column: which feature; kind: an index of KINDS; place: its bin or edge.

    share: in the reference, of `rows`; low, high: the tolerated range; deff: rows that say as much as an independent
    one. downward: whether a share below `low` counts too.
    """

    family: Family
    column: NDArray[np.intp]
    kind: NDArray[np.int8]
    place: NDArray[np.intp]
    share: NDArray[np.float64]
    rows: NDArray[np.float64]
    deff: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    width: int  # of the counts

    def __len__(self) -> int:
        return len(self.column)

    @property
    def is_value(self) -> NDArray[np.bool_]:
        """(E,): events of where a value lies, which depend on their neighbours as the values do; not of bad rows."""
        return ~np.isin(self.kind, [KINDS.index(kind) for kind in ("missing", "infinite", "mistyped")])

    def count(self, counts: Counts) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """How often each event happened in these counts, and of how many rows: two arrays (E,)."""
        table = np.concatenate(
            [
                counts.counts,
                np.cumsum(counts.counts, axis=1),
                counts.missing[:, None],
                counts.infinite[:, None],
                counts.mistyped[:, None],
            ],
            axis=1,
        )
        happened = table.ravel()[self._source(table.shape[1])].astype(np.float64)
        if self.family == "shape":
            of = (counts.rows - counts.missing)[self.column].astype(np.float64)
        else:
            of = np.full(len(self), float(counts.rows))
        return happened, of

    def _source(self, stride: int) -> NDArray[np.intp]:
        """Where in the flat table of `count` each event's number stands."""
        at = self.place.copy()
        at[self.kind == KINDS.index("edge")] += self.width
        at[self.kind == KINDS.index("missing")] = 2 * self.width
        at[self.kind == KINDS.index("infinite")] = 2 * self.width + 1
        at[self.kind == KINDS.index("mistyped")] = 2 * self.width + 2
        return self.column * stride + at


def events_of(columns: Sequence[ColumnProfile], family: Family, tolerance: Tolerance) -> Events:
    """The events of one side of a profile."""
    found: list[tuple[int, int, int, float, float, float]] = []
    for at, column in enumerate(columns):
        found.extend((at, *event) for event in _of_column(column, family))
    table = np.array(found, np.float64).reshape(len(found), 6)
    happened, rows, deff = table[:, 3], table[:, 4], table[:, 5]
    share = happened / np.maximum(rows, 1.0)
    low, high = tolerated(happened, rows, deff, family, tolerance)
    if tolerance.reference_sigmas > 0.0:
        for event in np.flatnonzero(table[:, 1] == KINDS.index("other")).tolist():
            high[event] = max(high[event], 1.0 - _kept_share(columns[int(table[event, 0])], deff[event]))
        level = 0.5 * erfc(tolerance.reference_sigmas / sqrt(2.0))
        for event in np.flatnonzero(table[:, 1] == KINDS.index("unseen")).tolist():
            came, runs = columns[int(table[event, 0])].never_seen(float(deff[event]))
            high[event] = max(high[event], float(clopper_pearson(came / runs, rows[event] / runs, level)[1]))
    return Events(
        family,
        table[:, 0].astype(np.intp),
        table[:, 1].astype(np.int8),
        table[:, 2].astype(np.intp),
        share,
        rows,
        deff,
        low,
        high,
        max((column.bins.bins for column in columns), default=1),
    )


def _of_column(column: ColumnProfile, family: Family) -> list[tuple[int, int, float, float, float]]:
    """(kind, place, how often in the reference, of how many rows, deff) of each event of one column."""
    bins, counts = column.bins, column.counts
    valid, rows = float(sum(counts)), float(column.rows)
    is_number = bins.kind == "number"
    last = bins.bins - 1
    bin_deffs = column.bin_deffs or (column.deff,) * bins.bins
    edge_deffs = column.edge_deffs or (column.deff,) * bins.bins
    runs = (
        column.missing_deff if column.missing else 1.0
    )  # a column that never missed a value says nothing about runs of it
    found: list[tuple[EventKind, int, float, float, float]] = []
    if family == "quality":
        if rows:
            found.append(("missing", 0, float(column.missing), rows, runs))
            if not column.hashed:
                found.append(("infinite", 0, float(column.infinite), rows, 1.0))
            found.append(("mistyped", 0, 0.0, rows, 1.0))
        if valid and is_number and last > 0:
            # Extremes come in runs like any other values; the reference has too few of them to tell how long ones.
            found.append(("below_range", 0, float(counts[0]), rows, max(bin_deffs)))
            found.append(("above_range", last, float(counts[last]), rows, max(bin_deffs)))
        if valid and not is_number and column.complete:
            found.append(("unseen", last, float(counts[last]), rows, max(bin_deffs)))
    elif valid and is_number and last > 1:
        # The outer bins are quality's, and the outer edges say the same as they do.
        found.extend(("bin", at, float(counts[at]), valid, bin_deffs[at]) for at in range(1, last))
        below = np.cumsum(counts)
        found.extend(("edge", at, float(below[at]), valid, edge_deffs[at]) for at in range(1, last - 1))
    elif valid and not is_number:
        found.extend(("category", at, float(counts[at]), valid, bin_deffs[at]) for at in range(last))
        if not column.complete:
            found.append(("other", last, float(counts[last]), valid, bin_deffs[last]))
    return [(KINDS.index(kind), place, happened, of, deff) for kind, place, happened, of, deff in found]


def _kept_share(column: ColumnProfile, deff: float) -> float:
    """What categories with a bin of their own have at least, when they were chosen for being frequent in these rows.

    The most frequent of many look more frequent than they are: the largest of m Poisson counts lies about √(ln m / 2)
    above its mean, on the scale of square roots. Tickets, dates and names would else drift towards "other" by nature.
    """
    kept = np.array(column.counts[:-1], np.float64) / deff
    rows = max(float(sum(column.counts)) / deff, 2.0)
    return float(np.square(np.maximum(np.sqrt(kept) - sqrt(log(rows) / 2.0), 0.0)).sum()) / rows


def tolerated(
    happened: NDArray[np.float64],
    rows: NDArray[np.float64],
    deff: NDArray[np.float64],
    family: Family,
    tolerance: Tolerance,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The range (low, high) within which each event's live share is no drift."""
    share = np.clip(happened / np.maximum(rows, 1.0), 0.0, 1.0)
    angle = np.arcsin(np.sqrt(share))
    h = tolerance.shape_h if family == "shape" else tolerance.quality_h
    low = np.square(np.sin(np.maximum(angle - h / 2.0, 0.0)))
    high = np.square(np.sin(np.minimum(angle + h / 2.0, np.pi / 2.0)))
    if tolerance.reference_sigmas > 0.0:
        level = 0.5 * erfc(tolerance.reference_sigmas / sqrt(2.0))
        down, up = clopper_pearson(happened / deff, rows / deff, level)
        low, high = np.minimum(low, down), np.maximum(high, up)
    if family == "quality":
        high = np.maximum(high, tolerance.quality_least)
    return low, high

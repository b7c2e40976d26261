"""Drift between columns, which none of them shows alone: random Fourier features (MMD) and principal components.

Why: a correlation that turns around moves no histogram. Both look at rows as points: each value becomes the normal
score of its bin in the reference profile (and each frequent category a coordinate of its own), so no outlier, skew or
unit drowns the rest, and rows need nothing but the profile. Invariants: a point is a pure function of profile and row;
a missing value lies at the reference's mean (its share is quality's business); what a row says is a vector of bounded
numbers, so blocks of rows are compared by their means. Pure; numpy only. Called by offline comparison
(`driftgate/drift_together.py`) on sampled rows.

Sources: Rahimi and Recht (2007) for the features; Gretton et al. (2012) for MMD and the width of its kernel; van der
Waerden (1952) for normal scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from monitor.column_profile import ColumnProfile
from monitor.design_effect import places

Floats = NDArray[np.float64]
FEATURES = 128  # random Fourier features
EXPLAINED = 0.9  # of the variance that the kept principal components explain
MOST_COORDINATES = 512
_CATEGORIES, _LEAST_SHARE = 6, 0.02  # of a column: the most frequent ones, and how frequent they must be
_ONE_THREAD = 1 << 18  # multiplications, above which OpenBLAS takes more
_ROUNDING = 1e-20  # of a squared error of points, which are around 1
_WIDTH_ROWS = 300  # whose distances tell the kernel's width


@dataclass(frozen=True, slots=True)
class Coordinate:
    """One axis: a number's normal score (bin None), or whether a category is that of this bin."""

    column: int
    bin: int | None


class Coordinates:
    """Rows of some profile's columns as points (d,): every column's coordinates have a variance of 1 together."""

    def __init__(self, columns: Sequence[ColumnProfile], most: int = MOST_COORDINATES) -> None:
        """Of the columns in order, as many as fit: one that the reference saw constant or empty has no coordinate."""
        self._columns = columns
        self._tables: list[tuple[int, Floats]] = []  # column → (its bins and missing, its coordinates)
        axes: list[Coordinate] = []
        for at, column in enumerate(columns):
            table, bins = _table(column)
            if len(bins) and len(axes) + len(bins) <= most:
                self._tables.append((at, table))
                axes += [Coordinate(at, place) for place in bins]
        self.axes = tuple(axes)
        self._owners = np.array([axis.column for axis in axes], np.intp)
        parts = [part for _, table in self._tables for part in table.T]  # one for each axis
        self._starts = np.cumsum([0, *map(len, parts)], dtype=np.intp)[:-1]
        self._flat = np.concatenate([np.zeros(0), *parts])

    @property
    def columns(self) -> tuple[int, ...]:
        """The columns that have a coordinate."""
        return tuple(at for at, _ in self._tables)

    def points(self, block: NDArray[np.floating]) -> Floats:
        """(n, d) of rows (n, C)."""
        if not self._tables:
            return np.zeros((len(block), 0))
        return np.concatenate(
            [table[places(self._columns[at].bins, block[:, at])] for at, table in self._tables], axis=1
        )

    def points_at(self, places: NDArray[np.intp]) -> Floats:
        """(n, d) of rows whose values' bins are known: places (C, n), a missing value's being its column's bins."""
        return np.ascontiguousarray(self._flat[places[self._owners] + self._starts[:, None]].T)


def _table(column: ColumnProfile) -> tuple[Floats, list[int | None]]:
    """(bins + 1, coordinates): what a value of each bin, and a missing one, becomes; and the coordinates' bins."""
    counts = np.array(column.counts, np.float64)
    total = counts.sum()
    none = np.zeros((len(counts) + 1, 0))
    if total == 0.0:
        return none, []
    shares = counts / total
    chosen: list[int | None]
    if column.bins.kind == "number":
        normal = NormalDist()
        middles = np.cumsum(shares) - shares / 2.0
        held = middles[shares > 0.0]  # what lies beyond them is as far out as the outermost: a sample's ends are chance
        middles = np.clip(middles, held.min(), held.max())
        raw = np.array([[normal.inv_cdf(float(middle))] for middle in middles])
        chosen = [None]
    else:
        # What lies outside of the most frequent of many looks rarer than it is to the rows that chose these.
        own = shares if column.complete else shares[:-1]
        frequent = [int(at) for at in np.argsort(-own, kind="stable")[:_CATEGORIES] if own[at] >= _LEAST_SHARE]
        chosen = [*frequent]
        raw = (np.arange(len(counts))[:, None] == np.array(frequent, np.int64)[None]).astype(np.float64)
    centred = raw - shares @ raw
    sd = np.sqrt(shares @ np.square(centred))
    moves = sd > 1e-9
    if not moves.any():
        return none, []
    table = np.zeros((len(counts) + 1, int(moves.sum())))
    table[:-1] = centred[:, moves] / sd[moves] / sqrt(float(moves.sum()))
    return table, [place for place, kept in zip(chosen, moves, strict=True) if kept]


@dataclass(frozen=True, slots=True)
class Basis:
    """What reference points taught: frequencies (d, D) and phases (D,) of the features, kept components (d, k), and a
    point's mean square, which is the variance of all coordinates together."""

    frequencies: Floats
    phases: Floats
    components: Floats
    variance: float

    def features(self, points: Floats) -> Floats:
        """(n, D): random Fourier features. The squared distance of two means of them estimates MMD²."""
        turns = (product(points, self.frequencies) + self.phases).astype(
            np.float32
        )  # float64's cosine takes 20 times as long
        return np.cos(turns).astype(np.float64) * sqrt(2.0 / len(self.phases))

    def residuals(self, points: Floats) -> Floats:
        """(n, d): the squared error, by coordinate, of points that are rebuilt from the kept components."""
        rebuilt = product(product(points, self.components), np.ascontiguousarray(self.components.T))
        errors = np.square(points - rebuilt)
        return np.where(
            errors > _ROUNDING, errors, 0.0
        )  # where all is rebuilt, what is left is how floats are added up

    def rows(self, points: Floats) -> Floats:
        """(n, D + 1): a row's features, and its error as a share of the reference's variance."""
        return np.column_stack([self.features(points), self.residuals(points).sum(axis=1) / self.variance])


def product(left: Floats, right: Floats) -> Floats:
    """left @ right, in pieces that BLAS gives to one thread.

    Its threads spin for one another, which costs several times the work where a machine is busy with other things.
    """
    rows = max(_ONE_THREAD // max(right.size, 1), 1)
    whole = np.empty((len(left), right.shape[1]))
    for at in range(0, len(left), rows):
        np.matmul(left[at : at + rows], right, out=whole[at : at + rows])
    return whole


def fit_basis(points: Floats, rng: np.random.Generator, features: int = FEATURES) -> Basis:
    """From reference points (n, d), d >= 2, n >= 2. The kernel is as wide as the median distance of two of them."""
    n, d = points.shape
    sample = points[:: -(-n // _WIDTH_ROWS)]
    squares = np.square(sample).sum(axis=1)
    distances = np.maximum(squares[:, None] + squares[None] - 2.0 * (sample @ sample.T), 0.0)
    apart = distances[distances > 1e-9]
    width = sqrt(float(np.median(apart))) if len(apart) else sqrt(2.0 * d)
    values, vectors = np.linalg.eigh(np.cov(points, rowvar=False))
    falling = np.maximum(values[::-1], 0.0)
    kept = int(np.searchsorted(np.cumsum(falling), EXPLAINED * max(float(falling.sum()), 1e-300))) + 1
    return Basis(
        frequencies=rng.normal(size=(d, features)) / width,
        phases=rng.uniform(0.0, 2.0 * np.pi, features),
        components=np.ascontiguousarray(vectors[:, ::-1][:, : min(kept, d - 1)]),
        variance=max(float(np.square(points).sum(axis=1).mean()), 1e-300),
    )

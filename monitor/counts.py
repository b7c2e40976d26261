"""Counting: the only thing that is done to every record. A matrix of rows becomes counts for each column's bins.

Why: counts add up exactly over workers, time and machines, so every window, statistic and decision is a pure function
of them. Invariants: bins of a column plus its missing values are its rows; counts merge only under equal edges, exactly
(moments up to rounding). Edges come from a version's reference profile; without one a column has one bin.
Called by the monitor's step and by the profile's fit, so live and reference values fall into bins by the same code.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from monitor.record import Column
from registry.errors import StateDamaged


@dataclass(frozen=True, slots=True)
class ColumnBins:
    """One column's bins.

    A number has len(edges) + 1 bins, bin k holding edges[k-1] <= value < edges[k]; the first and last are the overflow
    and hold the infinities too. A category has a bin for each of `values` (rising) and a last one for all other values.
    """

    name: str
    kind: Literal["number", "category"]
    edges: tuple[float, ...] = ()  # strictly rising, finite
    values: tuple[float, ...] = ()  # strictly rising: the categories seen, as `record.category_code`

    def __post_init__(self) -> None:
        marks = self.edges if self.kind == "number" else self.values
        if not all(np.isfinite(marks)) or any(low >= high for low, high in pairwise(marks)):
            raise ValueError(f"the bins of {self.name!r} are not finite and rising: {marks}")

    @property
    def bins(self) -> int:
        return len(self.edges if self.kind == "number" else self.values) + 1


@dataclass(frozen=True)
class BinSet:
    """The bins of one side (inputs or outputs) of a version's rows, in column order. Compared by `digest`."""

    columns: tuple[ColumnBins, ...]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hex."""
        text = json.dumps(self.to_list(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def width(self) -> int:
        """Bins of the column that has most."""
        return max((column.bins for column in self.columns), default=1)

    def to_list(self) -> list[dict[str, Any]]:
        return [
            {"name": c.name, "kind": c.kind, "edges": list(c.edges), "values": list(c.values)} for c in self.columns
        ]

    @classmethod
    def from_list(cls, items: Sequence[Mapping[str, Any]]) -> BinSet:
        """Raises StateDamaged for what `to_list` never wrote."""
        try:
            return cls(
                tuple(
                    ColumnBins(str(i["name"]), i["kind"], tuple(map(float, i["edges"])), tuple(map(float, i["values"])))
                    for i in items
                )
            )
        except (KeyError, TypeError, ValueError) as error:
            raise StateDamaged(f"bins cannot be read: {error!r}") from None

    @classmethod
    def without_profile(cls, columns: Sequence[Column]) -> BinSet:
        """One bin a column: missing, infinite and moments are still counted."""
        return cls(tuple(ColumnBins(c.name, "category" if c.kind == "category" else "number") for c in columns))


@dataclass
class Counts:
    """What was counted of one side of some rows. Mutable; `add` and `merge` change it in place.

    Shapes: counts (C, width) int64, bins beyond a column's own stay 0; missing, infinite (C,) int64; mean, m2 (C,)
    float64 over the finite values: rows - missing - infinite. `infinite` values are also in the overflow bins.
    """

    bins: BinSet
    rows: int
    counts: NDArray[np.int64]
    missing: NDArray[np.int64]
    infinite: NDArray[np.int64]
    mean: NDArray[np.float64]
    m2: NDArray[np.float64]

    @classmethod
    def empty(cls, bins: BinSet) -> Counts:
        c = len(bins.columns)
        return cls(
            bins,
            0,
            np.zeros((c, bins.width), np.int64),
            np.zeros(c, np.int64),
            np.zeros(c, np.int64),
            np.zeros(c),
            np.zeros(c),
        )

    @property
    def finite(self) -> NDArray[np.int64]:
        """(C,): how many values the moments are of."""
        return self.rows - self.missing - self.infinite

    @property
    def sd(self) -> NDArray[np.float64]:
        """(C,): standard deviation of the finite values, NaN without any."""
        n = self.finite
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.sqrt(np.where(n > 0, self.m2 / n, np.nan))

    def of(self, column: int) -> NDArray[np.int64]:
        """The counts of one column's own bins."""
        return self.counts[column, : self.bins.columns[column].bins]

    def merge(self, other: Counts) -> Counts:
        """Add the other's counts to these. Raises ValueError under other edges. Moments by Chan, Golub and LeVeque."""
        if other.bins is not self.bins and other.bins.digest != self.bins.digest:
            raise ValueError("counts of different bins do not merge")
        n, m = self.finite, other.finite
        total = np.maximum(n + m, 1)
        delta = other.mean - self.mean
        self.mean += delta * (m / total)
        self.m2 += other.m2 + delta * delta * (n * (m / total))
        self.rows += other.rows
        self.counts += other.counts
        self.missing += other.missing
        self.infinite += other.infinite
        return self

    def copy(self) -> Counts:
        return Counts(
            self.bins,
            self.rows,
            self.counts.copy(),
            self.missing.copy(),
            self.infinite.copy(),
            self.mean.copy(),
            self.m2.copy(),
        )

    def to_dict(self) -> dict[str, Any]:
        """A JSON object that names the bins by digest; arrays are packed, as a wide model has 100,000 bins."""
        return {
            "bins": self.bins.digest,
            "rows": self.rows,
            "width": self.bins.width,
            **{name: _pack(getattr(self, name)) for name in ("counts", "missing", "infinite", "mean", "m2")},
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any], bins: BinSet) -> Counts:
        """Raises StateDamaged if it is not of these bins, or not what `to_dict` wrote."""
        try:
            if document["bins"] != bins.digest:
                raise StateDamaged("counts name other bins than expected")
            c = len(bins.columns)
            return cls(
                bins,
                int(document["rows"]),
                _unpack(document["counts"], "<i8").reshape(c, bins.width),
                _unpack(document["missing"], "<i8").reshape(c),
                _unpack(document["infinite"], "<i8").reshape(c),
                _unpack(document["mean"], "<f8").reshape(c),
                _unpack(document["m2"], "<f8").reshape(c),
            )
        except (KeyError, TypeError, ValueError, zlib.error) as error:
            raise StateDamaged(f"counts cannot be read: {error!r}") from None


def _pack(array: NDArray[Any]) -> str:
    return base64.b64encode(zlib.compress(array.tobytes(), 1)).decode()


def _unpack(text: str, dtype: str) -> NDArray[Any]:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype).copy()


class Counter:
    """The counting kernel for one set of bins and one dtype of block. Stateless.

    Each column is sorted once and its edges are looked up in it: exact, and faster than looking up each value
    (docs: 67 against 31 million values a second). Edges are rounded up to the block's dtype, which changes no bin.
    """

    def __init__(self, bins: BinSet, dtype: str) -> None:
        self.bins = bins
        self._dtype = np.dtype(dtype)
        top = np.finfo(self._dtype).max
        numbers = [at for at, column in enumerate(bins.columns) if column.kind == "number"]
        self._numbers = np.array(numbers, np.intp)
        most = max((len(bins.columns[at].edges) for at in numbers), default=0)
        # Values below each mark are counted: below -max lie the -infinities, below NaN all but the missing ones, and so
        # below what fills up the rows of columns with fewer edges.
        self._marks = np.full((len(numbers), most + 3), np.nan, self._dtype)
        self._marks[:, 0], self._marks[:, -2] = -top, np.inf
        for row, at in enumerate(numbers):
            edges = _round_up(bins.columns[at].edges, self._dtype)
            self._marks[row, 1 : len(edges) + 1] = edges
        self._categories = [
            (at, np.array(column.values, np.float64))
            for at, column in enumerate(bins.columns)
            if column.kind == "category"
        ]
        self._nan = np.array([np.nan], self._dtype)

    def add(self, into: Counts, block: NDArray[Any]) -> None:
        """Count a block of rows (n, C) into these counts."""
        if len(block):
            into.merge(self.count(block))

    def count(self, block: NDArray[Any]) -> Counts:
        """The counts of a block of rows (n, C), at least one."""
        n = len(block)
        columns = np.array(block.T, self._dtype, order="C")  # a copy in any case: it is sorted below
        part = Counts.empty(self.bins)
        part.rows = n
        self._moments(part, columns)
        columns.sort(axis=1)  # NaN sorts last
        if len(self._numbers):
            below = np.empty(self._marks.shape, np.int64)
            for row, at in enumerate(self._numbers.tolist()):
                below[row] = columns[at].searchsorted(self._marks[row])
            valid = below[:, -1]
            part.missing[self._numbers] = n - valid
            part.infinite[self._numbers] = below[:, 0] + valid - below[:, -2]
            ends = below[:, 1:-1]  # where each bin ends; the last one's end, +inf's mark, is that of all values
            ends[:, -1] = valid
            ends[:, 1:] -= ends[:, :-1].copy()
            part.counts[self._numbers, : ends.shape[1]] = ends
        for at, values in self._categories:
            column = columns[at]
            present = int(column.searchsorted(self._nan)[0])
            known = column.searchsorted(values, "right") - column.searchsorted(values, "left")
            part.missing[at] = n - present
            part.infinite[at] = int(np.isinf(column[:present]).sum())
            part.counts[at, : len(values)] = known
            part.counts[at, len(values)] = present - known.sum()
        return part

    @staticmethod
    def _moments(part: Counts, columns: NDArray[Any]) -> None:
        n = columns.shape[1]
        with np.errstate(invalid="ignore"):  # inf - inf
            sums = columns.sum(axis=1, dtype=np.float64)
        if np.isfinite(sums).all():
            np.divide(sums, n, out=part.mean)
            rest = columns - part.mean[:, None]
        else:
            good = np.isfinite(columns)
            kept = np.where(good, columns, 0).astype(np.float64)
            np.divide(kept.sum(axis=1), np.maximum(good.sum(axis=1), 1), out=part.mean)
            rest = np.where(good, kept - part.mean[:, None], 0.0)
        np.einsum("ij,ij->i", rest, rest, out=part.m2)


def _round_up(edges: Sequence[float], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The smallest numbers of dtype that are not below the edges: x < edge is the same as x < these, for x of dtype."""
    exact = np.array(edges, np.float64)
    with np.errstate(over="ignore"):
        rounded = exact.astype(dtype)
    low = rounded.astype(np.float64) < exact
    rounded[low] = np.nextafter(rounded[low], dtype.type(np.inf))
    return rounded

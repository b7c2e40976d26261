"""What a model was promised to see and say: the reference profile, fitted once from reference rows.

Why: drift, data quality and output limits are all judged against it, so its bins and counts are made by the very code
that counts live rows. Invariants: a profile is a pure function of schema and rows (no clock, no chance), so the same
reference gives the same bytes and digest; it never changes after the fit. Called at registration (fit), by the
controller (limits, bins) and by `monitor/drift.py`. Imports numpy and nothing slower.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitor.counts import BinSet, ColumnBins, Counter, Counts
from monitor.design_effect import design_effects
from monitor.record import Column, LogSchema
from registry.errors import StateDamaged
from registry.formats import check_stamp, stamped

BINS = 16  # equal shares of the reference, besides the two overflow bins
MOST_VALUES = 32  # a number with so few different values has a bin for each
MOST_CATEGORIES = 64  # the most frequent ones have a bin of their own, all others share one
WIDEN = 0.10  # of the range seen, either way, before an output is called out of range
_RUNS = 20.0  # a design effect above this deserves a warning


@dataclass(frozen=True, slots=True)
class ColumnProfile:
    """One column of the reference rows. low, high, mean, sd are of finite values, None when there were none.

    `complete` says that every category seen has a bin of its own, so another one is unseen. `deff` is the design
    effect: how many rows that come in runs say as much as one independent row.
    """

    bins: ColumnBins
    counts: tuple[int, ...]
    missing: int
    infinite: int
    low: float | None
    high: float | None
    mean: float | None
    sd: float | None
    complete: bool
    deff: float
    hashed: bool

    @property
    def name(self) -> str:
        return self.bins.name

    def limits(self) -> tuple[float, float] | None:
        """The range outside of which an output is bad; None where the reference says too little to tell."""
        if self.low is None or self.high is None or self.hashed:
            return None
        if self.bins.kind == "category":
            return self.low, self.high
        span = self.high - self.low
        return (self.low - WIDEN * span, self.high + WIDEN * span) if 0.0 < span < math.inf else None

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "kind": self.bins.kind,
            "edges": list(self.bins.edges),
            "values": list(self.bins.values),
            "counts": list(self.counts),
            "missing": self.missing,
            "infinite": self.infinite,
            "low": self.low,
            "high": self.high,
            "mean": self.mean,
            "sd": self.sd,
            "complete": self.complete,
            "deff": self.deff,
            "hashed": self.hashed,
        }

    @classmethod
    def from_dict(cls, item: Mapping[str, Any]) -> ColumnProfile:
        bins = BinSet.from_list([item]).columns[0]
        counts = tuple(int(count) for count in item["counts"])
        if len(counts) != bins.bins or min(counts) < 0:
            raise ValueError(f"{bins.name!r} has {len(counts)} counts for {bins.bins} bins")
        low, high, mean, sd = (None if item[k] is None else float(item[k]) for k in ("low", "high", "mean", "sd"))
        return cls(
            bins=bins,
            counts=counts,
            missing=int(item["missing"]),
            infinite=int(item["infinite"]),
            low=low,
            high=high,
            mean=mean,
            sd=sd,
            complete=bool(item["complete"]),
            deff=float(item["deff"]),
            hashed=bool(item["hashed"]),
        )


@dataclass(frozen=True)
class ReferenceProfile:
    """All columns of the reference rows, in the order of the version's log schema."""

    rows: int
    inputs: tuple[ColumnProfile, ...]
    outputs: tuple[ColumnProfile, ...]

    def to_bytes(self) -> bytes:
        """Canonical JSON, stamped."""
        body = {
            "rows": self.rows,
            "inputs": [column.to_dict() for column in self.inputs],
            "outputs": [column.to_dict() for column in self.outputs],
        }
        return json.dumps(stamped("profile", body), separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> ReferenceProfile:
        """Raises StateDamaged for what `to_bytes` never wrote, FormatTooNew for a newer release's."""
        try:
            document = json.loads(content)
        except ValueError as error:
            raise StateDamaged(f"a reference profile is not JSON: {error}") from None
        if not isinstance(document, dict):
            raise StateDamaged("a reference profile is not a JSON object")
        check_stamp("profile", document)
        try:
            sides = {side: tuple(map(ColumnProfile.from_dict, document[side])) for side in ("inputs", "outputs")}
            return cls(rows=int(document["rows"]), **sides)
        except (KeyError, TypeError, ValueError) as error:
            raise StateDamaged(f"a reference profile cannot be read: {error!r}") from None

    @cached_property
    def digest(self) -> str:
        """SHA-256 of its bytes, in hex: the name that every measurement carries."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @cached_property
    def _bins(self) -> tuple[BinSet, BinSet]:
        return BinSet(tuple(c.bins for c in self.inputs)), BinSet(tuple(c.bins for c in self.outputs))

    def input_bins(self) -> BinSet:
        """The bins that live inputs are counted into."""
        return self._bins[0]

    def output_bins(self) -> BinSet:
        """The bins that live outputs are counted into."""
        return self._bins[1]

    def output_limits(self) -> list[tuple[float, float] | None]:
        """Per logged output column: (low, high) outside of which a value is bad, or None for no opinion.

        The range seen, widened by a tenth of it either way; for integer classes the classes seen, from first to last.
        """
        return [column.limits() for column in self.outputs]

    def output_sds(self) -> list[float | None]:
        """Per logged output column: standard deviation of its finite values, None for categories and empty columns."""
        return [None if column.bins.kind == "category" else column.sd for column in self.outputs]

    def warnings(self) -> list[str]:
        """What the owner of the reference should know, in plain sentences."""
        said = []
        for column in (*self.inputs, *self.outputs):
            if self.rows and column.missing == self.rows:
                said.append(f"{column.name}: all reference values are missing, so only the missing share is watched")
            elif column.deff > _RUNS:
                said.append(
                    f"{column.name}: reference rows come in runs ({column.deff:.0f} rows say as much as one "
                    "independent row), so drift needs that many more rows to be seen; is the file sorted?"
                )
        return said


def fit(schema: LogSchema, features: NDArray[Any], outputs: NDArray[Any]) -> ReferenceProfile:
    """The profile of reference rows: features (n, F) and outputs (n, O), gathered by `schema`, in the file's order.

    Raises ValueError when the blocks are not of this schema or differ in rows.
    """
    if features.shape != (len(features), len(schema.inputs)) or outputs.shape != (len(features), len(schema.outputs)):
        raise ValueError(
            f"reference rows: got {features.shape} and {outputs.shape}, the schema has {len(schema.inputs)} inputs and "
            f"{len(schema.outputs)} outputs"
        )
    return ReferenceProfile(
        rows=len(features),
        inputs=_fit_side(schema.inputs, features, schema.input_dtype),
        outputs=_fit_side(schema.outputs, outputs, schema.output_dtype),
    )


def _fit_side(columns: Sequence[Column], block: NDArray[Any], dtype: str) -> tuple[ColumnProfile, ...]:
    block = np.asarray(block, dtype)
    found = [_bins_of(column, block[:, at]) for at, column in enumerate(columns)]
    bins = BinSet(tuple(column_bins for column_bins, _ in found))
    deffs = design_effects(bins, block)
    counts = Counts.empty(bins)
    counter = Counter(bins, dtype)
    for start in range(0, len(block), 65_536):
        counter.add(counts, block[start : start + 65_536].copy())  # the kernel may sort what it is given
    profiles = []
    for at, (column, (column_bins, complete)) in enumerate(zip(columns, found, strict=True)):
        finite = block[:, at][np.isfinite(block[:, at])]
        some = len(finite) > 0
        profiles.append(
            ColumnProfile(
                bins=column_bins,
                counts=tuple(int(count) for count in counts.of(at)),
                missing=int(counts.missing[at]),
                infinite=int(counts.infinite[at]),
                low=float(finite.min()) if some else None,
                high=float(finite.max()) if some else None,
                mean=_told(counts.mean[at]) if some else None,
                sd=_told(counts.sd[at]) if some else None,
                complete=complete,
                deff=deffs[at],
                hashed=column.hashed,
            )
        )
    return tuple(profiles)


def _told(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _bins_of(column: Column, values: NDArray[Any]) -> tuple[ColumnBins, bool]:
    """A column's bins, and whether they name every value seen."""
    finite = values[np.isfinite(values)]
    different, counts = np.unique(finite, return_counts=True)
    if column.kind == "category":
        complete = len(different) <= MOST_CATEGORIES
        kept = np.sort(different[np.argsort(-counts, kind="stable")[:MOST_CATEGORIES]])
        return ColumnBins(column.name, "category", values=tuple(map(float, kept))), complete
    return ColumnBins(column.name, "number", edges=_edges(finite, different, counts)), False


def _edges(finite: NDArray[Any], different: NDArray[Any], counts: NDArray[np.int64]) -> tuple[float, ...]:
    """Rising edges from the smallest value to just above the largest, so that what lies outside was never seen.

    A value with at least a bin's share of the rows has a bin of its own: quantiles alone would repeat such a value (or,
    made unique, hide it among its neighbours), and a constant that begins to move is the drift easiest to miss.
    """
    if len(different) == 0:
        return ()
    top = np.inf * np.ones((), finite.dtype)
    heavy = different if len(different) <= MOST_VALUES else different[counts * BINS >= len(finite)]
    marks = [different[:1], np.nextafter(different[-1:], top), heavy, np.nextafter(heavy, top)]
    if len(different) > MOST_VALUES:
        shares = np.linspace(0.0, 1.0, BINS + 1)[1:-1]
        marks.append(np.quantile(finite, shares, method="higher").astype(finite.dtype))
    elif len(different) > 1:
        # Between two values of few lies nothing: one edge is enough, and a new value there joins the one below it.
        marks = [different, np.nextafter(different[-1:], top)]
    edges = np.unique(np.concatenate(marks).astype(np.float64))
    return tuple(float(edge) for edge in edges[np.isfinite(edges)])

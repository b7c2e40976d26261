"""What a model was promised to see and say: the reference profile, fitted once from reference rows.

Why: drift, data quality and output limits are all judged against it, so its bins and counts are made by the very code
that counts live rows. Invariants: a profile is a pure function of schema, rows and what is said of them (no clock, no
chance), so the same reference gives the same bytes and digest; it never changes after the fit. Called at registration
and by `driftgate profile` (fit), by the controller (limits, bins), by `monitor/drift.py` and by the offline drift
report. Imports numpy and nothing slower.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitor.bins import BinSet, ColumnBins
from monitor.column_profile import ColumnProfile
from monitor.counts import CHUNK_ROWS, Counter, Counts
from monitor.design_effect import Dependence, dependences, places
from monitor.feature_bins import feature_bins
from monitor.record import Column, LogSchema
from monitor.reference_order import Order
from monitor.season import Season, fit_season
from monitor.threads import in_threads
from monitor.together import Together
from monitor.together_fit import fit_together
from registry.errors import StateDamaged
from registry.formats import check_stamp, stamped
from registry.vocabulary import FeatureType

__all__ = ["ColumnProfile", "Order", "ReferenceProfile", "fit"]

_RUNS = 20.0  # a design effect above this deserves a warning
_MOST_NAMED = 5  # columns in one warning


@dataclass(frozen=True)
class ReferenceProfile:
    """All columns of the reference rows, in the order of the version's log schema.

    `rows` are the inputs' rows; a column's own are `ColumnProfile.rows`, as the model may have been run on fewer.
    ordered: whether the rows were in the order of time, None where nobody said (and in what release 0.1 stored). Where
    it is not True, an independence that the rows show proves nothing, and a column's block_rows is None: how live rows
    depend on each other can only be learned from live tiles. since_s, until_s: the first and last moment, where known.
    together: how the inputs go together; None where that was not fitted, or in what an older release stored.
    """

    rows: int
    inputs: tuple[ColumnProfile, ...]
    outputs: tuple[ColumnProfile, ...]
    ordered: bool | None = None
    since_s: float | None = None
    until_s: float | None = None
    together: Together | None = field(default=None, compare=False)

    def to_bytes(self) -> bytes:
        """Canonical JSON, stamped."""
        body = {
            "rows": self.rows,
            "ordered": self.ordered,
            "since_s": self.since_s,
            "until_s": self.until_s,
            "inputs": [column.to_dict() for column in self.inputs],
            "outputs": [column.to_dict() for column in self.outputs],
        }
        if self.together is None:  # as older releases wrote it, so that its digest stays what it is
            return _dump(stamped("profile", body, 2))
        return _dump(stamped("profile", {**body, "together": self.together.to_dict()}))

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
            ordered = document.get("ordered")
            inputs, together = sides["inputs"], document.get("together")
            since_s, until_s = (None if document.get(k) is None else float(document[k]) for k in ("since_s", "until_s"))
            if ordered is not None and not isinstance(ordered, bool):
                raise ValueError(f"ordered is {ordered!r}")
            found = None if together is None else Together.from_dict(together, inputs)
            return cls(int(document["rows"]), inputs, sides["outputs"], ordered, since_s, until_s, found)
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
        columns = (*self.inputs, *self.outputs)
        said = [
            f"{column.name}: all reference values are missing, so only the missing share is watched"
            for column in columns
            if column.rows and column.missing == column.rows
        ]
        runs = [column for column in columns if column.deff > _RUNS and column.missing < column.rows]
        if runs:
            worst = max(runs, key=lambda column: column.deff)
            sorted_ = "" if self.ordered else "; is the file sorted?"
            said.append(
                f"{_named(runs)}: reference rows come in runs (up to {worst.deff:.0f} rows say as much as one "
                f"independent row), so drift needs that many more rows to be seen{sorted_}"
            )
        if self.rows and self.ordered is not True and any(column.block_rows is None for column in columns):
            why = "are not in the order of time" if self.ordered is False else "are not said to be in the order of time"
            said.append(
                f"the reference's rows {why}, so how rows depend on each other is unknown until live traffic shows it"
            )
        return said


def _dump(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()


_UNKNOWN = Order()
_TURNED, _STRIP_ROWS = 16, 512  # columns, rows: what one cache line holds, and rows that stay near


def _named(columns: Sequence[ColumnProfile]) -> str:
    more = f" and {len(columns) - _MOST_NAMED} more" if len(columns) > _MOST_NAMED else ""
    return ", ".join(column.name for column in columns[:_MOST_NAMED]) + more


def fit(
    schema: LogSchema,
    features: NDArray[Any],
    outputs: NDArray[Any],
    *,
    types: Mapping[str, FeatureType] | None = None,
    order: Order = _UNKNOWN,
    output_order: Order | None = None,
    together: bool = False,
) -> ReferenceProfile:
    """The profile of reference rows: features (n, F) and outputs (k, O), gathered by `schema`, in the file's order.

    types overrides what a column's type is found to be, by name. order tells what is known of the features' rows;
    output_order of the outputs' where those are other rows (the model may have been run on fewer). together: learn how
    the inputs go together, too, for the live monitor.
    Raises ValueError when the blocks are not of this schema.
    """
    if features.shape[1:] != (len(schema.inputs),) or outputs.shape[1:] != (len(schema.outputs),):
        raise ValueError(
            f"reference rows: got {features.shape} and {outputs.shape}, the schema has {len(schema.inputs)} inputs and "
            f"{len(schema.outputs)} outputs"
        )
    times = order.times_s
    some = times is not None and len(times) > 0
    types = types or {}
    inputs = _fit_side(schema.inputs, features, schema.input_dtype, types, order, True)
    return ReferenceProfile(
        rows=len(features),
        inputs=inputs,
        outputs=_fit_side(schema.outputs, outputs, schema.output_dtype, types, output_order or order, False),
        ordered=order.in_time,
        since_s=float(times.min()) if times is not None and some else None,
        until_s=float(times.max()) if times is not None and some else None,
        together=fit_together(inputs, features, order.in_time) if together else None,
    )


def _fit_side(
    columns: Sequence[Column],
    block: NDArray[Any],
    dtype: str,
    types: Mapping[str, FeatureType],
    order: Order,
    is_input: bool,
) -> tuple[ColumnProfile, ...]:
    block = np.asarray(block, dtype)
    pairs = zip(columns, _by_column(block), strict=True)
    found = list(in_threads(lambda pair: feature_bins(*pair, types.get(pair[0].name), is_input), pairs))
    bins = BinSet(tuple(feature.bins for feature in found))
    depends = _dependences(bins, block, order)
    counts = Counts.empty(bins)
    counter = Counter(bins, dtype)
    chunks = (block[row : row + CHUNK_ROWS] for row in range(0, len(block), CHUNK_ROWS))
    for part in in_threads(counter.count, chunks):
        counts.merge(part)
    profiles = []
    for at, (column, feature, dependence) in enumerate(zip(columns, found, depends, strict=True)):
        some = feature.low is not None
        profiles.append(
            ColumnProfile(
                bins=feature.bins,
                counts=tuple(int(count) for count in counts.of(at)),
                missing=int(counts.missing[at]),
                infinite=int(counts.infinite[at]),
                low=feature.low,
                high=feature.high,
                mean=_told(counts.mean[at]) if some else None,
                sd=_told(counts.sd[at]) if some else None,
                complete=feature.complete,
                deff=dependence.deff,
                hashed=column.hashed,
                type=feature.type,
                bin_deffs=dependence.bins,
                edge_deffs=dependence.edges,
                missing_deff=dependence.missing,
                block_rows=dependence.block_rows,
                levelled=dependence.levelled,
                season=_season(feature.bins, block[:, at], order),
            )
        )
    return tuple(profiles)


def _by_column(block: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Each column of a block (n, C), its values next to each other: a few are turned at a time, in strips of rows."""
    rows, width = block.shape
    if block.flags.f_contiguous:
        yield from block.T
        return
    for first in range(0, width, _TURNED):
        columns = np.empty((min(_TURNED, width - first), rows), block.dtype)
        for row in range(0, rows, _STRIP_ROWS):
            columns[:, row : row + _STRIP_ROWS] = block[row : row + _STRIP_ROWS, first : first + _TURNED].T
        yield from columns


def _dependences(bins: BinSet, block: NDArray[Any], order: Order) -> list[Dependence]:
    if order.in_time is False:
        return [Dependence.same(column, 1.0, None) for column in bins.columns]
    found = dependences(bins, block)
    if order.in_time is None:  # rows that look independent may have been shuffled
        return [replace(one, block_rows=None) if one.block_rows == 1 else one for one in found]
    return found


def _season(bins: ColumnBins, values: NDArray[Any], order: Order) -> Season | None:
    if order.times_s is None or len(order.times_s) != len(values):
        return None
    return fit_season(places(bins, values), bins.bins, order.times_s)


def _told(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None

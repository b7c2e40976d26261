"""Reads two tables, counts both in the same bins, and measures: the work behind `driftgate.drift.compare`.

Invariants: memory is bounded whatever the files hold (a reference that does not fit is read twice: a sample of its
rows tells types and edges, then all rows are counted; the current rows are only counted); every row of both files is
counted. Called by `driftgate/drift.py` alone.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from driftgate.drift_columns import Column, ColumnType, Seen, look, settle
from driftgate.drift_order import Order, order_of
from driftgate.drift_table import Progress, Source, read
from driftgate.drift_together import Depends, Together
from monitor.counts import Counter, Counts
from monitor.design_effect import Dependence, dependences, rows_looked_at
from monitor.profile import Order as RowOrder
from monitor.profile import ReferenceProfile, fit
from monitor.record import Column as Logged
from monitor.record import LogSchema
from registry.errors import ArtifactRejected
from registry.vocabulary import FeatureType

if TYPE_CHECKING:
    import pyarrow as pa

KEEP_BYTES = 512 << 20  # of reference rows held at once
SAMPLE_VALUES = 16_000_000  # of a reference that does not fit, evenly by chance
HEAD_ROWS = 200_000  # of the first rows: their types on the current side, their dependence on the reference's
_SEED = 20_13
_FEATURE_TYPES: Mapping[ColumnType, FeatureType] = {
    "number": "numeric",
    "integer": "integer",
    "boolean": "boolean",
    "category": "categorical",
    "date": "numeric",
    "text": "text_length",
}
_RUNS = 20.0  # a design effect above this deserves a note
_LOOKED_AT = 4096  # values of a column, to tell whether it has few
_TOLD_UNSEEN = 1000  # different new categories remembered for one column

Floats = NDArray[np.float64]


@dataclass(slots=True)
class Side:
    """What was counted of one table, all columns in order. unseen: new categories, by column, with their rows."""

    counts: Counts
    unreadable: NDArray[np.int64]
    unseen: dict[str, Tally[str]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return self.counts.rows


@dataclass(frozen=True, slots=True)
class Learned:
    """What the reference rows taught: the columns that are compared, their profile, and what the rows' order means."""

    columns: tuple[Column, ...]
    profile: ReferenceProfile
    order: Order
    unreadable: NDArray[np.int64]  # reference values, by column
    not_compared: Mapping[str, str]
    together: Together
    exact: frozenset[str]  # columns of so few values that each has a bin of its own
    sampled: bool  # edges come from a sample of the rows; the counts never do

    def notes(self) -> list[str]:
        """What the owner of the reference should know, in plain sentences."""
        said = []
        if self.profile.ordered is False and self.order.sorted_by is not None:
            said.append(
                f"The reference's rows are sorted by {self.order.sorted_by}, so their order says nothing about time: "
                "rows are taken for independent."
            )
        if self.sampled:
            said.append("The reference does not fit into memory: bins come from a sample of it, counts from all rows.")
        runs = sorted((column.deff, column.name) for column in self.profile.inputs if column.deff > _RUNS)[::-1]
        if runs:
            names = ", ".join(name for _, name in runs[:3]) + (f" and {len(runs) - 3} more" if len(runs) > 3 else "")
            said.append(
                f"Neighbouring rows resemble each other ({names}): up to {runs[0][0]:,.0f} rows say "
                "as much as one independent row, and limits are that much wider. If their order means nothing, say so "
                "(--independent-rows)."
            )
        return said


def learn(
    reference: Source,
    current: Source,
    names: Sequence[str],
    *,
    types: Mapping[str, str],
    codes: frozenset[str],
    independent: bool,
    clock: Column | None,
    progress: Progress,
) -> Learned:
    """Types, bins and counts of the reference. Raises ArtifactRejected if it has no rows.

    `clock` is the column by which rows are in the order of time: where the reference has it, its rows are put so.
    """
    timed = clock is not None and clock.name in reference.columns
    sample, head, complete = _sample(reference, [*names, *([clock.name] if clock and timed else [])], progress)
    if sample.num_rows == 0:
        raise ArtifactRejected(f"{reference.label}: has no rows")
    first = _head(current, [*names, *([clock.name] if clock else [])])
    columns: list[Column] = []
    not_compared: dict[str, str] = {}
    for at, name in enumerate(names):
        seen = Seen(None) if first is None else look(_joined(first, at), codes)
        column = settle(name, look(_joined(sample, at), codes), seen, types.get(name), codes)
        if isinstance(column, str):
            not_compared[name] = column
        else:
            columns.append(column)
    block, unreadable = _converted(sample, columns)
    times = _converted(sample, [clock])[0][0] if clock and timed else None
    in_time: bool | None = None
    if times is not None:
        in_time = complete or bool((times[1:] >= times[:-1]).all())  # a sample of rows out of order cannot be mended
        by_time = np.argsort(times, kind="stable")
        block, times = block[:, by_time], times[by_time]
    order = order_of(columns, block)
    kept = [at for at, column in enumerate(columns) if column.name not in order.counters or column.name in types]
    not_compared |= {name: why for name, why in order.counters.items() if name not in types}
    columns, block, unreadable = [columns[at] for at in kept], block[kept], unreadable[kept]
    if independent or (times is None and order.sorted_by is not None):
        in_time = False
    elif times is None and order.counters:
        in_time = True
    seconds = times if times is not None and clock and clock.type == "date" and in_time else None
    if seconds is not None and np.isnan(seconds).any():
        seconds = None
    kinds = {column.name: _FEATURE_TYPES[column.type] for column in columns}
    none = np.empty((block.shape[1], 0))
    profile = fit(_schema(columns), block.T, none, types=kinds, order=RowOrder(in_time, seconds))
    if not complete and in_time is not False:
        profile = _depending(profile, dependences(profile.input_bins(), _converted(head, columns)[0].T))
    rows = None if independent and clock is None else _in_order(first, columns, clock)
    if rows is not None:
        profile = _weakened(profile, rows)
    depends = [Depends(column.block_rows, column.levelled) for column in profile.inputs]
    together = Together(depends, block.shape[1] if complete else head.num_rows)
    if complete:
        together.see_reference(block)
    else:
        whole = count(reference, columns, profile, progress, "counting the reference", also=together.see_reference)
        profile, unreadable = _of_all_rows(profile, whole.counts), whole.unreadable
    few = frozenset(
        column.name
        for at, column in enumerate(columns)
        if column.kind == "number" and _is_exact(profile.inputs[at].bins.edges, block[at])
    )
    return Learned(tuple(columns), profile, order, unreadable, not_compared, together, few, not complete)


def _in_order(first: pa.Table | None, columns: Sequence[Column], clock: Column | None) -> Floats | None:
    """As many of the first current rows (C, n), in order, as tell how they depend; None where somebody sorted them."""
    if first is None:
        return None
    looked_at = rows_looked_at(first.num_rows, len(columns))
    if clock is not None:
        by_time = np.argsort(_converted(first, [clock])[0][0], kind="stable")[:looked_at]
        return _converted(first.take(by_time), columns)[0]
    rows, _ = _converted(first.slice(0, looked_at), columns)
    return rows if order_of(columns, rows).sorted_by is None else None


def _weakened(profile: ReferenceProfile, rows: Floats) -> ReferenceProfile:
    """A profile whose rows depend on each other at least as much as current rows (C, n) in their order do.

    A short reference, or one that was shuffled, cannot show by itself how long its rows depend.
    """
    from monitor.robust_dependence import at_least, robust_dependences  # it brings scipy

    return replace(profile, inputs=at_least(profile.inputs, robust_dependences(profile.input_bins(), rows.T)))


def _is_exact(edges: tuple[float, ...], values: Floats) -> bool:
    looked = values[:: max(len(values) // _LOOKED_AT, 1)]
    return len(edges) > 0 and bool(np.isin(looked[~np.isnan(looked)], edges[:-1]).all())


def count(
    source: Source,
    columns: Sequence[Column],
    profile: ReferenceProfile,
    progress: Progress,
    what: str,
    also: Callable[[Floats], None] | None = None,
) -> Side:
    """All rows of a table in the profile's bins, one batch in memory at a time. `also` gets each batch (C, n)."""
    bins = profile.input_bins()
    counter = Counter(bins, "f8")
    side = Side(Counts.empty(bins), np.zeros(len(columns), np.int64))
    known = {
        column.name: np.array(mine.bins.values)
        for column, mine in zip(columns, profile.inputs, strict=True)
        if column.type == "category" and mine.complete
    }
    for batch in read(source, [column.name for column in columns], what, progress):
        if not batch.num_rows:
            continue
        block = np.empty((len(columns), batch.num_rows))
        for at, column in enumerate(columns):
            part = column.convert(batch.column(at))
            block[at] = part.values
            side.unreadable[at] += part.unreadable
            if column.name in known:
                _tally_unseen(side, column, part.values, known[column.name])
        counter.add(side.counts, block.T)
        if also is not None:
            also(block)
    return side


def _tally_unseen(side: Side, column: Column, values: Floats, known: NDArray[np.float64]) -> None:
    new = values[~np.isin(values, known) & ~np.isnan(values)]
    if not len(new):
        return
    tally = side.unseen.setdefault(column.name, Tally())
    for code, rows in zip(*np.unique(new, return_counts=True), strict=True):
        label = column.name_of(float(code))
        if label in tally or len(tally) < _TOLD_UNSEEN:
            tally[label] += int(rows)


# -- the reference's rows in memory --------------------------------------------------------------------------------


def _sample(source: Source, names: Sequence[str], progress: Progress) -> tuple[pa.Table, pa.Table, bool]:
    """The rows that teach: all if they fit, else as many as do, evenly by chance, in order. Also the first rows."""
    import pyarrow as pa

    limit = max(SAMPLE_VALUES // len(names), 1000)
    chance = np.random.default_rng(_SEED)
    kept: list[pa.RecordBatch] = []
    keys: list[Floats] = []
    head: list[pa.RecordBatch] = []
    held = head_rows = 0
    complete = True
    for batch in read(source, names, "reading the reference", progress):
        if head_rows < min(HEAD_ROWS, limit):
            head.append(batch)
            head_rows += batch.num_rows
        kept.append(batch)
        keys.append(chance.random(batch.num_rows))
        held += batch.nbytes
        if held > KEEP_BYTES:
            complete = False
            kept, keys = _thinned(kept, keys, limit)
            held = sum(part.nbytes for part in kept)
    if not kept:
        raise ArtifactRejected(f"{source.label}: has no rows")
    return pa.Table.from_batches(kept), pa.Table.from_batches(head), complete


def _thinned(kept: list[pa.RecordBatch], keys: list[Floats], limit: int) -> tuple[list[pa.RecordBatch], list[Floats]]:
    """The `limit` rows with the smallest keys: every row read so far is as likely as any other."""
    import pyarrow as pa

    key = np.concatenate(keys)
    chosen = np.sort(np.argpartition(key, limit - 1)[:limit]) if len(key) > limit else np.arange(len(key))
    table = pa.Table.from_batches(kept).take(pa.array(chosen)).combine_chunks()
    return table.to_batches(), [key[chosen]]


def _head(source: Source, names: Sequence[str]) -> pa.Table | None:
    import pyarrow as pa

    parts, rows = [], 0
    for batch in read(source, names, "reading the current rows", lambda what, share: None):
        parts.append(batch)
        rows += batch.num_rows
        if rows >= HEAD_ROWS:
            break
    return pa.Table.from_batches(parts) if rows else None


def _joined(table: pa.Table, at: int) -> pa.Array:
    import pyarrow as pa

    column = table.column(at).combine_chunks()
    return pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column


def _converted(table: pa.Table, columns: Sequence[Column]) -> tuple[Floats, NDArray[np.int64]]:
    block = np.empty((len(columns), table.num_rows))
    unreadable = np.zeros(len(columns), np.int64)
    for at, column in enumerate(columns):
        start = 0
        for chunk in table.column(column.name).chunks:
            part = column.convert(chunk)
            block[at, start : start + len(chunk)] = part.values
            unreadable[at] += part.unreadable
            start += len(chunk)
    return block, unreadable


def _schema(columns: Sequence[Column]) -> LogSchema:
    logged = tuple(
        Logged(column.name, column.name, column.kind, 0, hashed=column.type == "category") for column in columns
    )
    return LogSchema(by_rows=True, inputs=logged, outputs=(), input_dtype="f8", output_dtype="f8")


def _depending(profile: ReferenceProfile, depends: Sequence[Dependence]) -> ReferenceProfile:
    """A profile of a sample, with the dependence of the first rows: a sample has no neighbours."""
    columns = [
        replace(
            column,
            deff=found.deff,
            bin_deffs=found.bins,
            edge_deffs=found.edges,
            missing_deff=found.missing,
            block_rows=found.block_rows,
            levelled=found.levelled,
        )
        for column, found in zip(profile.inputs, depends, strict=True)
    ]
    return replace(profile, inputs=tuple(columns))


def _of_all_rows(profile: ReferenceProfile, counts: Counts) -> ReferenceProfile:
    """A profile whose edges a sample gave, with the counts of all rows."""
    columns = []
    for at, column in enumerate(profile.inputs):
        some = counts.finite[at] > 0
        column = replace(
            column,
            counts=tuple(map(int, counts.of(at))),
            missing=int(counts.missing[at]),
            infinite=int(counts.infinite[at]),
            mean=float(counts.mean[at]) if some else None,
            sd=float(counts.sd[at]) if some else None,
        )
        columns.append(column)
    return replace(profile, rows=counts.rows, inputs=tuple(columns))

"""Reads two tables, counts both in the same bins, and measures: the work behind `driftgate.drift.compare`.

Invariants: memory is bounded whatever the files hold (a reference that does not fit is read twice: a sample of its
rows tells types and edges, then all rows are counted; the current rows are only counted); every row of both files is
counted. Called by `driftgate/drift.py` alone.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from driftgate.drift_clock import Clocks, check_times
from driftgate.drift_codes import suspect_code
from driftgate.drift_columns import Column, ColumnType, Seen, look, settle
from driftgate.drift_groups import come_again, groups_of, is_clustered, is_listed, sizes_within
from driftgate.drift_order import Order, goes_on, order_of
from driftgate.drift_table import Progress, Rows, Source, read
from driftgate.drift_together import Depends, Together
from monitor.arrow import plain, storage_of
from monitor.counts import CHUNK_ROWS, Counter, Counts
from monitor.design_effect import Dependence, dependences, dependences_within, rows_looked_at
from monitor.profile import Order as RowOrder
from monitor.profile import ReferenceProfile, fit
from monitor.record import Column as Logged
from monitor.record import LogSchema
from monitor.threads import in_threads
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
_RELEASE_COLUMNS = 8  # whose memory Arrow would keep for itself
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
    is_listed: bool  # rows are in groups, and each group's in the order of time
    sampled: bool  # edges come from a sample of the rows; the counts never do

    def notes(self) -> list[str]:
        """What the owner of the reference should know, in plain sentences."""
        said = []
        if self.profile.ordered is False and self.order.sorted_by is not None:
            what = (
                "rows are taken for independent."
                if not self.is_listed
                else "how they depend is told within its values."
            )
            said.append(
                f"The reference's rows are sorted by {self.order.sorted_by}, so their order says nothing about time: "
                + what
            )
        for column, profile in zip(self.columns, self.profile.inputs, strict=True):
            if column.words:
                words = ", ".join(f"“{word}” ({share:.1%})" for word, share in column.words)
                said.append(f"{column.name}: {words} among its reference values are no numbers and count as missing.")
            code = None if column.type not in ("number", "integer") else suspect_code(profile)
            if code is not None:
                said.append(
                    f"{column.name}: {code.share:.1%} of the reference values are {code.value:g}, far from all others. "
                    f"If that means missing, say --missing {code.value:g}."
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
    current: Rows,
    names: Sequence[str],
    *,
    types: Mapping[str, str],
    codes: frozenset[str],
    date_format: str | None,
    independent: bool,
    clocks: Clocks | None,
    progress: Progress,
) -> Learned:
    """Types, bins and counts of the reference. Raises ArtifactRejected if it has no rows, MalformedRequest where one of
    them has no time.

    `clocks` tell the time: where the reference has one, its rows are put in that order.
    """
    import pyarrow as pa

    clock = clocks.reference if clocks else None
    sample, head, complete = _sample(reference, [*names, *([clock.name] if clock else [])], progress)
    if sample.num_rows == 0:
        raise ArtifactRejected(f"{reference.label}: has no rows")
    times = None if clock is None else _converted(sample, [clock])[0][0]
    if clock is not None and times is not None:
        check_times(times, reference.name, clock)
    first, rows, head_size = current.first(), sample.num_rows, head.num_rows
    arrays = [sample.column(at) for at in range(len(names))]
    del sample  # so that each column's memory is given back as soon as it has been converted
    if complete:
        head = head.slice(0, 0)

    def seen(at: int) -> tuple[Seen, Seen]:
        arrays[at] = _joined(arrays[at])
        now = Seen(None) if first is None else look(_joined(first.column(at)), codes, date_format)
        return look(arrays[at], codes, date_format), now

    columns: list[Column] = []
    not_compared: dict[str, str] = {}
    chosen: list[pa.Array] = []
    for name, both, array in zip(names, in_threads(seen, range(len(names))), arrays, strict=True):
        column = settle(name, *both, types.get(name), codes)
        if isinstance(column, str):
            not_compared[name] = column
        else:
            columns.append(column)
            chosen.append(array)
    arrays.clear()
    block = np.empty((len(columns), rows))
    unreadable = np.zeros(len(columns), np.int64)
    for at, column in enumerate(columns):
        part = column.convert(chosen[at])
        block[at], unreadable[at], chosen[at] = part.values, part.unreadable, None
        if at % _RELEASE_COLUMNS == 0:
            pa.default_memory_pool().release_unused()
    in_time: bool | None = None
    if times is not None:
        in_time = complete or bool((times[1:] >= times[:-1]).all())  # a sample of rows out of order cannot be mended
        if not (times[1:] >= times[:-1]).all():
            by_time = np.argsort(times, kind="stable")
            times = times[by_time]
            for values in block:
                values[:] = values[by_time]
    order = order_of(columns, block)
    within = None
    if times is None and complete and not independent and first is not None:
        order = _grouped(order, columns, block, first)
        places = [at for at, column in enumerate(columns) if column.name == order.sorted_by]
        within = sizes_within(columns, block, places[0]) if places else None
    clocks_told = order.counters | ({} if first is None else _later(columns, block, first))
    kept = [at for at, column in enumerate(columns) if column.name not in clocks_told or column.name in types]
    not_compared |= {name: why for name, why in clocks_told.items() if name not in types}
    if len(kept) < len(columns):
        columns, block, unreadable = [columns[at] for at in kept], block[kept], unreadable[kept]
    if independent or (times is None and order.sorted_by is not None):
        in_time = False
    elif times is None and order.counters:
        in_time = True
    moments = times if clock and clock.type == "date" and in_time else None
    kinds = {column.name: _FEATURE_TYPES[column.type] for column in columns}
    none = np.empty((block.shape[1], 0))
    profile = fit(_schema(columns), block.T, none, types=kinds, order=RowOrder(in_time, moments))
    if not complete and in_time is not False:
        profile = _depending(profile, dependences(profile.input_bins(), _converted(head, columns)[0].T))
    if within is not None:
        profile = _depending(profile, dependences_within(profile.input_bins(), block.T, within))
    ordered = None
    if not independent or clocks is not None:
        ordered = _in_order(first, columns, clocks.current if clocks else None, order.sorted_by)
    if ordered is not None:
        profile = _weakened(profile, ordered)
    depends = [Depends(column.block_rows, column.levelled) for column in profile.inputs]
    together = Together(depends, block.shape[1] if complete else head_size)
    if complete:
        together.see_reference(block)
    else:
        again = read(reference, [column.name for column in columns], "counting the reference", progress)
        whole = count(again, columns, profile, also=together.see_reference)
        profile, unreadable = _of_all_rows(profile, whole.counts), whole.unreadable
    few = frozenset(
        column.name
        for at, column in enumerate(columns)
        if column.kind == "number" and _is_exact(profile.inputs[at].bins.edges, block[at])
    )
    return Learned(
        tuple(columns), profile, order, unreadable, not_compared, together, few, within is not None, not complete
    )


def _grouped(order: Order, columns: Sequence[Column], block: Floats, first: pa.Table) -> Order:
    """What the rows' order means once the current rows are known: whether groups come again there."""
    if order.recorded:
        return order
    for column, values in zip(columns, block, strict=True):
        is_sorted = column.name == order.sorted_by
        if (is_sorted and is_clustered(values)) or (order.sorted_by is None and is_listed(values)):
            again = come_again(values, _converted(first, [column])[0][0])
            if again is not None and again is not is_sorted:
                return replace(order, sorted_by=column.name if again else None)
    return order


def _later(columns: Sequence[Column], block: Floats, first: pa.Table) -> dict[str, str]:
    """The columns of dates that only tell that the current rows came after the reference's, with the reason."""
    dates = [(at, column) for at, column in enumerate(columns) if column.type in ("date", "integer")]
    found = {column.name: goes_on(column, block[at], _converted(first, [column])[0][0]) for at, column in dates}
    return {name: why for name, why in found.items() if why}


def _in_order(
    first: pa.Table | None, columns: Sequence[Column], clock: Column | None, listed_by: str | None
) -> Floats | None:
    """As many of the first current rows (C, n), in order, as tell how they depend; None where somebody sorted them.

    listed_by: the column by whose values the reference's rows are grouped.
    """
    if first is None:
        return None
    looked_at = rows_looked_at(first.num_rows, len(columns))
    if clock is not None:
        by_time = np.argsort(_converted(first, [clock])[0][0], kind="stable")[:looked_at]
        return _converted(first.take(by_time), columns)[0]
    rows, _ = _converted(first.slice(0, looked_at), columns)
    names = [column.name for column in columns]
    is_listed_so = listed_by in names and groups_of(rows[names.index(listed_by)], 1) is not None
    return None if is_listed_so or order_of(columns, rows).sorted_by is not None else rows


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
    batches: Iterable[pa.RecordBatch],
    columns: Sequence[Column],
    profile: ReferenceProfile,
    also: Callable[[Floats], None] | None = None,
) -> Side:
    """All rows of a table in the profile's bins, few batches in memory at a time. `also` gets each batch (C, n)."""
    bins = profile.input_bins()
    counter = Counter(bins, "f8")
    side = Side(Counts.empty(bins), np.zeros(len(columns), np.int64))
    known = {
        column.name: np.array(mine.bins.values)
        for column, mine in zip(columns, profile.inputs, strict=True)
        if column.type == "category" and mine.complete
    }

    def chunks() -> Iterator[Floats]:
        for batch in batches:
            if not batch.num_rows:
                continue
            block = np.empty((len(columns), batch.num_rows))
            for at, column in enumerate(columns):
                part = column.convert(batch.column(at))
                block[at] = part.values
                side.unreadable[at] += part.unreadable
                if column.name in known:
                    _tally_unseen(side, column, part.values, known[column.name])
            if also is not None:
                also(block)
            for row in range(0, batch.num_rows, CHUNK_ROWS):
                yield block[:, row : row + CHUNK_ROWS].T

    for part in in_threads(counter.count, chunks()):
        side.counts.merge(part)
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


def head_rows(columns: int) -> int:
    """How many of the current rows are looked at before any is counted.

    >>> head_rows(10), head_rows(10_000)
    (200000, 1600)
    """
    return min(HEAD_ROWS, max(SAMPLE_VALUES // max(columns, 1), 1000))


def _joined(column: pa.ChunkedArray) -> pa.Array:
    """As one array, each different text once."""
    import pyarrow as pa

    array = column.combine_chunks()
    array = plain(pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array)
    is_plain_text = storage_of(array.type) == "text" and not pa.types.is_dictionary(array.type)
    return array.dictionary_encode() if is_plain_text else array


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

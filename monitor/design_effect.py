"""How rows that follow each other depend, found in the reference rows themselves: design effects and a tile's length.

Why: autocorrelated rows (a price every half hour) make any test that takes them for independent alarm all the time.
For each event (a value in this bin, below this edge, missing) the variance of its count in blocks of neighbouring
rows is compared with that of independent rows, at growing block lengths: the variance of the moving-block bootstrap of
the event's share in closed form (Künsch 1989, section 3), so nothing is drawn. Invariants: pure; 1.0 unless the excess
is beyond doubt. Called by the profile's fit. A design effect is the number of rows that say as much as one independent
row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from monitor.bins import BinSet, ColumnBins
from monitor.threads import in_threads

BASE = 8  # rows of the shortest block
_LEAST_BLOCKS = 12  # apart from each other, of the longest
_LEAST_IN_GROUP = 3  # blocks, of rows that are listed in groups
_DOUBT = 5.0  # standard errors, of the logarithm, that an excess must have
MARGIN = 1.3  # the estimate itself is uncertain: simulated false alarms were right with this
_LEVEL = 1.15  # variance that grows by no more than this (and noise) with the block's length has levelled off
_FURTHER = 2  # doublings that must have been seen to add no more
_LEAST_EVENTS = 10.0  # an event (or its opposite) seen less often says nothing of runs
_MOST_VALUES = 5_000_000  # values looked at, over all columns
_MOST_ROWS = 200_000
_EIGHT = np.dtype(np.uint64)  # BASE truth values next to each other, one byte each: counting its bits counts them


@dataclass(frozen=True, slots=True)
class Dependence:
    """How one column's rows depend on their neighbours.

    deff is the column's own, for statistics of all its bins together. bins (B,) and edges (B - 1,) are those of the
    events "in bin k" and "in a bin up to k"; edges is empty for categories. block_rows is how long a tile must be for
    the next one to be as good as independent: 1 for independent rows, None where nothing could be found out. It is a
    lower bound where the variance was still growing at the longest block that the rows allow: levelled is False then.
    """

    deff: float
    bins: tuple[float, ...]
    edges: tuple[float, ...]
    missing: float
    block_rows: int | None
    levelled: bool = True

    @classmethod
    def same(cls, column: ColumnBins, deff: float, block_rows: int | None) -> Dependence:
        """One design effect for every event."""
        edges = column.bins - 1 if column.kind == "number" else 0
        return cls(deff, (deff,) * column.bins, (deff,) * edges, deff, block_rows)


def dependences(bins: BinSet, block: NDArray[np.floating]) -> list[Dependence]:
    """Per column of block (n, C), rows in the order in which they happened."""
    rows = rows_looked_at(*block.shape)
    return list(in_threads(lambda at: _dependence(bins.columns[at], block[:rows, at]), range(len(bins.columns))))


def dependences_within(bins: BinSet, block: NDArray[np.floating], sizes: NDArray[np.intp]) -> list[Dependence]:
    """The same of rows (n, C) that are listed in groups of these sizes (G,), each in the order in which it happened.

    About each group's own share: groups that are the same on every day, such as shops, say nothing by differing.
    """
    rows = rows_looked_at(*block.shape)
    sizes = np.diff(np.minimum(np.cumsum(sizes), rows), prepend=0)
    blocks = sizes // BASE
    starts = np.cumsum(sizes) - sizes
    place = np.arange(int(blocks.sum()) * BASE) + np.repeat(starts - (np.cumsum(blocks) - blocks) * BASE, blocks * BASE)
    return list(
        in_threads(lambda at: _dependence_within(bins.columns[at], block[place, at], blocks), range(len(bins.columns)))
    )


def _dependence_within(column: ColumnBins, values: NDArray[np.floating], blocks: NDArray[np.intp]) -> Dependence:
    sums = event_counts(column, values)
    rows = float(len(values))
    lengths, kept, ratios = [], [], []
    ends = np.cumsum(blocks)
    share = sums[:, -1] / max(rows, 1.0)
    seen = _is_seen(share, rows)
    for length in (1 << power for power in range(40)):
        groups = np.flatnonzero(blocks >= _LEAST_IN_GROUP * length)
        parts = blocks[groups] // length
        if parts.sum() < _LEAST_BLOCKS:
            break
        first = np.repeat(ends[groups] - blocks[groups], parts)
        first += (np.arange(len(first)) - np.repeat(np.cumsum(parts) - parts, parts)) * length
        own = (sums[:, ends[groups]] - sums[:, ends[groups] - blocks[groups]]) / (blocks[groups] * float(BASE))
        rest = sums[:, first + length] - sums[:, first] - np.repeat(own, parts, axis=1) * (length * BASE)
        # About its own mean a group varies less than about the true one, by a block's share of it.
        free = (parts * (1.0 - length / blocks[groups])).sum() * length * BASE
        ratios.append(
            np.where(seen, (rest * rest).sum(axis=1) / np.where(seen, free * share * (1.0 - share), 1.0), 1.0)
        )
        lengths.append(length)
        kept.append(parts.sum())
    if not lengths:
        return Dependence.same(column, 1.0, None)
    return _judged(column, np.array(ratios), seen, lengths, np.array(kept, np.float64), BASE)


def rows_looked_at(rows: int, columns: int) -> int:
    """How many of so many rows are looked at: as many as take a moment."""
    return min(rows, _MOST_ROWS, max(_MOST_VALUES // max(columns, 1), 4096))


def design_effects(bins: BinSet, block: NDArray[np.floating]) -> list[float]:
    """Each column's own design effect alone."""
    return [found.deff for found in dependences(bins, block)]


def _dependence(column: ColumnBins, values: NDArray[np.floating]) -> Dependence:
    return dependence_of_sums(column, event_counts(column, values[: len(values) // BASE * BASE]))


def dependence_of_sums(column: ColumnBins, sums: NDArray[np.float64]) -> Dependence:
    """The same where events were counted already: as `event_counts` tells them."""
    blocks = sums.shape[1] - 1
    if blocks < 2 * _LEAST_BLOCKS:
        return Dependence.same(column, 1.0, None)
    share = sums[:, -1] / (blocks * BASE)
    seen = _is_seen(share, blocks * BASE)
    lengths = block_lengths(blocks)
    ratios = np.ones((len(lengths), len(share)))
    if not seen.all():
        sums = sums[seen]
    known = share[seen]
    for row, length in enumerate(lengths):
        ratios[row, seen] = _variance_ratio(sums, known, length, blocks)
    return _judged(column, ratios, seen, lengths, _kept(blocks, lengths), BASE)


def dependence_of_tiles(column: ColumnBins, counts: NDArray[np.int64], missing: NDArray[np.int64]) -> Dependence:
    """The same from tiles that follow each other: counts (T, B) of the column's bins, missing (T,).

    A tile stands for a block, so nothing is told of shorter ones; tiles may differ in rows.
    """
    events = np.column_stack([counts, missing]).astype(np.float64)
    rows = events.sum(axis=1)
    events, rows = events[rows > 0], rows[rows > 0]
    if column.kind == "number":
        events = np.concatenate([events, np.cumsum(events[:, : column.bins - 1], axis=1)], axis=1)
    if len(rows) < 2 * _LEAST_BLOCKS:
        return Dependence.same(column, 1.0, None)
    share = events.sum(axis=0) / rows.sum()
    seen = _is_seen(share, float(rows.sum()))
    lengths = block_lengths(len(rows))
    ratios = np.ones((len(lengths), len(share)))
    for at, length in enumerate(lengths):
        starts = np.arange(0, len(rows) // length * length, length)
        n, got = np.add.reduceat(rows, starts), np.add.reduceat(events[:, seen], starts)
        rest = got - n[:, None] * share[seen]
        independent = n.sum() * share[seen] * (1.0 - share[seen])
        ratios[at, seen] = (rest * rest).sum(axis=0) / independent * len(starts) / (len(starts) - 1.0)
    return _judged(column, ratios, seen, lengths, _kept(len(rows), lengths), max(int(rows.mean()), 1))


def _kept(blocks: int, lengths: list[int]) -> NDArray[np.float64]:
    return np.array([blocks // length for length in lengths], np.float64)


def _is_seen(share: NDArray[np.float64], rows: float) -> NDArray[np.bool_]:
    return (share * rows >= _LEAST_EVENTS) & ((1.0 - share) * rows >= _LEAST_EVENTS)


def block_lengths(blocks: int) -> list[int]:
    """Blocks joined to one, doubling; the longest leaves _LEAST_BLOCKS."""
    return [1 << power for power in range(40) if blocks >= _LEAST_BLOCKS << power]


def _judged(
    column: ColumnBins,
    ratios: NDArray[np.float64],
    seen: NDArray[np.bool_],
    lengths: list[int],
    kept: NDArray[np.float64],
    block_rows: int,
) -> Dependence:
    """What variance ratios (lengths, events), each of so many blocks, come to; events: bins, missing, and edges."""
    if not seen.any():
        return Dependence.same(column, 1.0, 1)
    is_bin = np.arange(ratios.shape[1]) <= column.bins
    groups = [seen & is_bin, seen & ~is_bin]
    means = np.max([ratios[:, group].mean(axis=1) for group in groups if group.any()], axis=0)
    sure = means * np.exp(-_DOUBT * np.sqrt(2.0 / (kept - 1.0))) > 1.0
    if not sure.any():
        return Dependence.same(column, 1.0, 1)
    at, levelled = _level(means, kept)
    longer = slice(at, at + _FURTHER + 1)
    # An event's own ratio is noisy where blocks are few: it is drawn towards the column's mean.
    weight = kept[at] / (kept[at] + 8.0)
    events = ratios[longer].max(axis=0)
    typical = float(means[longer].max())
    events = np.where(seen, weight * events + (1.0 - weight) * typical, typical)
    events = np.round(np.maximum(events * MARGIN, 1.0), 3)
    deff = round(max(1.0, MARGIN * float(means[sure].max())), 3)
    b = column.bins
    return Dependence(
        deff,
        tuple(events[:b].tolist()),
        tuple(events[b + 1 :].tolist()),
        float(events[b]),
        2 * lengths[at] * block_rows,
        levelled,
    )


def places(column: ColumnBins, values: NDArray[np.floating]) -> NDArray[np.intp]:
    """(n,): each value's bin; a missing one's is column.bins."""
    marks = np.array(column.edges if column.kind == "number" else column.values, np.float64)
    place = np.searchsorted(marks, values, side="right")
    if column.kind == "category":
        known = (place > 0) & (marks[np.maximum(place - 1, 0)] == values) if len(marks) else np.zeros(len(values), bool)
        place = np.where(known, place - 1, len(marks))
    return np.where(np.isnan(values), column.bins, place)


def event_counts(column: ColumnBins, values: NDArray[np.floating]) -> NDArray[np.float64]:
    """(events, blocks + 1): how often each event was seen before each block of BASE rows. Bins, missing, edges."""
    blocks = len(values) // BASE
    values = np.ascontiguousarray(values[: blocks * BASE], np.float64)
    b = column.bins
    sums = np.zeros((b + 1 + (b - 1 if column.kind == "number" else 0), blocks + 1))

    def tell(at: int, happened: NDArray[np.bool_]) -> None:
        np.cumsum(np.bitwise_count(happened.view(_EIGHT)), out=sums[at, 1:])

    tell(b, np.isnan(values))
    rest = np.arange(blocks + 1) * float(BASE) - sums[b]  # in the last bin is what is in no other
    if column.kind == "category":
        for at, value in enumerate(column.values):
            tell(at, values == value)
            rest -= sums[at]
        sums[b - 1] = rest
        return sums
    below = sums[b + 1 :]
    for at, edge in enumerate(column.edges):
        tell(b + 1 + at, values < edge)
    sums[: b - 1] = below
    sums[b - 1] = rest
    sums[1:b] -= below
    return sums


def _variance_ratio(
    sums: NDArray[np.float64], share: NDArray[np.float64], length: int, blocks: int
) -> NDArray[np.float64]:
    """Per event: the variance of its count in all overlapping blocks over that of independent rows."""
    step = max(1, length // 4)
    rows = length * BASE
    rest = sums[:, length::step] - sums[:, : blocks + 1 - length : step]
    rest -= (rows * share)[:, None]
    # About the mean of these very rows a block varies less than about the true one, by its share of them.
    ratio: NDArray[np.float64] = np.einsum("ij,ij->i", rest, rest) / rest.shape[1] / (1.0 - length / blocks)
    return ratio / (rows * share * (1.0 - share))


def _level(means: NDArray[np.float64], kept: NDArray[np.float64]) -> tuple[int, bool]:
    """The first length after which the variance grows no more, and whether there is one; else the longest."""
    allowed = _LEVEL * np.exp(np.sqrt(2.0 / kept))
    for at in range(len(means) - _FURTHER):
        if bool((means[at + 1 :] <= allowed[at + 1 :] * means[at]).all()):
            return at, True
    return len(means) - 1, False

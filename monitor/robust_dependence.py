"""How rows depend on their neighbours where they may also have drifted: the rows that a reference is compared with.

Why: a reference may be too short to show how long its rows depend, or its order may be lost (shuffled for training);
the other rows then have to tell, and a shift among them must not pass for dependence. Invariants: pure; 1.0 unless the
excess is beyond doubt; one step among the rows changes nothing, a slow trend little. What is found weakens evidence
alone (`at_least`), so it costs power and never raises an alarm. Called by the offline comparison.

The measure is that of `monitor/dependence.py`: for an event, the difference of its counts in two neighbouring blocks,
in the unit of independent rows, at growing block lengths (Allan's variance); its median, which a step does not move.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from monitor.bins import BinSet, ColumnBins
from monitor.column_profile import ColumnProfile
from monitor.dependence import LEAST_EXPECTED, MEAN_SIZE, MEDIAN_NOISE
from monitor.design_effect import BASE, MARGIN, block_lengths, event_counts, rows_looked_at
from monitor.threads import in_threads

Floats = NDArray[np.float64]
_DOUBT = 3.0  # standard errors that an excess must have: what is taken for dependence by mistake costs little
_LEAST_PAIRS, _MOST_PAIRS = 6, 128  # of neighbours looked at, of each length


@dataclass(frozen=True, slots=True)
class RobustDependence:
    """Rows that say as much as one independent row, for values and for missing ones; the length of a tile.

    block_rows: as `ColumnProfile.block_rows`, 1 for independent rows and None for too few; a lower bound where
    `levelled` is False.
    """

    deff: float = 1.0
    missing: float = 1.0
    block_rows: int | None = None
    levelled: bool = True


def robust_dependences(bins: BinSet, block: NDArray[np.floating]) -> list[RobustDependence]:
    """Per column of block (n, C), rows in the order in which they happened, drifted or not."""
    rows = rows_looked_at(*block.shape)
    return list(in_threads(lambda at: _found(bins.columns[at], block[:rows, at]), range(len(bins.columns))))


def at_least(columns: Sequence[ColumnProfile], found: Sequence[RobustDependence]) -> tuple[ColumnProfile, ...]:
    """The same columns, their rows taken to depend as much as was found, if that is more."""
    return tuple(_weakened(column, each) for column, each in zip(columns, found, strict=True))


def _weakened(column: ColumnProfile, found: RobustDependence) -> ColumnProfile:
    is_longer = found.block_rows is not None and found.block_rows > (column.block_rows or 0)
    return replace(
        column,
        deff=max(column.deff, found.deff),
        bin_deffs=tuple(max(deff, found.deff) for deff in column.bin_deffs),
        edge_deffs=tuple(max(deff, found.deff) for deff in column.edge_deffs),
        missing_deff=max(column.missing_deff, found.missing),
        block_rows=found.block_rows if is_longer else column.block_rows,
        levelled=found.levelled if is_longer else column.levelled,
    )


def _found(column: ColumnBins, values: NDArray[np.floating]) -> RobustDependence:
    blocks = len(values) // BASE
    lengths = block_lengths(blocks)
    if len(lengths) < 2:
        return RobustDependence()
    sums = event_counts(column, values[: blocks * BASE])
    every = np.arange(blocks + 1, dtype=np.float64) * BASE
    missing_sums = sums[column.bins]
    pairs = _Pairs.of(lengths, blocks)
    kept = np.array([blocks // length for length in lengths], np.float64)
    value_events = np.delete(np.arange(len(sums)), column.bins)
    ratios, sure = _judged(_median_sizes(sums, value_events, every - missing_sums, pairs), kept)
    missing_ratios, missing_sure = np.ones(len(lengths)), np.zeros(len(lengths), bool)
    if 0.0 < missing_sums[-1] < every[-1]:
        only = np.array([column.bins])
        missing_ratios, missing_sure = _judged(_median_sizes(sums, only, every, pairs), kept)
    if not sure.any():
        return RobustDependence(1.0, _largest(missing_ratios, missing_sure), 1)
    at = int(np.argmax(np.where(sure, ratios, 0.0)))  # medians are noisy: the first level place would be too early
    return RobustDependence(
        _largest(ratios, sure), _largest(missing_ratios, missing_sure), 2 * lengths[at] * BASE, at + 1 < len(lengths)
    )


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Pairs of neighbouring blocks of every length: where each begins (P,), its blocks' length, each length's pairs."""

    first: NDArray[np.intp]
    length: NDArray[np.intp]
    of_length: tuple[slice, ...]

    @classmethod
    def of(cls, lengths: Sequence[int], blocks: int) -> _Pairs:
        firsts = []
        for length in lengths:
            last = blocks + 1 - 2 * length
            firsts.append(np.arange(0, last, max(1, last // _MOST_PAIRS)))
        ends = np.cumsum([len(first) for first in firsts])
        parts = tuple(slice(end - len(first), end) for end, first in zip(ends, firsts, strict=True))
        return cls(np.concatenate(firsts), np.repeat(lengths, [len(first) for first in firsts]), parts)


def _median_sizes(sums: Floats, events: NDArray[np.intp], rows: Floats, pairs: _Pairs) -> Floats:
    """(lengths,): of the differences between neighbouring blocks, their mean over the events told; nan for none.

    Of these events' rows of `sums`; `rows` (blocks + 1,) came before each block.
    """
    starts = pairs.first, pairs.first + pairs.length, pairs.first + 2 * pairs.length
    s0, s1, s2 = (sums[events[:, None], start] for start in starts)
    r0, r1, r2 = (rows[start] for start in starts)
    n1, n2 = r1 - r0, r2 - r1
    k1, k2 = s1 - s0, s2 - s1
    per1, per2 = 1.0 / np.maximum(n1, 1.0), 1.0 / np.maximum(n2, 1.0)
    pooled = (k1 + k2) / np.maximum(n1 + n2, 1.0)
    told = np.minimum(n1, n2) * np.minimum(pooled, 1.0 - pooled) >= LEAST_EXPECTED
    variance = np.where(told, pooled * (1.0 - pooled), 1.0) * (per1 + per2)
    size = np.where(told, np.abs(k1 * per1 - k2 * per2) / np.sqrt(variance), 0.0)
    count = told.sum(axis=0)
    mean = size.sum(axis=0) / np.maximum(count, 1)
    found = np.full(len(pairs.of_length), np.nan)
    for at, part in enumerate(pairs.of_length):
        some = mean[part][count[part] > 0]
        if len(some) >= _LEAST_PAIRS:
            found[at] = np.median(some)
    return found


def _judged(sizes: Floats, kept: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Variance ratios (lengths,), 1 where nothing was told, and whether they are above 1 beyond doubt."""
    sure = np.nan_to_num(sizes) > MEAN_SIZE + _DOUBT * MEDIAN_NOISE / np.sqrt(kept)
    return np.where(np.isnan(sizes), 1.0, np.square(np.nan_to_num(sizes) / MEAN_SIZE)), sure


def _largest(ratios: Floats, sure: NDArray[np.bool_]) -> float:
    return round(max(1.0, MARGIN * float(ratios[sure].max())), 3) if sure.any() else 1.0

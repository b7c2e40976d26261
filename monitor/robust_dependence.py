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

Floats = NDArray[np.float64]
_DOUBT = 3.0  # standard errors that an excess must have: what is taken for dependence by mistake costs little
_MOST_PAIRS = 128  # of neighbours looked at, of each length


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
    return [_found(column, block[:rows, at]) for at, column in enumerate(bins.columns)]


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
    is_missing = np.arange(sums.shape[1]) == column.bins
    every = np.arange(blocks + 1, dtype=np.float64) * BASE
    present: Floats = every - sums[:, column.bins]
    values_sums, missing_sums = sums[:, ~is_missing], sums[:, is_missing]
    kept = np.array([blocks // length for length in lengths], np.float64)
    value = [_median_size(values_sums, present, length) for length in lengths]
    missing = [_median_size(missing_sums, every, length) for length in lengths]
    ratios, sure = _judged(np.array(value), kept)
    missing_ratios, missing_sure = _judged(np.array(missing), kept)
    if not sure.any():
        return RobustDependence(1.0, _largest(missing_ratios, missing_sure), 1)
    at = int(np.argmax(np.where(sure, ratios, 0.0)))  # medians are noisy: the first level place would be too early
    return RobustDependence(
        _largest(ratios, sure), _largest(missing_ratios, missing_sure), 2 * lengths[at] * BASE, at + 1 < len(lengths)
    )


def _median_size(sums: Floats, rows: Floats, length: int) -> float:
    """Of the differences between neighbouring blocks: their mean over the events that are told; nan for none."""
    step = max(1, (len(sums) - 2 * length) // _MOST_PAIRS)
    first = np.arange(0, len(sums) - 2 * length, step)
    k1, k2 = sums[first + length] - sums[first], sums[first + 2 * length] - sums[first + length]
    n1, n2 = rows[first + length] - rows[first], rows[first + 2 * length] - rows[first + length]
    both = np.minimum(n1, n2)[:, None]
    pooled = (k1 + k2) / np.maximum(n1 + n2, 1.0)[:, None]
    told = both * np.minimum(pooled, 1.0 - pooled) >= LEAST_EXPECTED
    spread = (
        np.where(told, pooled * (1.0 - pooled), 1.0) * (1.0 / np.maximum(n1, 1.0) + 1.0 / np.maximum(n2, 1.0))[:, None]
    )
    size = np.abs(k1 / np.maximum(n1, 1.0)[:, None] - k2 / np.maximum(n2, 1.0)[:, None]) / np.sqrt(spread)
    count = told.sum(axis=1)
    some = count > 0
    if some.sum() < 6:
        return float("nan")
    return float(np.median((size * told).sum(axis=1)[some] / count[some]))


def _judged(sizes: Floats, kept: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Variance ratios (lengths,), 1 where nothing was told, and whether they are above 1 beyond doubt."""
    sure = np.nan_to_num(sizes) > MEAN_SIZE + _DOUBT * MEDIAN_NOISE / np.sqrt(kept)
    return np.where(np.isnan(sizes), 1.0, np.square(np.nan_to_num(sizes) / MEAN_SIZE)), sure


def _largest(ratios: Floats, sure: NDArray[np.bool_]) -> float:
    return round(max(1.0, MARGIN * float(ratios[sure].max())), 3) if sure.any() else 1.0

"""How many rows that follow each other say as much as one independent row, found in the reference rows themselves.

Why: autocorrelated rows (a price every half hour) make any test that takes them for independent alarm all the time.
Measured as the variance of bin counts between blocks of neighbouring rows over that of independent rows, at several
block lengths. Invariant: 1.0 unless the excess is beyond doubt; pure. Called by the profile's fit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from monitor.counts import BinSet, ColumnBins

_LENGTHS = (8, 32, 128, 512, 2048)  # rows of a block; correlation that reaches further is not seen
_LEAST_BLOCKS = 48
_DOUBT = 5.0  # standard errors that an excess must have
_MARGIN = 1.3  # the estimate itself is uncertain: simulated false alarms were right with this
_MOST_VALUES = 20_000_000  # values looked at, over all columns
_MOST_ROWS = 200_000


def design_effects(bins: BinSet, block: NDArray[np.floating]) -> list[float]:
    """Per column of block (n, C), at least 1.0 each."""
    rows = min(len(block), _MOST_ROWS, max(_MOST_VALUES // max(block.shape[1], 1), 4096))
    return [_design_effect(column, block[:rows, at]) for at, column in enumerate(bins.columns)]


def _design_effect(column: ColumnBins, values: NDArray[np.floating]) -> float:
    n = len(values)
    if n < _LENGTHS[0] * _LEAST_BLOCKS:
        return 1.0
    width = column.bins + 1  # and one for missing values
    marks = np.array(column.edges if column.kind == "number" else column.values, np.float64)
    place = np.searchsorted(marks, values, side="right")
    if column.kind == "category":
        known = (place > 0) & (marks[np.maximum(place - 1, 0)] == values) if len(marks) else np.zeros(n, bool)
        place = np.where(known, place - 1, len(marks))
    place = np.where(np.isnan(values), width - 1, place)
    largest = 1.0
    for length in _LENGTHS:
        blocks = n // length
        if blocks < _LEAST_BLOCKS:
            break
        used = blocks * length
        at = np.repeat(np.arange(blocks) * width, length) + place[:used]
        counts = np.bincount(at, minlength=blocks * width).reshape(blocks, width).astype(np.float64)
        for events in (counts, np.cumsum(counts, axis=1)):
            share = events.mean(axis=0) / length
            open_ = (share * used >= 10.0) & ((1.0 - share) * used >= 10.0)
            if not open_.any():
                continue
            ratio = events[:, open_].var(axis=0, ddof=1) / (length * share[open_] * (1.0 - share[open_]))
            mean = float(ratio.mean())
            if mean > 1.0 + _DOUBT * np.sqrt(2.0 / (blocks - 1)):
                largest = max(largest, _MARGIN * mean)
    return largest

"""Values that look like a code for "missing": -999 among temperatures.

Why: such a code is a number to every program and to no person; nobody but the owner knows, so it is pointed out and
nothing is done. Invariant: pure, from bins and counts. Called by `driftgate/drift_compare.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from monitor.column_profile import ColumnProfile

_CODES = frozenset(float(f"{sign}{digit * count}") for sign in "+-" for digit in "987" for count in range(2, 10)) | {
    -1.0
}
_LEAST_SHARE = 0.002


@dataclass(frozen=True, slots=True)
class Code:
    """A value and the share of the rows with a value that have it."""

    value: float
    share: float


def suspect_code(column: ColumnProfile) -> Code | None:
    """The lowest or highest value, if it is one that codes have, is often there, and lies further from all others than
    these reach."""
    edges, counts = column.bins.edges, column.counts
    total = sum(counts)
    if column.bins.kind != "number" or len(edges) < 4 or not total:
        return None
    for value, place in ((edges[0], 1), (edges[-2], len(edges) - 1)):
        share = counts[place] / total
        core = [edge for edge in edges if edge not in (value, math.nextafter(value, math.inf))]
        if value not in _CODES or not _LEAST_SHARE <= share <= 0.5 or len(core) < 3:
            continue
        gap = core[0] - value if value < core[0] else value - core[-1]
        if gap > core[-1] - core[0] > 0.0:
            return Code(value, share)
    return None

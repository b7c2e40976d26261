"""Rows that somebody put in groups: what their order still says of how they depend on each other.

Why: sensors, shops and customers are often listed one after the other, each in the order of time. In the file's order
such rows seem to depend without end, taken for independent they raise false alarms: what is true is seen within the
groups. Invariants: pure, and the same for the same rows; groups that come again in the current rows are strata, which
say nothing by where they stand; groups that do not (sessions, days) are clusters, and the file's order is kept. Called
by `driftgate/drift_compare.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from driftgate.drift_columns import Column

_LEAST_IN_GROUP = 16  # rows, in the mean: of fewer nobody can tell how they depend
_LEAST_IN_CLUSTER = 2
_LEAST_GROUPS = 8
_AGAIN, _NEW = 0.5, 0.1  # of the current rows have a value that the reference has: strata; clusters
_SORTED = 0.999  # of the steps within groups go the same way

Floats = NDArray[np.float64]


def groups_of(values: Floats, least_rows: int) -> NDArray[np.intp] | None:
    """Where each group of equal values begins (G,).

    None where a value comes in more than one place, or groups have fewer than least_rows rows in the mean.
    """
    begins = values[1:] != values[:-1]
    if len(values) < least_rows * (1 + np.count_nonzero(begins)):  # looked at first: it spares most columns the sorting
        return None
    starts = np.concatenate([[0], np.flatnonzero(begins) + 1])
    return starts if len(np.unique(values[starts])) == len(starts) else None


def is_clustered(values: Floats) -> bool:
    """Whether neighbours have the same value so often that it may be a session's, a day's or the like."""
    return groups_of(values, _LEAST_IN_CLUSTER) is not None


def is_listed(values: Floats) -> bool:
    """Whether rows may be listed by shop, sensor or the like: many long groups, each in one place."""
    starts = groups_of(values, _LEAST_IN_GROUP)
    return starts is not None and len(starts) >= _LEAST_GROUPS


def come_again(before: Floats, now: Floats) -> bool | None:
    """Whether current rows are of the reference's groups, which then are strata; None where only some are."""
    now = now[~np.isnan(now)]
    share = float(np.isin(now, np.unique(before)).mean()) if len(now) else 1.0
    return True if share >= _AGAIN else False if share < _NEW else None


def sizes_within(columns: Sequence[Column], block: Floats, at: int) -> NDArray[np.intp] | None:
    """How many of the rows (C, n) lie in each group of column `at`, in turn (G,).

    None where groups are too small, or were sorted by another column, and so tell nothing of how rows depend.
    """
    starts = groups_of(block[at], _LEAST_IN_GROUP)
    if starts is None:
        return None
    ends = starts[1:] - 1
    for column, values in zip(columns, block, strict=True):
        if column.type != "date" and column.kind == "number" and _is_sorted(column, values, ends):
            return None
    return np.diff(starts, append=block.shape[1])


def _is_sorted(column: Column, values: Floats, ends: NDArray[np.intp]) -> bool:
    """Whether a column rises, or falls, in every group, and does not just count."""
    with np.errstate(over="ignore", invalid="ignore"):
        steps = np.delete(np.diff(values), ends)
    steps = steps[np.isfinite(steps) & (steps != 0.0)]
    if len(steps) <= len(ends) or (column.type == "integer" and float((np.abs(steps) == 1.0).mean()) > 0.5):
        return False
    return max(float((steps > 0.0).mean()), float((steps < 0.0).mean())) >= _SORTED

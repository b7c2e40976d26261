"""A column's reference beside what was counted now, for whoever draws it: the API, the console, a report.

Invariant: whole counts of the bins that verdicts were made from, so a reader can recompute any statistic. Pure.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitor.counts import Counts
from monitor.profile import ColumnProfile


def histogram(column: ColumnProfile, reference_rows: int, live: Counts, at: int) -> dict[str, Any]:
    """Column `at` of the live counts, in the profile's bins.

    A number with edges e has len(e) + 1 counts: below e[0], from e[k-1] to e[k], from the last on. A category has a
    count for each of its values and a last one for all others.
    """
    marks = {"edges": list(column.bins.edges)} if column.bins.kind == "number" else {"values": list(column.bins.values)}
    counts = np.asarray(column.counts, np.int64)
    return {
        "of": column.bins.kind,
        **marks,
        "reference": _side(counts, reference_rows, column.missing, column.infinite, column.mean, column.sd),
        "now": _side(
            live.of(at),
            live.rows,
            int(live.missing[at]),
            int(live.infinite[at]),
            _finite(live.mean[at]) if live.finite[at] else None,
            _finite(live.sd[at]),
        ),
    }


def _side(
    counts: NDArray[np.int64], rows: int, missing: int, infinite: int, mean: float | None, sd: float | None
) -> dict[str, Any]:
    return {
        "rows": rows,
        "missing": missing,
        "infinite": infinite,
        "mean": mean,
        "sd": sd,
        "counts": counts.tolist(),
    }


def _finite(value: np.float64) -> float | None:
    return float(value) if np.isfinite(value) else None

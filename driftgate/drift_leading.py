"""What leads a change of how columns go together: pairs whose correlation moved, and columns that are rebuilt worse.

Why: "the rows as a whole are different" tells nobody where to look. Invariants: a pair is named only if its correlation
moved beyond chance among all pairs, by blocks, so that rows which depend on each other count for less; nothing here
raises an alarm. Pure. Called by `driftgate/drift_together.py` after one.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from driftgate.drift_result_together import ColumnError, PairMoved
from monitor.multivariate import Basis

Floats = NDArray[np.float64]
NAMED = 3
_LOOKED_AT = 200  # pairs of coordinates, those that moved most
_DOUBT = 0.01  # probability that any pair is named without reason
_LEAST_PART = 0.1  # of the whole change, that a column must have to be named


def pairs_that_moved(
    before: Floats, now: Floats, owners: Sequence[int], labels: Sequence[str]
) -> tuple[PairMoved, ...]:
    """Of points in blocks (B, n, d), coordinate k belonging to column owners[k]; at most NAMED, most first."""
    owner = np.array(owners)
    first, second = np.triu_indices(len(owner), 1)
    moves = (before.std(axis=(0, 1)) > 1e-9) & (now.std(axis=(0, 1)) > 1e-9)  # else it has no correlation
    apart = (owner[first] != owner[second]) & moves[first] & moves[second]
    first, second = first[apart], second[apart]
    if not len(first) or len(before) < 2:
        return ()
    scaled = [_scaled(side) for side in (before, now)]
    correlations = [flat.T @ flat / len(flat) for flat in (side.reshape(-1, side.shape[2]) for side in scaled)]
    change = np.abs(correlations[1] - correlations[0])[first, second]
    doubt = NormalDist().inv_cdf(1.0 - _DOUBT / (2.0 * len(first)))
    named: dict[tuple[int, int], PairMoved] = {}
    for at in np.argsort(-change, kind="stable")[:_LOOKED_AT]:
        i, j = int(first[at]), int(second[at])
        products = [(side[:, :, i] * side[:, :, j]).mean(axis=1) for side in scaled]
        error = np.sqrt(sum(product.var(ddof=1) / len(product) for product in products))
        if change[at] > doubt * error:
            pair = PairMoved(labels[i], labels[j], float(correlations[0][i, j]), float(correlations[1][i, j]))
            named.setdefault((owners[i], owners[j]), pair)
        if len(named) == NAMED:
            break
    return tuple(named.values())


def columns_rebuilt_worse(
    basis: Basis, before: Floats, now: Floats, owners: Sequence[int], names: Sequence[str]
) -> tuple[ColumnError, ...]:
    """Of points (n, d): the columns whose part of the unexplained variance changed most; at most NAMED."""
    parts = []
    for points in (before, now):
        part = np.zeros(len(names))
        np.add.at(part, np.array(owners), basis.residuals(points).mean(axis=0) / basis.variance)
        parts.append(part)
    change = np.abs(parts[1] - parts[0])
    leading = [int(at) for at in np.argsort(-change, kind="stable")[:NAMED] if change[at] >= _LEAST_PART * change.sum()]
    return tuple(ColumnError(names[at], float(parts[0][at]), float(parts[1][at])) for at in leading)


def _scaled(side: Floats) -> Floats:
    """Each coordinate with a mean of 0 and a variance of 1, or 0 where it does not move."""
    flat = side.reshape(-1, side.shape[2])
    sd = flat.std(axis=0)
    return np.asarray((side - flat.mean(axis=0)) / np.where(sd > 1e-9, sd, np.inf), np.float64)

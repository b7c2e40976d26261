"""Do two samples of blocks have the same mean? Told by exchanging blocks between them.

Why: the law of a distance between two clouds of points depends on everything, so it is not assumed but made: if nothing
drifted, which block came from which side is a coin's decision, and the distance as found is one of those that other
decisions give. Invariants: exact at any number of blocks for blocks that are exchangeable (independent rows in any
grouping; else runs of neighbours longer than their dependence); both sides have the same number of blocks, so a side
that merely varies more is no drift. Pure; chance is an argument. Called by `driftgate/drift_together.py`.

Sources: Hoeffding (1952) for the level; Romano (1990) for equal sizes; Phipson and Smyth (2010) for p-values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, floor, lgamma, log

import numpy as np
from numpy.typing import NDArray

from monitor.multivariate import product

Floats = NDArray[np.float64]
Distances = Callable[[Floats], Floats]

_RESOLVED = 5.0  # exchanges that are allowed to be as far apart, at least: fewer would be a rough threshold
MOST_EXCHANGES = 100_000
_AT_ONCE = 1000  # exchanges in memory


@dataclass(frozen=True, slots=True)
class Exchanged:
    """S distances, each (S,): as found; the limit, which no drift passes with more than the level's probability; what
    no drift comes to in the mean; and the p-value, at least 1 / (exchanges + 1)."""

    value: Floats
    limit: Floats
    expected: Floats
    p: Floats


def resolves(blocks: int, level: float) -> bool:
    """Whether so many blocks on each side, and the exchanges that we make, can tell a probability of `level`.

    >>> resolves(12, 0.0005), resolves(5, 0.0005)
    (True, False)
    """
    ways = lgamma(2 * blocks + 1) - 2.0 * lgamma(blocks + 1)
    return blocks > 1 and ways >= log(_RESOLVED / level) and level * (MOST_EXCHANGES + 1) >= _RESOLVED


def exchange(
    reference: Floats, current: Floats, distances: Distances, level: float, rng: np.random.Generator
) -> Exchanged:
    """reference, current (B, V): blocks' means. distances: differences of means (m, V) → (m, S), each at least 0.

    A test of each distance at this level: it alarms where value > limit. Raises ValueError where `resolves` does not
    hold, or for sides of different shapes.
    """
    if reference.shape != current.shape or not resolves(len(reference), level):
        raise ValueError(f"blocks {reference.shape} and {current.shape} cannot be told apart at {level}")
    blocks = np.concatenate([current, reference])
    blocks -= blocks.mean(axis=0)
    signs = np.repeat(np.array([1.0, -1.0]), len(reference)) / len(reference)
    value = distances((signs @ blocks)[None])[0]
    exchanges = min(max(ceil(_RESOLVED / level), 999), MOST_EXCHANGES)
    found = np.concatenate(
        [
            distances(product(rng.permuted(np.tile(signs, (min(_AT_ONCE, exchanges - at), 1)), axis=1), blocks))
            for at in range(0, exchanges, _AT_ONCE)
        ]
    )
    allowed = floor(level * (exchanges + 1))
    limit = np.partition(found, exchanges - allowed, axis=0)[exchanges - allowed]
    p = (1.0 + (found >= value).sum(axis=0)) / (exchanges + 1.0)
    return Exchanged(value, limit, found.mean(axis=0), p)

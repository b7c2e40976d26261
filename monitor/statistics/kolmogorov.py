"""The exact law of the two-sample Kolmogorov-Smirnov distance, for samples so small that the limit law is rough.

From 100 rows on the limit law's quantile is within 2 % of the exact one and takes the same decisions. Pure; no scipy.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

EXACT_CELLS = 40_000  # n x m up to which limits are exact: beyond, a step would take longer than it may
_SURE = 1e-11  # the exact probability is one minus a sum, so smaller ones are lost in rounding


def ks_exact_p(value: float, n: int, m: int) -> float:
    """The probability that two samples of n and m rows from one distribution are `value` or more apart.

    Exact for values without ties, an upper bound with them. Takes min(n, m) sums over the band |i/n - j/m| < value.
    Source: the lattice paths of Hodges (1958), counted row by row, rescaled so that nothing overflows.

    >>> round(ks_exact_p(0.25, 100, 100), 7)
    0.0037295
    """
    if n < 1 or m < 1:
        return 1.0
    return _reaches(max(math.ceil(value * n * m - 1e-7), 0), min(n, m), max(n, m))


@lru_cache(maxsize=1024)
def ks_exact_limit(n: int, m: int, level: float, start: float) -> float:
    """A value that distances above it reach with probability at most `level`, those just below with more.

    `start` is the limit law's; the exact one is looked for around it. It lies between two values that can occur.
    """
    step = math.gcd(n, m)
    steps = n * m // step
    low, high = 0, min(math.ceil(start * steps) + 2, steps)
    if _reaches(high * step, min(n, m), max(n, m)) > level:
        return 1.0
    low = max(math.floor(0.8 * start * steps), 0)
    if _reaches(low * step, min(n, m), max(n, m)) <= level:
        low = 0
    while high - low > 1:
        middle = (low + high) // 2
        if _reaches(middle * step, min(n, m), max(n, m)) <= level:
            high = middle
        else:
            low = middle
    return (high - 0.5) / steps


@lru_cache(maxsize=4096)
def _reaches(height: int, n: int, m: int) -> float:
    """The share of lattice paths from (0, 0) to (n, m) with |i·m - j·n| >= height somewhere; n <= m."""
    if height <= 0:
        return 1.0
    first, last = 0, min(m, (height - 1) // n)
    paths = np.ones(last + 1)
    log_scale = 0.0
    for i in range(1, n + 1):
        low, high = max(0, -((height - 1 - i * m) // n)), min(m, (i * m + height - 1) // n)
        if low > high:
            return 1.0
        row = np.zeros(high - low + 1)
        start, stop = max(low, first), min(high, last)
        if start <= stop:
            row[start - low : stop - low + 1] = paths[start - first : stop - first + 1]
        paths = np.cumsum(row)
        most = float(paths[-1])
        if most <= 0.0:
            return 1.0
        paths /= most
        log_scale += math.log(most)
        first, last = low, high
    if last < m:
        return 1.0
    all_paths = math.lgamma(n + m + 1) - math.lgamma(n + 1) - math.lgamma(m + 1)
    return min(max(-math.expm1(log_scale + math.log(float(paths[-1])) - all_paths), _SURE), 1.0)

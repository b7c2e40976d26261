"""Two-sample tests of homogeneity: are the two rows of a table of counts drawn from one distribution?

Both samples are uncertain here. Peers that take the reference for exact alarm in half of all comparisons of two samples
of equal size. Numpy alone; the law of both statistics is χ² with `freedom` degrees, `limits.divergence_limit`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from monitor.statistics.distances import Floats, freedom, noise_scale, pair, relative_entropy

POOL_BELOW = (
    10.0  # rows expected in the smaller sample; bins below it are judged together (at 5 JS alarmed 7 times too often)
)


def pooled(
    reference: ArrayLike, current: ArrayLike, below: float = POOL_BELOW, *, fold: bool = False
) -> tuple[Floats, Floats]:
    """Both samples with their rare bins added up in one more bin at the end: (..., bins + 1) each.

    Rare: fewer than `below` rows expected in the smaller sample, by the shares of both together. The χ² limits need it:
    each rare bin would add several times the one unit that a degree of freedom allows. The pooled bin stays apart, and
    shows a category that nobody knew; `fold` adds it, if it is rare itself, to the smallest bin that is not.

    >>> [part.astype(int).tolist() for part in pooled([500, 1, 2], [50, 0, 1])]
    [[500, 0, 0, 3], [50, 0, 0, 1]]
    >>> [part.astype(int).tolist() for part in pooled([500, 1, 2], [50, 0, 1], fold=True)]
    [[503, 0, 0, 0], [51, 0, 0, 0]]
    """
    r, c = pair(reference, current)
    n, m = c.sum(axis=-1, keepdims=True), r.sum(axis=-1, keepdims=True)
    fewer = np.minimum(n, m)
    rare = fewer * (r + c) < below * (n + m)
    rest_r = np.where(rare, r, 0.0).sum(axis=-1, keepdims=True)
    rest_c = np.where(rare, c, 0.0).sum(axis=-1, keepdims=True)
    kept_r, kept_c = np.where(rare, 0.0, r), np.where(rare, 0.0, c)
    if fold:
        smallest = np.where(rare, np.inf, r + c).argmin(axis=-1)[..., None]
        move = (fewer * (rest_r + rest_c) < below * (n + m)) & ~rare.all(axis=-1, keepdims=True)
        for kept, rest in ((kept_r, rest_r), (kept_c, rest_c)):
            moved = np.where(move, rest, 0.0)
            np.put_along_axis(kept, smallest, np.take_along_axis(kept, smallest, -1) + moved, -1)
            rest -= moved
    return np.concatenate([kept_r, rest_r], axis=-1), np.concatenate([kept_c, rest_c], axis=-1)


def chi_square(reference: ArrayLike, current: ArrayLike) -> Any:
    """Pearson's χ² of the 2 x bins table: (...). 0 when the shares are equal, nan without rows.

    Σ (sqrt(n/m)·r - sqrt(m/n)·c)² / (r + c), bins that are empty in both left out.

    >>> round(float(chi_square([50, 50], [80, 20])), 3)
    19.78
    """
    r, c = pair(reference, current)
    n, m = c.sum(axis=-1, keepdims=True), r.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.square(np.sqrt(n / m) * r - np.sqrt(m / n) * c) / (r + c)
    return _where_rows(np.where((r + c) > 0, terms, 0.0).sum(axis=-1), n, m)


def g_statistic(reference: ArrayLike, current: ArrayLike) -> Any:
    """The likelihood-ratio statistic G of the same table: 2 Σ observed·ln(observed/expected)."""
    r, c = pair(reference, current)
    n, m = c.sum(axis=-1, keepdims=True), r.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        both = (r + c) / (n + m)
        terms = relative_entropy(r, m * both) + relative_entropy(c, n * both)
    terms = np.where((r + c) > 0, terms, 0.0)
    return _where_rows(np.maximum(2.0 * terms.sum(axis=-1), 0.0), n, m)


def cramers_v(reference: ArrayLike, current: ArrayLike) -> Any:
    """Cramér's V of the table, its bias removed: (...), 0 to 1, an effect size that does not grow with the rows.

    Source: Bergsma (2013), for two rows.
    """
    r, c = pair(reference, current)
    total = np.maximum(r.sum(axis=-1) + c.sum(axis=-1), 2.0)
    df = freedom(r, c)
    corrected = np.maximum(chi_square(r, c) / total - df / (total - 1.0), 0.0)
    columns = df + 1.0 - np.square(df) / (total - 1.0)
    least = np.minimum(np.maximum(columns - 1.0, 0.0), 1.0 - 1.0 / (total - 1.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(least > 0.0, np.minimum(np.sqrt(corrected / least), 1.0), np.zeros_like(corrected))


def contrast(statistic: ArrayLike, reference: ArrayLike, current: ArrayLike) -> Any:
    """χ² or G over the rows' weight n·m/(n + m): in units of PSI, to which both are equal for small drifts."""
    r, c = pair(reference, current)
    return np.asarray(statistic) * noise_scale(c.sum(axis=-1), r.sum(axis=-1), np.asarray(1.0))


def _where_rows(value: Floats, n: Floats, m: Floats) -> Floats:
    return np.where((n[..., 0] > 0) & (m[..., 0] > 0), value, np.nan)

"""Distances between the shares of two binned samples. Numpy alone; the order of bins matters to `ks` and `kuiper`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def psi(reference: ArrayLike, current: ArrayLike, *, floor: float = 0.5) -> Any:
    """Population stability index of two binned samples.

    Shapes: both (..., bins), counts. Returns (...), nats, at least 0, 0 when equal. `floor` is added to each bin, so
    an empty bin costs much but not infinity; one empty in both is no bin. Raises: ValueError if shapes differ.
    Source: the symmetric divergence of Jeffreys (1946), between bin shares; half a count is his prior.

    >>> float(psi([50, 50], [50, 50])), round(float(psi([100, 100], [150, 50], floor=0)), 4)
    (0.0, 0.2747)
    """
    return psi_terms(reference, current, floor=floor).sum(axis=-1)


def psi_terms(reference: ArrayLike, current: ArrayLike, *, floor: float = 0.5) -> Floats:
    """What each bin adds to `psi`: (..., bins), each at least 0. Tells which bins moved."""
    r, c = pair(reference, current)
    p, q, used = _floored(r, c, floor)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = (q - p) * np.log(q / p)
    return np.where(used & np.isfinite(terms), terms, np.where(used & (p != q) & (floor == 0), np.inf, 0.0))


def psi_noise(reference: ArrayLike, current: ArrayLike, *, deff: ArrayLike = 1.0) -> Any:
    """What PSI is expected to be when nothing has changed: (...). Take it off, and what is left is the drift's own.

    (bins - 1)·(1/n + 1/m), the mean of its χ² law (Yurdakul 2018), in effective rows.

    >>> round(float(psi_noise([100] * 10, [100] * 10)), 4)
    0.018
    """
    r, c = pair(reference, current)
    return freedom(r, c) * noise_scale(c.sum(axis=-1), r.sum(axis=-1), np.asarray(deff, np.float64))


def kl(reference: ArrayLike, current: ArrayLike, *, floor: float = 0.5) -> Any:
    """Kullback-Leibler divergence of the current shares from the reference's: (...), nats, floored as `psi` is.

    >>> round(float(kl([90, 10], [50, 50], floor=0)), 4)
    0.5108
    """
    r, c = pair(reference, current)
    p, q, used = _floored(r, c, floor)
    return np.maximum(np.where(used, relative_entropy(q, p), 0.0).sum(axis=-1), 0.0)


def js(reference: ArrayLike, current: ArrayLike) -> Any:
    """Jensen-Shannon distance of two binned samples: the square root of the divergence in bits, 0 to 1.

    Shapes: both (..., bins), counts. A sample without rows has no distance: nan. A metric (Endres and Schindelin 2003).

    >>> float(js([1, 0], [0, 1])), float(js([5, 5], [50, 50]))
    (1.0, 0.0)
    """
    r, c = pair(reference, current)
    return np.sqrt(np.maximum(js_terms(shares(r), shares(c)).sum(axis=-1), 0.0) / np.log(2.0))


def hellinger(reference: ArrayLike, current: ArrayLike) -> Any:
    """Hellinger distance, 0 to 1. Summed as differences of roots: 1 - Σ sqrt(p·q) would lose small distances.

    >>> float(hellinger([1, 0], [0, 1]))
    1.0
    """
    r, c = pair(reference, current)
    return np.sqrt(0.5 * np.square(np.sqrt(shares(r)) - np.sqrt(shares(c))).sum(axis=-1))


def total_variation(reference: ArrayLike, current: ArrayLike) -> Any:
    """Half the sum of the differences of the bin shares: the share of rows that would have to move, 0 to 1.

    >>> float(total_variation([3, 1], [1, 3]))
    0.5
    """
    r, c = pair(reference, current)
    return 0.5 * np.abs(shares(c) - shares(r)).sum(axis=-1)


def l_infinity(reference: ArrayLike, current: ArrayLike) -> Any:
    """The largest difference of a bin's share, 0 to 1. Blind to many small moves.

    >>> float(l_infinity([3, 1], [1, 3]))
    0.5
    """
    r, c = pair(reference, current)
    return np.abs(shares(c) - shares(r)).max(axis=-1)


def ks(reference: ArrayLike, current: ArrayLike) -> Any:
    """Kolmogorov-Smirnov distance seen at the bin edges: the largest gap between the cumulative shares, 0 to 1.

    Shapes: both (..., bins), counts in order of the values. Never above the distance of the raw values, and below it by
    at most the largest bin's share. Unchanged by any strictly increasing map of values and edges. nan without rows.

    >>> float(ks([10, 0, 10], [0, 10, 10]))
    0.5
    """
    return np.abs(gaps(*pair(reference, current))).max(axis=-1)


def kuiper(reference: ArrayLike, current: ArrayLike) -> Any:
    """Kuiper's distance at the bin edges: the largest gap above plus the largest below, 0 to 1. Sees a wider spread.

    >>> float(kuiper([0, 10, 0], [5, 0, 5]))
    1.0
    """
    gap = gaps(*pair(reference, current))
    return np.maximum(gap.max(axis=-1), 0.0) - np.minimum(gap.min(axis=-1), 0.0)


# -- shared by the other modules of this package ---------------------------------------------------------------------


def pair(reference: ArrayLike, current: ArrayLike) -> tuple[Floats, Floats]:
    """Both as float64. Raises ValueError if shapes differ."""
    r, c = np.asarray(reference, np.float64), np.asarray(current, np.float64)
    if r.shape != c.shape or r.ndim == 0:
        raise ValueError(f"two samples need the same bins: got shapes {r.shape} and {c.shape}")
    return r, c


def shares(counts: Floats) -> Floats:
    """Counts over their sum; nan without rows."""
    with np.errstate(invalid="ignore"):
        return np.asarray(counts / counts.sum(axis=-1, keepdims=True), np.float64)


def gaps(r: Floats, c: Floats) -> Floats:
    """Current minus reference cumulative share after each bin: (..., bins); the last is 0 up to rounding."""
    return np.asarray(np.cumsum(shares(c), axis=-1) - np.cumsum(shares(r), axis=-1), np.float64)


def freedom(r: Floats, c: Floats) -> Floats:
    """Degrees of freedom: bins that hold anything in either sample, less one; at least 1."""
    return np.asarray(np.maximum(((r + c) > 0).sum(axis=-1) - 1, 1), np.float64)


def noise_scale(n: Floats, m: Floats, deff: Floats) -> Floats:
    """1/n + 1/m, in effective rows."""
    return np.asarray(deff * (1.0 / np.maximum(n, 1.0) + 1.0 / np.maximum(m, 1.0)), np.float64)


def relative_entropy(p: Floats, q: Floats) -> Floats:
    """p·ln(p/q), each: 0 where p is 0, infinite where only q is."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(p > 0.0, p * np.log(p / q), np.where(np.isnan(p), np.nan, 0.0)), np.float64)


def js_terms(p: Floats, q: Floats) -> Floats:
    """What each bin adds to the Jensen-Shannon divergence, nats."""
    middle = 0.5 * (p + q)
    return np.asarray(0.5 * (relative_entropy(p, middle) + relative_entropy(q, middle)), np.float64)


def _floored(r: Floats, c: Floats, floor: float) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    used = (r + c) > 0
    bins = used.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = (r + floor) / (r.sum(axis=-1, keepdims=True) + floor * bins)
        q = (c + floor) / (c.sum(axis=-1, keepdims=True) + floor * bins)
    return p, q, used

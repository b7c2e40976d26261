"""Distances between two binned samples, and how large each may be when nothing has changed. Pure functions of counts.

Invariant: nothing here knows a feature, a window or a clock; equal counts are 0 in every distance; the order of bins
matters to `ks` alone. All functions work along the last axis, so a whole group of features is one call. The only file
that imports scipy. Called by `monitor/drift.py`.

Sampling noise. Without drift, PSI and 8·JS² (in nats) of n live against m reference rows are both about
(1/n + 1/m)·χ² with one degree of freedom fewer than bins (Yurdakul 2018), and KS is about sqrt(1/n + 1/m) times
Kolmogorov's law. A limit is that noise at a stated false-alarm level, joined by the triangle inequality to a tolerance:
a true distance up to the tolerance is no drift, however many rows there are. (Noise + tolerance added inside the square
would promise too much: the noise of PSI grows with its true value.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Floats = NDArray[np.float64]

POOL_BELOW = (
    10.0  # rows expected in the smaller sample; bins below it are judged together (at 5 JS alarmed 7 times too often)
)
_LEAST_P = 1e-300  # smaller probabilities are reported as this one


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
    r, c = _pair(reference, current)
    used = (r + c) > 0
    bins = used.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = (r + floor) / (r.sum(axis=-1, keepdims=True) + floor * bins)
        q = (c + floor) / (c.sum(axis=-1, keepdims=True) + floor * bins)
        terms = (q - p) * np.log(q / p)
    return np.where(used & np.isfinite(terms), terms, np.where(used & (p != q) & (floor == 0), np.inf, 0.0))


def js(reference: ArrayLike, current: ArrayLike) -> Any:
    """Jensen-Shannon distance of two binned samples: the square root of the divergence in bits, 0 to 1.

    Shapes: both (..., bins), counts. A sample without rows has no distance: nan. A metric (Endres and Schindelin 2003).

    >>> float(js([1, 0], [0, 1])), float(js([5, 5], [50, 50]))
    (1.0, 0.0)
    """
    r, c = _pair(reference, current)
    return np.sqrt(np.maximum(_js_terms(_shares(r), _shares(c)).sum(axis=-1), 0.0) / np.log(2.0))


def ks(reference: ArrayLike, current: ArrayLike) -> Any:
    """Kolmogorov-Smirnov distance seen at the bin edges: the largest gap between the cumulative shares, 0 to 1.

    Shapes: both (..., bins), counts in order of the values. Never above the distance of the raw values, and below it by
    at most the largest bin's share. Unchanged by any strictly increasing map of values and edges. nan without rows.

    >>> float(ks([10, 0, 10], [0, 10, 10]))
    0.5
    """
    r, c = _pair(reference, current)
    return np.abs(np.cumsum(_shares(c), axis=-1) - np.cumsum(_shares(r), axis=-1)).max(axis=-1)


def total_variation(reference: ArrayLike, current: ArrayLike) -> Any:
    """Half the sum of the differences of the bin shares: the share of rows that would have to move, 0 to 1.

    >>> float(total_variation([3, 1], [1, 3]))
    0.5
    """
    r, c = _pair(reference, current)
    return 0.5 * np.abs(_shares(c) - _shares(r)).sum(axis=-1)


def pooled(reference: ArrayLike, current: ArrayLike, below: float = POOL_BELOW) -> tuple[Floats, Floats]:
    """Both samples with their rare bins added up in one more bin at the end: (..., bins + 1) each.

    Rare: fewer than `below` rows expected in the smaller sample, by the shares of both together. The χ² limits need it:
    each rare bin would add several times the one unit that a degree of freedom allows. The pooled bin stays apart.

    >>> [part.astype(int).tolist() for part in pooled([500, 1, 2], [50, 0, 1])]
    [[500, 0, 0, 3], [50, 0, 0, 1]]
    """
    r, c = _pair(reference, current)
    n, m = c.sum(axis=-1, keepdims=True), r.sum(axis=-1, keepdims=True)
    rare = np.minimum(n, m) * (r + c) < below * (n + m)
    rest_r = np.where(rare, r, 0.0).sum(axis=-1, keepdims=True)
    rest_c = np.where(rare, c, 0.0).sum(axis=-1, keepdims=True)
    return (
        np.concatenate([np.where(rare, 0.0, r), rest_r], axis=-1),
        np.concatenate([np.where(rare, 0.0, c), rest_c], axis=-1),
    )


def psi_limit(
    reference: ArrayLike, current: ArrayLike, level: float, *, tolerance: float = 0.0, deff: ArrayLike = 1.0
) -> Any:
    """The PSI that no drift passes with probability `level`: (...), nats. Give it the counts that `psi` was given.

    `deff` is the design effect, variance over that of independent rows, (...): rows that come in runs say less.
    """
    r, c = _pair(reference, current)
    noise = _divergence_noise(r, c, level, np.asarray(deff, np.float64), _psi_pair)
    return np.square(np.sqrt(tolerance) + np.sqrt(noise))


def js_limit(
    reference: ArrayLike, current: ArrayLike, level: float, *, tolerance: float = 0.0, deff: ArrayLike = 1.0
) -> Any:
    """The Jensen-Shannon distance (bits) that no drift passes with probability `level`: (...), at most 1."""
    r, c = _pair(reference, current)
    noise = _divergence_noise(r, c, level, np.asarray(deff, np.float64), _js_pair)
    return np.minimum(tolerance + np.sqrt(noise / (8.0 * np.log(2.0))), 1.0)


def ks_limit(n: ArrayLike, m: ArrayLike, level: float, *, tolerance: float = 0.0, deff: ArrayLike = 1.0) -> Any:
    """The KS distance that n live against m reference rows pass with probability `level` without drift: at most 1.

    Kolmogorov's two-sample law, at or above the exact quantile for the sizes that are judged here.

    >>> round(float(ks_limit(1000, 1000, 0.001)), 4)
    0.0872
    """
    scale = _scale(np.asarray(n, np.float64), np.asarray(m, np.float64), np.asarray(deff, np.float64))
    return np.minimum(tolerance + special.kolmogi(level) * np.sqrt(scale), 1.0)


def share_limits(
    events: ArrayLike,
    m: ArrayLike,
    n: ArrayLike,
    level: float,
    *,
    tolerance_h: float = 0.0,
    least: float = 0.0,
    deff: ArrayLike = 1.0,
) -> tuple[Any, Any]:
    """The shares of an event between which n live rows stay, given `events` of it in m reference rows: (low, high).

    The true share is let be anywhere between the reference's Clopper-Pearson limits (half the level), widened to
    Cohen's h `tolerance_h` and, upwards, to `least`; then the live count has the other half. The wider of those,
    not the sum. A rare event in a small reference is not taken for impossible.
    """
    k, m_, n_, d = np.broadcast_arrays(*(np.asarray(x, np.float64) for x in (events, m, n, deff)))
    half = level / 4.0  # half for the reference, half for the live rows, and each of two sides
    k_eff, m_eff, n_eff = k / d, np.maximum(m_, 1.0) / d, np.maximum(n_, 1.0) / d
    share = np.clip(k / np.maximum(m_, 1.0), 0.0, 1.0)
    angle = np.arcsin(np.sqrt(share))
    low = np.minimum(
        np.square(np.sin(np.maximum(angle - tolerance_h / 2.0, 0.0))),
        np.where(k_eff > 0, special.betaincinv(np.maximum(k_eff, 1e-9), m_eff - k_eff + 1.0, half), 0.0),
    )
    high = np.maximum(
        np.square(np.sin(np.minimum(angle + tolerance_h / 2.0, np.pi / 2.0))),
        np.where(m_eff > k_eff, special.betaincinv(k_eff + 1.0, np.maximum(m_eff - k_eff, 1e-9), 1.0 - half), 1.0),
    )
    high = np.minimum(np.maximum(high, least), 1.0)
    return _binomial_low(n_eff, low, half), 1.0 - _binomial_low(n_eff, 1.0 - high, half)


def clopper_pearson(events: ArrayLike, rows: ArrayLike, level: float) -> tuple[Floats, Floats]:
    """Between which shares the truth lies, given `events` in `rows`, each side wrong with probability `level`.

    Shapes broadcast; effective (fractional) events and rows are welcome. Source: Clopper and Pearson (1934).

    >>> [round(float(limit), 4) for limit in clopper_pearson(0, 100, 0.025)]
    [0.0, 0.0362]
    """
    k, n = np.broadcast_arrays(np.asarray(events, np.float64), np.asarray(rows, np.float64))
    low = np.where(k > 0, special.betaincinv(np.maximum(k, 1e-9), np.maximum(n - k, 0.0) + 1.0, level), 0.0)
    high = np.where(n > k, special.betaincinv(k + 1.0, np.maximum(n - k, 1e-9), 1.0 - level), 1.0)
    return np.asarray(low, np.float64), np.asarray(high, np.float64)


def psi_log10_p(
    value: ArrayLike, reference: ArrayLike, current: ArrayLike, *, tolerance: float, deff: ArrayLike
) -> Any:
    """log10 of the probability of a PSI so large when the true one is within the tolerance: (...), at most 0."""
    r, c = _pair(reference, current)
    over = np.square(np.maximum(np.sqrt(np.asarray(value, np.float64)) - np.sqrt(tolerance), 0.0))
    return _chi2_log10_p(over, r, c, np.asarray(deff, np.float64))


def js_log10_p(value: ArrayLike, reference: ArrayLike, current: ArrayLike, *, tolerance: float, deff: ArrayLike) -> Any:
    """As `psi_log10_p`, of a Jensen-Shannon distance in bits."""
    r, c = _pair(reference, current)
    over = 8.0 * np.log(2.0) * np.square(np.maximum(np.asarray(value, np.float64) - tolerance, 0.0))
    return _chi2_log10_p(over, r, c, np.asarray(deff, np.float64))


def ks_log10_p(value: ArrayLike, n: ArrayLike, m: ArrayLike, *, tolerance: float, deff: ArrayLike) -> Any:
    """As `psi_log10_p`, of a KS distance."""
    scale = _scale(np.asarray(n, np.float64), np.asarray(m, np.float64), np.asarray(deff, np.float64))
    over = np.maximum(np.asarray(value, np.float64) - tolerance, 0.0)
    return np.log10(np.clip(special.kolmogorov(over / np.sqrt(scale)), _LEAST_P, 1.0))


def _pair(reference: ArrayLike, current: ArrayLike) -> tuple[Floats, Floats]:
    r, c = np.asarray(reference, np.float64), np.asarray(current, np.float64)
    if r.shape != c.shape or r.ndim == 0:
        raise ValueError(f"two samples need the same bins: got shapes {r.shape} and {c.shape}")
    return r, c


def _shares(counts: Floats) -> Floats:
    with np.errstate(invalid="ignore"):
        return np.asarray(counts / counts.sum(axis=-1, keepdims=True), np.float64)


def _scale(n: Floats, m: Floats, deff: Floats) -> Floats:
    """1/n + 1/m, in effective rows."""
    return deff * (1.0 / np.maximum(n, 1.0) + 1.0 / np.maximum(m, 1.0))


def _js_terms(p: Floats, q: Floats) -> Floats:
    middle = 0.5 * (p + q)
    return np.asarray(0.5 * (special.rel_entr(p, middle) + special.rel_entr(q, middle)), np.float64)


def _psi_pair(p: Floats, q: Floats, rows: Floats) -> Floats:
    """One bin's part in PSI for shares p and q of so many rows, the floor counted."""
    p, q = p + 0.5 / rows, q + 0.5 / rows
    return np.asarray((p - q) * np.log(p / q), np.float64)


def _js_pair(p: Floats, q: Floats, rows: Floats) -> Floats:
    """One bin's part in 8·JS²."""
    return 8.0 * _js_terms(p, q)


def _divergence_noise(r: Floats, c: Floats, level: float, deff: Floats, part: Any) -> Floats:
    """The divergence (in χ²'s scaling) that no drift passes with probability `level`: (...).

    χ² alone is too small where a bin may by chance stand nearly empty: PSI takes a logarithm there, and the far tail of
    a Poisson count with a mean of 20 is hundreds of times likelier than χ² says. So never below what one bin's count at
    its own lower quantile costs, plus the usual one unit for each other bin.
    """
    n, m = c.sum(axis=-1), r.sum(axis=-1)
    used = (r + c) > 0
    df = np.maximum(used.sum(axis=-1) - 1, 1).astype(np.float64)
    scale = _scale(n, m, deff)
    noise = scale * special.chdtri(df, level)
    total = np.maximum(n + m, 1.0)
    share = (r + c) / total[..., None]
    for arm in (n, m):
        rows = np.maximum(arm / deff, 1.0)[..., None]
        expected = share * rows
        close = used & (expected < 4.0 * special.chdtri(df, level)[..., None])
        if not close.any():
            continue
        lowest = np.zeros_like(expected)
        lowest[close] = np.floor(
            special.pdtrik(level / np.broadcast_to(df[..., None] + 1.0, close.shape)[close], expected[close])
        )
        cost = np.where(close, part(share, np.minimum(lowest / rows, share), np.broadcast_to(rows, share.shape)), 0.0)
        noise = np.maximum(noise, cost.max(axis=-1) + (df - 1.0) * scale)
    return np.asarray(noise, np.float64)


def _chi2_log10_p(over: Floats, r: Floats, c: Floats, deff: Floats) -> Floats:
    df = np.maximum(((r + c) > 0).sum(axis=-1) - 1, 1).astype(np.float64)
    scale = _scale(c.sum(axis=-1), r.sum(axis=-1), deff)
    return np.asarray(np.log10(np.clip(special.chdtrc(df, over / scale), _LEAST_P, 1.0)), np.float64)


def _binomial_low(n: Floats, share: Floats, level: float) -> Floats:
    """The share that a binomial count of n falls below with probability at most `level`."""
    count = np.zeros_like(n)
    open_ = (share > 0.0) & (share < 1.0)
    count[open_] = np.floor(np.nan_to_num(special.bdtrik(level, n[open_], share[open_]), nan=0.0))
    count[share >= 1.0] = n[share >= 1.0]
    return np.asarray(np.clip(count / n, 0.0, 1.0), np.float64)

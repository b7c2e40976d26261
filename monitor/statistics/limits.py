"""How large a distance may be when nothing has changed, and how improbable a larger one is. The only door to scipy.

Sampling noise. Without drift, PSI, 8·JS² and 8·H² (nats), 2·KL and χ² or G over n·m/(n + m) of n live against m
reference rows are all about (1/n + 1/m)·χ² with one degree of freedom fewer than bins (Yurdakul 2018 for PSI), and KS
is about sqrt(1/n + 1/m) times Kolmogorov's law. A limit is that noise at a stated false-alarm level, joined by the
triangle inequality to a tolerance: a true distance up to the tolerance is no drift, however many rows there are. (Noise
and tolerance added inside the square would promise too much: the noise of PSI grows with its true value.)

`deff` is the design effect, variance over that of independent rows, (...): rows that come in runs say less.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from monitor.statistics.distances import Floats, freedom, js_terms, noise_scale, pair, relative_entropy, shares
from monitor.statistics.kolmogorov import EXACT_CELLS, ks_exact_limit, ks_exact_p

_LEAST_P = 1e-300  # smaller probabilities are reported as this one
_MANY = 1e7  # rows, beyond which the binomial law is that of its limits: scipy's takes seconds there, then gives nan
_WORTH_SORTING = 1000  # limits at once
_EXACT_LEVEL = 1e-10  # below, the exact KS law is lost in rounding

Divergence = Literal["psi", "js", "kl", "hellinger", "contrast"]


def _psi_part(p: Floats, q: Floats, rows: Floats) -> Floats:
    """One bin's part in PSI for reference and current shares p and q of so many rows, the floor counted."""
    p, q = p + 0.5 / rows, q + 0.5 / rows
    return np.asarray((p - q) * np.log(p / q), np.float64)


# What one bin adds to each divergence in χ²'s scaling, its own unit as a multiple of that scaling's root or itself, and
# whether it is a square (its own unit: nats) or a root (a distance).
_PARTS: Mapping[Divergence, Callable[[Floats, Floats, Floats], Floats]] = {
    "psi": _psi_part,
    "js": lambda p, q, rows: 8.0 * js_terms(p, q),
    "kl": lambda p, q, rows: 2.0 * np.abs(relative_entropy(q + 0.5 / rows, p + 0.5 / rows) + p - q),
    "hellinger": lambda p, q, rows: 4.0 * np.square(np.sqrt(p) - np.sqrt(q)),
    "contrast": lambda p, q, rows: np.square(p - q) / np.maximum(p, 0.5 / rows),
}
_SQUARE: Mapping[Divergence, float] = {"psi": 1.0, "kl": 2.0, "contrast": 1.0}  # χ²'s scaling = this x value
_ROOT: Mapping[Divergence, float] = {"js": math.sqrt(8.0 * math.log(2.0)), "hellinger": math.sqrt(8.0)}


def divergence_limit(
    name: Divergence,
    reference: ArrayLike,
    current: ArrayLike,
    level: float,
    *,
    tolerance: float = 0.0,
    deff: ArrayLike = 1.0,
) -> Any:
    """What no drift passes with probability `level`: (...), in the divergence's own unit. Give it the same counts."""
    r, c = pair(reference, current)
    noise = np.sqrt(_noise(r, c, level, np.asarray(deff, np.float64), _PARTS[name]))
    if name in _ROOT:
        return np.minimum(tolerance + noise / _ROOT[name], 1.0)
    return np.square(math.sqrt(tolerance) + noise / math.sqrt(_SQUARE[name]))


def divergence_log10_p(
    name: Divergence, value: ArrayLike, reference: ArrayLike, current: ArrayLike, *, tolerance: float, deff: ArrayLike
) -> Any:
    """log10 of the probability of so large a value when the true one is within the tolerance: (...), at most 0."""
    r, c = pair(reference, current)
    v = np.asarray(value, np.float64)
    if name in _ROOT:
        over = np.square(_ROOT[name] * np.maximum(v - tolerance, 0.0))
    else:
        over = _SQUARE[name] * np.square(np.maximum(np.sqrt(v) - math.sqrt(tolerance), 0.0))
    scale = noise_scale(c.sum(axis=-1), r.sum(axis=-1), np.asarray(deff, np.float64))
    return np.log10(np.clip(special.chdtrc(freedom(r, c), over / scale), _LEAST_P, 1.0))


def psi_limit(
    reference: ArrayLike, current: ArrayLike, level: float, *, tolerance: float = 0.0, deff: ArrayLike = 1.0
) -> Any:
    """The PSI that no drift passes with probability `level`: (...), nats. Give it the counts that `psi` was given."""
    return divergence_limit("psi", reference, current, level, tolerance=tolerance, deff=deff)


def psi_log10_p(
    value: ArrayLike, reference: ArrayLike, current: ArrayLike, *, tolerance: float, deff: ArrayLike
) -> Any:
    """`divergence_log10_p` of a PSI."""
    return divergence_log10_p("psi", value, reference, current, tolerance=tolerance, deff=deff)


def js_limit(
    reference: ArrayLike, current: ArrayLike, level: float, *, tolerance: float = 0.0, deff: ArrayLike = 1.0
) -> Any:
    """The Jensen-Shannon distance (bits) that no drift passes with probability `level`: (...), at most 1."""
    return divergence_limit("js", reference, current, level, tolerance=tolerance, deff=deff)


def js_log10_p(value: ArrayLike, reference: ArrayLike, current: ArrayLike, *, tolerance: float, deff: ArrayLike) -> Any:
    """`divergence_log10_p` of a Jensen-Shannon distance in bits."""
    return divergence_log10_p("js", value, reference, current, tolerance=tolerance, deff=deff)


def ks_limit(n: ArrayLike, m: ArrayLike, level: float, *, tolerance: float = 0.0, deff: ArrayLike = 1.0) -> Any:
    """The KS distance that n live against m reference rows pass with probability `level` without drift: at most 1.

    Of the exact two-sample law for small samples, of Kolmogorov's beyond, which then takes the same decisions.

    >>> round(float(ks_limit(1000, 1000, 0.001)), 4), float(ks_limit(20, 20, 0.01))
    (0.0872, 0.525)
    """
    n_, m_, d = _rows(n, m, deff)
    law = np.array(special.kolmogi(level) * np.sqrt(noise_scale(n_, m_, d)))
    if level >= _EXACT_LEVEL:
        for at in map(tuple, np.argwhere(_small(n_ / d, m_ / d))):
            law[at] = ks_exact_limit(int(n_[at] / d[at]), int(m_[at] / d[at]), level, float(law[at]))
    return np.minimum(tolerance + law, 1.0)


def ks_log10_p(value: ArrayLike, n: ArrayLike, m: ArrayLike, *, tolerance: float, deff: ArrayLike) -> Any:
    """As `divergence_log10_p`, of a KS distance; exact for small samples, as the limit is."""
    n_, m_, d, v = np.broadcast_arrays(*_rows(n, m, deff), np.asarray(value, np.float64))
    over = np.maximum(v - tolerance, 0.0)
    p = np.array(special.kolmogorov(over / np.sqrt(noise_scale(n_, m_, d))))
    for at in map(tuple, np.argwhere(_small(n_ / d, m_ / d) & np.isfinite(over))):
        exact = ks_exact_p(float(over[at]), int(n_[at] / d[at]), int(m_[at] / d[at]))
        p[at] = exact if exact >= _EXACT_LEVEL else min(p[at], _EXACT_LEVEL)
    return np.log10(np.clip(p, _LEAST_P, 1.0))


def kuiper_limit(n: ArrayLike, m: ArrayLike, level: float, *, tolerance: float = 0.0, deff: ArrayLike = 1.0) -> Any:
    """The Kuiper distance that no drift passes with probability `level`: at most 1. Law: Kuiper (1960).

    >>> round(float(kuiper_limit(1000, 1000, 0.05)), 4)
    0.0781
    """
    return np.minimum(tolerance + _kuiper_quantile(level) * np.sqrt(noise_scale(*_rows(n, m, deff))), 1.0)


def kuiper_log10_p(value: ArrayLike, n: ArrayLike, m: ArrayLike, *, tolerance: float, deff: ArrayLike) -> Any:
    """As `divergence_log10_p`, of a Kuiper distance."""
    over = np.maximum(np.asarray(value, np.float64) - tolerance, 0.0) / np.sqrt(noise_scale(*_rows(n, m, deff)))
    return np.log10(np.clip(_kuiper_tail(over), _LEAST_P, 1.0))


def total_variation_limit(
    reference: ArrayLike, current: ArrayLike, level: float, *, tolerance: float = 0.0, deff: ArrayLike = 1.0
) -> Any:
    """The total variation that no drift passes with probability `level`: (...), at most 1. Holds for any n and m.

    Its mean is at most half the sum of the bins' standard deviations, and one row moves it by at most 1/n or 1/m, so
    McDiarmid's inequality (1989) bounds the rest.
    """
    mean, scale = _variation(reference, current, deff)
    return np.minimum(tolerance + mean + np.sqrt(-0.5 * math.log(level) * scale), 1.0)


def total_variation_log10_p(
    value: ArrayLike, reference: ArrayLike, current: ArrayLike, *, tolerance: float, deff: ArrayLike
) -> Any:
    """As `divergence_log10_p`, a bound."""
    mean, scale = _variation(reference, current, deff)
    over = np.maximum(np.asarray(value, np.float64) - tolerance - mean, 0.0)
    return np.maximum(-2.0 * np.square(over) / scale / math.log(10.0), -300.0)


def l_infinity_limit(
    reference: ArrayLike, current: ArrayLike, level: float, *, tolerance: float = 0.0, deff: ArrayLike = 1.0
) -> Any:
    """The largest difference of a bin's share that no drift passes with probability `level`: (...), at most 1.

    Bernstein's inequality for each bin that holds anything, at its part of the level.
    """
    variance, most, bins = _bernstein(reference, current, deff)
    log = np.log(2.0 * bins / level)
    step = most * log / 3.0
    bound = (step + np.sqrt(np.square(step) + 2.0 * variance * log)).max(axis=-1)
    return np.minimum(tolerance + bound, 1.0)


def l_infinity_log10_p(
    value: ArrayLike, reference: ArrayLike, current: ArrayLike, *, tolerance: float, deff: ArrayLike
) -> Any:
    """As `divergence_log10_p`, a bound."""
    variance, most, bins = _bernstein(reference, current, deff)
    over = np.maximum(np.asarray(value, np.float64) - tolerance, 0.0)[..., None]
    with np.errstate(divide="ignore", invalid="ignore"):
        exponent = np.nan_to_num(np.square(over) / (2.0 * (variance + over * most / 3.0))).min(axis=-1)
    return np.clip((np.log(2.0 * bins[..., 0]) - exponent) / math.log(10.0), -300.0, 0.0)


def clopper_pearson(events: ArrayLike, rows: ArrayLike, level: float) -> tuple[Floats, Floats]:
    """Between which shares the truth lies, given `events` in `rows`, each side wrong with probability `level`.

    Shapes broadcast; effective (fractional) events and rows are welcome. Source: Clopper and Pearson (1934).

    >>> [round(float(limit), 4) for limit in clopper_pearson(0, 100, 0.025)]
    [0.0, 0.0362]
    """
    k, n = np.broadcast_arrays(np.asarray(events, np.float64), np.asarray(rows, np.float64))
    if k.size > _WORTH_SORTING:  # bins of quantiles hold the same few counts: each is worked out once
        pairs, where = np.unique(np.stack((k.ravel(), n.ravel())), axis=1, return_inverse=True)
        if pairs.shape[1] < k.size:
            low, high = clopper_pearson(pairs[0], pairs[1], level)
            return low[where].reshape(k.shape), high[where].reshape(k.shape)
    low = np.where(k > 0, special.betaincinv(np.maximum(k, 1e-9), np.maximum(n - k, 0.0) + 1.0, level), 0.0)
    high = np.where(n > k, special.betaincinv(k + 1.0, np.maximum(n - k, 1e-9), 1.0 - level), 1.0)
    return np.asarray(low, np.float64), np.asarray(high, np.float64)


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
    lowest, highest = clopper_pearson(k_eff, m_eff, half)
    low = np.minimum(np.square(np.sin(np.maximum(angle - tolerance_h / 2.0, 0.0))), lowest)
    high = np.maximum(np.square(np.sin(np.minimum(angle + tolerance_h / 2.0, np.pi / 2.0))), highest)
    high = np.minimum(np.maximum(high, least), 1.0)
    return _binomial_low(n_eff, low, half), 1.0 - _binomial_low(n_eff, 1.0 - high, half)


def _noise(
    r: Floats, c: Floats, level: float, deff: Floats, part: Callable[[Floats, Floats, Floats], Floats]
) -> Floats:
    """The divergence (in χ²'s scaling) that no drift passes with probability `level`: (...).

    χ² alone is too small where a bin may by chance stand nearly empty: PSI takes a logarithm there, and the far tail of
    a Poisson count with a mean of 20 is hundreds of times likelier than χ² says. So never below what one bin's count at
    its own lower quantile costs, plus the usual one unit for each other bin.
    """
    n, m = c.sum(axis=-1), r.sum(axis=-1)
    used = (r + c) > 0
    df = freedom(r, c)
    scale = noise_scale(n, m, deff)
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


def _rows(n: ArrayLike, m: ArrayLike, deff: ArrayLike) -> tuple[Floats, Floats, Floats]:
    n_, m_, d = np.broadcast_arrays(*(np.asarray(x, np.float64) for x in (n, m, deff)))
    return n_, m_, d


def _small(n: Floats, m: Floats) -> NDArray[np.bool_]:
    """Where the exact law is used: it takes time and memory in proportion to the rows, so none where one has no row."""
    return (n >= 1.0) & (m >= 1.0) & (n * m <= EXACT_CELLS)


def _variation(reference: ArrayLike, current: ArrayLike, deff: ArrayLike) -> tuple[Floats, Floats]:
    """A bound on the mean of the total variation without drift, and 1/n + 1/m in effective rows."""
    r, c = pair(reference, current)
    scale = noise_scale(c.sum(axis=-1), r.sum(axis=-1), np.asarray(deff, np.float64))
    both = shares(r + c)
    return 0.5 * np.sqrt(both * (1.0 - both)).sum(axis=-1) * np.sqrt(scale), scale


def _bernstein(reference: ArrayLike, current: ArrayLike, deff: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Per bin the variance of its difference; what one effective row moves at most; how many bins are used (..., 1)."""
    r, c = pair(reference, current)
    n, m, d = c.sum(axis=-1), r.sum(axis=-1), np.asarray(deff, np.float64)
    both = shares(r + c)
    most = d / np.maximum(np.minimum(n, m), 1.0)
    used = np.maximum(((r + c) > 0).sum(axis=-1, keepdims=True), 1).astype(np.float64)
    return both * (1.0 - both) * noise_scale(n, m, d)[..., None], most[..., None], used


def _kuiper_tail(x: Floats) -> Floats:
    """P(Kuiper's variable > x): 2 Σ (4j²x² - 1) exp(-2j²x²)."""
    x = np.asarray(x, np.float64)[..., None]
    j2 = np.square(np.arange(1.0, 60.0))
    tail = 2.0 * ((4.0 * j2 * x * x - 1.0) * np.exp(-2.0 * j2 * x * x)).sum(axis=-1)
    return np.where(x[..., 0] < 0.4, 1.0, np.clip(tail, 0.0, 1.0))


@lru_cache(maxsize=256)
def _kuiper_quantile(level: float) -> float:
    low, high = 0.4, 40.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if float(_kuiper_tail(np.asarray(middle))) > level else (low, middle)
    return high


def _binomial_low(n: Floats, share: Floats, level: float) -> Floats:
    """The share that a binomial count of n falls below with probability at most `level`."""
    count = np.zeros_like(n)
    open_ = (share > 0.0) & (share < 1.0)
    exact, spread = open_ & (n <= _MANY), n * share * (1.0 - share)
    count[exact] = np.floor(np.nan_to_num(special.bdtrik(level, n[exact], share[exact]), nan=0.0))
    few, many = open_ & ~exact & (spread < 1000.0), open_ & ~exact & (spread >= 1000.0)
    rare, usual = few & (share < 0.5), few & (share >= 0.5)
    count[rare] = np.floor(special.pdtrik(level, (n * share)[rare]))
    count[usual] = n[usual] - np.ceil(special.pdtrik(1.0 - level, (n * (1.0 - share))[usual]))
    z = float(special.ndtri(level))  # with the skewness taken into account (Cornish and Fisher 1938)
    count[many] = (n * share + z * np.sqrt(spread) + (z * z - 1.0) * (1.0 - 2.0 * share) / 6.0)[many] - 1.0
    count[share >= 1.0] = n[share >= 1.0]
    return np.asarray(np.clip(count / n, 0.0, 1.0), np.float64)

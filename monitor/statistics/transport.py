"""Distances in the unit of the values: Wasserstein-1 and energy distance between two binned samples, and their limits.

Within a bin values are taken to be spread evenly, so a cumulative share is a broken line through the edges. That is
exact where a value has a bin of its own, as the profile gives to heavy values, and elsewhere wrong by at most the bin's
width times the share that moved. Values out of the range count as lying at its end (winsorised), infinite ones too: one
wild value cannot be seen from far away, nor hide anything. How far out they lie is told apart, by `tail_excess`.

Shapes: counts (..., bins), edges (..., bins - 1), rising; a row with fewer edges repeats its last one
(`BinSet.edge_table`). Numpy alone.

Limits. Without drift the difference of the cumulative shares is sqrt(1/n + 1/m) times a Brownian bridge, and a distance
is a norm of it. A norm of a Gaussian process stays within its mean plus z = sqrt(2 ln 1/level) times its largest
one-directional standard deviation (Borell 1975; Tsirelson, Ibragimov and Sudakov 1976). For Wasserstein-1 that is the
standard deviation of the values themselves; for energy the root of the covariance's largest eigenvalue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from monitor.statistics.distances import Floats, gaps, noise_scale, pair, shares

_FAR = 1e150  # an edge further out counts as lying here: its square is still a number
_HALF_NORMAL = np.sqrt(2.0 / np.pi)  # mean of |x| of a standard normal x


def wasserstein(
    reference: ArrayLike, current: ArrayLike, edges: ArrayLike, excess: tuple[ArrayLike, ArrayLike] | None = None
) -> Any:
    """Wasserstein-1 distance: how far a row has to move on average, in the unit of the edges. nan without rows.

    With the reference's and the current `tail_excess` the values out of the range lie where they are, exactly so if one
    sample has none there.

    >>> float(wasserstein([0, 10, 0, 0], [0, 0, 10, 0], [0.0, 1.0, 2.0]))
    1.0
    """
    gap, widths = _lines(reference, current, edges)
    a, b = gap[..., :-1], gap[..., 1:]
    crossing = a * b < 0.0
    with np.errstate(invalid="ignore"):
        split = np.where(
            crossing, (a * a + b * b) / np.where(crossing, np.abs(a) + np.abs(b), 1.0), np.abs(a) + np.abs(b)
        )
    inside = (0.5 * widths * split).sum(axis=-1)
    if excess is None:
        return inside
    theirs, ours = (np.asarray(part, np.float64) for part in excess)
    return inside + np.abs(ours - theirs).sum(axis=-1)


def energy(reference: ArrayLike, current: ArrayLike, edges: ArrayLike) -> Any:
    """Energy distance, the square root of 2 ∫ (difference of the cumulative shares)², as scipy defines it.

    In the root of the edges' unit. nan without rows. Source: Székely and Rizzo (2013).

    >>> round(float(energy([0, 10, 0, 0], [0, 0, 10, 0], [0.0, 1.0, 2.0])), 4)
    1.1547
    """
    gap, widths = _lines(reference, current, edges)
    a, b = gap[..., :-1], gap[..., 1:]
    return np.sqrt(np.maximum(2.0 * (widths * (a * a + a * b + b * b) / 3.0).sum(axis=-1), 0.0))


def tail_excess(tails: ArrayLike, outside: ArrayLike, rows: ArrayLike, edges: ArrayLike) -> Floats:
    """How far out of the range a row lies on average, below and above: (..., 2), in the unit of the edges.

    tails (..., 2) are the sums and outside (..., 2) the numbers of the finite values out of the range, rows (...) those
    with a value. nan where the tails are not known.
    """
    total, count = np.asarray(tails, np.float64), np.asarray(outside, np.float64)
    e = _edges(edges)
    ends = np.stack([e[..., 0], e[..., -1]], axis=-1) if e.shape[-1] else np.zeros(total.shape)
    beyond = (total - count * ends) * np.array([-1.0, 1.0])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.maximum(np.where(count > 0, beyond, 0.0) / np.asarray(rows, np.float64)[..., None], 0.0)


def quantile(counts: ArrayLike, edges: ArrayLike, share: float) -> Any:
    """The value below which this share of a binned sample lies, within its range: (...). nan without rows or edges."""
    c, e = np.asarray(counts, np.float64), _edges(edges)
    if e.shape[-1] == 0:
        return np.full(c.shape[:-1], np.nan)
    at_edge = np.cumsum(shares(c), axis=-1)[..., :-1]
    reached = (at_edge >= share).argmax(axis=-1)[..., None]
    none = ~(at_edge >= share).any(axis=-1, keepdims=True)
    reached = np.where(none, e.shape[-1] - 1, reached)
    before = np.maximum(reached - 1, 0)
    high, low = (np.take_along_axis(at_edge, where, -1) for where in (reached, before))
    top, bottom = (np.take_along_axis(e, where, -1) for where in (reached, before))
    with np.errstate(divide="ignore", invalid="ignore"):
        part = np.where(none | (high <= low), 1.0, np.clip((share - low) / (high - low), 0.0, 1.0))
    return np.where(np.isnan(at_edge[..., -1]), np.nan, (bottom + part * (top - bottom))[..., 0])


@dataclass(frozen=True, slots=True)
class Spread:
    """What the limits need to know of a distribution, each (...): sd, standard deviation of the winsorised values;
    reach, ∫ sqrt(F(1 - F)); gini, ∫ F(1 - F), half the mean difference of two values; top, a bound on the largest
    eigenvalue of the covariance min(F(s), F(t)) - F(s)·F(t)."""

    sd: Floats
    reach: Floats
    gini: Floats
    top: Floats


def spread(counts: ArrayLike, edges: ArrayLike) -> Spread:
    """Of a binned sample; nan without rows."""
    c, e = np.asarray(counts, np.float64), _edges(edges)
    share = shares(c)
    widths = np.diff(e, axis=-1)
    below = np.cumsum(share, axis=-1)[..., :-1]  # at each edge
    middle = 0.5 * (below[..., 1:] + below[..., :-1])  # in each bin between two edges
    spare = np.maximum(middle * (1.0 - middle), 0.0)
    covariance = np.minimum(middle[..., :, None], middle[..., None, :]) - middle[..., :, None] * middle[..., None, :]
    weight = widths[..., :, None] * widths[..., None, :]
    variance = (covariance * weight).sum(axis=(-2, -1))
    return Spread(
        sd=np.sqrt(np.maximum(variance, 0.0)),
        reach=(np.sqrt(spare) * widths).sum(axis=-1),
        gini=(spare * widths).sum(axis=-1),
        top=np.sqrt((np.square(covariance) * weight).sum(axis=(-2, -1))),
    )


def wasserstein_limit(
    of: Spread, n: ArrayLike, m: ArrayLike, level: float, *, tolerance: ArrayLike = 0.0, deff: ArrayLike = 1.0
) -> Any:
    """The winsorised distance that no drift passes with probability `level`: (...), in the unit of the edges."""
    noise = _HALF_NORMAL * of.reach + _z(level) * of.sd
    return np.asarray(tolerance) + np.sqrt(_scale(n, m, deff)) * noise


def wasserstein_log10_p(
    value: ArrayLike, of: Spread, n: ArrayLike, m: ArrayLike, *, tolerance: ArrayLike, deff: ArrayLike
) -> Any:
    """log10 of a bound on the probability of such a distance when the true one is within the tolerance: at most 0."""
    over = np.maximum(np.asarray(value) - np.asarray(tolerance), 0.0) / np.sqrt(_scale(n, m, deff))
    return _gaussian_log10_p(over - _HALF_NORMAL * of.reach, of.sd)


def energy_limit(
    of: Spread, n: ArrayLike, m: ArrayLike, level: float, *, tolerance: ArrayLike = 0.0, deff: ArrayLike = 1.0
) -> Any:
    """As `wasserstein_limit`, of the energy distance."""
    noise = np.sqrt(2.0 * of.gini) + _z(level) * np.sqrt(2.0 * of.top)
    return np.asarray(tolerance) + np.sqrt(_scale(n, m, deff)) * noise


def energy_log10_p(
    value: ArrayLike, of: Spread, n: ArrayLike, m: ArrayLike, *, tolerance: ArrayLike, deff: ArrayLike
) -> Any:
    """As `wasserstein_log10_p`, of the energy distance."""
    over = np.maximum(np.asarray(value) - np.asarray(tolerance), 0.0) / np.sqrt(_scale(n, m, deff))
    return _gaussian_log10_p(over - np.sqrt(2.0 * of.gini), np.sqrt(2.0 * of.top))


def _lines(reference: ArrayLike, current: ArrayLike, edges: ArrayLike) -> tuple[Floats, Floats]:
    r, c = pair(reference, current)
    e = _edges(edges)
    if e.shape != (*r.shape[:-1], r.shape[-1] - 1):
        raise ValueError(f"{r.shape[-1]} bins have {r.shape[-1] - 1} edges: got counts {r.shape} and edges {e.shape}")
    return gaps(r, c)[..., :-1], np.diff(e, axis=-1)


def _edges(edges: ArrayLike) -> Floats:
    return np.clip(np.asarray(edges, np.float64), -_FAR, _FAR)


def _scale(n: ArrayLike, m: ArrayLike, deff: ArrayLike) -> Floats:
    return noise_scale(*(np.asarray(x, np.float64) for x in (n, m, deff)))


def _z(level: float) -> float:
    return float(np.sqrt(-2.0 * np.log(level)))


def _gaussian_log10_p(beyond_mean: Floats, sd: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(beyond_mean > 0.0, beyond_mean / sd, 0.0)
    return np.asarray(-np.square(np.minimum(np.nan_to_num(z, posinf=37.0), 37.0)) / 2.0 / np.log(10.0), np.float64)

"""E-processes on counts: how strongly what was counted speaks against a bound, at any moment and as often as one looks.

Invariant: each function returns log10 of an e-value, a number whose expectation is at most 1 when the bound holds, at
every stopping time (Ville: it ever reaches 1/a with probability at most a). Each is a sum of logs over cumulative
counts, so counts of workers add up in any order and nothing but counts is stored. Called by `verdict.py` and
`planner.py`. The unit of a count (a key's first event in the rollout) and its booking by assignment are the caller's.

All functions take arrays whose last axis is segments (or scalars for paired counts) and work on any leading axes.
Sources: Lindon & Malek 2022 (counting, conditional on an event); Waudby-Smith & Ramdas 2020 (betting on means);
grids and figures by simulation, see tests/monitor/test_evidence.py.
"""

from __future__ import annotations

from math import log, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

# Alternatives to a null ratio. Few, because each costs log(K) of evidence; spread, because none is known before.
WORSE_RATIOS = np.array([1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0])
BETTER_RATIOS = np.array([0.5, 0.25])
# Bets as shares of the largest one that cannot lose everything.
EXCESS_BETS = np.array([0.1, 0.3, 0.7])  # median to promote at base .5 %: 8.5 k requests; with five bets 8.8 k
ABOVE_BETS = np.array([0.03, 0.06, 0.12, 0.25, 0.5, 0.9])
BELOW_BETS = np.array([0.12, 0.3, 0.6, 0.95])
SIGN_SHARES = np.array([0.53, 0.57, 0.65, 0.75, 0.9, 0.99])
MARGIN_BETS = np.array([0.1, 0.2, 0.9])


def ratio_above(weight: ArrayLike, canary: ArrayLike, champion: ArrayLike, ratio: float) -> Floats:
    """Evidence that the canary's event rate is above `ratio` x the champion's. See `_ratio`."""
    return _ratio(weight, canary, champion, ratio, ratio * WORSE_RATIOS)


def ratio_below(weight: ArrayLike, canary: ArrayLike, champion: ArrayLike, ratio: float) -> Floats:
    """Evidence that the canary's event rate is below `ratio` x the champion's. See `_ratio`."""
    return _ratio(weight, canary, champion, ratio, ratio * BETTER_RATIOS)


def _ratio(weight: ArrayLike, canary: ArrayLike, champion: ArrayLike, null: float, alternatives: Floats) -> Floats:
    """log10 of a mixture of likelihood ratios, conditional on events: whose was the event?

    Shapes: weight, canary and champion (..., segments), events per arm; returns (...). Given that an event happened,
    it is the canary's with probability w r / (w r + 1 - w), whatever the base rate was then; so changing weights and
    traffic, day and night and outages that hit both arms cancel out. Weights must lie inside (0, 1).
    """
    w = np.asarray(weight, dtype=np.float64)
    a = np.asarray(canary, dtype=np.float64)
    b = np.asarray(champion, dtype=np.float64)
    null_odds = w * null + 1.0 - w
    logs = []
    for ratio in alternatives:
        shrink = np.log(null_odds / (w * ratio + 1.0 - w))  # log((1 - q) / (1 - q0))
        logs.append((a * (log(ratio / null) + shrink) + b * shrink).sum(axis=-1))
    return _mixture_log10(logs)


def excess_below(
    weight: ArrayLike,
    canary: ArrayLike,
    canary_requests: ArrayLike,
    champion: ArrayLike,
    champion_requests: ArrayLike,
    excess: float,
) -> Floats:
    """Evidence that the canary's event rate is below the champion's + `excess`: a service without events can promote.

    Shapes: all (..., segments); returns (...). Each request bets against X = 1{canary} Y/w - 1{champion} Y/(1-w),
    whose mean is the difference of rates: the product of 1 - bet (X - excess). A request without an event is small
    evidence, no request is none. The bet is a share of 1/(1/w - excess), known before the segment.
    """
    w = np.asarray(weight, dtype=np.float64)
    a, n = np.asarray(canary, dtype=np.float64), np.asarray(canary_requests, dtype=np.float64)
    b, m = np.asarray(champion, dtype=np.float64), np.asarray(champion_requests, dtype=np.float64)
    largest = 1.0 / (1.0 / w - excess)
    logs = []
    for share in EXCESS_BETS:
        bet = share * largest
        quiet = np.log1p(bet * excess)
        canary_event = np.log1p(-bet * (1.0 / w - excess))
        champion_event = np.log1p(bet * (1.0 / (1.0 - w) + excess))
        logs.append((a * canary_event + b * champion_event + (n - a + m - b) * quiet).sum(axis=-1))
    return _mixture_log10(logs)


def share_above(events: ArrayLike, units: ArrayLike, limit: float) -> Floats:
    """Evidence that the mean of a value from 0 to 1 is above `limit`: the product of 1 + bet (value - limit).

    Shapes: events and units broadcast together; returns that shape. events: the sum of the values. A value between 0
    and 1, such as a request's share of rows, bets with the mean of its rows' logs, which is at most the log of the bet
    on their mean and so keeps the promise.
    """
    k, n = np.asarray(events, dtype=np.float64), np.asarray(units, dtype=np.float64)
    bets = ABOVE_BETS / limit
    return _mixture_log10([k * np.log1p(bet * (1.0 - limit)) + (n - k) * np.log1p(-bet * limit) for bet in bets])


def share_below(events: ArrayLike, units: ArrayLike, limit: float) -> Floats:
    """Evidence that the mean of a value from 0 to 1 is below `limit`. As `share_above`."""
    k, n = np.asarray(events, dtype=np.float64), np.asarray(units, dtype=np.float64)
    bets = BELOW_BETS / (1.0 - limit)
    return _mixture_log10([k * np.log1p(-bet * (1.0 - limit)) + (n - k) * np.log1p(bet * limit) for bet in bets])


def farther_more_often(farther: ArrayLike, closer: ArrayLike) -> Floats:
    """Evidence that, where two answers differ, the candidate's is farther from the label more than half the time.

    Ties say nothing (McNemar). Shapes broadcast.
    """
    k, n = np.asarray(farther, dtype=np.float64), np.asarray(closer, dtype=np.float64)
    return _mixture_log10([k * log(2.0 * share) + n * log(2.0 - 2.0 * share) for share in SIGN_SHARES])


def not_inferior(farther: ArrayLike, closer: ArrayLike, ties: ArrayLike, margin: float) -> Floats:
    """Evidence that P(candidate farther) - P(candidate closer) is below `margin`; ties speak for it. Broadcasts."""
    k, n = np.asarray(farther, dtype=np.float64), np.asarray(closer, dtype=np.float64)
    t = np.asarray(ties, dtype=np.float64)
    logs = [
        k * np.log1p(-bet * (1.0 - margin)) + n * np.log1p(bet * (1.0 + margin)) + t * np.log1p(bet * margin)
        for bet in MARGIN_BETS / (1.0 - margin)
    ]
    return _mixture_log10(logs)


def average(first_log10: ArrayLike, second_log10: ArrayLike) -> Floats:
    """The mean of two e-values, again an e-value under any dependence between them; all in log10."""
    return _mixture_log10([np.asarray(first_log10) * log(10.0), np.asarray(second_log10) * log(10.0)])


def _mixture_log10(logs: list[Floats]) -> Floats:
    """log10 of the mean of exp(logs), without overflow."""
    stacked = np.stack(logs)
    top = stacked.max(axis=0)
    top = np.where(np.isfinite(top), top, 0.0)
    mean = np.exp(stacked - top).mean(axis=0)
    result: Floats = (top + np.log(np.maximum(mean, 1e-300))) / log(10.0)
    return result


def total_variation_band(champion: ArrayLike, candidate: ArrayLike, error: float = 0.01) -> tuple[float, float, float]:
    """(estimate, low, high) of the total variation between what two arms answered. Not an e-value: for holding only.

    Shapes: both (bins,), counts. The estimate moves by at most 1/n a row, so it stays within the McDiarmid term of its
    mean; its mean is at least the truth (Jensen) and above it by at most half the summed standard errors.
    No rows on one side: (0, 0, 1).

    >>> total_variation_band([5, 5], [0, 0])
    (0.0, 0.0, 1.0)
    """
    p, q = np.asarray(champion, dtype=np.float64), np.asarray(candidate, dtype=np.float64)
    if p.shape != q.shape:
        raise ValueError(f"counts have shapes {p.shape} and {q.shape}")
    n, m = float(p.sum()), float(q.sum())
    if n == 0.0 or m == 0.0:
        return 0.0, 0.0, 1.0
    estimate = 0.5 * float(np.abs(p / n - q / m).sum())
    pooled = (p + q) / (n + m)
    inverse = 1.0 / n + 1.0 / m
    bias = 0.5 * float(np.sqrt(pooled * (1.0 - pooled) * inverse).sum())
    spread = sqrt(inverse * log(1.0 / error) / 2.0)
    return estimate, max(0.0, estimate - bias - spread), min(1.0, estimate + spread)

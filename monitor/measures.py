"""The table of statistics: what each is over all columns at once, its limit without drift, and its effect size.

Why: a new statistic is one entry here. Invariant: every entry gives value, limit, effect and rows together, for the
same counts, so none is ever told without the others. Pure. Called by `monitor/drift.py`.

Limits carry a tolerance, about a shift by a twentieth of a standard deviation of a normal distribution in each
statistic's own unit, so a difference too small to matter is no drift in however many rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from monitor import statistics
from monitor.counts import Counts
from monitor.profile import ColumnProfile

Floats = NDArray[np.float64]
Statistic = Literal[
    "psi",
    "js",
    "ks",
    "missing",
    "unseen",
    "mistyped",
    "infinite",
    "out_of_range",
    "kl",
    "hellinger",
    "total_variation",
    "l_infinity",
    "kuiper",
    "wasserstein",
    "energy",
    "chi_square",
    "g",
]

# What windows are judged by. Every further test takes its part of the false-alarm budget and sees little more.
LEVEL: tuple[Statistic, ...] = ("psi", "js", "ks", "missing", "unseen", "mistyped")

PSI_TOLERANCE, JS_TOLERANCE, KS_TOLERANCE, SHARE_TOLERANCE = 0.0025, 0.02, 0.02, 0.02
HELLINGER_TOLERANCE = math.sqrt(PSI_TOLERANCE / 8.0)
SHIFT_TOLERANCE, ENERGY_TOLERANCE = 0.05, 0.0376  # of the standard deviation, and of its root
QUALITY_TOLERANCE_H, QUALITY_LEAST = 0.04, 0.001  # Cohen's h; and a share of bad values that is never an alarm

_ORDERED = ("ks", "kuiper", "wasserstein", "energy")


@dataclass(frozen=True, slots=True)
class Found:
    """One statistic of all columns, each (C,). effect: the size of the change with the noise's expectation taken off,
    in a unit that people compare: see `EFFECTS`. log10_p None: this statistic keeps no evidence."""

    value: Floats
    limit: Floats
    effect: Floats
    rows: NDArray[np.int64]
    log10_p: Floats | None


EFFECTS: Mapping[Statistic, str] = {
    "psi": "PSI less its expectation without drift",
    "js": "distance less the noise's part",
    "kl": "nats less their expectation without drift",
    "hellinger": "distance less the noise's part",
    "chi_square": "Cramér's V, its bias removed",
    "g": "Cramér's V, its bias removed",
    "wasserstein": "in interquartile ranges of the reference",
    "energy": "in roots of an interquartile range of the reference",
    "missing": "Cohen's h",
    "unseen": "Cohen's h",
    "mistyped": "Cohen's h",
    "infinite": "Cohen's h",
    "out_of_range": "Cohen's h",
}


def applies(statistic: Statistic, column: ColumnProfile) -> bool:
    """Whether a column has this statistic: categories have no order, and only a whole list of them knows an unseen one.

    `mistyped` is for columns of whole numbers, `out_of_range` for those with a range.
    """
    if statistic in _ORDERED or statistic == "infinite":
        return column.bins.kind == "number"
    if statistic == "unseen":
        return column.bins.kind == "category" and column.complete
    if statistic == "mistyped":
        return column.bins.whole
    return bool(column.bins.edges) if statistic == "out_of_range" else True


def is_share(statistic: Statistic) -> bool:
    """Whether it is a share of all rows, the missing ones too, which needs no least number of values."""
    return statistic in _SHARES


class Comparison:
    """Live counts of some columns beside their reference, in arrays (C, width), so that numpy works on all at once."""

    def __init__(
        self, columns: Sequence[ColumnProfile], live: Counts, level: float, live_deffs: Floats | None = None
    ) -> None:
        self.columns, self.live, self.level = columns, live, level
        self.rows = live.rows
        self.reference_rows = max((column.rows for column in columns), default=0)  # the same for all of a side
        self.r = np.zeros((len(columns), live.bins.width))
        for at, column in enumerate(columns):
            self.r[at, : len(column.counts)] = column.counts
        self.c = live.counts.astype(np.float64)
        self.deff = np.array([column.deff for column in columns]) * (1.0 if live_deffs is None else live_deffs)
        for at, column in enumerate(columns):
            if column.bins.kind == "category":
                last = len(column.counts) - 1
                _join_chosen(self.r[at], self.c[at], last, float(self.deff[at]), complete=column.complete)
        self.n, self.m = self.c.sum(axis=1), self.r.sum(axis=1)

    def find(self, statistic: Statistic) -> Found:
        """One statistic of every column; what makes no sense for a column is left to `applies`."""
        return self._share(statistic) if statistic in _SHARES else _TABLE[statistic](self)

    @cached_property
    def pooled(self) -> tuple[Floats, Floats]:
        return statistics.pooled(self.r, self.c)

    @cached_property
    def noise(self) -> Floats:
        """What PSI is expected to be without drift."""
        return np.asarray(statistics.psi_noise(*self.pooled, deff=self.deff), np.float64)

    @cached_property
    def _quartiles(self) -> tuple[Any, Any]:
        edges = self.live.bins.edge_table
        return statistics.quantile(self.r, edges, 0.25), statistics.quantile(self.r, edges, 0.75)

    @cached_property
    def edges(self) -> Floats:
        """The bins' edges within Tukey's fences: values further out count as lying there, so that the outermost bins,
        which reach as far as the wildest reference value, are not thought to be evenly full."""
        edges, (low, high) = self.live.bins.edge_table, self._quartiles
        reach = np.where(high > low, 1.5 * (high - low), np.inf)[:, None]
        return np.clip(edges, np.nan_to_num(low)[:, None] - reach, np.nan_to_num(high)[:, None] + reach)

    @cached_property
    def spread(self) -> statistics.Spread:
        return statistics.spread(self.r + self.c, self.edges)

    @cached_property
    def unit(self) -> Floats:
        """The reference's interquartile range; where a value is so frequent that it is nothing, the whole range."""
        low, high = self._quartiles
        edges = self.live.bins.edge_table
        whole = statistics.quantile(self.r, edges, 1.0) - statistics.quantile(self.r, edges, 0.0)
        return np.where(high > low, high - low, np.where(whole > 0, whole, np.nan))

    def divergence(self, name: Any, value: Any, effect: Any, tolerance: float, counts: Any = None) -> Found:
        r, c = counts or self.pooled
        level, deff, some = self.level, self.deff, np.nan_to_num(value)
        return Found(
            value,
            statistics.divergence_limit(name, r, c, level, tolerance=tolerance, deff=deff),
            effect,
            self.n.astype(np.int64),
            statistics.divergence_log10_p(name, some, r, c, tolerance=tolerance, deff=deff),
        )

    def distance(self, value: Any, limit: Any, log10_p: Any, *at: Any, tolerance: Any, unit: Any = 1.0) -> Found:
        deff, some = self.deff, np.nan_to_num(value)
        most = limit(*at, self.level, tolerance=tolerance, deff=deff)
        with np.errstate(invalid="ignore"):
            effect = value / unit
        return Found(value, most, effect, self.n.astype(np.int64), log10_p(some, *at, tolerance=tolerance, deff=deff))

    def _share(self, statistic: Statistic) -> Found:
        """How far the share of some kind of bad value lies from the reference's, and how far it may on that side."""
        before, now = _SHARES[statistic](self)
        deff = self.deff
        expected = before
        if statistic == "missing":
            deff = np.array([column.missing_deff for column in self.columns])
        if statistic == "unseen":
            found = [column.never_seen(float(own)) for column, own in zip(self.columns, deff, strict=True)]
            expected, deff = (np.array(part) for part in zip(*found, strict=True))
        # What the reference never had says nothing about runs of it.
        low, high = statistics.share_limits(
            expected,
            self.reference_rows,
            self.rows,
            self.level,
            tolerance_h=QUALITY_TOLERANCE_H,
            least=QUALITY_LEAST,
            deff=np.where(expected > 0, deff, 1.0),
        )
        p, q = before / max(self.reference_rows, 1), now / max(self.rows, 1)
        h = 2.0 * np.abs(np.arcsin(np.sqrt(np.clip(q, 0.0, 1.0))) - np.arcsin(np.sqrt(np.clip(p, 0.0, 1.0))))
        rows = np.full(len(p), self.rows, np.int64)
        return Found(np.abs(q - p), np.where(q >= p, high - p, np.maximum(p - low, 0.0)), h, rows, None)


def _join_chosen(reference: Floats, live: Floats, other: int, deff: float, *, complete: bool) -> None:
    """Count categories with the others, in place, that have a bin only as chance made them frequent in the reference.

    The most frequent of thousands look more frequent than they are, and those that came a few times stand for as many
    that did not come: live rows repeat neither. Those that lie five standard errors (of a root: a half) above the last
    that was chosen, or above none where all were (`complete`), are frequent by themselves. How frequent one is, is told
    by both sides together: whoever is chosen by one side's luck differs from the other side for that alone.
    """
    m, n = float(reference.sum()), float(live.sum())
    if not other or not m or not n:
        return
    least = 0.0 if complete else math.sqrt(float(reference[:other].min()) / deff)
    frequent = np.sqrt((reference[:other] + live[:other]) * m / (m + n) / deff)
    doubtful = np.flatnonzero(frequent < least + 2.5)
    for counts in (reference, live):
        counts[other] += counts[doubtful].sum()
        counts[doubtful] = 0.0


def _reference(at: Comparison, of: Callable[[ColumnProfile], int]) -> Floats:
    return np.array([of(column) for column in at.columns], np.float64)


# Per column: how many reference rows had it, and how many live ones.
_SHARES: Mapping[Statistic, Callable[[Comparison], tuple[Floats, NDArray[Any]]]] = {
    "missing": lambda x: (_reference(x, lambda column: column.missing), x.live.missing),
    "unseen": lambda x: (_reference(x, lambda column: column.counts[-1]), x.live.unseen),
    "mistyped": lambda x: (np.zeros(len(x.columns)), x.live.mistyped),
    "infinite": lambda x: (_reference(x, lambda column: column.infinite), x.live.infinite),
    "out_of_range": lambda x: (
        _reference(x, lambda column: column.counts[0] + column.counts[-1] if column.bins.edges else 0),
        x.live.outside.sum(axis=1),
    ),
}


def _root(square: Any, noise: Any) -> Any:
    """A distance with the noise taken off its square."""
    return np.sqrt(np.maximum(square - noise, 0.0))


def _psi(x: Comparison) -> Found:
    value = statistics.psi(*x.pooled)
    return x.divergence("psi", value, np.maximum(value - x.noise, 0.0), PSI_TOLERANCE)


def _js(x: Comparison) -> Found:
    value = statistics.js(*x.pooled)
    return x.divergence("js", value, _root(np.square(value), x.noise / (8.0 * math.log(2.0))), JS_TOLERANCE)


def _kl(x: Comparison) -> Found:
    value = statistics.kl(*x.pooled)
    return x.divergence("kl", value, np.maximum(value - x.noise / 2.0, 0.0), PSI_TOLERANCE / 2.0)


def _hellinger(x: Comparison) -> Found:
    value = statistics.hellinger(*x.pooled)
    return x.divergence("hellinger", value, _root(np.square(value), x.noise / 8.0), HELLINGER_TOLERANCE)


def _contingency(x: Comparison, statistic: Callable[[Floats, Floats], Any]) -> Found:
    """χ² or G itself against its limit; the tolerance is PSI's, to which both are in proportion."""
    counts = statistics.pooled(x.r, x.c, 5.0, fold=True)
    value = statistic(*counts)
    found = x.divergence(
        "contrast", statistics.contrast(value, *counts), statistics.cramers_v(*counts), PSI_TOLERANCE, counts
    )
    one = statistics.contrast(np.ones(len(x.columns)), *counts)
    return Found(value, found.limit / one, found.effect, found.rows, found.log10_p)


def _ks(x: Comparison) -> Found:
    value = statistics.ks(x.r, x.c)
    return x.distance(value, statistics.ks_limit, statistics.ks_log10_p, x.n, x.m, tolerance=KS_TOLERANCE)


def _kuiper(x: Comparison) -> Found:
    value = statistics.kuiper(x.r, x.c)
    return x.distance(value, statistics.kuiper_limit, statistics.kuiper_log10_p, x.n, x.m, tolerance=KS_TOLERANCE)


def _total_variation(x: Comparison) -> Found:
    limit, log10_p = statistics.total_variation_limit, statistics.total_variation_log10_p
    return x.distance(statistics.total_variation(*x.pooled), limit, log10_p, *x.pooled, tolerance=SHARE_TOLERANCE)


def _l_infinity(x: Comparison) -> Found:
    limit, log10_p = statistics.l_infinity_limit, statistics.l_infinity_log10_p
    return x.distance(statistics.l_infinity(*x.pooled), limit, log10_p, *x.pooled, tolerance=SHARE_TOLERANCE)


def _wasserstein(x: Comparison) -> Found:
    value = statistics.wasserstein(x.r, x.c, x.edges)
    limit, log10_p = statistics.wasserstein_limit, statistics.wasserstein_log10_p
    tolerance = SHIFT_TOLERANCE * x.spread.sd
    return x.distance(value, limit, log10_p, x.spread, x.n, x.m, tolerance=tolerance, unit=x.unit)


def _energy(x: Comparison) -> Found:
    value = statistics.energy(x.r, x.c, x.edges)
    limit, log10_p = statistics.energy_limit, statistics.energy_log10_p
    tolerance = ENERGY_TOLERANCE * np.sqrt(x.spread.sd)
    return x.distance(value, limit, log10_p, x.spread, x.n, x.m, tolerance=tolerance, unit=np.sqrt(x.unit))


_TABLE: Mapping[Statistic, Callable[[Comparison], Found]] = {
    "psi": _psi,
    "js": _js,
    "kl": _kl,
    "hellinger": _hellinger,
    "chi_square": lambda x: _contingency(x, statistics.chi_square),
    "g": lambda x: _contingency(x, statistics.g_statistic),
    "ks": _ks,
    "kuiper": _kuiper,
    "total_variation": _total_variation,
    "l_infinity": _l_infinity,
    "wasserstein": _wasserstein,
    "energy": _energy,
}

ALL: tuple[Statistic, ...] = (*LEVEL, *(name for name in (*_SHARES, *_TABLE) if name not in LEVEL))

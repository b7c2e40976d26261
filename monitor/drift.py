"""What moved, by how much, against which limit: live counts compared with a version's reference profile.

Invariants: a measurement is a pure function of profile, counts and level, so anybody can recompute it from stored
tiles. Too few rows is `unknown`, never good or bad. The false-alarm promise is over all tests of a model together:
`level_per_test` divides the budget by every test that is made in a month (Bonferroni, so it holds under any dependence
between features, statistics and overlapping windows). Called by the monitor's worker.

Each number has psi, js, ks and missing; each category psi, js and missing. Limits carry a tolerance (about a shift by a
twentieth of a standard deviation), so a difference too small to matter is no drift in however many rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from monitor import statistics
from monitor.counts import Counts
from monitor.profile import ColumnProfile, ReferenceProfile
from registry.vocabulary import Cause, Verdict

Kind = Literal["input", "output"]
Statistic = Literal["psi", "js", "ks", "missing"]

MONTH_S = 30 * 86_400
LEAST_ROWS = (
    100.0  # of effective rows with a value, live and reference; below, the distances' limits are not to be trusted
)
PSI_TOLERANCE, JS_TOLERANCE, KS_TOLERANCE = 0.0025, 0.02, 0.02
MISSING_TOLERANCE_H, MISSING_LEAST = 0.04, 0.001  # Cohen's h; and a share of missing values that is never an alarm


@dataclass(frozen=True, slots=True)
class Measurement:
    """One statistic of one column in one window.

    psi in nats, js a distance in bits, ks and missing shares; missing is how far the share of missing values lies from
    the reference's. value and threshold are nan where nothing could be measured. evidence_log10 is that of this window
    alone: its p-value turned into an e-value by 1/(2·sqrt(p)), 0 at least; None for `missing`.
    """

    feature: str
    kind: Kind
    statistic: Statistic
    value: float
    threshold: float
    rows: int
    window: str
    verdict: Verdict
    cause: Cause | None
    profile: str
    evidence_log10: float | None = None

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.kind, self.feature, self.statistic, self.window

    @property
    def excess(self) -> float:
        """value over threshold: above 1 is a breach; 0 where nothing could be measured."""
        return self.value / self.threshold if self.verdict is not Verdict.UNKNOWN and self.threshold > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """As `GET models/{m}/drift` shows it; what could not be measured is null."""
        return {
            "feature": self.feature,
            "kind": self.kind,
            "statistic": self.statistic,
            "value": self.value if math.isfinite(self.value) else None,
            "threshold": self.threshold if math.isfinite(self.threshold) else None,
            "rows": self.rows,
            "window": self.window,
            "verdict": self.verdict.value,
            "cause": self.cause.value if self.cause else None,
            "profile": self.profile,
            "evidence_log10": self.evidence_log10,
        }


def count_of_tests(profile: ReferenceProfile) -> int:
    """How many statistics one look at one window takes.

    >>> count_of_tests(ReferenceProfile(0, (), ()))
    0
    """
    return sum(4 if column.bins.kind == "number" else 3 for column in (*profile.inputs, *profile.outputs))


def level_per_test(profile: ReferenceProfile, false_alarms_per_month: float, looks_per_month: float) -> float:
    """The false-alarm probability of one test, so that a month without drift expects at most the budget in all.

    looks_per_month counts each evaluation of each window: windows x MONTH_S / pause between looks.
    """
    return min(max(false_alarms_per_month, 1e-6) / max(looks_per_month * max(count_of_tests(profile), 1), 1.0), 0.05)


def measure(
    profile: ReferenceProfile, inputs: Counts | None, outputs: Counts | None, *, window: str, level: float
) -> list[Measurement]:
    """Every statistic of every column, in column order; None counts leave that side out.

    Raises ValueError for counts of other bins than the profile's.
    """
    found: list[Measurement] = []
    sides: tuple[tuple[Kind, tuple[ColumnProfile, ...], Counts | None], ...] = (
        ("input", profile.inputs, inputs),
        ("output", profile.outputs, outputs),
    )
    for kind, columns, counts in sides:
        if counts is None:
            continue
        expected = profile.input_bins() if kind == "input" else profile.output_bins()
        if counts.bins is not expected and counts.bins.digest != expected.digest:
            raise ValueError(f"the {kind} counts have other bins than the profile")
        found.extend(_Side(kind, columns, counts, profile, window, level).measurements())
    return found


def ranked(measurements: Iterable[Measurement]) -> list[Measurement]:
    """The worst first: by how far the value is above its limit; unmeasured last. Stable."""
    return sorted(measurements, key=lambda m: (m.verdict is Verdict.UNKNOWN, -m.excess))


def worst(measurements: Sequence[Measurement], features: int) -> list[Measurement]:
    """All measurements of the `features` columns that moved most, worst column first: what /metrics has room for."""
    chosen: dict[tuple[str, str], list[Measurement]] = {}
    for m in ranked(measurements):
        if (m.kind, m.feature) in chosen:
            chosen[m.kind, m.feature].append(m)
        elif len(chosen) < features:
            chosen[m.kind, m.feature] = [m]
    return [m for group in chosen.values() for m in group]


class _Side:
    """One side's counts in arrays (C, width), so that numpy works on all columns at once."""

    def __init__(
        self,
        kind: Kind,
        columns: tuple[ColumnProfile, ...],
        counts: Counts,
        profile: ReferenceProfile,
        window: str,
        level: float,
    ) -> None:
        self.kind, self.columns, self.window, self.level = kind, columns, window, level
        self.live, self.rows = counts, counts.rows
        self.profile = profile.digest
        self.reference_rows = max((column.rows for column in columns), default=0)  # the same for all of a side
        self.reference = np.zeros((len(columns), counts.bins.width))
        for at, column in enumerate(columns):
            self.reference[at, : len(column.counts)] = column.counts
        self.current = counts.counts.astype(np.float64)
        self.deff = np.array([column.deff for column in columns])
        self.n, self.m = self.current.sum(axis=1), self.reference.sum(axis=1)

    def measurements(self) -> list[Measurement]:
        if not self.columns:
            return []
        level, deff = self.level, self.deff
        r, c = statistics.pooled(self.reference, self.current)
        psi, js = statistics.psi(r, c), statistics.js(r, c)
        ks = statistics.ks(self.reference, self.current)
        n, m = self.n, self.m
        tables: dict[Statistic, tuple[NDArray[Any], NDArray[Any], NDArray[Any]]] = {
            "psi": (
                psi,
                statistics.psi_limit(r, c, level, tolerance=PSI_TOLERANCE, deff=deff),
                statistics.psi_log10_p(psi, r, c, tolerance=PSI_TOLERANCE, deff=deff),
            ),
            "js": (
                js,
                statistics.js_limit(r, c, level, tolerance=JS_TOLERANCE, deff=deff),
                statistics.js_log10_p(np.nan_to_num(js), r, c, tolerance=JS_TOLERANCE, deff=deff),
            ),
            "ks": (
                ks,
                statistics.ks_limit(n, m, level, tolerance=KS_TOLERANCE, deff=deff),
                statistics.ks_log10_p(np.nan_to_num(ks), n, m, tolerance=KS_TOLERANCE, deff=deff),
            ),
        }
        enough = np.minimum(n, m) / deff >= LEAST_ROWS
        missing = self._missing()
        found: list[Measurement] = []
        for at, column in enumerate(self.columns):
            for name, (values, limits, log10_p) in tables.items():
                if name == "ks" and column.bins.kind == "category":
                    continue  # categories have no order
                evidence = max(0.0, -0.5 * float(log10_p[at]) - math.log10(2.0))
                value, limit = float(values[at]), float(limits[at])
                found.append(self._one(at, name, value, limit, bool(enough[at]), int(n[at]), evidence))
            value, limit = missing[at]
            found.append(self._one(at, "missing", value, limit, self.rows > 0 < self.reference_rows, self.rows, None))
        return found

    def _missing(self) -> list[tuple[float, float]]:
        """Per column: how far the missing share lies from the reference's, and how far it may on that side."""
        events = np.array([column.missing for column in self.columns], np.float64)
        deff = np.where(events > 0, self.deff, 1.0)  # a column that never missed a value says nothing about runs of it
        low, high = statistics.share_limits(
            events,
            self.reference_rows,
            self.rows,
            self.level,
            tolerance_h=MISSING_TOLERANCE_H,
            least=MISSING_LEAST,
            deff=deff,
        )
        share = events / max(self.reference_rows, 1)
        moved = self.live.missing / max(self.rows, 1) - share
        return [
            (abs(float(d)), float(up - s) if d >= 0 else float(s - down))
            for d, s, down, up in zip(moved, share, low, high, strict=True)
        ]

    def _one(
        self, at: int, statistic: Statistic, value: float, limit: float, enough: bool, rows: int, evidence: float | None
    ) -> Measurement:
        verdict, cause = Verdict.PASS, None
        if self.rows == 0 or self.reference_rows == 0:
            verdict, cause = Verdict.UNKNOWN, Cause.NO_TRAFFIC if self.rows == 0 else Cause.NOT_CONFIGURED
        elif not enough:
            verdict, cause = Verdict.UNKNOWN, Cause.NOT_ENOUGH
        elif value > limit:
            verdict = Verdict.BREACH
        unmeasured = rows == 0 or (self.m[at] == 0 and statistic != "missing")
        return Measurement(
            feature=self.columns[at].name,
            kind=self.kind,
            statistic=statistic,
            value=math.nan if unmeasured else value,
            threshold=math.nan if unmeasured else limit,
            rows=rows,
            window=self.window,
            verdict=verdict,
            cause=cause,
            profile=self.profile,
            evidence_log10=evidence if verdict is not Verdict.UNKNOWN else None,
        )

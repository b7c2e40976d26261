"""What moved, by how much, against which limit: live counts compared with a version's reference profile.

Invariants: a measurement is a pure function of profile, counts and level, so anybody can recompute it from stored
tiles. Too few rows is `unknown`, never good or bad. The false-alarm promise is over all tests of a model together:
`level_per_test` divides the budget by every test that is made in a month (Bonferroni, so it holds under any dependence
between features, statistics and overlapping windows). Called by the monitor's worker.

Which statistics a column has, and their tolerances, is `monitor/measures.py`. Windows are judged by `measures.LEVEL`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from monitor.counts import Counts
from monitor.measures import LEVEL, Comparison, Statistic, applies, is_share
from monitor.profile import ColumnProfile, ReferenceProfile
from registry.vocabulary import Cause, Verdict

Floats = NDArray[np.float64]
Kind = Literal["input", "output"]

MONTH_S = 30 * 86_400
LEAST_ROWS = (
    100.0  # of effective rows with a value, live and reference; below, the distances' limits are not to be trusted
)


@dataclass(frozen=True, slots=True)
class Measurement:
    """One statistic of one column in one window.

    psi and kl in nats, js a distance in bits, ks and the like shares, wasserstein in the feature's own unit; missing
    and its like say how far the share of such values lies from the reference's. `effect` is the size of the change in
    the unit of `measures.EFFECTS`, else the value itself. value, threshold and effect are nan where nothing could be
    measured. rows and reference_rows are those that were compared. evidence_log10 is that of this window alone: its
    p-value turned into an e-value by 1/(2·sqrt(p)), 0 at least; None for shares.
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
    effect: float = math.nan
    reference_rows: int = 0

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
            "effect": self.effect if math.isfinite(self.effect) else None,
            "rows": self.rows,
            "reference_rows": self.reference_rows,
            "window": self.window,
            "verdict": self.verdict.value,
            "cause": self.cause.value if self.cause else None,
            "profile": self.profile,
            "evidence_log10": self.evidence_log10,
        }


def count_of_tests(profile: ReferenceProfile, chosen: Sequence[Statistic] = LEVEL) -> int:
    """How many tests one look at one window takes.

    >>> count_of_tests(ReferenceProfile(0, (), ()))
    0
    """
    columns = (*profile.inputs, *profile.outputs)
    return sum(applies(statistic, column) for statistic in chosen for column in columns)


def level_per_test(profile: ReferenceProfile, false_alarms_per_month: float, looks_per_month: float) -> float:
    """The false-alarm probability of one test, so that a month without drift expects at most the budget in all.

    looks_per_month counts each evaluation of each window: windows x MONTH_S / pause between looks.
    """
    return min(max(false_alarms_per_month, 1e-6) / max(looks_per_month * max(count_of_tests(profile), 1), 1.0), 0.05)


def measure(
    profile: ReferenceProfile,
    inputs: Counts | None,
    outputs: Counts | None,
    *,
    window: str,
    level: float,
    chosen: Sequence[Statistic] = LEVEL,
    live_deffs: tuple[Floats, Floats] | None = None,
) -> list[Measurement]:
    """The chosen statistics of every column that has them, in column order; None counts leave that side out.

    Each is a test at this level (`level_per_test`, told how many there are). `measures.ALL` are all there are.
    live_deffs: per column of inputs and of outputs, by how much more the counted rows depend on their neighbours than
    the reference says.
    Raises ValueError for counts of other bins than the profile's.
    """
    found: list[Measurement] = []
    sides: tuple[tuple[Kind, tuple[ColumnProfile, ...], Counts | None], ...] = (
        ("input", profile.inputs, inputs),
        ("output", profile.outputs, outputs),
    )
    for kind, columns, counts in sides:
        deffs = None if live_deffs is None else live_deffs[0 if kind == "input" else 1]
        if counts is None:
            continue
        expected = profile.input_bins() if kind == "input" else profile.output_bins()
        if counts.bins is not expected and counts.bins.digest != expected.digest:
            raise ValueError(f"the {kind} counts have other bins than the profile")
        found.extend(_side(kind, Comparison(columns, counts, level, deffs), chosen, profile, window))
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


def _side(
    kind: Kind, compared: Comparison, chosen: Sequence[Statistic], profile: ReferenceProfile, window: str
) -> Iterator[Measurement]:
    """One side's measurements, column by column, each column's in the order of `chosen`."""
    if not compared.columns:
        return
    tables = {name: compared.find(name) for name in chosen if any(applies(name, c) for c in compared.columns)}
    scarce = np.minimum(compared.n, compared.m) / compared.deff < LEAST_ROWS
    for at, column in enumerate(compared.columns):
        for name, found in tables.items():
            if not applies(name, column):
                continue
            value, limit, rows = float(found.value[at]), float(found.limit[at]), int(found.rows[at])
            verdict, cause = Verdict.PASS, None
            if compared.rows == 0 or compared.reference_rows == 0:
                verdict, cause = Verdict.UNKNOWN, Cause.NO_TRAFFIC if compared.rows == 0 else Cause.NOT_CONFIGURED
            elif scarce[at] and not is_share(name):
                verdict, cause = Verdict.UNKNOWN, Cause.NOT_ENOUGH
            elif value > limit:
                verdict = Verdict.BREACH
            measured = rows > 0 and (compared.m[at] > 0 or is_share(name))
            evidence = None
            if verdict is not Verdict.UNKNOWN and found.log10_p is not None:
                evidence = max(0.0, -0.5 * float(found.log10_p[at]) - math.log10(2.0))
            yield Measurement(
                feature=column.name,
                kind=kind,
                statistic=name,
                value=value if measured else math.nan,
                threshold=limit if measured else math.nan,
                rows=rows,
                window=window,
                verdict=verdict,
                cause=cause,
                profile=profile.digest,
                evidence_log10=evidence,
                effect=float(found.effect[at]) if measured else math.nan,
                reference_rows=compared.reference_rows if is_share(name) else int(compared.m[at]),
            )

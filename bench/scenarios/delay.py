"""How many records pass until the fast detector sees a drift, by simulation: one feature of a hundred drifts.

The threshold is that of one false alarm a month over all families, at most 500 records a second (one evaluation a
second), and the reference has 100,000 rows. Dependent traffic (design effect 10) comes in sessions of ten equal rows,
in the reference (100,000 sessions) and live alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bench.result import Result
from bench.scenario import Options
from monitor.budget import EVALUATE_ROWS, MONTH_S, Budget, evaluations_in
from monitor.counts import Counter, Counts
from monitor.detectors import FastDetector, Limits
from monitor.profile import Order, fit
from monitor.record import Column, LogSchema

SUMMARY = "detection delay of the fast detector in records, by simulation; the tables of docs/drift.md"
FEATURES = 100
REFERENCE_ROWS = 100_000
BEFORE = 40  # evaluations without drift
MOST = 2_000  # evaluations that are waited for: a million records
DEPENDENT = 10


@dataclass(frozen=True)
class Case:
    """One kind of drift: what values become after it. `bar`: the median promised for independent rows, in records."""

    name: str
    kind: Literal["number", "category"]
    bar: int
    mean: float = 0.0
    sd: float = 1.0
    missing: float = 0.0
    share: float = 0.1  # of the first of three categories

    def draw(self, rows: int, rng: np.random.Generator, drifted: bool) -> NDArray[np.float64]:
        """Values (rows,), independent."""
        if self.kind == "category":
            share = self.share if drifted else 0.1
            return rng.choice(3, rows, p=[share, (1 - share) / 3, 2 * (1 - share) / 3]).astype(np.float64)
        values = rng.normal(size=rows)
        if drifted:
            values = self.mean + self.sd * values
            values[rng.random(rows) < self.missing] = np.nan
        return values


CASES = (
    Case("mean +0.1 sd", "number", 20_000, mean=0.1),
    Case("mean +0.2 sd", "number", 5_000, mean=0.2),
    Case("mean +0.5 sd", "number", 1_000, mean=0.5),
    Case("sd x 1.2", "number", 6_000, sd=1.2),
    Case("1 % missing", "number", 2_000, missing=0.01),
    Case("0.3 % missing", "number", 12_000, missing=0.003),
    Case("category .10 → .12", "category", 35_000, share=0.12),
    Case("category .10 → .15", "category", 5_000, share=0.15),
)


def limits() -> Limits:
    """The thresholds of one false alarm a month, 100 features, one evaluation a second."""
    evaluations = FEATURES * evaluations_in(MONTH_S)
    month = Budget(1.0)
    return Limits(month.log_threshold("inputs", evaluations), month.log_threshold("quality", evaluations))


def delays(case: Case, seeds: int, deff: int) -> list[int]:
    """Records from the onset to the alarm, one for each seed; one that is never seen counts as the longest wait.

    Raises RuntimeError for an alarm before the onset.
    """
    found = []
    schema = LogSchema(True, (Column("x", "x", case.kind, 0),), (), "f8", "f8")
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        reference = np.repeat(case.draw(REFERENCE_ROWS, rng, False), deff)[:, None]
        profile = fit(schema, reference, np.zeros((len(reference), 0)), order=Order(in_time=True))
        detector = FastDetector(profile.inputs, "input")
        counter = Counter(detector.bins, "f8")
        for t in range(BEFORE + MOST):
            values = np.repeat(case.draw(EVALUATE_ROWS // deff, rng, t >= BEFORE), deff)
            counts = Counts.empty(detector.bins)
            counter.add(counts, values[:, None])
            if detector.update(counts, float(t), limits()).raised:
                if t < BEFORE:
                    raise RuntimeError(f"{case.name}, seed {seed}: an alarm before the onset")
                break
        found.append((t + 1 - BEFORE) * EVALUATE_ROWS)
    return found


def median(values: list[int]) -> float:
    """The middle one."""
    return float(np.median(values))


def run(options: Options) -> Result:
    """Every case, with independent and with dependent rows."""
    seeds = 2 if options.quick else 20
    result = Result("delay")
    for deff in (1, DEPENDENT):
        options.say(f"\n| drift, design effect {deff} | promised | median of {seeds} | nine in ten within |")
        options.say("| --- | --- | --- | --- |")
        for case in CASES[2:3] if options.quick else CASES:
            found = delays(case, seeds, deff)
            promised = f"{case.bar:,}" if deff == 1 else ""
            options.say(f"| {case.name} | {promised} | {median(found):,.0f} | {np.quantile(found, 0.9):,.0f} |")
            name = f"{case.name}, design effect {deff}"
            result.add(name, "records", found, "lower")
            if deff == 1:
                result.bar(f"{case.name} is seen in time", name, "<=", case.bar)
    return result

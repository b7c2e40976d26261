"""One knob, in plain units, and how it is shared out: false alarms in a month, or the chance of one in an offline run.

Why: everything that may alarm (models x features x windows x families of detectors) draws on one number that an
operator can understand. Invariant: what all detectors are allowed together is at most the budget, under any dependence
between them. Pure; called by whoever sets up detectors: the controller and `driftgate drift`.

An e-detector's M grows by at most 1 an evaluation in the mean, so with a threshold c the alarms expected of E
evaluations (summed over features) are at most E/c: c = E / (budget x share). A test of level p alarms p times.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import log
from typing import Literal

Spender = Literal["inputs", "outputs", "quality", "level", "multivariate"]
SHARES: Mapping[Spender, float] = {"inputs": 0.4, "outputs": 0.2, "quality": 0.2, "level": 0.1, "multivariate": 0.1}

MONTH_S = 30 * 86_400
EVALUATE_ROWS = 500  # a fast detector evaluates after so many rows and so many seconds, whichever is later
EVALUATE_S = 1.0


@dataclass(frozen=True)
class Budget:
    """False alarms that may be expected over some period, or at most the probability of one."""

    false_alarms: float
    shares: Mapping[Spender, float] = field(default_factory=lambda: dict(SHARES))

    def __post_init__(self) -> None:
        if not 0.0 < self.false_alarms < float("inf"):
            raise ValueError(f"a budget of {self.false_alarms} false alarms")

    def among(self, spenders: Iterable[Spender]) -> Budget:
        """The same budget where only these spend: what the others would have had is shared out in proportion.

        >>> Budget(1.0).among(["inputs", "outputs"]).shares["outputs"]
        0.3333333333333333
        """
        used = list(dict.fromkeys(spenders))
        total = sum(SHARES[spender] for spender in used)
        return Budget(self.false_alarms, {spender: SHARES[spender] / total for spender in used})

    def of(self, spender: Spender) -> float:
        """What one of them may spend: 0 if it has no share."""
        return self.false_alarms * self.shares.get(spender, 0.0)

    def log_threshold(self, spender: Spender, evaluations: float) -> float:
        """ln c for a detector family that makes so many evaluations in the period, summed over features.

        >>> month = Budget(1.0)
        >>> round(month.log_threshold("inputs", 100 * evaluations_in(MONTH_S, rows_per_s=500.0)), 1)
        20.3
        """
        allowed = self.of(spender)
        return log(max(evaluations, 1.0) / allowed) if allowed > 0.0 else float("inf")

    def level(self, spender: Spender, tests: float) -> float:
        """The false-alarm probability of each of so many tests in the period (Bonferroni), at most 5 %."""
        return min(self.of(spender) / max(tests, 1.0), 0.05)


def evaluations_in(seconds: float, rows_per_s: float | None = None) -> float:
    """How often one feature is evaluated at most: once a second, or as often as that many rows a second allow."""
    most = seconds / EVALUATE_S
    return most if rows_per_s is None else min(most, seconds * rows_per_s / EVALUATE_ROWS)


def is_due(rows: int, seconds: float) -> bool:
    """Whether rows that waited so long are to be evaluated now."""
    return rows >= EVALUATE_ROWS and seconds >= EVALUATE_S

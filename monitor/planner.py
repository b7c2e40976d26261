"""What a plan will cost and find, said before the rollout begins: requests until promotion, requests until detection.

Invariant: the same plan and assumptions always give the same numbers (a seeded simulation with the judge's own
evidence), and `promote_bound` is an upper one: looks are spaced so that the simulation never sees evidence earlier
than the controller would. Called by `rollout start` and printed by it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import ceil, log10
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from monitor import evidence
from monitor.plan import Guardrail, Plan
from monitor.verdict import disagreement_limit

Counts = NDArray[np.int64]

_REPLICATES = 2000  # 20 of them lie beyond the 99th percentile
_GROWTH = 1.05  # each look comes after 5 % more requests
_MOST_CANARY = 2_000_000  # canary answers simulated; a plan that needs more is said to have no bound
_MOST_TOTAL = 20_000_000
_LAG_S = 2.0  # from the last count that was needed until no worker has the old weight
_DRIFT_BINS = 20  # assumed bins of an output
_RATED = {"errors": "error_rate", "latency": "slow_rate", "data_quality": "bad_output_rate"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """What the champion is like and how much traffic comes; the candidate of the promotion figure is its equal."""

    error_rate: float = 0.0
    slow_rate: float = 0.01  # by definition of the p99; a canary's event needs `slowdown` x that, so this is cautious
    bad_output_rate: float = 0.0
    measured_disagreement: float | None = None
    workers: int = 1
    requests_per_s: float = 0.0  # 0: unknown, then nothing is added for what flows while a decision is carried out


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """How soon one fault is found: canary answers (rows or labelled rows for paired guardrails), and all requests."""

    guardrail: str
    fault: str
    unit: str  # canary requests | rows | labelled rows
    median: int
    p90: int
    total_median: int | None = None  # all requests, for guardrails that compare two arms


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """The plan's figures. None: not within what was simulated."""

    unit: str  # canary requests; with routing keys the different keys among them, since a key counts once
    promote_median: int | None  # canary answers until an identical canary is promoted
    promote_bound: int | None  # 99 of 100 such rollouts are promoted within this many
    shadow_floor: int
    detections: tuple[Detection, ...]
    assumptions: Assumptions

    def to_json(self) -> dict[str, Any]:
        """As the API shows it."""
        return asdict(self)

    def sentences(self) -> tuple[str, ...]:
        """The same for people, a line each."""
        if self.promote_bound is None:
            first = (
                "An identical canary is not sure to be promoted at all: the limits are too tight for this error rate."
            )
        else:
            median = f"{self.promote_median:,}" if self.promote_median is not None else "?"
            first = (
                f"An identical canary is promoted within {self.promote_bound:,} {self.unit} "
                f"(99 of 100 rollouts; half within {median}), after {self.shadow_floor:,} shadow requests."
            )
        found = [
            f"{item.guardrail}: {item.fault} is rolled back after {item.median:,} {item.unit} "
            f"(9 of 10 within {item.p90:,})."
            for item in self.detections
        ]
        return (first, *found)


def forecast(plan: Plan, assumptions: Assumptions | None = None, seed: int = 0) -> Forecast:
    """Simulate the plan with a canary that equals its champion, and with faults. Takes about a second."""
    assumed = assumptions or Assumptions()
    random = np.random.default_rng(seed)
    reached = _promotions(plan, assumed, random)
    sent_meanwhile = assumed.requests_per_s * _LAG_S * sum(step.weight for step in plan.steps)
    sent_meanwhile += plan.burn_in_requests * assumed.workers
    median, bound = (float(np.quantile(reached, share, method="higher")) for share in (0.5, 0.99))
    return Forecast(
        unit="canary requests" if plan.key == "request" else "canary keys",
        promote_median=ceil(median + sent_meanwhile) if np.isfinite(median) else None,
        promote_bound=ceil(bound + sent_meanwhile) if np.isfinite(bound) else None,
        shadow_floor=sum(step.min_requests for step in plan.steps if step.shadow),
        detections=_detections(plan, assumed, random),
        assumptions=assumed,
    )


# -- promotion of an equal canary --------------------------------------------------------------------------------------


def _promotions(plan: Plan, assumed: Assumptions, random: Generator) -> NDArray[np.float64]:
    """(replicates,) canary answers until every guardrail has passed; inf where none of the looks saw it."""
    weighted = [step for step in plan.steps if not step.shadow]
    before, last = weighted[:-1], weighted[-1]
    looks = _looks(last.min_requests, _MOST_CANARY)
    weights = np.array([step.weight for step in weighted])
    canary = np.empty((looks.size, weights.size), dtype=np.int64)
    canary[:, :-1] = [step.min_requests for step in before]
    canary[:, -1] = looks
    champion = np.ceil(canary * (1.0 - weights) / weights).astype(np.int64)
    total = canary.sum(axis=1)
    passed = np.ones((_REPLICATES, looks.size), dtype=bool)
    for guardrail in plan.guardrails:
        if guardrail.name in _RATED:
            rate = getattr(assumed, _RATED[guardrail.name])
            passed &= _rate_passes(plan, guardrail, rate, weights, canary, champion, random)
    shadowed = sum(step.min_requests for step in plan.steps if step.shadow)
    passed &= _pairs_pass(plan, assumed, shadowed + champion.sum(axis=1)) & _drift_passes(plan, total, champion)
    first = np.where(passed.any(axis=1), total[passed.argmax(axis=1)].astype(np.float64), np.inf)
    return np.asarray(first, dtype=np.float64)


def _looks(first: int, most: int) -> Counts:
    """Rising counts from first to most, each 5 % (at least 1) above the one before."""
    steps = ceil(np.log(max(2.0, most / first)) / np.log(_GROWTH))
    return np.unique(np.ceil(first * _GROWTH ** np.arange(steps + 1)).astype(np.int64))


def _rate_passes(
    plan: Plan,
    guardrail: Guardrail,
    rate: float,
    weights: NDArray[np.float64],
    canary: Counts,
    champion: Counts,
    random: Generator,
) -> NDArray[np.bool_]:
    """(replicates, looks) whether promotion evidence has reached its limit."""
    replicates = _REPLICATES if rate > 0.0 else 1
    a, b = _cumulative(canary, rate, replicates, random), _cumulative(champion, rate, replicates, random)
    by_ratio = evidence.ratio_below(weights, a, b, guardrail.max_ratio)
    by_excess = evidence.excess_below(weights, a, canary, b, champion, guardrail.max_excess)
    return np.asarray(evidence.average(by_ratio, by_excess) >= -log10(plan.max_false_promotion_probability))


def _cumulative(requests: Counts, rate: float, replicates: int, random: Generator) -> Counts:
    """(replicates, looks, steps) events among growing numbers of requests (looks, steps)."""
    added = np.diff(requests, axis=0, prepend=0)
    return random.binomial(added, rate, size=(replicates, *requests.shape)).cumsum(axis=1)


def _pairs_pass(plan: Plan, assumed: Assumptions, rows: Counts) -> NDArray[np.bool_]:
    guardrail = plan.guardrail("shadow_disagreement")
    if guardrail is None:
        return np.ones(rows.shape, dtype=bool)
    limit = disagreement_limit(guardrail, assumed.measured_disagreement)
    agreed = evidence.share_below(0, rows, limit)
    return np.asarray(agreed >= -log10(plan.max_false_promotion_probability))


def _drift_passes(plan: Plan, canary: Counts, champion: Counts) -> NDArray[np.bool_]:
    """Where a band around the noise of equal outputs lies within the tolerance."""
    guardrail = plan.guardrail("output_drift")
    if guardrail is None:
        return np.ones(canary.shape, dtype=bool)
    inverse = 1.0 / canary + 1.0 / np.maximum(1, champion.sum(axis=1))
    noise = 0.5 * np.sqrt(inverse * (_DRIFT_BINS - 1))
    spread = np.sqrt(inverse * np.log(100.0) / 2.0)
    return np.asarray(noise + spread <= guardrail.tolerance)


# -- detection of faults -----------------------------------------------------------------------------------------------


def _detections(plan: Plan, assumed: Assumptions, random: Generator) -> tuple[Detection, ...]:
    found: list[Detection] = []
    weight = next(step.weight for step in plan.steps if not step.shadow)
    errors, slow = plan.guardrail("errors"), plan.guardrail("latency")
    if errors is not None:
        base = assumed.error_rate or 0.005
        for ratio in (2.0, 4.0, 20.0):
            fault = f"{ratio:g} times an error rate of {base:.1%}"
            found += _rate_detection(plan, errors, weight, base, ratio, fault, random)
    if slow is not None:
        fault = "4 times as many slow answers"
        found += _rate_detection(plan, slow, weight, assumed.slow_rate, 4.0, fault, random)
    disagreement = plan.guardrail("shadow_disagreement")
    if disagreement is not None:
        limit = disagreement_limit(disagreement, assumed.measured_disagreement)
        for share in sorted({min(1.0, limit + 0.2), 1.0}):
            fault = f"disagreeing in {share:.0%} of rows"
            found += _share_detection(plan, disagreement, limit, share, fault, random)
    labels = plan.guardrail("labels")
    if labels is not None:
        found += _label_detection(plan, labels, random)
    return tuple(found)


def _rollback_limit(plan: Plan, guardrail: Guardrail) -> float:
    return -log10(plan.max_false_rollback_probability * guardrail.rollback_share)


def _rate_detection(
    plan: Plan, guardrail: Guardrail, weight: float, base: float, ratio: float, fault: str, random: Generator
) -> list[Detection]:
    total = _looks(50, _MOST_TOTAL)[:, None]
    canary = np.rint(total * weight).astype(np.int64)
    champion = total - canary
    a = _cumulative(canary, min(1.0, base * ratio), 400, random)
    b = _cumulative(champion, base, 400, random)
    above = evidence.ratio_above(np.array([weight]), a, b, guardrail.tolerated_ratio)
    found = _first(above >= _rollback_limit(plan, guardrail), total[:, 0])
    if found is None:
        return []
    median, p90 = found
    return [
        Detection(
            guardrail=guardrail.name,
            fault=fault,
            unit="canary requests",
            median=ceil(median * weight),
            p90=ceil(p90 * weight),
            total_median=ceil(median),
        )
    ]


def _share_detection(
    plan: Plan, guardrail: Guardrail, limit: float, share: float, fault: str, random: Generator
) -> list[Detection]:
    rows = _looks(1, 100_000)
    events = _cumulative(rows[:, None], share, 400, random)[..., 0]
    found = _first(evidence.share_above(events, rows, limit) >= _rollback_limit(plan, guardrail), rows)
    return [] if found is None else [_paired(guardrail, fault, "rows", found)]


def _label_detection(plan: Plan, guardrail: Guardrail, random: Generator) -> list[Detection]:
    rows = _looks(10, 1_000_000)[:, None]
    differing = _cumulative(rows, 0.10, 400, random)
    farther = random.binomial(np.diff(differing, axis=1, prepend=0), 0.75).cumsum(axis=1)  # 7.5 % against 2.5 %
    above = evidence.farther_more_often(farther[..., 0], (differing - farther)[..., 0])
    found = _first(above >= _rollback_limit(plan, guardrail), rows[:, 0])
    fault = "an accuracy 5 points lower"
    return [] if found is None else [_paired(guardrail, fault, "labelled rows", found)]


def _paired(guardrail: Guardrail, fault: str, unit: str, found: tuple[float, float]) -> Detection:
    return Detection(guardrail=guardrail.name, fault=fault, unit=unit, median=ceil(found[0]), p90=ceil(found[1]))


def _first(reached: NDArray[np.bool_], counts: Counts) -> tuple[float, float] | None:
    """(median, p90) of the counts at which each replicate first reached its limit; None if a tenth never did."""
    first = np.where(reached.any(axis=1), counts[reached.argmax(axis=1)].astype(np.float64), np.inf)
    median, p90 = (float(np.quantile(first, share, method="higher")) for share in (0.5, 0.9))
    return (median, p90) if np.isfinite(p90) else None

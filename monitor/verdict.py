"""What a guardrail says of the facts: pass, breach, or unknown with a cause.

Invariant: a report is a pure function of the plan and of cumulative counts since the rollout began, so anybody can
recompute a decision from what was stored, and looking more often changes nothing. No data is neither good nor bad.
PASS means that promotion evidence has reached its limit, BREACH that rollback evidence has (or, for output_drift,
that the drift is surely above its tolerance); everything between is UNKNOWN. Called by the controller once a tick.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import log10
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from monitor import evidence
from monitor.facts import ArmFacts, LabelFacts, RolloutFacts, SegmentFacts
from monitor.plan import Guardrail, Plan
from monitor.report import GuardrailReport, Tally
from registry.vocabulary import Cause, Verdict

__all__ = [
    "ArmFacts", "GuardrailReport", "LabelFacts", "RolloutFacts", "SegmentFacts", "Tally", "disagreement_limit", "judge",
]  # fmt: skip

STALE_AFTER_S = 300.0  # a source that had data and is silent this long while it should speak is lost
LABELS_STALE_AFTER_S = 3600.0  # labels come late and in batches
MOST_FOLLOWED = 0.90  # measured disagreement that the limit still follows

_OF_THE_MONITOR = ("shadow_disagreement", "labels", "output_drift")

_Event = Literal["errors", "slow", "bad_outputs"]


def judge(plan: Plan, facts: RolloutFacts) -> tuple[GuardrailReport, ...]:
    """A report for each guardrail of the plan, in its order. Pure."""
    return tuple(_report(plan, guardrail, facts) for guardrail in plan.guardrails)


def _report(plan: Plan, guardrail: Guardrail, facts: RolloutFacts) -> GuardrailReport:
    if guardrail.name in _OF_THE_MONITOR and not facts.watched:
        why = "what the monitor has counted in this rollout is being read"
        if guardrail.name == "output_drift":
            return _unknown(guardrail, Cause.NOT_ENOUGH, why)
        return _blank(plan, guardrail, Cause.NOT_ENOUGH, why)
    return _JUDGES[guardrail.name](plan, guardrail, facts)


def disagreement_limit(guardrail: Guardrail, measured: float | None) -> float:
    """The share of rows that may disagree: as the plan says it, else .01 for "same", else .30 or measured + .05.

    A measured share above MOST_FOLLOWED does not raise it: a limit near 1 would tell nothing from a broken candidate.

    >>> disagreement_limit(Guardrail(name="shadow_disagreement"), 0.4)
    0.45
    """
    if guardrail.limit is not None:
        return guardrail.limit
    if guardrail.expect == "same":
        return 0.01
    return round(max(0.30, measured + 0.05), 6) if measured is not None and measured <= MOST_FOLLOWED else 0.30


# -- rates of the two arms: errors, latency, data_quality --------------------------------------------------------------


def _errors(plan: Plan, guardrail: Guardrail, facts: RolloutFacts) -> GuardrailReport:
    return _rate(plan, guardrail, facts, "errors", list(facts.segments), "failed")


def _latency(plan: Plan, guardrail: Guardrail, facts: RolloutFacts) -> GuardrailReport:
    segments = [segment for segment in facts.segments if segment.has_latency_threshold]
    report = _rate(plan, guardrail, facts, "slow", segments, "were slow")
    if facts.latency_ready or report.verdict is Verdict.BREACH or report.cause is Cause.ERROR:
        return report
    if report.canary.requests:
        return _as_unknown(report, Cause.STALE, "the champion's p99 is not measured any more")
    return _as_unknown(report, Cause.NOT_ENOUGH, "the champion's first latency window has not closed")


def _data_quality(plan: Plan, guardrail: Guardrail, facts: RolloutFacts) -> GuardrailReport:
    if not facts.has_profile:
        return _blank(plan, guardrail, Cause.NOT_CONFIGURED, "no profile says which outputs are good")
    return _rate(plan, guardrail, facts, "bad_outputs", list(facts.segments), "had a bad output")


def _rate(
    plan: Plan, guardrail: Guardrail, facts: RolloutFacts, event: _Event, segments: list[SegmentFacts], words: str
) -> GuardrailReport:
    used = [segment for segment in segments if 0.0 < segment.weight < 1.0]
    weight = np.array([segment.weight for segment in used])
    champion, canary = _counts([s.champion for s in used], event), _counts([s.canary for s in used], event)
    tallies = Tally(*map(int, champion.sum(axis=1))), Tally(*map(int, canary.sum(axis=1)))
    above = below = 0.0
    if used:
        above = float(evidence.ratio_above(weight, canary[0], champion[0], guardrail.tolerated_ratio))
        by_ratio = evidence.ratio_below(weight, canary[0], champion[0], guardrail.max_ratio)
        by_excess = evidence.excess_below(weight, canary[0], canary[1], champion[0], champion[1], guardrail.max_excess)
        below = float(evidence.average(by_ratio, by_excess))
    report = _decide(plan, guardrail, facts, above, below, *tallies, age_s=facts.traffic_age_s)
    if facts.key_table_full:
        return _as_unknown(report, Cause.ERROR, "the table of routing keys is full, so events of a key may count twice")
    if report.cause in (Cause.ERROR, Cause.NO_TRAFFIC):
        return report
    return _with_sentence(report, _rate_sentence(report, words))


def _counts(arms: list[ArmFacts], event: _Event) -> NDArray[np.int64]:
    """(2, segments): events and requests."""
    return np.array([[getattr(arm, event) for arm in arms], [arm.requests for arm in arms]], dtype=np.int64)


def _rate_sentence(report: GuardrailReport, words: str) -> str:
    canary, champion = report.canary, report.champion
    text = (
        f"{canary.events:,} of {canary.requests:,} canary answers {words}, {champion.events:,} of {champion.requests:,}"
    )
    text += " champion answers"
    if canary.events and champion.events:
        ratio = (canary.events / canary.requests) / (champion.events / champion.requests)
        text += f": {ratio:.2g} times the rate"
    return f"{text}; {_odds(report, 'a canary no worse')}"


# -- the same inputs, two answers: shadow_disagreement, labels ---------------------------------------------------------


def _shadow_disagreement(plan: Plan, guardrail: Guardrail, facts: RolloutFacts) -> GuardrailReport:
    rows = facts.pair_rows + facts.shadow_errors
    events = facts.pair_disagreements + facts.shadow_errors
    if not rows and not plan.has_shadow_step and not facts.shadow_requests:
        return _blank(plan, guardrail, Cause.NOT_CONFIGURED, "the plan has no shadow step and no pair has come")
    if not rows and facts.pair_requests:
        why = "answers were paired, but they are numbers and the champion has no profile to say when two disagree"
        return _blank(plan, guardrail, Cause.NOT_CONFIGURED, why)
    if facts.measuring and guardrail.is_measured:
        why = "its limit is being measured: both versions run on the candidate's reference rows"
        return _blank(plan, guardrail, Cause.NOT_ENOUGH, why)
    limit = disagreement_limit(guardrail, facts.measured_disagreement)
    disagreed, requests = _by_request(facts)
    above = float(evidence.share_above(disagreed, requests, limit))
    below = float(evidence.share_below(disagreed, requests, limit))
    report = _decide(plan, guardrail, facts, above, below, Tally(0, rows), Tally(events, rows), age_s=facts.pair_age_s)
    if report.cause in (Cause.ERROR, Cause.NO_TRAFFIC):
        return report
    share = events / rows
    text = f"{events:,} of {rows:,} rows disagree with the champion, {share:.1%} where {limit:.1%} is the limit"
    return _with_sentence(report, f"{text}; {_odds(report, 'a candidate within the limit')}")


def _by_request(facts: RolloutFacts) -> tuple[float, float]:
    """Requests that disagree, each by its share of rows, and all requests: rows of one request are one witness."""
    failed = facts.shadow_errors if facts.shadow_errors_requests is None else facts.shadow_errors_requests
    if facts.pair_requests is None:
        return facts.pair_disagreements + failed, facts.pair_rows + failed
    requests = min(facts.pair_requests, facts.pair_rows)  # where nothing can be compared no row is counted
    disagreed = facts.pair_disagreed
    if disagreed is None:
        disagreed = facts.pair_disagreements * requests / max(facts.pair_rows, 1)
    return disagreed + failed, requests + failed


def _labels(plan: Plan, guardrail: Guardrail, facts: RolloutFacts) -> GuardrailReport:
    labels = facts.labels
    rows = labels.farther + labels.closer + labels.ties if labels else 0
    if labels is None or rows == 0:
        return _blank(plan, guardrail, Cause.NOT_CONFIGURED, "no label has come")
    above = float(evidence.farther_more_often(labels.farther, labels.closer))
    below = float(evidence.not_inferior(labels.farther, labels.closer, labels.ties, guardrail.margin))
    tallies = Tally(labels.closer, rows), Tally(labels.farther, rows)
    report = _decide(
        plan, guardrail, facts, above, below, *tallies, age_s=labels.age_s, stale_after_s=LABELS_STALE_AFTER_S
    )
    if report.cause is Cause.ERROR:
        return report
    text = f"the candidate is farther from {labels.farther:,} of {rows:,} labels, the champion from {labels.closer:,}"
    return _with_sentence(report, f"{text}; {_odds(report, 'a candidate no worse')}")


# -- the same shares of answers: output_drift --------------------------------------------------------------------------


def _output_drift(plan: Plan, guardrail: Guardrail, facts: RolloutFacts) -> GuardrailReport:
    if not facts.has_profile:
        return _unknown(guardrail, Cause.NOT_CONFIGURED, "no profile gives the bins")
    if guardrail.name in facts.source_errors:
        return _unknown(guardrail, Cause.ERROR, "its counts could not be read")
    pairs = facts.outputs or ()
    rows = [(int(np.sum(champion)), int(np.sum(candidate))) for champion, candidate in pairs]
    if not rows or not all(min(pair) for pair in rows):
        return _unknown(guardrail, Cause.NOT_ENOUGH, "one side has no output counted")
    bands = [evidence.total_variation_band(*pair, error=0.01 / len(pairs)) for pair in pairs]
    worst = max(range(len(bands)), key=lambda index: bands[index][1:])
    estimate, low, high = bands[worst]
    text = f"total variation {estimate:.3f} (surely {low:.3f} to {high:.3f}), tolerance {guardrail.tolerance:.2f}"
    if low > guardrail.tolerance:
        verdict, cause = Verdict.BREACH, None
    elif max(band[2] for band in bands) <= guardrail.tolerance:
        verdict, cause = Verdict.PASS, None
    else:
        verdict, cause = Verdict.UNKNOWN, Cause.NOT_ENOUGH
    return GuardrailReport(
        name=guardrail.name,
        verdict=verdict,
        cause=cause,
        champion=Tally(0, rows[worst][0]),
        canary=Tally(0, rows[worst][1]),
        sentence=f"{text}, over {rows[worst][0]:,} and {rows[worst][1]:,} rows",
    )


# -- what all share ----------------------------------------------------------------------------------------------------


def _limits(plan: Plan, guardrail: Guardrail) -> tuple[float, float]:
    """log10 of what evidence must reach: (rollback, promotion). The second is not split: all guardrails must pass."""
    rollback = -log10(plan.max_false_rollback_probability * guardrail.rollback_share)
    return rollback, -log10(plan.max_false_promotion_probability)


def _decide(
    plan: Plan,
    guardrail: Guardrail,
    facts: RolloutFacts,
    above: float,
    below: float,
    champion: Tally,
    canary: Tally,
    *,
    age_s: float | None,
    stale_after_s: float = STALE_AFTER_S,
) -> GuardrailReport:
    """The verdict of two e-values: breach first, then what is lost, then pass."""
    limit, promotion_limit = _limits(plan, guardrail)
    report = GuardrailReport(
        name=guardrail.name,
        verdict=Verdict.UNKNOWN,
        cause=Cause.NOT_ENOUGH,
        evidence_log10=above,
        limit_log10=limit,
        promotion_evidence_log10=below,
        promotion_limit_log10=promotion_limit,
        champion=champion,
        canary=canary,
    )
    if guardrail.name in facts.source_errors:
        return _as_unknown(report, Cause.ERROR, "its counts could not be read")
    if canary.requests == 0:
        return _as_unknown(report, Cause.NO_TRAFFIC, "nothing of the candidate has been counted yet")
    if above >= limit:
        return _as(report, Verdict.BREACH)
    if age_s is not None and age_s > stale_after_s:
        return _as_unknown(report, Cause.STALE, f"nothing new for {age_s:.0f} s")
    return _as(report, Verdict.PASS) if below >= promotion_limit else report


def _blank(plan: Plan, guardrail: Guardrail, cause: Cause, sentence: str) -> GuardrailReport:
    limit, promotion_limit = _limits(plan, guardrail)
    return replace(
        _unknown(guardrail, cause, sentence),
        evidence_log10=0.0,
        limit_log10=limit,
        promotion_evidence_log10=0.0,
        promotion_limit_log10=promotion_limit,
    )


def _unknown(guardrail: Guardrail, cause: Cause, sentence: str) -> GuardrailReport:
    return GuardrailReport(name=guardrail.name, verdict=Verdict.UNKNOWN, cause=cause, sentence=sentence)


def _as(report: GuardrailReport, verdict: Verdict) -> GuardrailReport:
    return replace(report, verdict=verdict, cause=None)


def _as_unknown(report: GuardrailReport, cause: Cause, sentence: str) -> GuardrailReport:
    return replace(report, verdict=Verdict.UNKNOWN, cause=cause, sentence=sentence)


def _with_sentence(report: GuardrailReport, sentence: str) -> GuardrailReport:
    stale = f"{report.sentence}; " if report.cause is Cause.STALE else ""
    return replace(report, sentence=stale + sentence)


def _odds(report: GuardrailReport, subject: str) -> str:
    """What the evidence is worth, in words: against the candidate from 10 upwards, else how far from good enough."""
    if report.evidence_log10 is not None and report.evidence_log10 >= 1.0:
        return f"{subject} would ever show such evidence in at most 1 of {_many(report.evidence_log10)} rollouts"
    promotion, limit = report.promotion_evidence_log10 or 0.0, report.promotion_limit_log10 or 0.0
    return f"evidence that it is good enough is {_many(promotion)}, {_many(limit)} needed"


def _many(value_log10: float) -> str:
    """10 to this power for people: two significant figures, nothing finer than a tenth, nothing above a million.

    >>> _many(3.05), _many(0.41), _many(40.0)
    ('1,100', '2.5', 'over 1,000,000')
    """
    if value_log10 > 6.0:
        return "over 1,000,000"
    value = 10.0**value_log10 * (1.0 + 1e-9)
    if value < 10.0:
        return f"{int(value * 10) / 10:g}"
    digits = 10 ** max(0, len(str(int(value))) - 2)
    return f"{int(value // digits * digits):,}"


_JUDGES: dict[str, Callable[[Plan, Guardrail, RolloutFacts], GuardrailReport]] = {
    "errors": _errors,
    "latency": _latency,
    "shadow_disagreement": _shadow_disagreement,
    "output_drift": _output_drift,
    "labels": _labels,
    "data_quality": _data_quality,
}

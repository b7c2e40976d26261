"""What a guardrail says of the facts: pass, breach, or unknown with a cause.

Invariant: a report is a pure function of the plan and of cumulative counts since the rollout began, so anybody can
recompute a decision from what was stored, and looking more often changes nothing. No data is neither good nor bad.
PASS means that promotion evidence has reached its limit, BREACH that rollback evidence has (or, for output_drift,
that the drift is surely above its tolerance); everything between is UNKNOWN. Called by the controller once a tick.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitor.plan import Plan
from registry.vocabulary import Cause, Verdict


@dataclass(frozen=True, slots=True)
class ArmFacts:
    """Counts of one arm: answers, and how many of them had each event. One event per key in the whole rollout."""

    requests: int = 0
    errors: int = 0
    slow: int = 0  # champion: above its own p99; canary: above slowdown x that p99
    bad_outputs: int = 0  # an output value missing, out of range or never seen


@dataclass(frozen=True, slots=True)
class SegmentFacts:
    """Both arms under one weight, booked by assignment, only split-chosen answers after burn-in.

    Segments of equal (weight, has_latency_threshold) may be added up before they come here.
    """

    weight: float  # the canary's effective share, 0 to 1; 0 is ignored
    champion: ArmFacts
    canary: ArmFacts
    has_latency_threshold: bool = True  # False: no p99 was published in these epochs, so `slow` says nothing


@dataclass(frozen=True, slots=True)
class LabelFacts:
    """Labelled answers that both versions gave: whose was farther from the label."""

    farther: int  # the candidate's was
    closer: int  # the champion's was
    ties: int
    age_s: float | None = None  # since the last label came


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutFacts:
    """All that is known of a running rollout; counts are cumulative since it began.

    `measured_disagreement` is what was measured at registration (candidate against champion on the candidate's
    reference rows, 0 to 1), None when it was not measured; the judge turns it into the limit.
    """

    segments: tuple[SegmentFacts, ...] = ()
    shadow_requests: int = 0  # copies that the candidate has answered
    shadow_errors: int = 0  # copies that failed where the champion answered: each counts as a row that disagrees
    pair_rows: int = 0
    pair_disagreements: int = 0
    pair_requests: int | None = None  # requests those rows came from; None: one row each
    pair_age_s: float | None = None  # since the last pair was made
    measured_disagreement: float | None = None
    labels: LabelFacts | None = None
    outputs: tuple[tuple[NDArray[np.int64], NDArray[np.int64]], ...] | None = None  # (champion, candidate) per output
    latency_ready: bool = False  # a p99 of a closed window is published now
    key_table_full: bool = False  # keyed evidence is incomplete
    has_profile: bool = False  # output ranges are known, so bad_outputs means something
    traffic_age_s: float | None = None  # since the last answer of either arm; None: not known
    source_errors: frozenset[str] = frozenset()  # guardrails whose source failed to answer just now
    veto: str | None = None  # a worker's breaker took the canary out, and why


@dataclass(frozen=True, slots=True)
class Tally:
    """Events among requests (or rows, for paired guardrails)."""

    events: int = 0
    requests: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardrailReport:
    """One guardrail's word. Evidence is log10 of an e-value: 3 means that chance gives it once in 1,000 rollouts.

    output_drift has no e-value; its four numbers are None.
    """

    name: str
    verdict: Verdict
    cause: Cause | None = None  # set when the verdict is UNKNOWN
    evidence_log10: float | None = None
    limit_log10: float | None = None
    promotion_evidence_log10: float | None = None
    promotion_limit_log10: float | None = None
    champion: Tally = Tally()
    canary: Tally = Tally()
    sentence: str = ""

    @property
    def takes_part(self) -> bool:
        """Whether promotion waits for this guardrail: its source exists."""
        return not (self.verdict is Verdict.UNKNOWN and self.cause is Cause.NOT_CONFIGURED)

    @property
    def rolls_back(self) -> bool:
        """Whether this report alone ends the rollout."""
        return self.verdict is Verdict.BREACH and self.limit_log10 is not None

    def to_json(self) -> dict[str, Any]:
        """As `GET models/{m}/rollout` shows it, with its sentence beside."""
        return {
            "name": self.name,
            "verdict": self.verdict.value,
            "cause": self.cause.value if self.cause else None,
            "evidence_log10": self.evidence_log10,
            "limit_log10": self.limit_log10,
            "promotion_evidence_log10": self.promotion_evidence_log10,
            "promotion_limit_log10": self.promotion_limit_log10,
            "champion": {"events": self.champion.events, "requests": self.champion.requests},
            "canary": {"events": self.canary.events, "requests": self.canary.requests},
            "sentence": self.sentence,
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> GuardrailReport:
        """The report that `to_json` wrote."""
        numbers = ("evidence_log10", "limit_log10", "promotion_evidence_log10", "promotion_limit_log10")
        return cls(
            name=document["name"],
            verdict=Verdict(document["verdict"]),
            cause=Cause(document["cause"]) if document.get("cause") else None,
            champion=Tally(**document["champion"]),
            canary=Tally(**document["canary"]),
            sentence=document.get("sentence", ""),
            **{name: document.get(name) for name in numbers},
        )


def judge(plan: Plan, facts: RolloutFacts) -> tuple[GuardrailReport, ...]:
    """A report for each guardrail of the plan, in its order. Pure."""
    raise NotImplementedError

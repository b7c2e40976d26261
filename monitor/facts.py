"""What is known of a running rollout: counts and ages, nothing judged yet.

Invariant: counts are cumulative since the rollout began and already booked as the contract says (by assignment, one
event per key, after burn-in). Made by the controller from worker pages and the monitor, read by `verdict.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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

    `measured_disagreement` is what was measured when the rollout began (candidate against champion on the candidate's
    reference rows, 0 to 1), None when it was not measured; the judge turns it into the limit. `measuring`: not known
    yet.
    """

    segments: tuple[SegmentFacts, ...] = ()
    champion_answers: int | None = None  # all split-chosen answers of this rollout, for floors and display;
    canary_answers: int | None = None  # None: as many as the segments hold
    shadow_requests: int = 0  # copies that the candidate has answered
    shadow_errors: int = 0  # copies that failed where the champion answered: each counts as a row that disagrees
    shadow_errors_requests: int | None = None  # requests that they were of; None: one row each
    pair_rows: int = 0
    pair_disagreements: int = 0
    pair_requests: int | None = None  # requests those rows came from; None: one row each
    pair_disagreed: float | None = (
        None  # each request's share of rows that disagree, summed; None: all shares are alike
    )
    pair_age_s: float | None = None  # since the last pair was made
    measured_disagreement: float | None = None
    measuring: bool = False
    labels: LabelFacts | None = None
    outputs: tuple[tuple[NDArray[np.int64], NDArray[np.int64]], ...] | None = None  # (champion, candidate) per output
    latency_ready: bool = False  # a p99 of a closed window is published now
    key_table_full: bool = False  # keyed evidence is incomplete
    has_profile: bool = False  # output ranges are known, so bad_outputs means something
    watched: bool = True  # False: the monitor's counts are not known, as when a controller has just started
    traffic_age_s: float | None = None  # since the last answer of either arm; None: not known
    source_errors: frozenset[str] = frozenset()  # guardrails whose source failed to answer just now
    veto: str | None = None  # why a worker wants the candidate out at once

    @property
    def answers(self) -> tuple[int, int]:
        """Answers of (champion, canary) in this rollout."""
        champion = sum(segment.champion.requests for segment in self.segments)
        canary = sum(segment.canary.requests for segment in self.segments)
        return (
            champion if self.champion_answers is None else self.champion_answers,
            canary if self.canary_answers is None else self.canary_answers,
        )

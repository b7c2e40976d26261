"""What is printed before a rollout is kept by the rollout."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from monitor.facts import ArmFacts, RolloutFacts, SegmentFacts
from monitor.plan import Plan, parse
from monitor.planner import Assumptions, Forecast, forecast
from monitor.rollout import Moment, Readiness, RolloutRecord, next_step, start
from monitor.verdict import judge
from registry.vocabulary import RolloutState


@cache
def default_forecast() -> Forecast:
    return forecast(Plan())


def run(plan: Plan, seed: int, *, canary_error: float = 0.0, disagree: float = 0.0) -> RolloutRecord:
    """A whole rollout on made-up traffic, 200 requests a tick, 1 % slow in both arms, until it ends or 60 k canary."""
    random = np.random.default_rng(seed)
    record = start(
        id="r", model="m", champion=1, candidate=2, plan=plan, salt="00" * 16, moment=Moment(0), actor="test"
    ).record
    arms: dict[float, list[int]] = {}
    shadows = disagreements = 0
    while record.state not in (RolloutState.PROMOTING, RolloutState.ROLLING_BACK):
        weight = record.weight
        if weight > 0:
            counts = arms.setdefault(weight, [0] * 6)
            n = int(random.binomial(200, weight))
            more = [
                200 - n,
                0,
                random.binomial(200 - n, 0.01),
                n,
                random.binomial(n, canary_error),
                random.binomial(n, 0.01),
            ]
            arms[weight] = [int(a + b) for a, b in zip(counts, more, strict=True)]
        if record.shadow:
            shadows += 50
            disagreements += int(random.binomial(50, disagree))
        segments = tuple(
            SegmentFacts(w, ArmFacts(c[0], errors=c[1], slow=c[2]), ArmFacts(c[3], errors=c[4], slow=c[5]))
            for w, c in arms.items()
        )
        flat = np.full(10, 1 + shadows)
        facts = RolloutFacts(
            segments=segments,
            shadow_requests=shadows,
            pair_rows=shadows,
            pair_disagreements=disagreements,
            outputs=((flat, flat),),
            latency_ready=True,
            has_profile=True,
        )
        record = next_step(record, judge(plan, facts), facts, Moment(0, 1.0), Readiness.READY).record
        assert record.requests.canary < 60_000
    return record


def test_an_empty_plan_promotes_an_identical_canary_within_the_number_it_printed() -> None:
    bound = default_forecast().promote_bound
    assert bound is not None
    for seed in range(3):
        record = run(Plan(), seed)
        assert record.state is RolloutState.PROMOTING
        assert record.requests.canary <= bound


@pytest.mark.slow
def test_ninety_nine_of_a_hundred_identical_canaries_are_promoted_within_the_printed_number() -> None:
    bound = default_forecast().promote_bound
    assert bound is not None
    late = sum(
        record.state is not RolloutState.PROMOTING or record.requests.canary > bound
        for record in (run(Plan(), seed) for seed in range(100))
    )
    assert late <= 4  # one expected; five or more has a chance below .004


@pytest.mark.slow
def test_a_failing_canary_is_rolled_back_about_when_the_forecast_says() -> None:
    plan = parse(b"")
    ends = [run(plan, seed, canary_error=0.1) for seed in range(20)]
    assert {record.state for record in ends} == {RolloutState.ROLLING_BACK}
    assert max(record.requests.canary for record in ends) <= 150


def test_a_disagreeing_candidate_never_reaches_a_user() -> None:
    record = run(Plan(), 1, disagree=0.9)
    assert (record.state, record.requests.canary) == (RolloutState.ROLLING_BACK, 0)
    assert record.reason.startswith("shadow_disagreement: ")


@pytest.mark.slow
def test_the_forecast_is_the_same_each_time_and_quick() -> None:
    began = time.process_time()
    first = forecast(Plan())
    assert time.process_time() - began < 2.0
    assert first == default_forecast()
    assert first.promote_median is not None
    assert first.promote_bound is not None
    assert first.promote_median <= first.promote_bound
    assert first.to_json()["promote_bound"] == first.promote_bound


def test_sentences_say_promotion_and_detection() -> None:
    sentences = default_forecast().sentences()
    assert "is promoted within" in sentences[0]
    assert any(line.startswith("errors: 4 times an error rate of 0.5% is rolled back after") for line in sentences)
    assert "canary keys" in replace(default_forecast(), unit="canary keys").sentences()[0]


@pytest.mark.slow
def test_traffic_and_burn_in_are_added_to_the_bound() -> None:
    few, many = default_forecast(), forecast(Plan(), Assumptions(workers=4, requests_per_s=1000.0))
    assert few.promote_bound is not None
    assert many.promote_bound is not None
    assert many.promote_bound == few.promote_bound + 3 * 20 + 1000 * 2 * 0.55


@pytest.mark.slow
def test_limits_that_cannot_be_shown_have_no_bound() -> None:
    tight = parse({"guardrail": [{"name": "errors", "max_ratio": 1.01, "max_excess": 0.000001}]})
    found = forecast(tight, Assumptions(error_rate=0.05))
    assert found.promote_bound is None
    assert "not sure" in found.sentences()[0]

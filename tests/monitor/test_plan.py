"""What a rollout plan may say, and how every fault is named at once."""

from __future__ import annotations

from typing import Any

import pytest

from monitor.plan import Plan, parse
from registry.errors import FormatTooNew, InvalidPlan


def test_an_empty_file_is_the_contracts_plan() -> None:
    plan = parse(b"")
    assert plan == Plan()
    assert [(step.shadow, step.weight_pct, step.min_requests) for step in plan.steps] == [
        (True, 0.0, 600),
        (False, 5.0, 100),
        (False, 50.0, 500),
    ]
    assert [guardrail.name for guardrail in plan.guardrails] == [
        "errors", "latency", "shadow_disagreement", "output_drift", "labels", "data_quality",
    ]  # fmt: skip
    assert (plan.max_false_rollback_probability, plan.max_false_promotion_probability) == (0.001, 0.05)


def test_shares_of_the_rollback_probability_add_up_to_one() -> None:
    assert sum(guardrail.rollback_share for guardrail in Plan().guardrails) == pytest.approx(1.0)
    drift = Plan().guardrail("output_drift")
    assert drift is not None
    assert drift.rollback_share == 0.0


def test_toml_and_json_say_the_same() -> None:
    toml = b"""
    key = "header:X-User-Id"
    soak_minutes = 5
    [[step]]
    weight_pct = 10
    [[guardrail]]
    name = "shadow_disagreement"
    limit = 0.1
    """
    plan = parse(toml)
    assert plan.key == "header:x-user-id"
    assert plan == parse(
        {
            "key": "header:x-user-id",
            "soak_minutes": 5,
            "step": [{"weight_pct": 10}],
            "guardrail": [{"name": "shadow_disagreement", "limit": 0.1}],
        }
    )


def test_a_stored_plan_reads_back_and_a_newer_one_is_refused() -> None:
    stored = parse(b"[[step]]\nweight_pct = 7").to_dict()
    assert stored["format"] == "driftgate.plan"
    assert parse(stored).to_dict() == stored
    with pytest.raises(FormatTooNew):
        parse({**stored, "v": 2})


def test_a_stored_v1_plan_is_read_for_ever() -> None:
    stored = {
        "format": "driftgate.plan", "v": 1, "key": "request", "burn_in_requests": 20, "soak_minutes": 60.0,
        "max_false_rollback_probability": 0.001, "max_false_promotion_probability": 0.05, "on_unknown": "hold",
        "step": [{"shadow": False, "weight_pct": 5.0, "min_requests": 100, "max_minutes": 60.0}],
        "guardrail": [{"name": "errors", "tolerated_ratio": 1.0, "max_ratio": 2.0, "max_excess": 0.005}],
    }  # fmt: skip
    assert parse(stored).steps[0].weight_pct == 5.0


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"keyy": 1}, "did you mean key?"),
        ({"key": "cookie"}, '"request" or "header:<name>"'),
        ({"key": "header:"}, '"request" or "header:<name>"'),
        ({"burn_in_requests": 1.5}, "whole number"),
        ({"burn_in_requests": True}, "whole number"),
        ({"soak_minutes": float("nan")}, "a number"),
        ({"max_false_rollback_probability": 0}, "above 0"),
        ({"on_unknown": "promote"}, '"hold" or "step_down"'),
        ({"step": []}, "1 to 100"),
        ({"step": {"weight_pct": 5}}, "list of tables"),
        ({"step": [{"min_requests": 5}]}, "needs weight_pct"),
        ({"step": [{"weight_pct": 100}]}, "from 0 to 99"),
        ({"step": [{"weight_pct": -1}]}, "from 0 to 99"),
        ({"step": [{"shadow": True}]}, "last step needs weight_pct"),
        ({"step": [{"shadow": True, "weight_pct": 5}, {"weight_pct": 5}]}, "answers nobody"),
        ({"step": [{"weight_pct": 5, "min_request": 3}]}, "did you mean min_requests?"),
        ({"guardrail": []}, "1 to 6"),
        ({"guardrail": [{"name": "eror"}]}, "did you mean errors?"),
        ({"guardrail": [{}]}, "no guardrail is named"),
        ({"guardrail": [{"name": "errors"}, {"name": "errors"}]}, "given twice"),
        ({"guardrail": [{"name": "errors", "slowdown": 2}]}, "not a key here"),
        ({"guardrail": [{"name": "errors", "tolerated_ratio": 3}]}, "below max_ratio"),
        ({"guardrail": [{"name": "shadow_disagreement", "limit": 1.0}]}, "above 0 and below 1"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(document: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidPlan, match=words.replace("?", r"\?")):
        parse(document)


def test_all_faults_come_together() -> None:
    with pytest.raises(InvalidPlan) as refused:
        parse({"a": 1, "soak_minutes": -1, "step": [{"weight_pct": "5"}], "guardrail": [{"name": "x"}]})
    assert len(refused.value.details["faults"]) == 4


def test_what_is_not_toml_is_refused_with_its_line() -> None:
    with pytest.raises(InvalidPlan, match="line 2"):
        parse(b"key = 'request'\nstep = x\n")
    with pytest.raises(InvalidPlan, match="not TOML"):
        parse(b"\xff\xfe")


def test_what_is_no_plan_at_all_is_refused_with_its_first_faults() -> None:
    with pytest.raises(InvalidPlan) as refused:
        parse({**{f"key{i}": 1 for i in range(10_000)}, "w" * 100_000: 1, "guardrail": [{"name": "lat" * 100_000}]})
    assert len(refused.value.details["faults"]) <= 25
    assert len(refused.value.message) < 5_000

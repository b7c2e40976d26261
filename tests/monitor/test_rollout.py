"""The rollout machine: given a state and what is known, the expected step; and what holds in every history."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from monitor import rollout
from monitor.facts import RolloutFacts
from monitor.plan import Plan, parse
from monitor.report import GuardrailReport, Tally
from monitor.rollout import Moment, Readiness, RolloutRecord, Transition
from registry.errors import FormatTooNew, IllegalTransition
from registry.vocabulary import FINAL_STATES, Cause, RolloutState, Verdict

S = RolloutState
NAMES = ("errors", "latency", "shadow_disagreement", "output_drift", "labels", "data_quality")
COMMANDS: tuple[Callable[[RolloutRecord, Moment, str], Transition], ...] = (
    rollout.pause,
    rollout.resume,
    rollout.promote,
    rollout.abort,
    rollout.roll_back,
)


def guard(name: str, verdict: Verdict, cause: Cause | None = None) -> GuardrailReport:
    limit = None if name == "output_drift" else 3.0
    above = 4.0 if verdict is Verdict.BREACH else 0.0
    return GuardrailReport(
        name=name,
        verdict=verdict,
        cause=cause,
        evidence_log10=None if limit is None else above,
        limit_log10=limit,
        canary=Tally(6, 212),
        sentence=f"{name} is {verdict.value}",
    )


PASSED = tuple(guard(name, Verdict.PASS) for name in NAMES)
UNDECIDED = tuple(guard(name, Verdict.UNKNOWN, Cause.NOT_ENOUGH) for name in NAMES)


def but(name: str, verdict: Verdict, cause: Cause | None = None) -> tuple[GuardrailReport, ...]:
    """All passed but this one."""
    return tuple(guard(name, verdict, cause) if item.name == name else item for item in PASSED)


def begun(plan: Plan | None = None) -> RolloutRecord:
    return rollout.start(
        id="r1",
        model="fraud",
        champion=1,
        candidate=2,
        plan=plan or Plan(),
        salt="ab" * 16,
        moment=Moment(1_000_000_000),
        actor="local",
        reason="weekly retrain",
    ).record


def facts(canary: int = 0, shadow: int = 0, **known: Any) -> RolloutFacts:
    return RolloutFacts(
        champion_answers=20 * canary, canary_answers=canary, shadow_requests=shadow, latency_ready=True, **known
    )


def tick(
    record: RolloutRecord,
    reports: tuple[GuardrailReport, ...] = UNDECIDED,
    known: RolloutFacts | None = None,
    *,
    elapsed_s: float = 1.0,
    readiness: Readiness = Readiness.READY,
) -> Transition:
    return rollout.next_step(record, reports, known or facts(), Moment(2_000_000_000, elapsed_s), readiness)


def in_last_step() -> RolloutRecord:
    record = tick(begun()).record
    record = tick(record, UNDECIDED, facts(shadow=600)).record
    record = tick(record, UNDECIDED, facts(100, 600)).record
    assert (record.state, record.step, record.weight_pct) == (S.CANARY, 2, 50.0)
    return record


def test_a_good_canary_walks_through_every_step_to_succeeded() -> None:
    record = begun()
    assert (record.state, record.weight, record.shadow, record.aspired) == (S.WARMING, 0.0, False, (1, 2))
    record = tick(record, readiness=Readiness.LOADING).record
    assert record.state is S.WARMING
    record = tick(record).record
    assert (record.state, record.weight, record.shadow) == (S.SHADOW, 0.0, True)
    record = tick(record, UNDECIDED, facts(shadow=599)).record
    assert record.state is S.SHADOW
    record = tick(record, UNDECIDED, facts(shadow=600)).record
    assert (record.state, record.step, record.weight_pct, record.shadow) == (S.CANARY, 1, 5.0, True)
    record = tick(record, UNDECIDED, facts(100, 600)).record
    assert (record.step, record.weight) == (2, 0.5)
    record = tick(record, PASSED, facts(599, 600)).record
    assert record.state is S.CANARY  # 499 answers of its own in this step
    step = tick(record, PASSED, facts(600, 600))
    assert step.record.state is S.PROMOTING
    assert step.record.default_version == 1
    assert step.events[0].type == "rollout.promoting"
    record = rollout.finish_promotion(step.record, Moment(3_000_000_000)).record
    assert (record.state, record.default_version, record.aspired, record.weight) == (S.SOAK, 2, (2, 1), 0.0)
    record = tick(record, elapsed_s=3599.0).record
    assert record.state is S.SOAK
    record = tick(record).record
    assert (record.state, record.aspired) == (S.SUCCEEDED, (2,))
    assert [entry["state"] for entry in record.history] == [
        "warming", "shadow", "canary", "canary", "promoting", "soak", "succeeded",
    ]  # fmt: skip


@pytest.mark.parametrize("name", [name for name in NAMES if name != "output_drift"])
def test_one_breach_takes_the_canary_out(name: str) -> None:
    step = tick(in_last_step(), but(name, Verdict.BREACH), facts(5000, 600))
    assert (step.record.state, step.record.cause, step.record.weight) == (S.ROLLING_BACK, Cause.BREACH, 0.0)
    assert step.record.reason == f"{name}: {name} is breach"
    assert step.events[0].data["guardrail"]["evidence_log10"] == 4.0
    done = rollout.finish_rollback(step.record, Moment(3)).record
    assert (done.state, done.cause, done.reason) == (S.ROLLED_BACK, Cause.BREACH, step.record.reason)
    assert done.default_version == 1


def test_rollback_acts_in_every_hold_and_while_promoting() -> None:
    promoting = tick(in_last_step(), PASSED, facts(5000, 600)).record
    paused = rollout.pause(in_last_step(), Moment(0), "ann").record
    drifting = tick(in_last_step(), but("output_drift", Verdict.BREACH)).record
    for record in (promoting, paused, drifting):
        assert tick(record, but("errors", Verdict.BREACH)).record.state is S.ROLLING_BACK


def test_a_veto_and_a_failed_load_roll_back() -> None:
    vetoed = tick(in_last_step(), PASSED, facts(veto="20 straight errors in worker 1"))
    assert vetoed.record.state is S.ROLLING_BACK
    assert "20 straight errors" in vetoed.record.reason
    failed = tick(begun(), readiness=Readiness.FAILED).record
    assert (failed.state, failed.cause) == (S.ROLLING_BACK, Cause.ERROR)


@pytest.mark.parametrize("name", NAMES)
def test_the_last_step_waits_for_evidence_of_every_configured_guardrail(name: str) -> None:
    waiting = tick(in_last_step(), but(name, Verdict.UNKNOWN, Cause.NOT_ENOUGH), facts(5000, 600))
    assert waiting.record.state is S.CANARY
    absent = tick(in_last_step(), but(name, Verdict.UNKNOWN, Cause.NOT_CONFIGURED), facts(5000, 600))
    assert absent.record.state is S.PROMOTING


def test_no_guardrail_with_a_source_is_no_evidence() -> None:
    nothing = tuple(guard(name, Verdict.UNKNOWN, Cause.NOT_CONFIGURED) for name in NAMES)
    assert tick(in_last_step(), nothing, facts(10**6, 600)).record.state is S.CANARY


def test_output_drift_above_its_tolerance_holds_and_lets_go_by_itself() -> None:
    drifting = but("output_drift", Verdict.BREACH)
    shadow = tick(begun()).record
    held = tick(shadow, drifting, facts(shadow=1000))
    assert (held.record.state, held.record.cause, held.record.held_state) == (S.HOLD, Cause.BREACH, S.SHADOW)
    assert held.record.shadow
    assert tick(held.record, drifting, facts(shadow=2000)).events == ()
    assert tick(held.record, UNDECIDED, facts(shadow=2000)).record.step == 1
    back = tick(tick(shadow, drifting, facts(shadow=10)).record, UNDECIDED, facts(shadow=20))
    assert (back.record.state, back.events[0].type) == (S.SHADOW, "rollout.resumed")


@pytest.mark.parametrize("cause", [Cause.STALE, Cause.ERROR])
def test_a_source_that_is_lost_holds_until_it_is_back(cause: Cause) -> None:
    held = tick(in_last_step(), but("labels", Verdict.UNKNOWN, cause), facts(5000, 600)).record
    assert (held.state, held.cause, held.weight) == (S.HOLD, cause, 0.5)
    assert tick(held, PASSED, facts(5000, 600)).record.state is S.PROMOTING


def test_step_down_goes_one_step_down_once_and_starts_that_step_anew() -> None:
    record = in_last_step()
    record = replace(record, plan=replace(record.plan, on_unknown="step_down"))
    lost = but("labels", Verdict.UNKNOWN, Cause.STALE)
    down = tick(record, lost, facts(5000, 600))
    assert (down.record.state, down.record.step, down.record.weight_pct) == (S.HOLD, 1, 5.0)
    assert down.events[0].type == "rollout.stepped_down"
    still = tick(down.record, lost, facts(5050, 600)).record
    assert still.step == 1
    back = tick(still, UNDECIDED, facts(5050, 600)).record
    assert (back.state, back.step) == (S.CANARY, 1)
    assert tick(back, UNDECIDED, facts(5100, 600)).record.step == 2


def test_step_down_to_a_shadow_step_shadows() -> None:
    record = begun(parse({"on_unknown": "step_down", "step": [{"shadow": True}, {"weight_pct": 5}]}))
    record = tick(tick(record).record, UNDECIDED, facts(shadow=100)).record
    assert record.state is S.CANARY
    down = tick(record, but("errors", Verdict.UNKNOWN, Cause.STALE)).record
    assert (down.held_state, down.weight) == (S.SHADOW, 0.0)


def test_a_step_that_takes_too_long_holds_and_goes_on_by_itself() -> None:
    record = tick(in_last_step(), UNDECIDED, facts(5000, 600), elapsed_s=1440 * 60 + 1).record
    assert (record.state, record.cause, record.weight) == (S.HOLD, Cause.TIMED_OUT, 0.5)
    assert "promotion evidence of errors" in record.reason
    assert tick(record, PASSED, facts(5000, 600)).record.state is S.PROMOTING
    fresh = rollout.resume(record, Moment(0), "ann").record
    assert (fresh.state, fresh.step_elapsed_s) == (S.CANARY, 0.0)


def test_a_candidate_that_never_loads_times_out_and_still_may() -> None:
    record = tick(begun(), readiness=Readiness.LOADING, elapsed_s=1e6).record
    assert (record.state, record.cause, record.aspired) == (S.HOLD, Cause.TIMED_OUT, (1, 2))
    assert tick(record).record.state is S.SHADOW


def test_paused_stays_and_its_time_does_not_run() -> None:
    record = rollout.pause(in_last_step(), Moment(0), "ann", "lunch").record
    assert (record.state, record.cause, record.reason) == (S.HOLD, Cause.PAUSED, "paused by ann: lunch")
    assert rollout.pause(record, Moment(0), "ann").events == ()
    later = tick(record, PASSED, facts(5000, 600), elapsed_s=1e6)
    assert (later.record.state, later.events) == (S.HOLD, ())
    assert later.record.step_elapsed_s == record.step_elapsed_s
    resumed = rollout.resume(later.record, Moment(0), "ann").record
    assert tick(resumed, PASSED, facts(5000, 600)).record.state is S.PROMOTING


def test_no_step_is_left_before_latency_can_be_judged_or_without_pairs() -> None:
    shadow = tick(begun()).record
    early = replace(facts(shadow=600), latency_ready=False)
    assert tick(shadow, UNDECIDED, early).record.state is S.SHADOW
    no_pairs = but("shadow_disagreement", Verdict.UNKNOWN, Cause.NO_TRAFFIC)
    assert tick(shadow, no_pairs, facts(shadow=600)).record.state is S.SHADOW
    without = parse({"guardrail": [{"name": "errors"}]})
    assert tick(tick(begun(without)).record, (), early).record.step == 1


def test_an_operator_promotes_without_evidence_but_not_while_warming() -> None:
    shadow = tick(begun()).record
    for record in (shadow, in_last_step(), rollout.pause(shadow, Moment(0), "ann").record):
        promoted = rollout.promote(record, Moment(0), "ann").record
        assert (promoted.state, promoted.cause) == (S.PROMOTING, Cause.OPERATOR)
    warming = rollout.pause(begun(), Moment(0), "ann").record
    for record in (begun(), warming):
        with pytest.raises(IllegalTransition):
            rollout.promote(record, Moment(0), "ann")


def test_abort_and_pause_are_honoured_while_promoting() -> None:
    promoting = tick(in_last_step(), PASSED, facts(5000, 600)).record
    aborted = rollout.abort(promoting, Moment(0), "ann").record
    assert (aborted.state, aborted.default_version, aborted.weight, aborted.aspired) == (S.ABORTED, 1, 0.0, (1,))
    paused = rollout.pause(promoting, Moment(0), "ann").record
    assert (paused.held_state, paused.weight) == (S.CANARY, 0.5)


def test_a_rollback_while_soaking_brings_the_old_champion_back() -> None:
    promoting = rollout.promote(in_last_step(), Moment(0), "ann").record
    soaking = rollout.finish_promotion(promoting, Moment(0)).record
    with pytest.raises(IllegalTransition):
        rollout.abort(soaking, Moment(0), "ann")
    back = rollout.roll_back(soaking, Moment(0), "ann").record
    assert (back.state, back.default_version) == (S.ROLLING_BACK, 1)
    assert rollout.supersede(soaking, Moment(0), "rollout r2").record.default_version == 2


def test_finishing_twice_after_a_restart_changes_nothing() -> None:
    soaking = rollout.finish_promotion(rollout.promote(in_last_step(), Moment(0), "a").record, Moment(0)).record
    assert rollout.finish_promotion(soaking, Moment(9)).record == soaking
    done = rollout.finish_rollback(rollout.roll_back(soaking, Moment(0), "a").record, Moment(0)).record
    assert rollout.finish_rollback(done, Moment(9)).record == done
    with pytest.raises(IllegalTransition):
        rollout.finish_promotion(done, Moment(0))


def test_a_hold_by_drift_is_not_resumed_by_hand() -> None:
    held = tick(in_last_step(), but("output_drift", Verdict.BREACH)).record
    with pytest.raises(IllegalTransition, match="promote or abort"):
        rollout.resume(held, Moment(0), "ann")


def test_the_public_object_is_the_contracts() -> None:
    shown = tick(in_last_step(), PASSED, facts(300, 600)).record.public_json()
    contract = {
        "id", "model", "champion", "candidate", "state", "cause", "step", "steps", "weight_pct", "epoch", "revision",
        "started_at", "updated_at", "requests", "guardrails", "reason",
    }  # fmt: skip
    assert contract <= set(shown)
    assert (shown["state"], shown["step"], shown["steps"], shown["weight_pct"]) == ("canary", 2, 3, 50.0)
    assert shown["requests"] == {"champion": 6000, "canary": 300, "shadow": 600}
    assert {"name", "verdict", "cause", "evidence_log10", "limit_log10", "champion", "canary"} <= set(
        shown["guardrails"][0]
    )
    assert shown["started_at"] == "1970-01-01T00:00:01.000000Z"


def test_a_record_of_a_newer_release_is_refused() -> None:
    stored = begun().to_json()
    assert RolloutRecord.from_json(stored) == begun()
    with pytest.raises(FormatTooNew):
        RolloutRecord.from_json({**stored, "v": 2})


class AnyHistory(RuleBasedStateMachine):
    """Whatever is reported and ordered, in whatever sequence."""

    record: RolloutRecord
    alias: int = 1

    @initialize(shadow=st.booleans(), on_unknown=st.sampled_from(["hold", "step_down"]))
    def begin(self, shadow: bool, on_unknown: str) -> None:
        steps = [{"shadow": True, "min_requests": 50}] if shadow else []
        steps += [{"weight_pct": 5, "min_requests": 50}, {"weight_pct": 50, "min_requests": 50, "max_minutes": 5}]
        self.record = begun(parse({"step": steps, "on_unknown": on_unknown, "soak_minutes": 1}))
        self.canary = self.shadow = 0

    def take(self, step: Transition) -> None:
        before, after = self.record, step.record
        assert after.revision == before.revision + len(step.events)
        if before.is_final:
            assert (after, step.events) == (before, ())
        if (before.state, before.step) != (after.state, after.step):
            assert len(step.events) == 1
            assert step.events[0].sentence
        self.record = RolloutRecord.from_json(after.to_json())
        assert self.record == after

    @rule(
        verdicts=st.lists(st.sampled_from(list(Verdict)), min_size=6, max_size=6),
        causes=st.lists(st.sampled_from([Cause.STALE, Cause.ERROR, Cause.NOT_ENOUGH]), min_size=6, max_size=6),
        answers=st.integers(0, 100),
        elapsed_s=st.sampled_from([0.0, 1.0, 400.0]),
        readiness=st.sampled_from([Readiness.READY, Readiness.READY, Readiness.LOADING, Readiness.FAILED]),
        calm=st.booleans(),
    )
    def look(
        self,
        verdicts: list[Verdict],
        causes: list[Cause],
        answers: int,
        elapsed_s: float,
        readiness: Readiness,
        calm: bool,
    ) -> None:
        self.canary += answers if self.record.weight > 0 else 0
        self.shadow += answers if self.record.shadow else 0
        reports = tuple(
            guard(name, verdict, cause if verdict is Verdict.UNKNOWN else None)
            for name, verdict, cause in zip(NAMES, verdicts, causes, strict=True)
        )
        known = facts(self.canary, self.shadow)
        if calm:
            self.take(tick(self.record, PASSED, known, elapsed_s=elapsed_s))
        else:
            self.take(tick(self.record, reports, known, elapsed_s=elapsed_s, readiness=readiness))

    @rule(command=st.sampled_from(COMMANDS))
    def order(self, command: Callable[[RolloutRecord, Moment, str], Transition]) -> None:
        try:
            self.take(command(self.record, Moment(0), "ann"))
        except IllegalTransition:
            assert command is not rollout.roll_back or self.record.is_final

    @rule()
    def the_controller_finishes_what_it_does(self) -> None:
        if self.record.state is S.PROMOTING:
            self.alias = 2
            self.take(rollout.finish_promotion(self.record, Moment(0)))
        elif self.record.state is S.ROLLING_BACK:
            self.alias = 1
            self.take(rollout.finish_rollback(self.record, Moment(0)))

    @invariant()
    def there_is_one_champion(self) -> None:
        if not hasattr(self, "record"):
            return
        record = self.record
        assert record.default_version in (1, 2)
        assert record.default_version == record.aspired[0]
        if record.state is not S.ROLLING_BACK:
            assert record.default_version == self.alias
        if record.default_version == 2 or record.state in (S.ROLLING_BACK, *FINAL_STATES):
            assert (record.weight, record.shadow) == (0.0, False)

    @invariant()
    def an_end_is_reachable(self) -> None:
        if not hasattr(self, "record") or self.record.is_final:
            return
        going_back = rollout.roll_back(self.record, Moment(0), "ann").record
        assert rollout.finish_rollback(going_back, Moment(0)).record.state is S.ROLLED_BACK
        if self.record.state is S.SOAK:
            assert tick(self.record, elapsed_s=1e6).record.state is S.SUCCEEDED


def test_from_any_history_there_is_one_champion_and_an_end() -> None:
    limits = settings(max_examples=30, stateful_step_count=25, deadline=None)
    run_state_machine_as_test(AnyHistory, settings=limits)

"""The rollout as a state machine: reports in, next step out. Pure; the record survives a restart.

Invariant: `record.default_version` is one version at every moment, and from every state that is not final a final one
is reachable. The controller does what the record says (weights first, then the record), makes the champion alias say
`default_version`, and calls `finish_promotion` or `finish_rollback` when that is done. When several things hold at
once: abort > rollback > pause > promote. Called by the controller, under its lock: `next_step` once a tick, the
commands (`rollout_commands.py`) for an operator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from monitor.facts import RolloutFacts
from monitor.plan import Plan
from monitor.report import GuardrailReport
from monitor.rollout_commands import abort, pause, promote, resume, roll_back, supersede
from monitor.rollout_moves import finish_promotion, finish_rollback, hold, move, roll_back_now
from monitor.rollout_record import Event, Moment, Readiness, Requests, RolloutRecord, Transition
from registry.vocabulary import Cause, RolloutState, Verdict

__all__ = [
    "Event", "Moment", "Readiness", "Requests", "RolloutRecord", "Transition", "abort", "finish_promotion",
    "finish_rollback", "next_step", "pause", "promote", "resume", "roll_back", "start", "supersede",
]  # fmt: skip

_LOST = (Cause.ERROR, Cause.STALE)


def start(
    *,
    id: str,
    model: str,
    champion: int,
    candidate: int,
    plan: Plan,
    salt: str,
    moment: Moment,
    actor: str,
    reason: str = "",
    measured_disagreement: float | None = None,
) -> Transition:
    """A new rollout, WARMING: the candidate is to be loaded and gets nothing yet. `salt` is 16 random bytes as hex."""
    record = RolloutRecord(
        id=id,
        model=model,
        champion=champion,
        candidate=candidate,
        plan=plan,
        salt=salt,
        state=RolloutState.DRAFT,
        revision=0,
        started_ns=moment.wall_ns,
        actor=actor,
        measured_disagreement=measured_disagreement,
    )
    sentence = f"rollout of version {candidate} against champion {champion} started; it is being loaded"
    return move(
        record, moment, RolloutState.WARMING, "started", f"{sentence} ({reason})" if reason else sentence, actor=actor
    )


def next_step(
    record: RolloutRecord,
    reports: Sequence[GuardrailReport],
    facts: RolloutFacts,
    moment: Moment,
    readiness: Readiness,
    readiness_reason: str = "",
) -> Transition:
    """What the rollout does now, given what the guardrails say. Call it once a tick for every record not final.

    At most one move a call. Counts, reports and watched time are updated even when nothing moves.
    """
    if record.is_final or record.state is RolloutState.ROLLING_BACK:
        return Transition(record)
    if record.state is RolloutState.SOAK:
        return _soak(replace(record, step_elapsed_s=record.step_elapsed_s + moment.elapsed_s), moment)
    record = _counted(record, tuple(reports), facts, moment)
    if readiness is Readiness.FAILED:
        why = readiness_reason or "a worker could not load it"
        return roll_back_now(record, moment, Cause.ERROR, f"version {record.candidate} cannot serve: {why}")
    if facts.veto is not None:
        return roll_back_now(record, moment, Cause.BREACH, f"the canary was taken out: {facts.veto}")
    guilty = _guilty(reports)
    if guilty is not None:
        return roll_back_now(record, moment, Cause.BREACH, f"{guilty.name}: {guilty.sentence}", guilty)
    if record.state is RolloutState.PROMOTING or record.cause is Cause.PAUSED:
        return Transition(record)
    if record.active_state is RolloutState.WARMING:
        return _warm(record, moment, readiness)
    if not facts.watched:  # what holds it may be what is not known now
        return Transition(record)
    return _watch(record, tuple(reports), facts, moment)


def _counted(
    record: RolloutRecord, reports: tuple[GuardrailReport, ...], facts: RolloutFacts, moment: Moment
) -> RolloutRecord:
    champion, canary = facts.answers
    elapsed_s = 0.0 if record.cause is Cause.PAUSED else moment.elapsed_s
    return replace(
        record,
        requests=Requests(champion=champion, canary=canary, shadow=facts.shadow_requests),
        guardrails=reports,
        step_elapsed_s=record.step_elapsed_s + elapsed_s,
    )


def _guilty(reports: Sequence[GuardrailReport]) -> GuardrailReport | None:
    """The report that is farthest above its rollback limit, if one is."""
    breached = [report for report in reports if report.rolls_back]
    return max(breached, key=lambda report: (report.evidence_log10 or 0.0) - (report.limit_log10 or 0.0), default=None)


def _warm(record: RolloutRecord, moment: Moment, readiness: Readiness) -> Transition:
    if readiness is Readiness.READY:
        return _enter(record, moment, 0, f"every worker has version {record.candidate} ready")
    if _timed_out(record) and record.state is RolloutState.WARMING:
        return hold(record, moment, Cause.TIMED_OUT, "not every worker has loaded it in time")
    return Transition(record)


def _watch(
    record: RolloutRecord, reports: tuple[GuardrailReport, ...], facts: RolloutFacts, moment: Moment
) -> Transition:
    """SHADOW or CANARY, or a hold in one of them: hold, advance, promote or stay."""
    cause, why = _hold_cause(reports)
    if cause is None:
        missing = _missing(record, reports, facts)
        if missing is None:
            return _advance(record, moment)
        if _timed_out(record):
            cause, why = Cause.TIMED_OUT, f"step {record.step + 1} took its time and still needs {missing}"
    if cause is None:
        if record.state is RolloutState.HOLD:
            return move(record, moment, record.active_state, "resumed", "what it was held for is over")
        return Transition(record)
    if record.state is RolloutState.HOLD and record.cause is cause:
        return Transition(replace(record, reason=why))
    may_step_down = record.plan.on_unknown == "step_down" and cause in _LOST and record.cause not in _LOST
    if may_step_down and record.step > 0:
        lower = _at_step(record, record.step - 1)
        return hold(lower, moment, cause, f"one step down to {_share(lower)}: {why}", "stepped_down")
    return hold(record, moment, cause, why)


def _hold_cause(reports: Sequence[GuardrailReport]) -> tuple[Cause | None, str]:
    """Why nothing may advance now: drift above its tolerance, or a source that was lost."""
    for report in reports:
        if report.verdict is Verdict.BREACH:
            return Cause.BREACH, f"{report.name}: {report.sentence}"
    for report in reports:
        if report.cause in _LOST:
            return report.cause, f"{report.name}: {report.sentence}"
    return None, ""


def _missing(record: RolloutRecord, reports: Sequence[GuardrailReport], facts: RolloutFacts) -> str | None:
    """What this step still waits for, in words; None when it is done."""
    step = record.plan.steps[record.step]
    done, kind = record.answers_in_step, "shadow" if step.shadow else "canary"
    if done < step.min_requests:
        return f"{step.min_requests - done:,} more {kind} answers"
    if record.plan.guardrail("latency") is not None and not facts.latency_ready:
        return "the champion's first latency window to close"  # nothing is left behind that could not be judged
    if step.shadow and facts.measuring and any(guardrail.is_measured for guardrail in record.plan.guardrails):
        return "the comparison on the candidate's reference rows"
    if step.shadow and any(r.name == "shadow_disagreement" and r.cause is Cause.NO_TRAFFIC for r in reports):
        return "pairs of answers to compare"
    if record.step < len(record.plan.steps) - 1:
        return None
    waiting = [report.name for report in reports if report.takes_part and report.verdict is not Verdict.PASS]
    if waiting:
        return f"promotion evidence of {', '.join(waiting)}"
    if not any(report.verdict is Verdict.PASS for report in reports):
        return "a guardrail with a source: no evidence is not good evidence"
    return None


def _timed_out(record: RolloutRecord) -> bool:
    return record.step_elapsed_s > record.plan.steps[record.step].max_minutes * 60.0


def _advance(record: RolloutRecord, moment: Moment) -> Transition:
    answers = f"after {record.answers_in_step:,} answers in step {record.step + 1}"
    if record.step < len(record.plan.steps) - 1:
        return _enter(record, moment, record.step + 1, f"no breach {answers}")
    passed = ", ".join(report.name for report in record.guardrails if report.verdict is Verdict.PASS)
    sentence = f"every guardrail has shown that it is good enough {answers}: {passed}"
    return move(record, moment, RolloutState.PROMOTING, "promoting", sentence)


def _enter(record: RolloutRecord, moment: Moment, step: int, why: str) -> Transition:
    entered = _at_step(record, step)
    state = RolloutState.SHADOW if entered.plan.steps[step].shadow else RolloutState.CANARY
    sentence = f"step {step + 1} of {len(entered.plan.steps)}, {_share(entered)}: {why}"
    return move(entered, moment, state, "advanced", sentence)


def _at_step(record: RolloutRecord, step: int) -> RolloutRecord:
    return replace(record, step=step, step_base=record.requests, step_elapsed_s=0.0)


def _share(record: RolloutRecord) -> str:
    step = record.plan.steps[record.step]
    return "copies only" if step.shadow else f"{step.weight_pct:g} % of traffic"


def _soak(record: RolloutRecord, moment: Moment) -> Transition:
    if record.step_elapsed_s < record.plan.soak_minutes * 60.0:
        return Transition(record)
    sentence = f"version {record.candidate} has soaked for {record.plan.soak_minutes:g} minutes"
    return move(record, moment, RolloutState.SUCCEEDED, "succeeded", sentence)

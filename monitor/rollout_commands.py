"""What an operator may do to a rollout. Pure; each raises IllegalTransition in a state that it does not fit.

Invariant: `abort` fits every state before the promotion and `roll_back` every state that is not final, so an operator
can always end a rollout. `reason` is free text and only shown. Called by the control API, under the controller's lock.
"""

from __future__ import annotations

from dataclasses import replace

from monitor.rollout_moves import move, require, roll_back_now
from monitor.rollout_record import Moment, RolloutRecord, Transition
from registry.errors import IllegalTransition
from registry.vocabulary import FINAL_STATES, Cause, RolloutState

_BEFORE_PROMOTION = (
    RolloutState.WARMING,
    RolloutState.SHADOW,
    RolloutState.CANARY,
    RolloutState.HOLD,
    RolloutState.PROMOTING,
)
_NOT_FINAL = tuple(state for state in RolloutState if state not in FINAL_STATES)


def pause(record: RolloutRecord, moment: Moment, actor: str, reason: str = "") -> Transition:
    """Stay: evidence goes on being read and rollback still acts, but nothing advances. Twice is once."""
    if record.cause is Cause.PAUSED:
        return Transition(record)
    require(record, "pause", *_BEFORE_PROMOTION)
    sentence = _said("paused", actor, reason)
    return move(record, moment, RolloutState.HOLD, "paused", sentence, cause=Cause.PAUSED, actor=actor)


def resume(record: RolloutRecord, moment: Moment, actor: str, reason: str = "") -> Transition:
    """Go on after `pause`, or give a timed-out step its time again. Other holds end by themselves."""
    require(record, "resume", RolloutState.HOLD)
    if record.cause not in (Cause.PAUSED, Cause.TIMED_OUT):
        cause = record.cause.value if record.cause else "?"
        raise IllegalTransition(
            f"this hold ends when its cause does ({record.reason}); promote or abort instead",
            rollout=record.id,
            cause=cause,
        )
    fresh = replace(record, step_elapsed_s=0.0) if record.cause is Cause.TIMED_OUT else record
    return move(fresh, moment, record.active_state, "resumed", _said("resumed", actor, reason), actor=actor)


def promote(record: RolloutRecord, moment: Moment, actor: str, reason: str = "") -> Transition:
    """Promote without waiting for evidence: PROMOTING. The controller moves the alias, then `finish_promotion`.

    A candidate that not every worker has ready cannot be promoted.
    """
    if record.state is RolloutState.PROMOTING:
        return Transition(record)
    require(record, "promote", RolloutState.SHADOW, RolloutState.CANARY, RolloutState.HOLD)
    if record.active_state is RolloutState.WARMING:
        raise IllegalTransition("not every worker has the candidate ready", rollout=record.id, state="warming")
    sentence = _said("promoted", actor, reason)
    return move(record, moment, RolloutState.PROMOTING, "promoting", sentence, cause=Cause.OPERATOR, actor=actor)


def abort(record: RolloutRecord, moment: Moment, actor: str, reason: str = "") -> Transition:
    """End it: ABORTED, the champion takes all. Not after the promotion; then `roll_back`.

    The controller publishes weight 0 before it stores the record, and makes the alias say `default_version`.
    """
    if record.state is RolloutState.ABORTED:
        return Transition(record)
    require(record, "abort", RolloutState.DRAFT, *_BEFORE_PROMOTION)
    sentence = _said("aborted", actor, reason)
    return move(record, moment, RolloutState.ABORTED, "aborted", sentence, cause=Cause.OPERATOR, actor=actor)


def roll_back(
    record: RolloutRecord, moment: Moment, actor: str, reason: str = "", cause: Cause = Cause.OPERATOR
) -> Transition:
    """Now: ROLLING_BACK, weight 0, the old champion answers by default (also in SOAK); then `finish_rollback`."""
    if record.state is RolloutState.ROLLING_BACK:
        return Transition(record)
    require(record, "roll back", *_NOT_FINAL)
    return roll_back_now(record, moment, cause, _said("rolled back", actor, reason), actor=actor)


def supersede(record: RolloutRecord, moment: Moment, by: str) -> Transition:
    """Another rollout or alias move takes the place of one that only soaks: SUPERSEDED (what it promoted stays)."""
    require(record, "supersede", RolloutState.SOAK)
    return move(record, moment, RolloutState.SUPERSEDED, "superseded", f"superseded by {by}")


def _said(verb: str, actor: str, reason: str) -> str:
    return f"{verb} by {actor}: {reason}" if reason else f"{verb} by {actor}"

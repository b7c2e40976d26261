"""How a record changes state: one function that every change goes through, and the changes that several share.

Invariant: each change of state or step raises the revision by one, adds one entry to the history and makes one event
with a sentence. Called by `rollout.py` and `rollout_commands.py` only (and by the controller to finish what it did).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from monitor.report import GuardrailReport
from monitor.rollout_record import Event, Moment, RolloutRecord, Transition
from registry.clock import rfc3339
from registry.errors import IllegalTransition
from registry.vocabulary import Cause, RolloutState

_HISTORY = 200  # entries kept; the event log has them all


def move(
    record: RolloutRecord,
    moment: Moment,
    state: RolloutState,
    event: str,
    sentence: str,
    *,
    cause: Cause | None = None,
    actor: str = "driftgate",
    guardrail: GuardrailReport | None = None,
) -> Transition:
    """The record in its new state, and the event `rollout.<event>` with the numbers behind it."""
    held = record.active_state if state is RolloutState.HOLD else None
    moved = replace(
        record,
        state=state,
        cause=cause,
        held_state=held,
        reason=sentence,
        revision=record.revision + 1,
        updated_ns=moment.wall_ns,
    )
    entry = {
        "time": rfc3339(moment.wall_ns),
        "state": state.value,
        "cause": cause.value if cause else None,
        "step": moved.step,
        "weight_pct": moved.weight_pct,
        "actor": actor,
        "reason": sentence,
    }
    moved = replace(moved, history=(*record.history, entry)[-_HISTORY:])
    data: dict[str, Any] = {
        "rollout": record.id,
        "champion": record.champion,
        "candidate": record.candidate,
        "from_state": record.state.value,
        **{key: value for key, value in entry.items() if key != "time"},
        "requests": record.requests.to_json(),
        "guardrails": [report.to_json() for report in record.guardrails],
    }
    if guardrail is not None:
        data["guardrail"] = guardrail.to_json()
    return Transition(moved, (Event(f"rollout.{event}", data, sentence),))


def hold(record: RolloutRecord, moment: Moment, cause: Cause, why: str, event: str = "held") -> Transition:
    """Stay where it is, with a cause."""
    return move(record, moment, RolloutState.HOLD, event, why, cause=cause)


def roll_back_now(
    record: RolloutRecord,
    moment: Moment,
    cause: Cause,
    why: str,
    guardrail: GuardrailReport | None = None,
    actor: str = "driftgate",
) -> Transition:
    """ROLLING_BACK: weight 0 and the old champion from this record on; the controller publishes, then finishes."""
    return move(
        record, moment, RolloutState.ROLLING_BACK, "rolling_back", why, cause=cause, guardrail=guardrail, actor=actor
    )


def finish_promotion(record: RolloutRecord, moment: Moment) -> Transition:
    """The champion alias is the candidate's: SOAK. In SOAK already, nothing; else IllegalTransition."""
    if record.state is RolloutState.SOAK:
        return Transition(record)
    require(record, "finish the promotion of", RolloutState.PROMOTING)
    promoted = replace(record, step_elapsed_s=0.0)
    sentence = f"version {record.candidate} is the champion: {record.reason}"
    return move(promoted, moment, RolloutState.SOAK, "promoted", sentence, cause=record.cause)


def finish_rollback(record: RolloutRecord, moment: Moment) -> Transition:
    """Weight 0 is published and the champion alias is the old champion's: ROLLED_BACK, with the reason it had.

    In ROLLED_BACK already, nothing; else IllegalTransition.
    """
    if record.state is RolloutState.ROLLED_BACK:
        return Transition(record)
    require(record, "finish the rollback of", RolloutState.ROLLING_BACK)
    return move(record, moment, RolloutState.ROLLED_BACK, "rolled_back", record.reason, cause=record.cause)


def require(record: RolloutRecord, verb: str, *states: RolloutState) -> None:
    """Raise IllegalTransition unless the record is in one of these states."""
    if record.state not in states:
        raise IllegalTransition(
            f"cannot {verb} a rollout that is {record.state.value}",
            rollout=record.id,
            state=record.state.value,
            possible_in=[state.value for state in states],
        )

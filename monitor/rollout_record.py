"""A rollout's record: what is known of it, what it asks of the gateway now, and how both are stored.

Invariant: everything that the machine in `rollout.py` needs to go on after a restart is in the record, and what the
record asks for (weight, shadow copies, versions to keep loaded) follows from its state alone. Immutable.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from monitor.plan import Plan, parse
from monitor.report import GuardrailReport
from registry.clock import rfc3339
from registry.formats import check_stamp, stamped
from registry.vocabulary import FINAL_STATES, Cause, RolloutState


class Readiness(StrEnum):
    """What all live workers together say of the candidate."""

    LOADING = "loading"  # at least one is not there yet
    READY = "ready"
    FAILED = "failed"  # at least one could not load it


@dataclass(frozen=True, slots=True)
class Moment:
    """Now: the wall time for the record, and the seconds since the machine was last asked.

    Time in a step is added up from `elapsed_s` (monotonic, 0 in the first tick of a new controller), so neither a
    wall clock that jumps nor an hour without a controller counts.
    """

    wall_ns: int
    elapsed_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Requests:
    """Answers in this rollout so far: champion's and canary's own, and shadow copies."""

    champion: int = 0
    canary: int = 0
    shadow: int = 0

    def to_json(self) -> dict[str, int]:
        """As `GET models/{m}/rollout` shows it."""
        return {"champion": self.champion, "canary": self.canary, "shadow": self.shadow}


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, for the event log."""

    type: str  # "rollout.advanced"
    data: dict[str, Any]
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRecord:
    """One rollout, whole. `revision` rises with every transition that has events; counts move without it."""

    id: str
    model: str
    champion: int  # what answered by default when it began
    candidate: int
    plan: Plan
    salt: str  # 16 bytes as hex: the split's key
    state: RolloutState
    cause: Cause | None = None
    step: int = 0  # from 0
    epoch: int = 0  # the route epoch that last served this record; the controller sets it
    revision: int = 1
    started_ns: int = 0
    updated_ns: int = 0
    requests: Requests = Requests()  # answers so far
    guardrails: tuple[GuardrailReport, ...] = ()
    reason: str = ""
    actor: str = "local"
    held_state: RolloutState | None = None  # in HOLD: where it goes on
    step_elapsed_s: float = 0.0  # watched seconds in this step (in SOAK: since the promotion)
    step_base: Requests = Requests()  # the counts when this step began
    measured_disagreement: float | None = None  # at start, on the candidate's reference rows
    history: tuple[dict[str, Any], ...] = ()  # one small entry per change of state or step, newest last, bounded

    @property
    def is_final(self) -> bool:
        """Whether nothing can happen to it any more."""
        return self.state in FINAL_STATES

    @property
    def active_state(self) -> RolloutState:
        """The state, or, when it holds, the one that it will go on in."""
        state = self.held_state or self.state
        if state in (RolloutState.SHADOW, RolloutState.CANARY, RolloutState.PROMOTING):
            return RolloutState.SHADOW if self.plan.steps[self.step].shadow else RolloutState.CANARY
        return state

    @property
    def answers_in_step(self) -> int:
        """The canary's (in a shadow step: the shadow's) own answers since this step began."""
        if self.plan.steps[self.step].shadow:
            return self.requests.shadow - self.step_base.shadow
        return self.requests.canary - self.step_base.canary

    @property
    def is_serving(self) -> bool:
        """Whether the candidate runs, as a shadow or a canary."""
        state = self.held_state if self.state is RolloutState.HOLD else self.state
        return state in (RolloutState.SHADOW, RolloutState.CANARY, RolloutState.PROMOTING)

    @property
    def weight_pct(self) -> float:
        """The candidate's share of split traffic that the route table must carry now, 0 to 100."""
        return self.plan.steps[self.step].weight_pct if self.is_serving else 0.0

    @property
    def weight(self) -> float:
        """The same, 0 to 1."""
        return self.weight_pct / 100.0

    @property
    def shadow(self) -> bool:
        """Whether the candidate gets copies of what the champion answers."""
        return self.is_serving and self.state is not RolloutState.PROMOTING

    @property
    def default_version(self) -> int:
        """The version that answers by default under this record: the champion alias must say the same."""
        promoted = self.state in (RolloutState.SOAK, RolloutState.SUCCEEDED, RolloutState.SUPERSEDED)
        return self.candidate if promoted else self.champion

    @property
    def aspired(self) -> tuple[int, ...]:
        """The versions that must be loaded for this record's sake, the default first."""
        if self.is_final:
            return (self.default_version,)
        other = self.champion if self.default_version == self.candidate else self.candidate
        return (self.default_version, other)

    def to_json(self) -> dict[str, Any]:
        """The stored document: `GET models/{m}/rollout`'s object, stamped, with what a restart needs beside it."""
        return stamped(
            "rollout",
            {
                "id": self.id,
                "model": self.model,
                "champion": self.champion,
                "candidate": self.candidate,
                "state": self.state.value,
                "cause": self.cause.value if self.cause else None,
                "step": self.step,
                "steps": len(self.plan.steps),
                "weight_pct": self.weight_pct,
                "epoch": self.epoch,
                "revision": self.revision,
                "started_at": rfc3339(self.started_ns),
                "updated_at": rfc3339(self.updated_ns),
                "requests": self.requests.to_json(),
                "guardrails": [report.to_json() for report in self.guardrails],
                "reason": self.reason,
                "plan": self.plan.to_dict(),
                "history": [dict(entry) for entry in self.history],
                "resume": {
                    "salt": self.salt,
                    "actor": self.actor,
                    "started_ns": self.started_ns,
                    "updated_ns": self.updated_ns,
                    "held_state": self.held_state.value if self.held_state else None,
                    "step_elapsed_s": self.step_elapsed_s,
                    "step_base": self.step_base.to_json(),
                    "measured_disagreement": self.measured_disagreement,
                },
            },
        )

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> RolloutRecord:
        """The record that `to_json` wrote. Raises FormatTooNew or StateDamaged for another document."""
        check_stamp("rollout", document)
        resume = document["resume"]
        return cls(
            id=document["id"],
            model=document["model"],
            champion=document["champion"],
            candidate=document["candidate"],
            plan=parse(document["plan"]),
            salt=resume["salt"],
            state=RolloutState(document["state"]),
            cause=Cause(document["cause"]) if document["cause"] else None,
            step=document["step"],
            epoch=document["epoch"],
            revision=document["revision"],
            started_ns=resume["started_ns"],
            updated_ns=resume["updated_ns"],
            requests=Requests(**document["requests"]),
            guardrails=tuple(GuardrailReport.from_json(item) for item in document["guardrails"]),
            reason=document["reason"],
            actor=resume["actor"],
            held_state=RolloutState(resume["held_state"]) if resume["held_state"] else None,
            step_elapsed_s=resume["step_elapsed_s"],
            step_base=Requests(**resume["step_base"]),
            measured_disagreement=resume["measured_disagreement"],
            history=tuple(document["history"]),
        )

    def public_json(self) -> dict[str, Any]:
        """The contract's `GET models/{m}/rollout` object (the stored one without stamp and resume data)."""
        hidden = ("format", "v", "resume")
        return {key: value for key, value in self.to_json().items() if key not in hidden}


@dataclass(frozen=True, slots=True)
class Transition:
    """What follows: the record as it is now, and what to write to the event log (empty: nothing but counts moved)."""

    record: RolloutRecord
    events: tuple[Event, ...] = ()

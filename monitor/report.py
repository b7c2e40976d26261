"""What a guardrail said, as it is stored, shown and acted on. Made by `verdict.py`, read by everybody else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from registry.vocabulary import Cause, Verdict


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

"""What a demo's run came to, and whether it is all that a demo must show. Pure. Called by the story."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Outcome:
    """What happened, for the closing table, for --json, and for the exit code."""

    requests: int = 0
    failed: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    answers: dict[str, int] = field(default_factory=dict)  # "version/role" → answers
    errors_min: dict[int, float] = field(default_factory=dict)  # mean error on the hold-out
    pairs: list[dict[str, float]] = field(default_factory=list)
    promoted: dict[str, Any] | None = None  # the rollout objects, as the server told them
    rolled_back: dict[str, Any] | None = None
    champion: int | None = None
    weight_pct: float | None = None
    labels: dict[str, int] = field(default_factory=dict)
    moved: list[dict[str, Any]] = field(default_factory=list)
    latency_ms: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    stopped_in_order: bool | None = None

    def checks(self) -> dict[str, bool]:
        """What a demo must show; the exit code is 0 only when all are true."""
        promoted, rolled_back = self.promoted or {}, self.rolled_back or {}
        return {
            "requests were served and none failed": self.requests > 0 and self.failed == 0,
            "version 2 was promoted": promoted.get("state") == "succeeded",
            "version 3 was rolled back": rolled_back.get("state") == "rolled_back",
            "the evidence against version 3 reached its limit": decisive(self.rolled_back) is not None,
            "version 2 is champion at the end": self.champion == 2,
            "version 3 has no traffic at the end": self.weight_pct == 0,
            "features moved with the seasons": any(item["verdict"] == "breach" for item in self.moved),
            "the server stopped in order": self.stopped_in_order is not False,
        }

    @property
    def ok(self) -> bool:
        """Whether all that a demo must show really happened."""
        return all(self.checks().values())


def decisive(document: dict[str, Any] | None) -> dict[str, Any] | None:
    """The guardrail that rolled a rollout back, evidence at or above its limit; the strongest when several did."""
    if not document or document["state"] != "rolled_back":
        return None
    reached = [
        item
        for item in document["guardrails"]
        if item["evidence_log10"] is not None
        and item["limit_log10"] is not None
        and item["evidence_log10"] >= item["limit_log10"]
    ]
    return max(reached, key=lambda item: float(item["evidence_log10"] - item["limit_log10"]), default=None)


def closing_rows(outcome: Outcome) -> list[tuple[str, str, bool | None]]:
    """(what, how it went, whether that is what a demo must show); None: only told."""
    by_version = ", ".join(f"v{name} {count:,}" for name, count in outcome.answers.items())
    latency = ", ".join(f"{name} {value:.1f} ms" for name, value in outcome.latency_ms.items())
    moved = ", ".join(f"{item['feature']} ({item['statistic']} {item['value']:.2g})" for item in outcome.moved[:4])
    return [
        ("requests served", f"{outcome.requests:,} ({by_version})", outcome.requests > 0),
        ("errors", str(outcome.failed), outcome.failed == 0),
        ("latency, as callers saw it", latency or "-", None),
        ("real delays fed back", ", ".join(f"{name} {count:,}" for name, count in outcome.labels.items()) or "-", None),
        ("version 2", *_ended(outcome.promoted, "succeeded")),
        ("version 3", *_ended(outcome.rolled_back, "rolled_back")),
        ("champion now", f"version {outcome.champion}", outcome.champion == 2),
        ("moved most", moved or "nothing", bool(outcome.moved)),
        ("took", f"{outcome.seconds:.0f} s", None),
    ]


def _ended(document: dict[str, Any] | None, wanted: str) -> tuple[str, bool]:
    if document is None:
        return "was not rolled out", False
    requests = document["requests"]
    after = f"after {requests['canary']:,} canary answers (burn-in apart) and {requests['shadow']:,} shadow ones"
    if document["state"] == "succeeded":
        evidence = ", ".join(
            f"{item['name']} {item['promotion_evidence_log10']:.1f} of {item['promotion_limit_log10']:.1f}"
            for item in document["guardrails"]
            if item["promotion_evidence_log10"] is not None and item["promotion_limit_log10"] is not None
        )
        return f"promoted {after}; evidence (log10): {evidence}", wanted == "succeeded"
    breach = decisive(document)
    if breach is not None:
        return f"rolled back {after}; {evidence_of(breach)}", wanted == "rolled_back"
    return f"{document['state']} {after}: {document['reason']}", False


def evidence_of(guardrail: dict[str, Any]) -> str:
    """A guardrail's evidence against the candidate, as the demo tells it."""
    evidence, limit = guardrail["evidence_log10"], guardrail["limit_log10"]
    return f"{guardrail['name']}: evidence {evidence:.1f}, limit {limit:.1f} (log10)"

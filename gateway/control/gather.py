"""From worker pages and key tables to what the judge reads: both arms' counts under each weight.

Invariant: the result is a pure function of cumulative counters that outlive workers and controllers, so a controller
that was killed and started again counts nothing twice and nothing less. Keyed requests count by their key's first
assignment and first event over all workers; the others one each. Called by the controller, once a tick.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gateway.data.keys import BAD_OUTPUT, ERROR, SLOW, KeySnapshot
from gateway.data.page import PageSnapshot
from monitor.facts import ArmFacts, SegmentFacts
from registry.vocabulary import Role

_REQUESTS, _ERRORS, _SLOW, _BAD = range(4)
Counts = dict[tuple[float, bool], list[int]]  # (weight, is canary) → requests, errors, slow, bad outputs


@dataclass(slots=True)
class Baseline:
    """What a rollout found when it began, and when its first latency threshold was published; stored with it."""

    shadow_rows: int = 0
    unjudged: dict[str, list[int]] | None = None  # weight → champion's and canary's requests before the threshold

    def to_json(self) -> dict[str, Any]:
        """As stored among the rollout's evidence."""
        return {"shadow_rows": self.shadow_rows, "unjudged": self.unjudged}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Baseline:
        """The baseline that to_json wrote."""
        return cls(int(document["shadow_rows"]), document["unjudged"])


@dataclass(frozen=True, slots=True)
class Gathered:
    """One rollout's counts of this moment."""

    counts: Counts = field(default_factory=dict)
    key_table_full: bool = False

    def segments(self, baseline: Baseline) -> tuple[SegmentFacts, ...]:
        """Counts as the judge wants them: a weight's requests from before the first latency threshold apart."""
        found = []
        for weight in sorted({weight for weight, _ in self.counts if weight > 0}):
            champion, canary = (self.counts.get((weight, arm), [0, 0, 0, 0]) for arm in (False, True))
            if baseline.unjudged is None:
                found.append(SegmentFacts(weight, _arm(champion), _arm(canary), has_latency_threshold=False))
                continue
            before = baseline.unjudged.get(repr(weight), [0, 0])
            if any(before):
                # Errors and bad outputs stay with the later part: their tests add up over segments of one weight.
                early = (ArmFacts(min(before[0], champion[0])), ArmFacts(min(before[1], canary[0])))
                found.append(SegmentFacts(weight, *early, False))
            found.append(SegmentFacts(weight, _arm(champion, before[0]), _arm(canary, before[1])))
        return tuple(found)

    def requests(self, canary: bool) -> int:
        """Answers of one arm that count as evidence."""
        return sum(counts[_REQUESTS] for (_, is_canary), counts in self.counts.items() if is_canary is canary)

    def unjudged(self) -> dict[str, list[int]]:
        """Requests by weight until now: the baseline when the first latency threshold is published."""
        weights = sorted({weight for weight, _ in self.counts})
        return {
            repr(weight): [self.counts.get((weight, canary), [0])[_REQUESTS] for canary in (False, True)]
            for weight in weights
        }


def _arm(counts: Sequence[int], before: int = 0) -> ArmFacts:
    return ArmFacts(max(0, counts[_REQUESTS] - before), counts[_ERRORS], counts[_SLOW], counts[_BAD])


def gather(pages: Iterable[PageSnapshot], keys: Iterable[KeySnapshot], model: str, rollout_id: str) -> Gathered:
    """Add up one rollout's evidence over workers, living and dead."""
    counts: Counts = {}
    full = False
    for page in pages:
        full = full or page.no_room > 0
        for segment in page.segments:
            if segment.model == model and segment.rollout_id == rollout_id:
                arm = counts.setdefault((segment.weight, segment.role == Role.CANARY), [0, 0, 0, 0])
                values = (segment.requests, segment.errors, segment.slow, segment.bad_outputs)
                for index, value in enumerate(values):
                    arm[index] += value
    mine = [table for table in keys if table.model == model and table.rollout_id == rollout_id]
    if mine:
        rows = np.concatenate([table.rows for table in mine])
        _add_firsts(
            counts, _REQUESTS, rows["key"], rows["assigned_ns"], rows["assigned_weight"], rows["assigned_canary"]
        )
        for kind, index in ((ERROR, _ERRORS), (SLOW, _SLOW), (BAD_OUTPUT, _BAD)):
            happened = rows[rows["event_ns"][:, kind] > 0]
            _add_firsts(
                counts,
                index,
                happened["key"],
                happened["event_ns"][:, kind],
                happened["event_weight"][:, kind],
                happened["event_canary"][:, kind],
            )
        full = full or any(table.full for table in mine)
    return Gathered(counts, full)


def _add_firsts(counts: Counts, index: int, key: Any, time_ns: Any, weight: Any, canary: Any) -> None:
    """Count each key once, where it was first: workers meet the same key."""
    if len(key) == 0:
        return
    order = np.lexsort((time_ns, key))
    sorted_keys = key[order]
    firsts = order[np.concatenate(([True], sorted_keys[1:] != sorted_keys[:-1]))]
    pairs, found = np.unique(np.column_stack((weight[firsts], canary[firsts])), axis=0, return_counts=True)
    for (at_weight, is_canary), count in zip(pairs, found, strict=True):
        counts.setdefault((float(at_weight), bool(is_canary)), [0, 0, 0, 0])[index] += int(count)


def shadow_rows(pages: Iterable[PageSnapshot], model: str, version: int) -> int:
    """Rows that a version has run as a shadow, ever."""
    key = (model, version, str(Role.SHADOW))
    return sum(page.totals[key].batch_rows_sum for page in pages if key in page.totals)


def answered(pages: Iterable[PageSnapshot], model: str, version: int, role: Role) -> Any:
    """Cumulative latency counters of one (version, role) over all workers, or None before its first answer."""
    key = (model, version, str(role))
    found = [page.totals[key].latency_counts for page in pages if key in page.totals]
    return np.sum(found, axis=0) if found else None

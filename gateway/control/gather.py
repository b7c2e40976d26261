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
from gateway.data.page_reader import PageSnapshot
from monitor.facts import ArmFacts, SegmentFacts
from registry.vocabulary import Role

_REQUESTS, _ERRORS, _SLOW, _BAD = range(4)
# (weight, a latency threshold was known, is canary) → requests, errors, slow, bad outputs
Counts = dict[tuple[float, bool, bool], list[int]]


@dataclass(slots=True)
class Baseline:
    """What a rollout found when it began; stored with it."""

    shadow_rows: int = 0
    answers: tuple[int, int] | None = None  # the champion's and the canary's; None: an earlier release began it

    def to_json(self) -> dict[str, Any]:
        """As stored among the rollout's evidence."""
        return {"shadow_rows": self.shadow_rows, "answers": self.answers}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Baseline:
        """The baseline that to_json wrote, now or with more fields in an earlier release."""
        answers = document.get("answers")
        return cls(int(document["shadow_rows"]), None if answers is None else (int(answers[0]), int(answers[1])))


@dataclass(frozen=True, slots=True)
class Gathered:
    """One rollout's counts of this moment."""

    counts: Counts = field(default_factory=dict)
    key_table_full: bool = False

    def segments(self) -> tuple[SegmentFacts, ...]:
        """Counts as the judge wants them: requests that no latency threshold was known for are apart."""
        found = []
        for weight, judged in sorted({(weight, judged) for weight, judged, _ in self.counts if weight > 0}):
            champion, canary = (ArmFacts(*self.counts.get((weight, judged, arm), ())) for arm in (False, True))
            found.append(SegmentFacts(weight, champion, canary, judged))
        return tuple(found)

    def requests(self, canary: bool) -> int:
        """Answers of one arm that count as evidence."""
        return sum(counts[_REQUESTS] for (_, _, is_canary), counts in self.counts.items() if is_canary is canary)


def gather(pages: Iterable[PageSnapshot], keys: Iterable[KeySnapshot], model: str, rollout_id: str) -> Gathered:
    """Add up one rollout's evidence over workers, living and dead."""
    counts: Counts = {}
    full = False
    for page in pages:
        full = full or page.no_room > 0
        for segment in page.segments:
            if segment.model == model and segment.rollout_id == rollout_id:
                key = (segment.weight, segment.judged, segment.role == Role.CANARY)
                arm = counts.setdefault(key, [0, 0, 0, 0])
                values = (segment.requests, segment.errors, segment.slow, segment.bad_outputs)
                for index, value in enumerate(values):
                    arm[index] += value
    mine = [table for table in keys if table.model == model and table.rollout_id == rollout_id]
    if mine:
        rows = np.concatenate([table.rows for table in mine])
        assigned = (rows["assigned_weight"], rows["assigned_judged"], rows["assigned_canary"])
        _add_firsts(counts, _REQUESTS, rows["key"], rows["assigned_ns"], *assigned)
        for kind, index in ((ERROR, _ERRORS), (SLOW, _SLOW), (BAD_OUTPUT, _BAD)):
            happened = rows[rows["event_ns"][:, kind] > 0]
            # What was slow was judged, whenever its key came first; the other events go where their key was counted.
            judged = np.ones(len(happened)) if kind == SLOW else happened["assigned_judged"]
            _add_firsts(
                counts,
                index,
                happened["key"],
                happened["event_ns"][:, kind],
                happened["event_weight"][:, kind],
                judged,
                happened["event_canary"][:, kind],
            )
        full = full or any(table.full for table in mine)
    return Gathered(counts, full)


def _add_firsts(counts: Counts, index: int, key: Any, time_ns: Any, weight: Any, judged: Any, canary: Any) -> None:
    """Count each key once, where it was first: workers meet the same key."""
    if len(key) == 0:
        return
    order = np.lexsort((time_ns, key))
    sorted_keys = key[order]
    firsts = order[np.concatenate(([True], sorted_keys[1:] != sorted_keys[:-1]))]
    places = np.column_stack((weight[firsts], judged[firsts], canary[firsts]))
    for (at_weight, was_judged, is_canary), count in zip(*np.unique(places, axis=0, return_counts=True), strict=True):
        place = (float(at_weight), bool(was_judged), bool(is_canary))
        counts.setdefault(place, [0, 0, 0, 0])[index] += int(count)


def shadow_rows(pages: Iterable[PageSnapshot], model: str, version: int) -> int:
    """Rows that a version has run as a shadow, ever."""
    key = (model, version, str(Role.SHADOW))
    return sum(page.totals[key].batch_rows_sum for page in pages if key in page.totals)


def arm_answers(pages: Sequence[PageSnapshot], model: str, champion: int, candidate: int) -> tuple[int, int]:
    """Answers that the two arms have ever given, those before this rollout too."""
    arms = (
        answered(pages, model, champion, Role.CHAMPION),
        answered(pages, model, candidate, Role.CANARY),
    )
    of_champion, of_canary = (0 if counts is None else int(counts.sum()) for counts in arms)
    return of_champion, of_canary


def answered(pages: Iterable[PageSnapshot], model: str, version: int, role: Role) -> Any:
    """Cumulative latency counters of one (version, role) over all workers, or None before its first answer."""
    key = (model, version, str(role))
    found = [page.totals[key].latency_counts for page in pages if key in page.totals]
    return np.sum(found, axis=0) if found else None

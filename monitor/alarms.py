"""From looks to alarms: counts each drift once, and does not flap around the limit.

Invariant: an alarm is raised by the first breach and ends only after CLEAR_AFTER looks in a row that pass; a look that
could not measure (`unknown`) neither raises nor ends one. So alarms count events, not looks. Touched by the monitor's
step alone. Also the shares of values that are bad in themselves, which need no test.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from monitor.counts import Counts
from monitor.drift import Kind, Measurement
from monitor.profile import ColumnProfile, ReferenceProfile
from registry.vocabulary import Verdict

CLEAR_AFTER = 3

Key = tuple[str, str, str, str]  # kind, feature, statistic, window
Problem = Literal["missing", "infinite", "out_of_range", "unseen"]


class Alarms:
    """The alarms of one version. Bounded by features x statistics x windows."""

    def __init__(self) -> None:
        self.totals: dict[Key, int] = {}  # raised since the start
        self._quiet: dict[Key, int] = {}  # active alarms → passing looks in a row

    def update(self, measurements: Iterable[Measurement]) -> list[Measurement]:
        """Take one look's measurements; returns those that raise an alarm now."""
        raised = []
        for m in measurements:
            if m.verdict is Verdict.BREACH:
                if m.key not in self._quiet:
                    self.totals[m.key] = self.totals.get(m.key, 0) + 1
                    raised.append(m)
                self._quiet[m.key] = 0
            elif m.verdict is Verdict.PASS and m.key in self._quiet:
                self._quiet[m.key] += 1
                if self._quiet[m.key] >= CLEAR_AFTER:
                    del self._quiet[m.key]
        return raised

    @property
    def active(self) -> frozenset[Key]:
        return frozenset(self._quiet)


@dataclass(frozen=True, slots=True)
class QualityRatio:
    """The share of a column's rows with one problem, 0 to 1. `infinite` values are also out of range."""

    feature: str
    kind: Kind
    problem: Problem
    ratio: float


def quality(profile: ReferenceProfile, inputs: Counts | None, outputs: Counts | None) -> list[QualityRatio]:
    """Every column's problems over the rows counted; nothing for a side without rows."""
    found: list[QualityRatio] = []
    sides: tuple[tuple[Kind, tuple[ColumnProfile, ...], Counts | None], ...] = (
        ("input", profile.inputs, inputs),
        ("output", profile.outputs, outputs),
    )
    for kind, columns, counts in sides:
        if counts is None or counts.rows == 0:
            continue
        for at, column in enumerate(columns):
            own = counts.of(at)
            problems: dict[Problem, int] = {"missing": int(counts.missing[at]), "infinite": int(counts.infinite[at])}
            if column.bins.kind == "number":
                if len(own) > 1:
                    problems["out_of_range"] = int(own[0] + own[-1])
            elif column.complete:
                problems["unseen"] = int(own[-1])
            found.extend(QualityRatio(column.name, kind, name, n / counts.rows) for name, n in problems.items())
    return found

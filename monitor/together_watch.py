"""Columns together, judged: from tallies of sampled rows to evidence and alarms, with what moved by name.

Why apart from `monitor/detectors.py`: the questions are about rows and not about columns, and their alarms draw on a
share of the budget of their own; the bets, and what a reference may be off by, are the same. Each statistic is one
watch: its M is the mean over its questions, so however many questions it asks, it is one feature of the promise.
Invariants: a pure function of profile, limits and the tallies, in their order; state is bounded. Owned by
`monitor/together_stream.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitor.budget import EVALUATE_ROWS
from monitor.dependence import LiveDependence
from monitor.events import KINDS, EventKind, Events, Tolerance, tolerated
from monitor.mixture import Mixture, angle_of
from monitor.packing import pack, unpack
from monitor.splits import Split
from monitor.together import PER_SCORE, STATISTICS, Tally, Together, TogetherStatistic
from monitor.watch import Evidence, Watch

Floats = NDArray[np.float64]
NAME = "inputs together"  # in place of a column's name, wherever an alarm has one
EVALUATE_S = 5.0  # and EVALUATE_ROWS sampled rows, whichever is later
_LEAST_ROWS = 100.0  # of the reference that answered a question; a rarer one is not bet on
_REMEMBERED = 4  # evaluations: what the components left is told from about so many
_DOUBT = 5.0  # standard errors that a pair must have moved by to be named
MOST_NAMED = 5  # pairs, and columns


@dataclass(frozen=True, slots=True)
class _Name:
    name: str


@dataclass(frozen=True, slots=True)
class PairThatMoved:
    """Two columns' splits: the share of rows in which they answer alike, in the reference and now."""

    first: Split
    second: Split
    reference: float
    current: float


@dataclass(frozen=True, slots=True)
class ColumnUnexplained:
    """What the reference's components leave of one column, as a share of all variance: then, and lately."""

    column: int
    reference: float
    current: float


class TogetherDetector:
    """Watches one version's sampled rows. One thread at a time."""

    def __init__(self, together: Together, tolerance: Tolerance | None = None) -> None:
        self.together, self.rows = together, 0
        self._watches = {name: _watch(together, name, tolerance or Tolerance()) for name in STATISTICS}
        # What the components left of each column lately, and of how many rows: each weighs less than the next.
        self._lately = [np.zeros(len(together.questions.columns)), np.zeros(1)]

    def update(
        self, tally: Tally, now_s: float, log_limit: float, *, is_learning: bool = False
    ) -> tuple[list[Evidence], list[Evidence]]:
        """Take what was asked since the last evaluation: the alarms that it raised, and those that it cleared.

        is_learning: it tells how rows depend on each other, and is no evidence.
        """
        asked, raised, cleared = self.together.questions, [], []
        happened, of = tally.happened.astype(np.float64), tally.of.astype(np.float64)
        for name, watch in self._watches.items():
            here = asked.of(name)
            if is_learning:
                watch.learn_from(happened[here], of[here])
                continue
            up, down = watch.judge(happened[here], of[here], self.rows, now_s, log_limit)
            raised += up
            cleared += down
        self.rows += tally.rows
        for sums, new in zip(self._lately, (tally.unexplained, np.array([tally.rows])), strict=True):
            sums *= 1.0 - 1.0 / _REMEMBERED
            sums += new
        return raised, cleared

    def evidence(self) -> list[Evidence]:
        """What is known of each statistic, the strongest first."""
        rows = [watch.row(0) for watch in self._watches.values() if watch.names]
        return sorted(rows, key=lambda row: row.limit_log10 - row.evidence_log10)

    def active(self) -> list[Evidence]:
        """The alarms that are raised."""
        return [watch.row(0) for watch in self._watches.values() if watch.is_raised.any()]

    def pairs_that_moved(self) -> list[PairThatMoved]:
        """The pair that an alarm speaks of, and those that moved farthest, since that began; one question of each."""
        asked, now, before, doubt = self.together.questions, *self._moved()
        found: dict[tuple[int, int], PairThatMoved] = {}
        if self._watches["pairs"].is_raised.any():
            row = self._watches["pairs"].row(0)
            first, second = asked.pair(row.place)
            found[first.column, second.column] = PairThatMoved(first, second, row.reference, row.share)
        for at in np.argsort(-doubt, kind="stable").tolist():
            if doubt[at] < _DOUBT or len(found) >= MOST_NAMED:
                break
            first, second = asked.pair(at)
            found.setdefault(
                (first.column, second.column),
                PairThatMoved(first, second, float(before[at]), float(now[at])),
            )
        return list(found.values())

    def _moved(self) -> tuple[Floats, Floats, Floats]:
        """Pairs' shares now and in the reference, and how many standard errors lie between them."""
        here, tally, mixture = self.together.questions.of("pairs"), self.together.tally, self._watches["pairs"].mixture
        happened, of = mixture.happened, mixture.of
        m, deff = tally.of[here].astype(np.float64), self.together.deffs[here]
        now, before = happened / np.maximum(of, 1.0), tally.happened[here] / np.maximum(m, 1.0)
        told = (of >= 1.0) & (m >= _LEAST_ROWS)
        noise = 0.5 * np.sqrt(deff * (1.0 / np.maximum(of, 1.0) + 1.0 / np.maximum(m, 1.0)))
        return now, before, np.where(told, np.abs(angle_of(now) - angle_of(before)) / noise, 0.0)

    def columns_unexplained(self) -> list[ColumnUnexplained]:
        """The columns of which the reference's components leave most more than they did, the worst first."""
        tally, rows = self.together.tally, float(self._lately[1][0])
        if not rows or not tally.rows:
            return []
        before, now = tally.unexplained / tally.rows, self._lately[0] / rows
        worst = np.argsort(before - now, kind="stable")[:MOST_NAMED]
        return [ColumnUnexplained(int(at), float(before[at]), float(now[at])) for at in worst if now[at] > before[at]]

    def unexplained(self) -> tuple[float, float]:
        """The share of all variance that the components leave: of the reference, and lately."""
        tally, rows = self.together.tally, max(float(self._lately[1][0]), 1.0)
        return float(tally.unexplained.sum() / max(tally.rows, 1)), float(self._lately[0].sum() / rows)

    def to_dict(self) -> dict[str, Any]:
        """Its whole state as a JSON object."""
        return {
            "rows": self.rows,
            "watches": [watch.to_dict() for watch in self._watches.values()],
            "lately": [pack(sums) for sums in self._lately],
        }

    def restore(self, document: Mapping[str, Any]) -> None:
        """Go on where `to_dict` stood. Raises KeyError, TypeError or ValueError for another state."""
        for watch, stored in zip(self._watches.values(), document["watches"], strict=True):
            watch.take(stored)
        for sums, text in zip(self._lately, document["lately"], strict=True):
            sums[:] = unpack(text, "<f8", sums.size)
        self.rows = int(document["rows"])


def _watch(together: Together, name: TogetherStatistic, tolerance: Tolerance) -> Watch:
    here = together.questions.of(name)
    happened, rows = (part[here].astype(np.float64) for part in (together.tally.happened, together.tally.of))
    deff, block_rows = together.deffs[here], together.block_rows[here].astype(np.float64)
    low, high = tolerated(happened, rows, deff, "shape", tolerance)
    is_told = rows >= _LEAST_ROWS
    kind: EventKind = "alike" if name == "pairs" else "score"
    events = Events(
        family=name,
        column=np.zeros(len(happened), np.intp),
        kind=np.full(len(happened), KINDS.index(kind), np.int8),
        place=np.arange(len(happened)),
        share=happened / np.maximum(rows, 1.0),
        rows=rows,
        deff=deff,
        low=np.where(is_told, low, 0.0),
        high=np.where(is_told, high, 1.0),
        width=1,
    )
    tiles = np.where(block_rows > EVALUATE_ROWS, block_rows, 1.0)
    # Dependence is learned of each pair of columns, and of each score: among others, one that depends would be lost.
    live = LiveDependence(replace(events, column=_groups(together, name)))
    return Watch([_Name(NAME)] if len(events) else [], "input", events, Mixture(events, tiles > 1.0, tiles), live)


def _groups(together: Together, name: TogetherStatistic) -> NDArray[np.intp]:
    """(E,): questions about the same columns, or the same score, have the same number."""
    here = together.questions.of(name)
    if name != "pairs":
        return np.arange(here.stop - here.start) // PER_SCORE
    owners = [tuple(split.column for split in together.questions.pair(at)) for at in range(here.start, here.stop)]
    numbers = {pair: number for number, pair in enumerate(dict.fromkeys(owners))}
    return np.array([numbers[pair] for pair in owners], np.intp)

"""Rows in the order of time: when did each feature begin to move?

Why: two files differ or not; rows in order also say since when, which is what somebody who looks for the cause asks
first. Invariants: the fast detector of `monitor/detectors.py` sees each current row once, in order, in evaluations of
equal size; its share of the run's false-alarm probability is set before the first row. Called by `driftgate/drift.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from driftgate.drift_clock import times_of
from driftgate.drift_columns import Column
from driftgate.drift_compare import KEEP_BYTES, Side, count
from driftgate.drift_result import Began
from driftgate.drift_table import Progress, Rows, Source
from monitor.budget import EVALUATE_ROWS, Budget
from monitor.counts import Counter, Counts
from monitor.explain import Sample
from monitor.profile import ReferenceProfile
from registry.errors import MalformedRequest

if TYPE_CHECKING:
    from monitor.watch import Evidence

_EVALUATIONS = 20_000  # at most: longer files are looked at in larger steps
_CHECKPOINTS = 200  # moments whose counts are kept, to tell what came after one

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Moment:
    """When one feature began to move, the evidence at its peak, and what its rows held from then on."""

    began: Began
    evidence: Evidence
    since: Sample


class Timeline:
    """Takes the current rows in order. Not for more than one thread."""

    def __init__(self, profile: ReferenceProfile, clock: Column, times: Floats, budget: Budget) -> None:
        """times (n,) are those of the rows to come, in order."""
        from monitor.detectors import FastDetector, Limits  # they bring scipy

        self._clock, self._times = clock, times
        self._every = max(EVALUATE_ROWS, ceil(len(times) / _EVALUATIONS))
        evaluations = max(ceil(len(times) / self._every), 1)
        self._detector = FastDetector(profile.inputs, "input")
        self._counter = Counter(self._detector.bins, "f8")
        shape, quality = (
            self._detector.evaluations_of("shape", len(times), evaluations),
            self._detector.evaluations_of("quality", len(times), evaluations),
        )
        self._limits = Limits(budget.log_threshold("inputs", shape), budget.log_threshold("quality", quality))
        self._step = max(1, evaluations // _CHECKPOINTS)
        self._total = Counts.empty(self._detector.bins)
        self._checkpoints = [self._total.copy()]
        self._rest: list[Floats] = []
        self._waiting = 0
        self._first: dict[str, tuple[Evidence, int]] = {}  # alarm and the row after which it was raised
        self._ended: dict[str, int] = {}

    def add(self, block: Floats) -> None:
        """The next rows (C, n)."""
        self._rest.append(block)
        self._waiting += block.shape[1]
        if self._waiting >= self._every:
            rows = np.concatenate(self._rest, axis=1)
            whole = self._waiting - self._waiting % self._every
            for start in range(0, whole, self._every):
                self._evaluate(rows[:, start : start + self._every])
            self._rest, self._waiting = [rows[:, whole:]], self._waiting - whole

    def moments(self, columns: Sequence[Column]) -> dict[str, Moment]:
        """After the last row: the features that moved."""
        if self._waiting:
            self._evaluate(np.concatenate(self._rest, axis=1))
            self._rest, self._waiting = [], 0
        self._checkpoints.append(self._total.copy())
        places = {column.name: at for at, column in enumerate(columns)}
        return {name: self._moment(name, places[name]) for name in self._first}

    def _evaluate(self, rows: Floats) -> None:
        if not rows.shape[1]:
            return
        counts = self._counter.count(rows.T)
        self._total.merge(counts)
        report = self._detector.update(counts, float(self._total.rows), self._limits)
        for alarm in report.raised:
            self._first.setdefault(alarm.feature, (alarm, report.rows))
            self._ended.pop(alarm.feature, None)
        raised = {alarm.feature for alarm in self._detector.active()}
        for alarm in report.cleared:
            if alarm.feature not in raised:
                self._ended[alarm.feature] = report.rows
        if self._detector.evaluations % self._step == 0:
            self._checkpoints.append(self._total.copy())

    def _moment(self, name: str, at: int) -> Moment:
        alarm, found_row = self._first[name]
        now = self._detector.evidence(name, alarm.family)
        ended = self._ended.get(name)
        before, after = self._near(alarm.start_rows), self._near(ended or self._total.rows)
        if after.rows <= before.rows:
            before = self._checkpoints[0]
        since = Sample(
            after.of(at) - before.of(at),
            int(after.missing[at] - before.missing[at]),
            after.rows - before.rows,
            mistyped=int(after.mistyped[at] - before.mistyped[at]),
        )
        began = Began(
            row=alarm.start_rows,
            time=self._time(alarm.start_rows),
            found_row=found_row - 1,
            found_time=self._time(found_row - 1),
            ended_row=ended,
            ended_time=None if ended is None else self._time(ended),
        )
        return Moment(began, now if now is not None and now.evidence_log10 > alarm.evidence_log10 else alarm, since)

    def _near(self, row: int) -> Counts:
        return min(self._checkpoints, key=lambda counts: abs(counts.rows - row))

    def _time(self, row: int) -> str:
        return self._clock.name_of(float(self._times[min(row, len(self._times) - 1)]))


def watch(
    source: Source,
    rows: Rows,
    columns: Sequence[Column],
    profile: ReferenceProfile,
    clock: Column,
    budget: Budget,
    progress: Progress,
    also: Callable[[Floats], None],
) -> tuple[Side, dict[str, Moment]]:
    """Count the current rows, and follow them in the order of time. `also` gets them in that order too.

    Raises MalformedRequest for rows without a time, and for rows out of order that are too many to sort in memory.
    """
    times = times_of(source, clock, progress)
    batches = rows.all([column.name for column in columns], "counting the current rows", progress)
    in_order = bool((times[1:] >= times[:-1]).all())
    if in_order:
        timeline = Timeline(profile, clock, times, budget)

        def see(block: Floats) -> None:
            timeline.add(block)
            also(block)

        return count(batches, columns, profile, see), timeline.moments(columns)
    if len(times) * len(columns) * 8 > KEEP_BYTES:
        raise MalformedRequest(
            f"by_time: rows of {source.name} are not in the order of {clock.name}, and too many to sort here: "
            "sort the file first"
        )
    blocks: list[Floats] = []
    side = count(batches, columns, profile, blocks.append)
    order = np.argsort(times, kind="stable")
    timeline = Timeline(profile, clock, times[order], budget)
    block = np.concatenate(blocks, axis=1)[:, order]
    del blocks
    timeline.add(block)
    also(block)
    return side, timeline.moments(columns)

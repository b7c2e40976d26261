"""The self-audit: the same detectors, at a budget of one false alarm an hour, where nothing can have drifted.

Why: a promise of one false alarm a month cannot be checked in a month; one of an hour can, on the traffic that is
really there. Two audits. *split*: each row is put into one of two halves by a coin, and of each event the number in one
half is bet to be half of all: true whatever the world does, so alarms measure the arithmetic, the thresholds and the
code. *yesterday*: live rows against the counts of the last whole day (UTC): an alarm wherever rows depend on each
other, or days differ, more than the detectors believe. Invariants: `expected` is what the promise allows for exactly
the evaluations that were made; alarms here page nobody. Called by `monitor/live.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from monitor.block import Rows
from monitor.budget import Budget, evaluations_in
from monitor.counts import CHUNK_ROWS, BinSet, Counter, Counts
from monitor.detectors import FAMILIES, FastDetector, Limits
from monitor.events import Events, Family, Tolerance, events_of
from monitor.mixture import Mixture
from monitor.pauses import pause
from monitor.profile import ColumnProfile, ReferenceProfile
from monitor.windows import Window

Audit = Literal["split", "yesterday"]
AUDITS: tuple[Audit, ...] = ("split", "yesterday")
SPLIT_COLUMNS, YESTERDAY_COLUMNS = 8, 32  # inputs that are audited, spread evenly; half the rows of the 8 are recounted
LEAST_ROWS = 5000  # of yesterday, or it is no reference
HOUR = Budget(1.0).among(("inputs", "quality"))  # one false alarm an hour, of shape and quality, by the usual shares


@dataclass(slots=True)
class Tally:
    """Alarms that were raised, and how many the promise allows."""

    alarms: int = 0
    expected: float = 0.0


def spread(n: int, most: int) -> list[int]:
    """Which of n columns are audited.

    >>> spread(3, 8), spread(101, 3)
    ([0, 1, 2], [0, 50, 100])
    """
    return list(range(n)) if n <= most else sorted({round(at * (n - 1) / (most - 1)) for at in range(most)})


def coins(rows: Rows, salt: int) -> NDArray[np.bool_]:
    """A fair coin for each row, by its number in its lane: SplitMix64 (Steele, Lea and Flood 2014), lowest bit."""
    with np.errstate(over="ignore"):
        x = rows["seq"].astype(np.uint64) + np.uint64(salt) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return np.asarray(x & np.uint64(1), bool)


def limits_of(evaluations: Mapping[Family, float]) -> Limits:
    """ln c of an hour's budget for so many evaluations of single features in that hour."""
    return Limits(
        HOUR.log_threshold("inputs", evaluations["shape"]), HOUR.log_threshold("quality", evaluations["quality"])
    )


class SplitAudit:
    """One version's inputs, in two halves."""

    def __init__(self, profile: ReferenceProfile, dtype: str) -> None:
        self._at = spread(len(profile.inputs), SPLIT_COLUMNS)
        columns = [profile.inputs[at] for at in self._at]
        self._bins = BinSet(tuple(column.bins for column in columns))
        self._counter = Counter(self._bins, dtype, only_bins=True)
        self._half, self._both = Counts.empty(self._bins), Counts.empty(self._bins)
        self._families = [_halves(columns, family) for family in FAMILIES]
        self._chosen: list[NDArray[Any]] = []  # rows of the half that are not counted yet: a few at a time cost as much
        self._rows = 0

    def evaluations(self, family: Family) -> float:
        """Of single features, in an hour."""
        mixture = next(each for each in self._families if each.events.family == family)
        return mixture.evaluations(float("inf"), evaluations_in(3600.0))

    def add(self, rows: Rows, inputs: Counts, salt: int) -> None:
        """Rows that were counted, so."""
        self._both.merge(_some(inputs, self._at, self._bins))
        chosen = rows["features"][coins(rows, salt)]
        self._chosen.append(chosen[:, self._at] if len(self._at) < inputs.counts.shape[0] else chosen)
        if sum(map(len, self._chosen)) >= CHUNK_ROWS:
            self._count()

    def _count(self) -> None:
        if self._chosen:
            self._counter.add(self._half, np.concatenate(self._chosen))
            self._chosen = []

    def evaluate(self, now_s: float, limits: Limits) -> Tally:
        """Judge what came since the last evaluation."""
        tally = Tally()
        self._count()
        for mixture in self._families:
            pause()
            limit = getattr(limits, mixture.events.family)
            happened, _ = mixture.events.count(self._half)
            of, _ = mixture.events.count(self._both)
            mixture.update(happened, of, float(self._rows), now_s)
            for at in np.flatnonzero(mixture.log_evidence() >= limit).tolist():
                mixture.reset(at)
                tally.alarms += 1
            tally.expected += len(mixture.starts) * exp(-limit)
        self._rows += self._both.rows
        self._half, self._both = Counts.empty(self._bins), Counts.empty(self._bins)
        return tally


def _halves(columns: Sequence[ColumnProfile], family: Family) -> Mixture:
    """The detectors' own events, each bet to fall into either half alike: nothing is tolerated, nothing estimated."""
    events: Events = events_of(columns, family, Tolerance())
    half = np.full(len(events), 0.5)
    fair = replace(events, share=half, low=half, high=half, deff=np.ones(len(events)))
    return Mixture(fair, np.zeros(len(events), bool), np.ones(len(events)))


class YesterdayAudit:
    """One version's inputs against those of the last whole day."""

    def __init__(self, profile: ReferenceProfile, day: Window) -> None:
        self.day_s = day.since_s
        self._at = spread(len(profile.inputs), YESTERDAY_COLUMNS)
        columns = [_counted(profile.inputs[at], day.inputs, at) for at in self._at]
        self._bins = BinSet(tuple(column.bins for column in columns))
        self._detector = FastDetector(columns, "input")

    def evaluations(self, family: Family) -> float:
        """Of single features, in an hour."""
        return self._detector.evaluations_of(family, float("inf"), evaluations_in(3600.0))

    def evaluate(self, inputs: Counts, now_s: float, limits: Limits) -> Tally:
        """Judge the counts of one evaluation."""
        report = self._detector.update(_some(inputs, self._at, self._bins), now_s, limits)
        expected = sum(
            self._detector.evaluations_of(family, float(inputs.rows), 1.0) * exp(-getattr(limits, family))
            for family in FAMILIES
        )
        return Tally(len(report.raised), expected)


def _counted(column: ColumnProfile, day: Counts, at: int) -> ColumnProfile:
    """A column of the profile with a day's counts in place of the reference's; what was learned of runs stays."""
    counts = tuple(int(count) for count in day.of(at))
    return replace(column, counts=counts, missing=int(day.missing[at]), infinite=int(day.infinite[at]), season=None)


def _some(counts: Counts, at: list[int], bins: BinSet) -> Counts:
    """The counts of these columns. The same ones, not a copy, where all are meant."""
    if len(at) == counts.counts.shape[0]:
        return replace(counts, bins=bins)
    cut: dict[str, Any] = {
        name: value[at] for name, value in vars(counts).items() if isinstance(value, np.ndarray) and name != "counts"
    }
    return replace(counts, bins=bins, counts=counts.counts[at][:, : bins.width], **cut)

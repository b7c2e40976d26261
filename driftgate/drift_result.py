"""What a comparison of two tables found, as plain values: for programs, for JSON, for a report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from driftgate.drift_result_together import Multivariate, Verdict


@dataclass(frozen=True, slots=True)
class Statistic:
    """One measure of one feature: psi in nats, js in bits, evidence (of rows in time order) as log10 of an e-value,
    others shares of rows. None where nothing was measured.

    `verdict` is breach if the value is above its threshold, unknown (with a cause) if rows do not suffice to say.
    """

    name: str
    value: float | None
    threshold: float | None
    rows: int
    verdict: Verdict
    cause: str | None

    @property
    def excess(self) -> float:
        """value over threshold: above 1 is an alarm; 0 where nothing could be measured."""
        if self.verdict == "unknown" or self.value is None or not self.threshold:
            return 0.0
        return self.value / self.threshold

    def to_dict(self) -> dict[str, Any]:
        return {
            "statistic": self.name,
            "value": self.value,
            "threshold": self.threshold,
            "rows": self.rows,
            "verdict": self.verdict,
            "cause": self.cause,
        }


@dataclass(frozen=True, slots=True)
class Bin:
    """A range of values or a category: its share of the rows that have a value, on both sides.

    low <= value < high, None where it is open; equal where the bin is one value; both None for a category.
    """

    what: str
    low: float | None
    high: float | None
    reference: float
    current: float

    def to_dict(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "low": self.low,
            "high": self.high,
            "reference": self.reference,
            "current": self.current,
        }


@dataclass(frozen=True, slots=True)
class Moved:
    """A range, a category, `not whole` or `missing` that moved beyond chance: its share before and now."""

    what: str
    reference: float
    current: float

    def to_dict(self) -> dict[str, Any]:
        return {"what": self.what, "reference": self.reference, "current": self.current}


@dataclass(frozen=True, slots=True)
class Began:
    """When a feature began to move, found in time order. Rows count from 0 in the current table, by time.

    row: the estimate of the first row that had moved. found_row: the row after which the alarm was certain. ended_row:
    the row before which it was certain that the feature had gone back; None if it never did.
    """

    row: int
    time: str
    found_row: int
    found_time: str
    ended_row: int | None = None
    ended_time: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "row": self.row,
            "time": self.time,
            "found_row": self.found_row,
            "found_time": self.found_time,
            "ended_row": self.ended_row,
            "ended_time": self.ended_time,
        }


@dataclass(frozen=True, slots=True)
class FeatureDrift:
    """One feature: the statistic that stands out most, and all of them."""

    feature: str
    type: str
    kind: Literal["input", "output"]
    alarm: bool
    verdict: Verdict
    cause: str | None
    statistic: str
    value: float | None
    threshold: float | None
    rows: int
    explanation: str
    direction: str
    moved: tuple[Moved, ...]
    statistics: tuple[Statistic, ...]
    bins: tuple[Bin, ...]
    missing: tuple[float, float]  # share of rows, reference and current
    unreadable: tuple[int, int]  # rows whose value is not of the column's type; they are among the missing
    design_effect: float  # so many rows in a run say as much as one independent row
    began: Began | None = None

    def to_dict(self) -> dict[str, Any]:
        """As `driftgate drift --json` prints it."""
        return {
            "feature": self.feature,
            "type": self.type,
            "kind": self.kind,
            "alarm": self.alarm,
            "verdict": self.verdict,
            "cause": self.cause,
            "statistic": self.statistic,
            "value": self.value,
            "threshold": self.threshold,
            "rows": self.rows,
            "explanation": self.explanation,
            "direction": self.direction,
            "moved": [item.to_dict() for item in self.moved],
            "statistics": [item.to_dict() for item in self.statistics],
            "bins": [item.to_dict() for item in self.bins],
            "missing": {"reference": self.missing[0], "current": self.missing[1]},
            "unreadable": {"reference": self.unreadable[0], "current": self.unreadable[1]},
            "design_effect": self.design_effect,
            "began": self.began.to_dict() if self.began else None,
        }


@dataclass(frozen=True, slots=True)
class NotCompared:
    """A column of both tables that is no feature, and why."""

    feature: str
    why: str

    def to_dict(self) -> dict[str, Any]:
        return {"feature": self.feature, "why": self.why}


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two tables."""

    name: str
    rows: int

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "rows": self.rows}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that was found: features worst first."""

    reference: Side
    current: Side
    features: tuple[FeatureDrift, ...]
    not_compared: tuple[NotCompared, ...]
    only_in_reference: tuple[str, ...]
    only_in_current: tuple[str, ...]
    notes: tuple[str, ...]
    false_alarm_probability: float
    by_time: str | None = None
    multivariate: Multivariate | None = None  # None for a single column

    @property
    def is_alarm(self) -> bool:
        """Whether anything moved at all: a feature, or how features go together."""
        return bool(self.alarms) or (self.multivariate is not None and self.multivariate.alarm)

    @property
    def alarms(self) -> tuple[FeatureDrift, ...]:
        """The features that moved."""
        return tuple(feature for feature in self.features if feature.alarm)

    def to_dict(self) -> dict[str, Any]:
        """As `driftgate drift --json` prints it: plain JSON values, what could not be measured is null."""
        return {
            "features": [feature.to_dict() for feature in self.features],
            "alarms": [feature.feature for feature in self.alarms],
            "multivariate": self.multivariate.to_dict() if self.multivariate else None,
            "reference": self.reference.to_dict(),
            "current": self.current.to_dict(),
            "not_compared": [item.to_dict() for item in self.not_compared],
            "only_in_reference": list(self.only_in_reference),
            "only_in_current": list(self.only_in_current),
            "notes": list(self.notes),
            "false_alarm_probability": self.false_alarm_probability,
            "by_time": self.by_time,
        }

    def write_html(self, path: str | Path) -> Path:
        """Write one self-contained page with plots: no script, no request. Needs `pip install 'driftgate[report]'`.

        Raises NotEnabled without that extra.
        """
        from driftgate.drift_html import write

        return write(self, Path(path))

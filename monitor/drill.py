"""A drill: a stated shift in a copy of one column of the stream, to see how long the detectors take to see it.

Why: a monitor that never fires may be sharp or dead, and only a drift that is known tells which. Invariants: the copy
is made after the true rows were counted and is dropped with the drill, so nothing real ever sees it; a shift is a pure
function of values, reference and the generator. Called by the monitor for each block of rows while a drill runs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from monitor.block import Rows
from monitor.budget import is_due
from monitor.counts import BinSet, Counter, Counts
from monitor.detectors import FastDetector, Limits
from monitor.profile import ColumnProfile
from monitor.watch import Evidence, Side
from registry.clock import rfc3339
from registry.errors import MalformedRequest

ShiftKind = Literal["mean", "scale", "missing", "unseen"]

_FORM = re.compile(
    r"(?P<mean>mean)(?P<sign>[+-])(?P<by>\d+(?:\.\d+)?)sd"
    r"|sd(?:x|\*|×)(?P<scale>\d+(?:\.\d+)?)"
    r"|(?P<share_of>missing|unseen)\+(?P<share>\d+(?:\.\d+)?)%"
)
FORMS = "mean+0.5sd, mean-0.2sd, sdx1.5, missing+1%, unseen+5%"


@dataclass(frozen=True, slots=True)
class Shift:
    """What is done to a column: by so many standard deviations, times so much, or to so large a share of its rows."""

    kind: ShiftKind
    amount: float

    @classmethod
    def parse(cls, text: str) -> Shift:
        """A shift as people write it. Raises MalformedRequest.

        >>> Shift.parse("mean-0.2sd")
        Shift(kind='mean', amount=-0.2)
        >>> Shift.parse("missing+1%")
        Shift(kind='missing', amount=0.01)
        """
        found = _FORM.fullmatch(text.replace(" ", ""))
        if found is None:
            raise MalformedRequest(f"a shift is one of the form {FORMS}; got {text[:40]!r}")
        if found["mean"]:
            shift = cls("mean", float(found["by"]) * (1 if found["sign"] == "+" else -1))
        elif found["scale"]:
            shift = cls("scale", float(found["scale"]))
        elif found["share_of"] == "missing":
            shift = cls("missing", float(found["share"]) / 100.0)
        else:
            shift = cls("unseen", float(found["share"]) / 100.0)
        if not (0.0 < abs(shift.amount) <= (1.0 if shift.kind in ("missing", "unseen") else 1000.0)):
            raise MalformedRequest(f"a shift of {text[:40]!r} is nothing, or too much to be a drill")
        return shift

    def told(self) -> str:
        """In words.

        >>> Shift("scale", 1.5).told()
        'spread x 1.5'
        """
        if self.kind == "mean":
            return f"mean {'+' if self.amount > 0 else '-'} {abs(self.amount):g} sd"
        if self.kind == "scale":
            return f"spread x {self.amount:g}"
        return f"{self.amount * 100:g} % more {self.kind} values"

    def check(self, column: ColumnProfile) -> None:
        """Raises MalformedRequest when this cannot happen to such a column."""
        if self.kind in ("mean", "scale") and (column.bins.kind != "number" or not column.sd):
            raise MalformedRequest(
                f"{column.name} has no spread in the reference; its drills are missing+1%, unseen+1%"
            )

    def apply(self, values: NDArray[Any], column: ColumnProfile, rng: np.random.Generator) -> NDArray[Any]:
        """A shifted copy of a column's values (n,), of the same dtype; missing and infinite ones stay."""
        copy = values.copy()
        if self.kind in ("mean", "scale"):
            mean, sd = column.mean or 0.0, column.sd or 0.0
            moved = values + self.amount * sd if self.kind == "mean" else mean + (values - mean) * self.amount
            copy[:] = np.round(moved) if column.type in ("integer", "boolean") else moved
            return copy
        chosen = rng.random(len(values)) < self.amount
        copy[chosen] = np.nan if self.kind == "missing" else _unseen(column)
        return copy


class Drill:
    """One shift in a copy of one column, from now until it is seen or time is up. Its detector knows nothing before."""

    def __init__(
        self,
        *,
        id: str,
        version: int,
        side: Side,
        at: int,
        column: ColumnProfile,
        shift: Shift,
        most_s: float,
        now_s: float,
        wall_ns: int,
        rng: np.random.Generator,
    ) -> None:
        """Raises MalformedRequest when the shift cannot happen to such a column."""
        shift.check(column)
        self.id, self.version, self.side, self.column, self.shift = id, version, side, column, shift
        self.started_ns = wall_ns
        self.rows = 0  # judged so far
        self.seen: Evidence | None = None
        self.is_over = False
        self.took_s = 0.0
        self._at, self._rng, self._most_s, self._began_s = at, rng, most_s, now_s
        self._evaluated_s = now_s
        bins = BinSet((column.bins,))
        self._counter, self._waiting = Counter(bins, "f8"), Counts.empty(bins)
        self._detector = FastDetector((column,), side)

    def add(self, rows: Rows) -> None:
        """Rows that came: their copy is shifted and counted."""
        if not self.is_over:
            values = rows["features" if self.side == "input" else "outputs"][:, self._at]
            self._counter.add(self._waiting, self.shift.apply(values, self.column, self._rng)[:, None])

    def judge(self, now_s: float, limits: Limits) -> bool:
        """Evaluate when it is due, at the cadence and thresholds of the real detectors; True when it has just ended."""
        if self.is_over:
            return False
        self.took_s = now_s - self._began_s
        if is_due(self._waiting.rows, now_s - self._evaluated_s):
            report = self._detector.update(self._waiting, now_s, limits)
            self.rows, self._evaluated_s = report.rows, now_s
            self._waiting = Counts.empty(self._waiting.bins)
            self.seen = report.raised[0] if report.raised else None
        self.is_over = self.seen is not None or self.took_s >= self._most_s
        return self.is_over

    def sentence(self) -> str:
        """What came of it, or how it stands."""
        what = f"{self.side} {self.column.name} of version {self.version}, {self.shift.told()}"
        if self.seen is not None:
            return f"Drill: {what}, was seen after {self.rows:,} rows ({self.took_s:.0f} s)."
        if self.is_over:
            return f"Drill: {what}, was not seen in {self.rows:,} rows ({self.took_s:.0f} s)."
        return f"Drill: {what}, has not been seen in {self.rows:,} rows yet."

    def to_json(self) -> dict[str, Any]:
        """As the API shows it."""
        return {
            "id": self.id,
            "version": self.version,
            "kind": self.side,
            "feature": self.column.name,
            "shift": self.shift.told(),
            "state": "seen" if self.seen is not None else "not_seen" if self.is_over else "running",
            "rows": self.rows,
            "seconds": round(self.took_s, 3),
            "started_at": rfc3339(self.started_ns),
            "evidence": None if self.seen is None else self.seen.to_dict(),
            "sentence": self.sentence(),
        }


def _unseen(column: ColumnProfile) -> float:
    """A value that the reference never had."""
    if column.bins.kind == "category":
        return max(column.bins.values, default=0.0) + 1.0
    low, high = column.low or 0.0, column.high or 0.0
    return high + max(high - low, abs(high), 1.0)

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

from monitor.profile import ColumnProfile
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
            copy[:] = moved
            return copy
        chosen = rng.random(len(values)) < self.amount
        copy[chosen] = np.nan if self.kind == "missing" else _unseen(column)
        return copy


def _unseen(column: ColumnProfile) -> float:
    """A value that the reference never had."""
    if column.bins.kind == "category":
        return max(column.bins.values, default=0.0) + 1.0
    low, high = column.low or 0.0, column.high or 0.0
    return high + max(high - low, abs(high), 1.0)

"""ADWIN and Page-Hinkley on one number at a time: scores and losses, for dashboards.

Why: people know them and ask for them. Neither promises a run length: ADWIN's delta is per look, and Page-Hinkley's
threshold is in the units of its values, so what they find is shown and never pages, holds or rolls back. Invariants:
bounded memory whatever comes; a value that is not finite is counted and skipped; pure (no clock, no chance). Called
by `score_streams.py`; checked against river 0.26's published change points.

Sources: Bifet and Gavaldà, "Learning from time-changing data with adaptive windowing" (2007); Page (1954).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite, log, sqrt
from typing import Any

from registry.errors import StateDamaged
from registry.formats import check_stamp, stamped

_MOST_LEVELS = 60  # buckets of 2^60 values: never reached


@dataclass
class PageHinkley:
    """Two-sided Page-Hinkley: how far the sum of deviations from the running mean came from its extreme.

    Defaults are river's. `delta` and `threshold` are in the units of the values, or in those of `update`'s `scale`.
    """

    min_values: int = 30
    delta: float = 0.005
    threshold: float = 50.0
    forgetting: float = 0.9999  # factor of the sums at each value
    changes: int = 0
    skipped: int = 0
    _n: int = 0
    _mean: float = 0.0
    _up: float = 0.0
    _down: float = 0.0
    _least: float = float("inf")
    _most: float = float("-inf")

    def update(self, value: float, scale: float = 1.0) -> bool:
        """Take one value; True if a change is found, after which it starts anew. `scale`, > 0: what counts as 1."""
        if not isfinite(value):
            self.skipped += 1
            return False
        self._n += 1
        self._mean += (value - self._mean) / self._n
        deviation = (value - self._mean) / scale
        self._up = self.forgetting * self._up + deviation - self.delta
        self._down = self.forgetting * self._down + deviation + self.delta
        self._least = min(self._least, self._up)
        self._most = max(self._most, self._down)
        if self._n < self.min_values:
            return False
        if self._up - self._least <= self.threshold and self._most - self._down <= self.threshold:
            return False
        self.changes += 1
        self._n, self._mean, self._up, self._down = 0, 0.0, 0.0, 0.0
        self._least, self._most = float("inf"), float("-inf")
        return True


@dataclass
class Adwin:
    """ADWIN2: a window that drops its older part when the two parts' means differ beyond chance.

    The window is a list of buckets of 1, 2, 4 … values, at most `buckets` of each size, so memory grows with the
    logarithm of the values seen. `estimate` is the window's mean, `width` its length. Defaults are river's.
    """

    delta: float = 0.002
    every: int = 32  # values between two looks
    buckets: int = 5
    least: int = 5  # values in either part
    grace: int = 10  # values before the first look
    changes: int = 0
    skipped: int = 0
    width: int = 0
    _total: float = 0.0
    _m2: float = 0.0
    _ticks: int = 0
    _levels: list[list[tuple[float, float]]] = field(default_factory=lambda: [[]])  # newest last: (sum, m2)

    @property
    def estimate(self) -> float:
        """The window's mean; 0 without values."""
        return self._total / self.width if self.width else 0.0

    def update(self, value: float) -> bool:
        """Take one value; True if the window was cut."""
        if not isfinite(value):
            self.skipped += 1
            return False
        self.add(value, 0.0, 0)
        self._ticks += 1
        return self._ticks % self.every == 0 and self.look()

    def add(self, mean: float, m2: float, level: int) -> None:
        """Take 2^level values at once, by their mean and sum of squared deviations from it, without a look.

        The window's mean and variance are those of the single values; cuts fall between blocks only.
        """
        size, width = 1 << level, self.width
        gap = mean - self._total / width if width else 0.0
        self._m2 += m2 + width * size * gap * gap / (width + size)
        self.width = width + size
        self._total += mean * size
        while len(self._levels) <= level:
            self._levels.append([])
        buckets = self._levels[level]
        buckets.append((mean * size, m2))
        if len(buckets) > self.buckets:
            self._compress(level)

    def look(self, deff: float = 1.0) -> bool:
        """True if the window was cut. `deff`: how many values say as much as one that is independent."""
        return self.width > self.grace and self._cut(deff)

    def _compress(self, level: int) -> None:
        while level < len(self._levels) and len(self._levels[level]) > self.buckets:
            if level + 1 == len(self._levels):
                if level == _MOST_LEVELS:
                    return
                self._levels.append([])
            (sum_a, m2_a), (sum_b, m2_b) = self._levels[level][:2]
            del self._levels[level][:2]
            size = float(1 << level)
            gap = (sum_a - sum_b) / size
            self._levels[level + 1].append((sum_a + sum_b, m2_a + m2_b + gap * gap * size / 2.0))
            level += 1

    def _cut(self, deff: float) -> bool:
        found = False
        again = True
        while again:
            again = False
            n0, sum0 = 0.0, 0.0
            for level in range(len(self._levels) - 1, -1, -1):
                size = float(1 << level)
                for at, (total, _) in enumerate(self._levels[level]):
                    n0 += size
                    sum0 += total
                    n1 = self.width - n0
                    if level == 0 and at == len(self._levels[0]) - 1:
                        break
                    if n1 < self.least or n0 < self.least:
                        continue
                    if self._differ(n0, sum0 / n0, n1, (self._total - sum0) / n1, deff):
                        found = again = True
                        break
                if again:
                    break
            if again:
                self._drop_oldest()
        self.changes += found
        return found

    def _differ(self, n0: float, mean0: float, n1: float, mean1: float, deff: float) -> bool:
        certainty = log(2.0 * log(self.width) / self.delta)
        m = deff * (1.0 / (n0 - self.least + 1.0) + 1.0 / (n1 - self.least + 1.0))
        epsilon = sqrt(2.0 * m * (self._m2 / self.width) * certainty) + 2.0 / 3.0 * certainty * m
        return abs(mean0 - mean1) > epsilon

    def _drop_oldest(self) -> None:
        level = len(self._levels) - 1
        total, m2 = self._levels[level].pop(0)
        size = 1 << level
        self.width -= size
        self._total -= total
        mean = total / size
        if self.width:
            self._m2 -= m2 + size * self.width * (mean - self.estimate) ** 2 / (size + self.width)
            self._m2 = max(self._m2, 0.0)
        else:
            self._m2 = 0.0
        while len(self._levels) > 1 and not self._levels[-1]:
            self._levels.pop()


def to_dict(detector: Adwin | PageHinkley) -> dict[str, Any]:
    """A detector's state as a JSON object, stamped."""
    state = {name: _plain(value) for name, value in vars(detector).items()}
    return stamped("detector", {"kind": type(detector).__name__.lower(), "state": state})


def from_dict(document: Mapping[str, Any]) -> Adwin | PageHinkley:
    """The detector that `to_dict` stored. Raises StateDamaged for anything else, FormatTooNew for a newer release's."""
    check_stamp("detector", document)
    made: Adwin | PageHinkley
    try:
        made = {"adwin": Adwin, "pagehinkley": PageHinkley}[document["kind"]]()
        for name, value in vars(made).items():
            stored = document["state"][name]
            if name == "_levels":
                levels = [[(float(total), float(m2)) for total, m2 in level] for level in stored]
                if not 0 < len(levels) <= _MOST_LEVELS + 1 or max(map(len, levels)) > Adwin.buckets + 1:
                    raise ValueError("buckets beyond their number")
                stored = levels
            setattr(made, name, stored if name == "_levels" else type(value)(stored))
    except (KeyError, TypeError, ValueError) as error:
        raise StateDamaged(f"a detector's state cannot be read: {error!r}") from None
    return made


def _plain(value: Any) -> Any:
    return value if not isinstance(value, float) or isfinite(value) else str(value)

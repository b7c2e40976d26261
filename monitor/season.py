"""How a column's bin shares follow the time of day and of the week: a few harmonics, shrunk, from reference rows.

Why: every morning is not drift; a profile of each hour of the week (168 cells) would have too few rows a cell to see
anything else. A share's swing is fitted by 2 harmonics of the day, and 3 of the week where there are rows for it, to
the shares of hours; each wave is shrunk by what its noise would make alone (positive-part James and Stein, 1961).
Invariants: None unless a cell has LEAST_CELL_ROWS effective rows and some wave stands out; the shares of a moment are
at least 0 and sum to 1; pure. Called by the profile's fit, shown by `driftgate profile`; no detector reads it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

DAY_S, WEEK_S = 86_400, 604_800
HARMONICS: Mapping[int, int] = {DAY_S: 2, WEEK_S: 3}  # of each period
LEAST_CELL_ROWS = (
    5_000.0  # effective rows in an hour of the day, or of the week: with fewer it costs more than it tells
)
LEAST_PERIODS = 4  # a cycle seen fewer times is no cycle
_STANDS_OUT = 4.0  # times what noise makes of a wave on average


@dataclass(frozen=True, slots=True)
class Wave:
    """One harmonic: share += cos * cos(angle) + sin * sin(angle), angle = 2 pi t / period_s. cos and sin are (B,)."""

    period_s: float
    cos: tuple[float, ...]
    sin: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Season:
    """The waves of one column; times are Unix seconds, UTC."""

    waves: tuple[Wave, ...]

    def shares(self, share: NDArray[np.float64], time_s: float) -> NDArray[np.float64]:
        """(B,) the bins' shares at a moment, from their shares over all time (B,)."""
        moved = np.array(share, np.float64)
        for wave in self.waves:
            angle = 2.0 * math.pi * (time_s % wave.period_s) / wave.period_s
            moved += np.array(wave.cos) * math.cos(angle) + np.array(wave.sin) * math.sin(angle)
        moved = np.maximum(moved, 0.0)
        total = float(moved.sum())
        return moved / total if total > 0 else np.array(share, np.float64)

    def to_dict(self) -> dict[str, Any]:
        return {
            "waves": [{"period_s": w.period_s, "cos": _short(w.cos), "sin": _short(w.sin)} for w in self.waves],
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any], bins: int) -> Season:
        """Raises KeyError, TypeError or ValueError for what `to_dict` never wrote."""
        waves = []
        for item in document["waves"]:
            wave = Wave(float(item["period_s"]), tuple(map(float, item["cos"])), tuple(map(float, item["sin"])))
            numbers = (wave.period_s, *wave.cos, *wave.sin)
            if len(wave.cos) != bins or len(wave.sin) != bins or not all(map(math.isfinite, numbers)):
                raise ValueError("a season is of other bins")
            if wave.period_s <= 0:
                raise ValueError("a season's period must be above 0")
            waves.append(wave)
        return cls(tuple(waves))


def fit_season(place: NDArray[np.intp], bins: int, times_s: NDArray[np.float64]) -> Season | None:
    """The season of one column: place (n,) is each row's bin (bins: missing), times_s (n,) its moment.

    Hours of the week, or of the day where there are too few rows for that, are the cells. How much more cells differ
    than independent rows would make them, after the waves, is the design effect of a cell.
    """
    present = place < bins
    if not present.all():
        place, times_s = place[present], times_s[present]
    if len(place) < 24 * LEAST_CELL_ROWS:
        return None
    span_s = float(times_s.max() - times_s.min())
    for periods, cells in (((DAY_S, WEEK_S), 168), ((DAY_S,), 24)):
        if span_s >= LEAST_PERIODS * max(periods) and len(place) >= cells * LEAST_CELL_ROWS:
            hour = (np.floor(times_s / 3600.0) % cells).astype(np.intp)
            counts = np.bincount(hour * bins + place, minlength=cells * bins).reshape(cells, bins)
            found = _fit_waves(counts.astype(np.float64), [p / k for p in periods for k in range(1, HARMONICS[p] + 1)])
            if found is not None:
                return Season(found) if found else None
    return None


def _fit_waves(counts: NDArray[np.float64], lengths: Sequence[float]) -> tuple[Wave, ...] | None:
    """The waves of these lengths that stand out, from counts (cells, bins); None where cells say too little."""
    rows = counts.sum(axis=1)
    full = rows > 0
    angles = [2.0 * math.pi * (np.arange(len(counts)) + 0.5) * 3600.0 / length for length in lengths]
    design = np.column_stack([np.ones(len(counts)), *(f(angle) for angle in angles for f in (np.cos, np.sin))])[full]
    free = len(design) - design.shape[1]
    if free < 12:
        return None
    weight = rows[full][:, None]
    shares = counts[full] / weight
    inverse = np.linalg.pinv(design.T @ (weight * design))
    found = inverse @ (design.T @ (weight * shares))  # (1 + 2 waves, bins)
    mean = counts.sum(axis=0) / rows.sum()
    independent = mean * (1.0 - mean)  # the variance of one row
    left = (weight * (shares - design @ found) ** 2).sum(axis=0) / free
    deff = max(1.0, float(left.sum() / independent.sum())) if independent.sum() > 0 else math.inf
    if rows.sum() / deff / len(counts) < LEAST_CELL_ROWS:
        return None
    waves = []
    for at, length in enumerate(lengths):
        cos, sin = found[1 + 2 * at], found[2 + 2 * at]
        noise = float(deff * independent.sum() * (inverse[1 + 2 * at, 1 + 2 * at] + inverse[2 + 2 * at, 2 + 2 * at]))
        size = float((cos * cos + sin * sin).sum())
        if size > noise * _STANDS_OUT:
            kept = 1.0 - noise / size  # one factor for all bins: their shares still sum to 1
            waves.append(Wave(float(length), tuple((cos * kept).tolist()), tuple((sin * kept).tolist())))
    return tuple(waves)


def _short(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]

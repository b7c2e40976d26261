"""Histograms for people: a feature's bins as a few cells of equal width, or its categories. Pure.

Why: bins hold about equal shares of the reference, so drawn as they are every reference would look flat. Invariant: the
cells of each side add up to 1 (or 0, without a value). Called by the command line and by the report.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from driftgate.drift_result import Bin, FeatureDrift

_OUTER = 0.01  # of the rows, of both sides together, may lie in each end cell alone
_OTHERS = "all others"


@dataclass(frozen=True, slots=True)
class Cell:
    """Two bars: shares of the rows that have a value. low, high as in `Bin`: open at an end, None for a category."""

    what: str
    low: float | None
    high: float | None
    reference: float
    current: float


def cells_of(feature: FeatureDrift, most: int) -> list[Cell]:
    """At most `most` cells (at least 3), in the order of the values; categories by their share, the rest as one."""
    bins = list(feature.bins)
    if not bins:
        return []
    if all(item.low is None and item.high is None for item in bins):
        return _categories(bins, most)
    closed = [item for item in bins if item.low is not None and item.high is not None]
    if len(bins) <= most and closed and all(item.low == item.high for item in closed):
        return [Cell(item.what, item.low, item.high, item.reference, item.current) for item in bins]
    edges = [edge for item in bins for edge in (item.low, item.high) if edge is not None]
    return _equal_widths(bins, most) if math.isfinite(edges[-1] - edges[0]) else _groups(bins, most)


def _groups(bins: list[Bin], most: int) -> list[Cell]:
    """Neighbouring bins as one, where their range is wider than the largest number."""
    size = -(-len(bins) // most)
    parts = [bins[at : at + size] for at in range(0, len(bins), size)]
    return [
        Cell(
            " … ".join(dict.fromkeys((part[0].what, part[-1].what))),
            None,
            None,
            sum(item.reference for item in part),
            sum(item.current for item in part),
        )
        for part in parts
    ]


def _categories(bins: list[Bin], most: int) -> list[Cell]:
    ranked = sorted(bins, key=lambda item: -max(item.reference, item.current))
    shown = [Cell(item.what, None, None, item.reference, item.current) for item in ranked[:most]]
    if len(ranked) > most:
        rest = ranked[most - 1 :]
        reference, current = sum(item.reference for item in rest), sum(item.current for item in rest)
        shown[-1] = Cell(_OTHERS, None, None, reference, current)
    return shown


def _equal_widths(bins: list[Bin], most: int) -> list[Cell]:
    """Rows are taken to lie evenly within a bin; what is beyond the outer cells is in them."""
    low, high = _range(bins)
    width = (high - low) / most
    if width <= 0.0:  # every row on one side of one edge
        return [Cell(item.what, None, None, item.reference, item.current) for item in bins[:most]]
    shares = [[0.0, 0.0] for _ in range(most)]
    for item in bins:
        start = low if item.low is None else min(max(item.low, low), high)
        end = high if item.high is None else min(max(item.high, low), high)
        if item.low is None:
            start = end = low
        elif item.high is None:
            start = end = high
        parts = _spread(start, end, low, width, most)
        for at, part in parts:
            shares[at][0] += item.reference * part
            shares[at][1] += item.current * part
    marks = [low + width * at for at in range(most + 1)]
    return [
        Cell(
            "",
            None if at == 0 else marks[at],
            None if at == most - 1 else marks[at + 1],
            reference,
            current,
        )
        for at, (reference, current) in enumerate(shares)
    ]


def _spread(start: float, end: float, low: float, width: float, most: int) -> list[tuple[int, float]]:
    """Which part of an even spread from start to end lies in which cell."""
    first = min(int((start - low) / width), most - 1)
    last = min(int((end - low) / width), most - 1)
    if first == last or end <= start:
        return [(first, 1.0)]
    found = []
    for at in range(first, last + 1):
        inside = min(end, low + width * (at + 1)) - max(start, low + width * at)
        found.append((at, max(inside, 0.0) / (end - start)))
    total = sum(part for _, part in found) or 1.0
    return [(at, part / total) for at, part in found]


def _range(bins: list[Bin]) -> tuple[float, float]:
    """Where all but the outer rows of both sides lie."""
    edges = [edge for item in bins for edge in (item.low, item.high) if edge is not None]
    low, high = edges[0], edges[-1]
    reached = 0.0
    for item in bins:
        share = (item.reference + item.current) / 2
        if item.low is not None and item.high is not None:
            if reached <= _OUTER < reached + share:
                low = item.low + (item.high - item.low) * (_OUTER - reached) / share
            if reached < 1.0 - _OUTER <= reached + share:
                high = item.low + (item.high - item.low) * (1.0 - _OUTER - reached) / share
        reached += share
    return (low, high) if high > low else (edges[0], edges[-1])

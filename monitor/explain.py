"""What moved, in a sentence: which bins, tail or categories, which way, and how much.

Why: a distance above its limit tells nobody what to do; "rows above 44,800 rose from 6 % to 31 %" does. Invariant:
pure; a sentence names only differences that chance does not explain, and never says why. Called with the counts that a
measurement was made of, by the offline comparison and by whoever shows a live one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitor.counts import ColumnBins, Counts
from monitor.profile import ColumnProfile

_DOUBT = 3.5  # standard errors that a share must have moved before it is named
_LEAST = 0.002  # and by so much of all rows
_NAMED = 3  # ranges or categories in a sentence
_CONSTANT = 0.999  # of the rows in one bin

Name = Callable[[float], str]


class Direction(StrEnum):
    """Which way a column went."""

    UP = "up"
    DOWN = "down"
    WIDER = "wider"
    NARROWER = "narrower"
    RESHAPED = "reshaped"
    MIX = "mix"  # of categories
    MISSING = "missing"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Sample:
    """One column of one side: counts (bins,), rows with and without a value, moments of the finite values; how many
    values of a column of whole numbers have a fraction."""

    counts: NDArray[np.int64]
    missing: int
    rows: int
    mean: float | None = None
    sd: float | None = None
    mistyped: int = 0

    @classmethod
    def of(cls, counts: Counts, at: int) -> Sample:
        """Column `at` of a block's counts."""
        mean, sd = (float(value[at]) for value in (counts.mean, counts.sd))
        some = math.isfinite(mean) and math.isfinite(sd)
        return cls(
            counts.of(at),
            int(counts.missing[at]),
            counts.rows,
            mean if some else None,
            sd if some else None,
            int(counts.mistyped[at]),
        )

    @classmethod
    def expected(cls, column: ColumnProfile, rows: int) -> Sample:
        """What a profile of so many rows says of a column."""
        return cls(np.array(column.counts, np.int64), column.missing, rows, column.mean, column.sd)

    @property
    def shares(self) -> NDArray[np.float64]:
        """Of the rows with a value: (bins,)."""
        return np.asarray(self.counts / max(int(self.counts.sum()), 1), np.float64)

    @property
    def missing_share(self) -> float:
        return self.missing / max(self.rows, 1)


@dataclass(frozen=True, slots=True)
class Moved:
    """A range of values, a category, `not whole` or `missing`: its share before, and now."""

    what: str
    reference: float
    current: float

    def to_dict(self) -> dict[str, Any]:
        return {"what": self.what, "reference": self.reference, "current": self.current}


@dataclass(frozen=True, slots=True)
class Explanation:
    """What one column did; `moved` has the largest change first."""

    feature: str
    direction: Direction
    moved: tuple[Moved, ...]
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        moved = [item.to_dict() for item in self.moved]
        return {"direction": self.direction.value, "moved": moved, "sentence": self.sentence}


def shown(value: float) -> str:
    """A number as people write it, in four digits or all that an integer has.

    >>> shown(1234567.0), shown(0.123456), shown(-2.5e-7)
    ('1,234,567', '0.1235', '-2.5e-07')
    """
    if value == int(value) and abs(value) < 1e15 if math.isfinite(value) else False:
        return f"{int(value):,}"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"


def percent(share: float) -> str:
    """A share in two digits.

    >>> percent(0.5), percent(0.0123), percent(0.00004), percent(0)
    ('50 %', '1.2 %', '0.004 %', '0 %')
    """
    return f"{float(f'{share * 100:.2g}') if share < 0.995 else round(share * 100, 1):g} %"


def explain(
    bins: ColumnBins,
    reference: Sample,
    current: Sample,
    *,
    name: Name = shown,
    deff: float = 1.0,
    exact: bool = False,
    unseen: Sequence[str] = (),
    noun: str = "values",
) -> Explanation:
    """What moved between two samples in the same bins.

    `name` says a value (or a category's code) in words, `deff` is the design effect of rows that come in runs, `exact`
    says that the reference has few values and each is the lower edge of its bin, `unseen` are categories of the current
    rows that the reference never had, the most frequent first; `noun` is what the values are, such as lengths.
    """
    say = _Ranges(bins, name, exact, noun)
    moved: list[Moved] = []
    direction, said = Direction.NONE, []
    n, m = int(current.counts.sum()), int(reference.counts.sum())
    if n and m:
        if bins.kind == "category":
            moved = _categories(bins, reference, current, name, deff)
            direction = Direction.MIX if moved else Direction.NONE
            said = _category_sentences(moved, unseen, len(bins.values) == 2)
        else:
            moved = _ranges(say, reference, current, deff)
            if moved:
                direction, headline = _headline(say, reference, current)
                said = [headline, _ranges_sentence(moved)]
        if bins.whole and _beyond_chance(0.0, broken := current.mistyped / n, m, n, 1.0):
            moved.append(Moved("not whole", 0.0, broken))
            said.append(f"{percent(broken)} of values have a fraction; the reference has whole numbers only.")
            direction = Direction.RESHAPED if direction is Direction.NONE else direction
    lost = Moved("missing", reference.missing_share, current.missing_share)
    both = reference.rows and current.rows
    if both and _beyond_chance(
        lost.reference, lost.current, reference.rows, current.rows, deff if reference.missing else 1.0
    ):
        moved.append(lost)
        said.insert(0 if not said else len(said), _missing_sentence(lost))
        direction = Direction.MISSING if direction is Direction.NONE else direction
    moved.sort(key=lambda item: -abs(item.current - item.reference))
    sentence = " ".join(text for text in said if text) or _quiet(n, m)
    return Explanation(bins.name, direction, tuple(moved), sentence)


def names_of(column: ColumnProfile) -> Name:
    """How a live column's values are said. Workers log a hash of a text, so its category goes by its place in the
    reference: no. 1 is the most frequent there."""
    if not column.hashed or column.bins.kind != "category":
        return shown
    places = np.argsort(-np.array(column.counts[: len(column.bins.values)]), kind="stable")
    ranks = {column.bins.values[at]: rank for rank, at in enumerate(places, 1)}
    return lambda value: f"no. {ranks[value]} in frequency"


def bin_names(bins: ColumnBins, name: Name = shown, *, exact: bool = False) -> list[str]:
    """Each bin in words, in order; `exact` as in `explain`.

    >>> bin_names(ColumnBins("age", "number", edges=(18.0, 30.0, 65.0)))
    ['below 18', '18 to 29', '30 to 64', '65 and above']
    """
    if bins.kind == "category":
        return [*map(name, bins.values), "any other"]
    say = _Ranges(bins, name, exact)
    return [say(at, at) for at in range(bins.bins)]


# -- numbers -------------------------------------------------------------------------------------------------------


class _Ranges:
    """Says bins of a number in words."""

    def __init__(self, bins: ColumnBins, name: Name, exact: bool, noun: str = "values") -> None:
        self.bins, self.name, self.exact, self.noun = bins, name, exact, _capital(noun)
        self.whole = _whole(bins.edges)

    def __call__(self, first: int, last: int, *, to_lowest: bool = False, to_highest: bool = False) -> str:
        """Bins first … last; to_lowest, to_highest: beyond them lies no row of either sample."""
        edges, name = self.bins.edges, self.name
        low = edges[first - 1] if first > 0 and not to_lowest else None
        high = edges[last] if last < len(edges) and not to_highest else None
        if low is None:
            return "any value" if high is None else f"{'up to' if _is_next(high) else 'below'} {name(_rounded(high))}"
        if high is None:
            return f"above {name(_rounded(low))}" if _is_next(low) else f"{name(low)} and above"
        if (
            high == math.nextafter(low, math.inf)
            or (self.exact and first == last)
            or (self.whole and high - low <= 1.0)
        ):
            return name(low)
        if self.whole:
            return f"{name(low)} to {name(math.ceil(high) - 1.0)}"
        ends = name(_rounded(low)), name(edges[last - 1] if self.exact else _rounded(high))
        return ends[0] if ends[0] == ends[1] else " to ".join(ends)  # one value's, of single precision


def _ranges(say: _Ranges, reference: Sample, current: Sample, deff: float) -> list[Moved]:
    """Neighbouring bins that moved the same way, put together: the largest changes first."""
    p, q = reference.shares, current.shares
    m, n = int(reference.counts.sum()), int(current.counts.sum())
    change = q - p
    used = np.flatnonzero((p > 0) | (q > 0))
    found: list[Moved] = []
    start = 0
    for at in range(1, len(p) + 1):
        if at < len(p) and change[at] * change[start] > 0:
            continue
        before, now = float(p[start:at].sum()), float(q[start:at].sum())
        if _beyond_chance(before, now, m, n, deff):
            ends = {
                "to_lowest": start == used[0] and at - start > 1,
                "to_highest": at - 1 == used[-1] and at - start > 1,
            }
            found.append(Moved(say(start, at - 1, **ends), before, now))
        start = at
    found.sort(key=lambda item: -abs(item.current - item.reference))
    return found


def _is_next(edge: float) -> bool:
    """Whether an edge is the next number after a value, so that the value lies below it."""
    return _rounded(edge) != edge


def _rounded(edge: float) -> float:
    """An edge that is the next number after a value stands for that value; below the lowest number there is none."""
    below = math.nextafter(edge, -math.inf)
    return below if math.isfinite(below) and len(repr(below)) < len(repr(edge)) else edge


def _whole(edges: Sequence[float]) -> bool:
    return all(_rounded(edge) == math.floor(_rounded(edge)) for edge in edges)


def quantile(bins: ColumnBins, counts: NDArray[Any], share: float, *, exact: bool = False) -> float | None:
    """About where that share of the values lies below, by straight lines inside bins; the last edge in an open end.

    None without values or edges.
    """
    total = counts.sum()
    if not total or not bins.edges:
        return None
    reached = np.cumsum(counts) / total
    at = int(np.searchsorted(reached, share))
    if at == 0 or at >= len(bins.edges):
        return bins.edges[0 if at == 0 else -1]
    low, high = bins.edges[at - 1], bins.edges[at]
    if exact or (_whole(bins.edges) and high - low <= 1.0):
        return low
    inside = min(max((share - reached[at - 1]) / max(reached[at] - reached[at - 1], 1e-12), 0.0), 1.0)
    # A bin may be wider than the largest number.
    return float(low + (high - low) * inside if math.isfinite(high - low) else low * (1.0 - inside) + high * inside)


def _headline(say: _Ranges, reference: Sample, current: Sample) -> tuple[Direction, str]:
    name = say.name
    p, q = reference.shares, current.shares
    if p.max() >= _CONSTANT:
        at = int(p.argmax())
        above, below = float(q[at + 1 :].sum()), float(q[:at].sum())
        direction = Direction.UP if above > 2 * below else Direction.DOWN if below > 2 * above else Direction.WIDER
        only = say(at, at)
        return direction, f"The reference was {only} in nearly every row; {percent(above + below)} of rows now differ."
    gap = np.cumsum(p) - np.cumsum(q)  # positive where the current values are higher
    up, down = float(gap.max()), float(-gap.min())
    if up > 3 * down or down > 3 * up:
        direction = Direction.UP if up > down else Direction.DOWN
        word = "higher" if up > down else "lower"
        now, before = (quantile(say.bins, side.counts, 0.5, exact=say.exact) for side in (current, reference))
        if say.whole and now is not None and before is not None:
            now, before = float(round(now)), float(round(before))
        for what, is_now, was in (("median is about", now, before), ("mean is", current.mean, reference.mean)):
            if is_now is None or was is None or (is_now > was) != (up > down) or name(is_now) == name(was):
                continue
            return direction, f"{say.noun} are {word}: the {what} {name(is_now)}, it was {name(was)}."
        return direction, f"{say.noun} are {word}."
    wider = int(gap.argmin()) < int(gap.argmax())
    spans = [_span(say.bins, side.counts) for side in (current, reference)]
    if None not in spans and spans[0] != spans[1] and (spans[0] > spans[1]) == wider:  # type: ignore[operator]
        word = "wider" if wider else "narrower"
        told = f"the middle half spans {shown(spans[0] or 0.0)}, it spanned {shown(spans[1] or 0.0)}"
        return (Direction.WIDER if wider else Direction.NARROWER), f"{say.noun} spread {word}: {told}."
    return Direction.RESHAPED, f"{say.noun} have another shape."


def _span(bins: ColumnBins, counts: NDArray[Any]) -> float | None:
    low, high = quantile(bins, counts, 0.25), quantile(bins, counts, 0.75)
    return None if low is None or high is None else high - low


def _ranges_sentence(moved: Sequence[Moved]) -> str:
    grown = [item for item in moved if item.current > item.reference][:2]
    shrunk = [item for item in moved if item.current < item.reference][: _NAMED - len(grown)]
    told = [_change(item, f"rows {_with_preposition(item.what)}") for item in (*grown, *shrunk)]
    return _capital(f"{_listed(told)}.") if told else ""


def _with_preposition(what: str) -> str:
    return what if what.startswith(("below", "above", "up to")) else f"at {what}"


# -- categories and missing ----------------------------------------------------------------------------------------


def _categories(bins: ColumnBins, reference: Sample, current: Sample, name: Name, deff: float) -> list[Moved]:
    m, n = int(reference.counts.sum()), int(current.counts.sum())
    names = [*(f"“{name(value)}”" for value in bins.values), _OTHERS]
    found = [
        Moved(what, float(before), float(now))
        for what, before, now in zip(names, reference.shares, current.shares, strict=True)
        if _beyond_chance(float(before), float(now), m, n, deff)
    ]
    found = found[::-1] if len(bins.values) == 2 else found  # of false and true, true is told
    found.sort(key=lambda item: -round(abs(item.current - item.reference), 9))
    return found


_OTHERS = "other categories"


def _category_sentences(moved: Sequence[Moved], unseen: Sequence[str], two: bool) -> list[str]:
    new = next((item for item in moved if item.what == _OTHERS and item.reference == 0.0), None)
    told = [_change(item, item.what) for item in moved if item is not new][: 1 if two else _NAMED]
    said = [_capital(f"{_listed(told)}.")] if told else []
    if new is not None:
        most = f", most often “{unseen[0]}”" if unseen else ""
        said.append(f"{percent(new.current)} of rows hold categories that the reference never had{most}.")
    return said


def _missing_sentence(lost: Moved) -> str:
    if lost.current == 1.0:
        return f"Every value is missing now; {percent(lost.reference)} were."
    return f"Missing values went from {percent(lost.reference)} to {percent(lost.current)} of rows."


def _change(item: Moved, what: str) -> str:
    verb = "rose" if item.current > item.reference else "fell"
    return f"{what} {verb} from {percent(item.reference)} to {percent(item.current)}"


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])}, and {parts[-1]}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _quiet(n: int, m: int) -> str:
    if not n and not m:
        return "No row has a value, before or now."
    if not n or not m:
        return f"No {'current' if not n else 'reference'} row has a value to compare."
    return "No single part of it moved beyond chance."


def _beyond_chance(before: float, now: float, m: int, n: int, deff: float) -> bool:
    both = (before * m + now * n) / max(m + n, 1)
    error = math.sqrt(deff * both * (1.0 - both) * (1.0 / max(m, 1) + 1.0 / max(n, 1)))
    return abs(now - before) > max(_DOUBT * error, _LEAST)

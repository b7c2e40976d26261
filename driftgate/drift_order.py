"""What the order of a table's rows means, found in the reference rows: time, an identifier, a sorted file, or nothing.

Why: rows that follow each other in time may repeat each other, and then say less than their number; rows that somebody
sorted only look as if they did. And a column that counts rows or tells their time differs between any two files without
having drifted. Pure. Called by `driftgate/drift_compare.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from driftgate.drift_columns import Column

_LEAST_ROWS = 50
_LEAST_GROUP = 10  # rows in the smallest group of a file that is taken for sorted
_MOST_GROUPS = 32  # that are told from chance though they are in no order
_SORTED = 0.999  # of the steps go the same way
_TIME = re.compile(r"(^|[_ .])(time|timestamp|date|datetime|dt|ts|day|week|month|year|yr|epoch)([_ .]|$)|_at$", re.I)
_ID = re.compile(r"(^|[_ .])(id|uuid|guid|idx|index|row|rownum|instant|key|no|nr|number)([_ .]|$)|[a-z]Id$|ID$", re.I)
_PROBED = 4096  # rows tell at once of most columns that they are in no order
_NAMES = "it names the rows: no value comes twice"
_LATER = "its dates go on where the reference's ended: they tell when rows came"
_LATER_SHARE = 0.5  # of the current dates lie after all of the reference's; without drift one of as many rows does
_MOST_LATER_YEARS = 50  # 9999-12-31 is no time at which a row came
_YEAR_S = 365.25 * 86_400.0
# Whole numbers that are times where their column is called one: years, 202512, 20251231; and what a year is in them.
_CALENDARS = ((1900, 2100, 1), (190_001, 210_012, 100), (19_000_101, 21_001_231, 10_000))


@dataclass(frozen=True, slots=True)
class Order:
    """counters: columns that tell a row's time or number, with the reason. sorted_by: the column by whose values
    somebody sorted or grouped the rows, if so. recorded: they are in the order in which they came."""

    counters: dict[str, str]
    sorted_by: str | None
    recorded: bool


def order_of(columns: Sequence[Column], block: NDArray[np.float64]) -> Order:
    """From the reference rows (C, n), in the file's order."""
    counters: dict[str, str] = {}
    sorted_by: str | None = None
    recorded = False
    for column, values in zip(columns, block, strict=True):
        is_finite = np.isfinite(values)
        present = values if is_finite.all() else values[is_finite]
        if len(present) < _LEAST_ROWS or len(present) < len(values) // 2:
            continue
        why = _counts_rows(column, present)
        if why:
            counters[column.name] = why
            recorded = recorded or why != _NAMES
        elif sorted_by is None and _is_grouped(present):
            sorted_by = column.name
    return Order(counters, None if recorded else sorted_by, recorded)


def goes_on(column: Column, before: NDArray[np.float64], now: NDArray[np.float64]) -> str:
    """Why a column of dates (or of years, by its name), in whatever order, tells when rows came and is no feature."""
    before, now = before[np.isfinite(before)], now[np.isfinite(now)]
    if len(before) < _LEAST_ROWS or not len(now):
        return ""
    year = _YEAR_S if column.type == "date" else _calendar_year(column, before)
    last = float(before.max())
    later = (now > last) & (now <= last + _MOST_LATER_YEARS * year)
    return _LATER if float(later.mean()) >= _LATER_SHARE else ""


def _calendar_year(column: Column, values: NDArray[np.float64]) -> float:
    """What a year is in numbers such as 202512, of a column that is called a time; 0 for others."""
    if column.type != "integer" or not _TIME.search(column.name):
        return 0.0
    low, high = float(values.min()), float(values.max())
    return next((float(year) for first, last, year in _CALENDARS if first <= low and high <= last), 0.0)


def _counts_rows(column: Column, values: NDArray[np.float64]) -> str:
    """Why a column is no feature, or "". A feature by whose values a file was sorted is still one."""
    if column.type == "text" or column.kind == "category":
        return ""
    named = column.type == "integer" and _ID.search(column.name) is not None
    if column.type != "date" and not named and not _rises_or_falls(values[:_PROBED]):
        return ""
    with np.errstate(over="ignore"):  # between the largest numbers that there are
        steps = np.diff(values)
    if column.type == "date":
        rising = max(float((steps >= 0).mean()), float((steps <= 0).mean())) >= _SORTED and bool((steps != 0).any())
        return "its dates tell the order of the rows" if rising else ""
    strictly = bool((steps > 0).all() or (steps < 0).all())
    if column.type == "integer" and strictly and (named or float((np.abs(steps) == 1).mean()) > 0.5):
        return "it counts the rows"
    if _TIME.search(column.name) and bool((steps >= 0).all()) and len(np.unique(values)) >= _LEAST_ROWS:
        return "it tells the time of the rows"
    return _NAMES if named and len(np.unique(values)) == len(values) else ""


def _rises_or_falls(values: NDArray[np.float64]) -> bool:
    return bool((values[1:] >= values[:-1]).all() or (values[1:] <= values[:-1]).all())


def _is_grouped(values: NDArray[np.float64]) -> bool:
    """Whether somebody sorted the rows by these values, or put equal ones together.

    Many groups in no order are no sign of it: sessions that repeat a value look like that.
    """
    first = values[:_PROBED]
    if not _rises_or_falls(first) and np.count_nonzero(first[1:] != first[:-1]) >= _MOST_GROUPS:
        return False
    changes = np.flatnonzero(values[1:] != values[:-1]) + 1
    if not len(changes) or not (len(changes) < _MOST_GROUPS or _rises_or_falls(values)):
        return False
    groups = np.diff(np.concatenate([[0], changes, [len(values)]]))
    largest_rest = len(values) - int(groups.max())
    return largest_rest >= _LEAST_GROUP and len(np.unique(values)) == len(groups)
